"""Engines: pixels in, heatmaps out. The protocol, its test double, and the loading."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from tabrt.card import MAX_BATCH, ModelCard
from tabrt.errors import EngineUnavailable, TabrtError
from tabrt.files import MODEL_FOLDER
from tabrt.geometry import CROP_SIZE, HEATMAP_SIZE
from tabrt.hardware import has_cuda, int8_instructions
from tabrt.heatmaps import render, render_logits
from tabrt.topology import BOUNDARY_CHANNELS
from tabrt.variants import DEFAULT_MODEL, SHIPPED

MODELS = {name: MODEL_FOLDER / f"{name}.onnx" for name in SHIPPED}
ENGINES = {name: f"tabrt.engines.{name}" for name in ("onnxruntime", "openvino", "tensorrt", "torch")}

ENGINE_SUFFIX = ".ep"  # of a compiled TensorRT engine: an exported program

log = logging.getLogger("tabrt")


class Engine(Protocol):
    """Runs one model. Crops are uint8 (N, 256, 256, 3) RGB, any N from 0; maps are float32."""

    card: ModelCard
    name: str

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Landmark maps (N, L, 64, 64)."""
        ...

    def boundaries(self, crops: np.ndarray) -> np.ndarray:
        """Boundary maps of the last hourglass (N, 16, 64, 64)."""
        ...

    def both(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Landmark and boundary maps, in one run."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it cannot run afterwards."""
        ...


class FakeEngine:
    """A test double: renders maps that decode to the points it was made with.

    points: (L, 2) crop px, given for every crop; or (N, L, 2), given to the first N crops of each run.
    """

    name = "fake"

    def __init__(self, points: np.ndarray, card: ModelCard | None = None):
        self.card = card or ModelCard(name="fake")
        self.points = np.asarray(points, np.float32)
        if self.points.ndim not in (2, 3) or self.points.shape[-2:] != (self.card.points, 2):
            raise TabrtError(f"points must be ([N,] {self.card.points}, 2); found {self.points.shape}")

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        check_crops(crops)
        points = self.points
        if points.ndim == 2:
            points = np.broadcast_to(points, (len(crops), *points.shape))
        if len(points) < len(crops):
            raise TabrtError(f"the fake engine has points for {len(points)} crops; it was given {len(crops)}")
        draw = render_logits if self.card.decoding == "softmax" else render
        return draw(points[: len(crops)], offset=self.card.offset)

    def boundaries(self, crops: np.ndarray) -> np.ndarray:
        check_crops(crops)
        return np.zeros((len(crops), BOUNDARY_CHANNELS, HEATMAP_SIZE, HEATMAP_SIZE), np.float32)

    def both(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self(crops), self.boundaries(crops)

    def close(self) -> None:
        pass


def check_crops(crops: np.ndarray) -> None:
    """Raises TabrtError unless crops are uint8 (N, 256, 256, 3)."""
    if not isinstance(crops, np.ndarray) or crops.dtype != np.uint8 or crops.shape[1:] != (CROP_SIZE, CROP_SIZE, 3):
        found = f"{crops.dtype} {crops.shape}" if isinstance(crops, np.ndarray) else type(crops).__name__
        raise TabrtError(f"an engine takes crops uint8 (N, {CROP_SIZE}, {CROP_SIZE}, 3); it was given {found}")


def in_batches(
    run: Callable[[np.ndarray], tuple[np.ndarray, ...]], crops: np.ndarray, card: ModelCard
) -> tuple[np.ndarray, ...]:
    """Landmark and boundary maps, or those of them that `run` gives, of any number of crops, MAX_BATCH at a time."""
    check_crops(crops)
    shape = (HEATMAP_SIZE, HEATMAP_SIZE)
    if len(crops) == 0:
        return np.zeros((0, card.points, *shape), np.float32), np.zeros((0, BOUNDARY_CHANNELS, *shape), np.float32)
    if len(crops) <= MAX_BATCH:
        return run(np.ascontiguousarray(crops))
    parts = [run(np.ascontiguousarray(crops[i : i + MAX_BATCH])) for i in range(0, len(crops), MAX_BATCH)]
    return tuple(np.concatenate(maps) for maps in zip(*parts, strict=True))


def load_engine(model: str | Path = DEFAULT_MODEL, engine: str = "auto", threads: int | None = None) -> Engine:
    """Load a model: a name of MODELS, or a file, by an engine of ENGINES or the best one here (`auto`).

    A name is what runs fastest with that engine: in ONNX Runtime the int8 file, if one ships with the model and this
    CPU is faster in int8; else the float32 file or its checkpoint. A file is run as it is.
    threads: CPU threads, None for as many as there are cores. Raises TabrtError for a model that is missing or
    damaged, EngineUnavailable for an engine that cannot run here.
    """
    if engine not in ("auto", *ENGINES):
        raise TabrtError(f"no engine is called {engine!r}; there are: auto, {', '.join(ENGINES)}")
    if threads is not None and not 1 <= threads <= 256:
        raise TabrtError(f"threads is {threads}; it must be 1…256")
    *faster, last = [engine] if engine != "auto" else _automatic(model_file(model))
    for name in faster:
        try:
            return _load(model, name, threads)
        except EngineUnavailable as error:
            log.warning("engine %s cannot be used (%s); using the next one", name, error)
    return _load(model, last, threads)


def model_file(model: str | Path, engine: str | None = None) -> Path:
    """The file of a model name or path that an engine is to run. Raises TabrtError where there is none."""
    if str(model) in MODELS:
        path = MODELS[str(model)]
        if not path.is_file():
            raise TabrtError(f"the model {model} is not installed ({path}); install tabrt again")
        small = int8_file(path)
        return small if engine == "onnxruntime" and int8_instructions() and small.is_file() else path
    path = Path(model)
    if not path.is_file():
        raise TabrtError(f"no model is called {model!s} and no such file is here; names: {', '.join(MODELS)}")
    return path


def int8_file(path: Path) -> Path:
    """Where the int8 file of a shipped model lies, if it has one: beside the float32 file."""
    return path.with_name(f"{path.stem}-int8.onnx")


def checkpoint_file(path: Path) -> Path:
    """The checkpoint to run in torch: the file itself, or the one that lies beside a shipped model."""
    return path.with_suffix(".safetensors") if path in MODELS.values() else path


def _load(model: str | Path, engine: str, threads: int | None) -> Engine:
    path = model_file(model, engine)
    return importlib.import_module(ENGINES[engine]).load(path, threads)


def _automatic(path: Path) -> list[str]:
    """Engines to try, best first; the last one is expected to work."""
    if path.suffix == ENGINE_SUFFIX:
        return ["tensorrt"]
    checkpoint = path.suffix.lower() != ".onnx"
    cpu = "torch" if checkpoint else "onnxruntime"
    on_gpu = (checkpoint or path in MODELS.values()) and has_cuda() and importlib.util.find_spec("torch_tensorrt")
    return ["tensorrt", cpu] if on_gpu else [cpu]
