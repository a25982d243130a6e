"""Engines: pixels in, heatmaps out. The protocol, its test double, and the loading."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from tabrt.card import MAX_BATCH, ModelCard
from tabrt.engines.gpu import is_installed
from tabrt.errors import EngineUnavailable, TabrtError
from tabrt.files import MODEL_FOLDER, PICKLES
from tabrt.hardware import has_cuda, int8_instructions
from tabrt.heatmaps import render, render_logits
from tabrt.topology import BOUNDARY_CHANNELS
from tabrt.variants import DEFAULT_MODEL, SHIPPED

MODELS = {name: MODEL_FOLDER / f"{name}.onnx" for name in SHIPPED}
DEVICES = ("gpu", "cpu")
RUNS_ON = {"onnxruntime": DEVICES, "openvino": ("cpu",), "tensorrt": ("gpu",), "torch": DEVICES}
ENGINES = {name: f"tabrt.engines.{name}" for name in RUNS_ON}
OUTPUTS = ("landmarks", "boundaries")  # of every model, in this order
CPU = "CPU"  # the device of an engine that runs on none else
# Batches that a GPU is prepared for: a smaller one is filled up to the next.
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, MAX_BATCH)

ENGINE_SUFFIX = ".ep"  # of a compiled TensorRT engine: an exported program
MODEL_SUFFIXES = (".onnx", ENGINE_SUFFIX, ".safetensors", *PICKLES)

log = logging.getLogger("tabrt")


class Engine(Protocol):
    """Runs one model. Crops are uint8 (N, 256, 256, 3) RGB, any N from 0; maps are float32.

    A card may say another crop_size than 256; the maps' sides are then its map_size, not 64.
    One that reads its maps where they lie, on a GPU, also has `read(crops)`: points (N, L, 2) in crop px and
    confidences (N, L), as `tabrt.heatmaps.decode` gives them.
    """

    card: ModelCard
    name: str
    device: str  # `CPU`, or the GPU's name

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


class MapsByName:
    """The calls of an engine that gives whichever of its outputs are asked for: it has `card` and `_run`."""

    card: ModelCard

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return self._in_batches(crops, "landmarks")[0]

    def boundaries(self, crops: np.ndarray) -> np.ndarray:
        return self.both(crops)[1]

    def both(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        landmarks, boundaries = self._in_batches(crops, *OUTPUTS)
        return landmarks, boundaries

    def _in_batches(self, crops: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        return in_batches(lambda batch: self._run(batch, *outputs), crops, self.card)

    def _run(self, crops: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        """The outputs of these names, in their order, of 1 to MAX_BATCH crops."""
        raise NotImplementedError


class FakeEngine:
    """A test double: renders maps that decode to the points it was made with.

    points: (L, 2) crop px, given for every crop; or (N, L, 2), given to the first N crops of each run.
    """

    name = "fake"
    device = CPU

    def __init__(self, points: np.ndarray, card: ModelCard | None = None):
        self.card = card or ModelCard(name="fake")
        self.points = np.asarray(points, np.float32)
        if self.points.ndim not in (2, 3) or self.points.shape[-2:] != (self.card.points, 2):
            raise TabrtError(f"points must be ([N,] {self.card.points}, 2); found {self.points.shape}")

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        check_crops(crops, self.card)
        points = self.points
        if points.ndim == 2:
            points = np.broadcast_to(points, (len(crops), *points.shape))
        if len(points) < len(crops):
            raise TabrtError(f"the fake engine has points for {len(points)} crops; it was given {len(crops)}")
        draw = render_logits if self.card.decoding == "softmax" else render
        return draw(points[: len(crops)], offset=self.card.offset, size=self.card.map_size)

    def boundaries(self, crops: np.ndarray) -> np.ndarray:
        check_crops(crops, self.card)
        return np.zeros((len(crops), BOUNDARY_CHANNELS, self.card.map_size, self.card.map_size), np.float32)

    def both(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self(crops), self.boundaries(crops)

    def close(self) -> None:
        pass


def check_crops(crops: np.ndarray, card: ModelCard) -> None:
    """Raises TabrtError unless crops are uint8 (N, 256, 256, 3), or of the card's crop_size."""
    size = card.crop_size
    if not isinstance(crops, np.ndarray) or crops.dtype != np.uint8 or crops.shape[1:] != (size, size, 3):
        found = f"{crops.dtype} {crops.shape}" if isinstance(crops, np.ndarray) else type(crops).__name__
        raise TabrtError(f"an engine takes crops uint8 (N, {size}, {size}, 3); it was given {found}")


