"""ONNX Runtime: on the CPU the engine that is always there; on GPUs by a provider in it or installed beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tabrt.errors import TabrtError

if TYPE_CHECKING:
    from tabrt.engines.engine import Engine


def load(path: Path, threads: int | None = None, device: str = "cpu") -> Engine:
    """Load an ONNX file of tabrt's. Raises TabrtError for any other file, EngineUnavailable without a usable GPU."""
    if path.suffix.lower() != ".onnx":
        raise TabrtError(f"engine onnxruntime reads .onnx files, not {path.name}; tabrt export makes one")
    if device == "gpu":
        from tabrt.engines.gpu import is_installed
        from tabrt.engines.onnxruntime.systems import open_on_system, system_here

        system = system_here()
        if system is not None and not is_installed("onnxruntime"):
            return open_on_system(path, system)
        from tabrt.engines.onnxruntime.gpu import open_on_gpu

        return open_on_gpu(path)
    from tabrt.engines.onnxruntime.cpu import CpuEngine

    return CpuEngine(path, threads)
