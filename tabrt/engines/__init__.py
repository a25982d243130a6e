"""The engines, each imported only when it is asked for. `load(path, threads)` of each module returns an Engine."""

from tabrt.engines.engine import CPU, ENGINES, MODELS, OUTPUTS, Engine, fp16_file, in_batches, int8_file, load_engine

__all__ = ["CPU", "ENGINES", "MODELS", "OUTPUTS", "Engine", "fp16_file", "in_batches", "int8_file", "load_engine"]