def in_batches(
    run: Callable[[np.ndarray], tuple[np.ndarray, ...]], crops: np.ndarray, card: ModelCard
) -> tuple[np.ndarray, ...]:
    """Landmark and boundary maps, or those of them that `run` gives, of any number of crops.

    At most MAX_BATCH run at once, and more are shared out evenly: 17 as 9 and 8.
    """
    check_crops(crops, card)
    shape = (card.map_size, card.map_size)
    if len(crops) == 0:
        return np.zeros((0, card.points, *shape), np.float32), np.zeros((0, BOUNDARY_CHANNELS, *shape), np.float32)
    if len(crops) <= MAX_BATCH:
        return run(np.ascontiguousarray(crops))
    parts = [run(np.ascontiguousarray(part)) for part in np.array_split(crops, -(-len(crops) // MAX_BATCH))]
    return tuple(np.concatenate(maps) for maps in zip(*parts, strict=True))


def padded_size(count: int) -> int:
    """The size of BATCH_SIZES that holds this many crops."""
    return next(size for size in BATCH_SIZES if size >= count)


def load_engine(
    model: str | Path = DEFAULT_MODEL, engine: str = "auto", threads: int | None = None, device: str = "auto"
) -> Engine:
    """Load a model: a name of MODELS, or a file, by an engine of ENGINES or the best one here (`auto`).

    A name is what runs fastest there: in ONNX Runtime the float16 file on a GPU, the int8 file on a CPU that is
    faster in it, if such a file ships; else the float32 file or its checkpoint. A file is run as it is.
    threads: CPU threads, None for as many as there are cores. device: `auto` for the GPU where it can be used and else
    the CPU, or one of DEVICES, which then must do. Raises TabrtError for a model that is missing or damaged,
    EngineUnavailable for an engine that cannot run here.
    """
    if engine not in ("auto", *ENGINES):
        raise TabrtError(f"no engine is called {engine!r}; there are: auto, {', '.join(ENGINES)}")
    if device not in ("auto", *DEVICES):
        raise TabrtError(f"no device is called {device!r}; there are: auto, {', '.join(DEVICES)}")
    if threads is not None and not 1 <= threads <= 256:
        raise TabrtError(f"threads is {threads}; it must be 1…256")
    refused: list[tuple[Way, EngineUnavailable]] = []
    for way in _ways(model_file(model), engine, device):
        try:
            found = way.load(model, threads)
        except EngineUnavailable as error:
            refused.append((way, error))
            continue
        for other, problem in refused:
            log.warning("engine %s cannot be used (%s); using %s", other, problem, way)
        return found
    raise refused[0 if device == "gpu" else -1][1]  # of what is preferred on a GPU, or what would run anywhere


def model_file(model: str | Path, engine: str | None = None, device: str = "cpu") -> Path:
    """The file of a model name or path that an engine is to run. Raises TabrtError where there is none."""
    if str(model) in MODELS:
        path = MODELS[str(model)]
        if not path.is_file():
            raise TabrtError(f"the model {model} is not installed ({path}); install tabrt again")
        if engine != "onnxruntime":
            return path
        faster = fp16_file(path) if device == "gpu" else int8_file(path)
        return faster if faster.is_file() and (device == "gpu" or int8_instructions() is not None) else path
    path = Path(model)
    if not path.is_file():
        raise TabrtError(f"no model is called {model!s} and no such file is here; names: {', '.join(MODELS)}")
    if path.suffix.lower() not in MODEL_SUFFIXES:
        raise TabrtError(f"{path} is no model: its name must end in {', '.join(MODEL_SUFFIXES)}")
    return path


def int8_file(path: Path) -> Path:
    """Where the int8 file of a shipped model lies, if it has one: beside the float32 file."""
    return path.with_name(f"{path.stem}-int8.onnx")


def fp16_file(path: Path) -> Path:
    """Where the float16 file of a shipped model lies, if it has one: beside the float32 file."""
    return path.with_name(f"{path.stem}-fp16.onnx")


def checkpoint_file(path: Path) -> Path:
    """The checkpoint to run in torch: the file itself, or the one that lies beside a shipped model."""
    return path.with_suffix(".safetensors") if path in MODELS.values() else path


@dataclass(frozen=True)
class Way:
    """An engine on a device. only_if_cached: not if a model had to be compiled first, which takes minutes."""

    engine: str
    device: str
    only_if_cached: bool = False

    def __str__(self) -> str:
        return f"{self.engine} on the GPU" if self.device == "gpu" else self.engine

    def load(self, model: str | Path, threads: int | None) -> Engine:
        path = model_file(model, self.engine, self.device)
        module = importlib.import_module(ENGINES[self.engine])
        if self.only_if_cached:
            return module.load_cached(path)
        return module.load(path, threads, self.device)


def _ways(path: Path, engine: str, device: str) -> list[Way]:
    """What to try for a model, best first."""
    engines = [engine] if engine != "auto" else _readers(path)
    on_gpu, on_cpu = ([Way(name, where) for name in engines if where in RUNS_ON[name]] for where in DEVICES)
    ways = {"gpu": _installed(on_gpu) or on_gpu, "cpu": on_cpu, "auto": _at_once(path, on_gpu, engine) + on_cpu}[device]
    if not ways:
        where = " or ".join(RUNS_ON[engines[0]]).upper()
        raise TabrtError(f"engine {engines[0]} runs on the {where}, not the {device.upper()}; use another --engine")
    return ways


def _readers(path: Path) -> list[str]:
    """The engines that read a file, the one to be preferred first."""
    if path.suffix == ENGINE_SUFFIX:
        return ["tensorrt"]
    if path.suffix.lower() != ".onnx":
        return ["tensorrt", "torch"]
    return ["onnxruntime", "tensorrt"] if path in MODELS.values() else ["onnxruntime"]


def _at_once(path: Path, on_gpu: list[Way], asked: str) -> list[Way]:
    """The ways on a GPU that start in seconds. TensorRT compiles only for who asks for it."""
    if asked == "tensorrt" or path.suffix == ENGINE_SUFFIX:
        return on_gpu
    if not has_cuda():
        return []
    return [
        replace(way, only_if_cached=way.engine == "tensorrt")
        for way in _installed(on_gpu)
        if way.engine != "tensorrt" or _is_compiled(path)
    ]


def _installed(ways: list[Way]) -> list[Way]:
    return [way for way in ways if way.engine == "torch" or is_installed(way.engine)]


def _is_compiled(path: Path) -> bool:
    from tabrt.engines.tensorrt import is_cached

    return is_cached(path)
