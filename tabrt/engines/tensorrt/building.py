"""A network compiled by Torch-TensorRT: the whole of it in one engine, for 1…MAX_BATCH crops."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tabrt.card import MAX_BATCH
from tabrt.errors import EngineUnavailable, first_line
from tabrt.geometry import CROP_SIZE
from tabrt.network.deployed import Deployed
from tabrt.network.folding import folded
from tabrt.network.tab import Tab

# Loggers: Torch-TensorRT's own and the one that TensorRT speaks through, and others that it makes talk.
SPEAKING = ("torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]")
CHATTY = (*SPEAKING, "torch.export", "py.warnings")


class Refused(EngineUnavailable):
    """A model that would be refused again: worth remembering, where a card without free memory is not."""


def compile_settings(precision: str, float_parts: tuple[str, ...]) -> dict[str, Any]:
    """Torch-TensorRT's settings: the whole network in one engine, float16 but for the normalisation and float_parts.

    Precision is set by autocast, for TensorRT's own choice of it is ignored on this path.
    """
    settings: dict[str, Any] = {"require_full_compilation": True, "disable_tf32": True}
    if precision == "fp16":
        kept = [rf"{re.escape(f'network.{part}')}(\.|$)" for part in float_parts]
        settings |= {
            "enable_autocast": True,
            "autocast_low_precision_type": torch.float16,
            "autocast_excluded_nodes": ["^$", *kept],  # patterns of module names; the normalisation's is empty
        }
    return settings


def profile(size: int = CROP_SIZE) -> dict[str, tuple[int, ...]]:
    """The one optimisation profile: any batch up to MAX_BATCH, tuned for a single face. size: of a crop, px."""
    shape = (size, size, 3)
    return {"min_shape": (1, *shape), "opt_shape": (1, *shape), "max_shape": (MAX_BATCH, *shape)}


def settings_in_words(precision: str) -> str:
    """What engines are compiled with: an engine made with anything else is another one."""
    return repr((compile_settings(precision, ()), profile()))


def exported_program(network: Tab, device: str) -> torch.export.ExportedProgram:
    """The deployed network as Torch-TensorRT takes it: 1…MAX_BATCH crops, batch norms folded in float32."""
    size = network.config.crop_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8, device=device)
    faces = torch.export.Dim("faces", min=1, max=MAX_BATCH)
    return torch.export.export(Deployed(folded(network)).eval().to(device), (example,), dynamic_shapes=({0: faces},))


def compiled(
    library: ModuleType, network: Tab, precision: str, float_parts: tuple[str, ...], timing: Path, device: str = "cuda"
) -> bytes:
    """TensorRT's own bytes of a network. timing: a file of the user's own for what was measured while choosing kernels.

    Raises Refused for a network that it does not take, EngineUnavailable where this time it could not.
    """
    said: list[str] = []
    with quiet(said):
        try:
            made = library.dynamo.compile(
                exported_program(network, device),
                arg_inputs=[library.Input(**profile(network.config.crop_size), dtype=torch.uint8)],
                timing_cache_path=str(timing),
                **compile_settings(precision, float_parts),
            )
        except Exception as error:  # whatever TensorRT raises; its assertions say nothing
            reasons = [
                f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__,
                *said[-1:],
            ]
            problem = "; ".join(reasons)
            refused = EngineUnavailable if "memory" in problem.lower() else Refused
            raise refused(f"TensorRT does not compile the model: {problem}") from error
    plans = [module.serialized_engine for module in made.modules() if hasattr(module, "serialized_engine")]
    if len(plans) != 1:
        raise Refused(f"TensorRT compiles the model to {len(plans)} engines, not one")
    return bytes(plans[0])


def import_library() -> ModuleType:
    """Torch-TensorRT. Raises EngineUnavailable, with the cause, where it does not load."""
    try:
        with quiet([]):
            return importlib.import_module("torch_tensorrt")
    except KeyError as error:
        if "getpwuid" not in str(error):
            raise EngineUnavailable(f"Torch-TensorRT does not load: KeyError {error}") from error
        raise EngineUnavailable(
            f"Torch-TensorRT asks for the name of user {os.getuid()}, which has none here; add one to /etc/passwd, or "
            "run as another user"
        ) from error
    except Exception as error:  # it checks its libraries by assertions and its own errors
        raise EngineUnavailable(f"Torch-TensorRT does not load: {first_line(error)}") from error


@contextlib.contextmanager
def quiet(said: list[str]) -> Iterator[None]:
    """Without Torch-TensorRT's talk of packages that nobody needs; what it calls an error is added to `said`."""
    listener = _Listener(said)
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    speaking = [logging.getLogger(name) for name in SPEAKING]
    for logger in speaking:
        logger.addHandler(listener)
        logger.propagate = False
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in speaking:
            logger.removeHandler(listener)
            logger.propagate = True
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class _Listener(logging.Handler):
    def __init__(self, said: list[str]):
        super().__init__(logging.ERROR)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(first_line(Exception(record.getMessage())))
