"""Engines: pixels in, heatmaps out. The protocol, the card that travels in a model file, and the loading."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from tabrt.errors import EngineUnavailable, TabrtError
from tabrt.geometry import CROP_SIZE, HEATMAP_SIZE, STRIDE
from tabrt.heatmaps import DECODINGS, render, render_logits
from tabrt.topology import BOUNDARY_CHANNELS, topology_named

MODEL_FOLDER = Path(__file__).parent / "models"
MODELS = {name: MODEL_FOLDER / f"{name}.onnx" for name in ("tab1-lite", "tab2-lite")}
ENGINES = {name: f"tabrt.engines.{name}" for name in ("onnxruntime", "openvino", "tensorrt", "torch")}
PRECISIONS = ("fp32", "fp16", "int8")

ENGINE_SUFFIX = ".ep"  # of a compiled TensorRT engine: an exported program
CARD_KEY = "tabrt"  # of the metadata in an ONNX file
CPU_INFO = Path("/proc/cpuinfo")
MAX_BATCH = 16  # crops in one run: bounds the memory, and is the range TensorRT is built for
MAX_MODEL_BYTES = 512 * 2**20
MAX_CARD_CHARACTERS = 65_536
MAX_TEXT_CHARACTERS = 4_096

log = logging.getLogger("tabrt")


@dataclass(frozen=True)
class ModelCard:
    """What a model is; it travels inside the model file, so a file is enough to run.

    topology: landmark scheme. crop_margin: side of the crop over the longer side of the points' box. decoding and
    offset: how its maps become points, `tabrt.heatmaps.decode`. figures: what was measured, by name.
    Raises TabrtError for a value that is not allowed.
    """

    name: str
    topology: str = "wflw98"
    hourglasses: int = 1
    width: str = "lite"
    crop_margin: float = 1.25
    precision: str = "fp32"
    decoding: str = "softmax"
    offset: float = 1.5  # crop px of the middle of cell 0
    training_data: str = "not stated"
    licence: str = "not stated"
    version: str = "1"
    date: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("name", "topology", "width", "training_data", "licence", "version", "date"):
            value = getattr(self, name)
            _require(isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS, name, "a text of bounded length")
        topology_named(self.topology)
        _require(_is_whole(self.hourglasses) and 1 <= self.hourglasses <= 8, "hourglasses", "a whole number 1…8")
        _require(_is_number(self.crop_margin) and 1 <= self.crop_margin <= 4, "crop_margin", "a number 1…4")
        _require(_is_number(self.offset) and abs(self.offset) <= STRIDE, "offset", f"a number within ±{STRIDE}")
        _require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")
        _require(self.decoding in DECODINGS, "decoding", f"one of {', '.join(DECODINGS)}")
        named = isinstance(self.figures, dict) and all(isinstance(key, str) for key in self.figures)
        _require(named and all(map(_is_number, self.figures.values())), "figures", "names with finite numbers")

    @property
    def points(self) -> int:
        return topology_named(self.topology).points

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """The card written by `to_json`. Raises TabrtError for text that is not a card."""
        if len(text) > MAX_CARD_CHARACTERS:
            raise TabrtError(f"the model card has {len(text)} characters; at most {MAX_CARD_CHARACTERS} are read")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TabrtError("the model card is not JSON; export the model again with tabrt export") from error
        if not isinstance(values, dict) or "name" not in values:
            raise TabrtError("the model card has no name; export the model again with tabrt export")
        unknown = values.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            found = ", ".join(sorted(unknown))[:200]
            raise TabrtError(f"the model card has unknown fields ({found}); it needs a newer tabrt")
        return cls(**values)


def _require(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise TabrtError(f"model card: {name} must be {expected}; export the model again with tabrt export")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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


def load_engine(model: str | Path = "tab1-lite", engine: str = "auto", threads: int | None = None) -> Engine:
    """Load a model: a name of MODELS, or a file, by an engine of ENGINES or the best one here (`auto`).

    A name is what runs fastest with that engine: in ONNX Runtime the int8 file, if one ships with the model and this
    CPU has VNNI; else the float32 file or its checkpoint. A file is run as it is.
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
        return small if engine == "onnxruntime" and has_vnni() and small.is_file() else path
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


def read_bounded(path: Path, limit: int = MAX_MODEL_BYTES) -> bytes:
    """The bytes of a file that is not empty and not above the limit. Raises TabrtError otherwise."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= limit:
                raise TabrtError(f"{path} has {size:,} bytes; a model has 1…{limit:,}: export it again")
            return file.read(limit)
    except OSError as error:
        raise TabrtError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error


def available_threads(threads: int | None) -> int:
    """The threads asked for, or one for each core this process may use."""
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


@functools.cache
def has_vnni() -> bool:
    """Whether this CPU multiplies int8 in one step. Without it int8 gains little, and sums may overflow."""
    try:
        with CPU_INFO.open(encoding="utf-8", errors="replace") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


def has_cuda() -> bool:
    """Whether an NVIDIA driver is here: asked of the driver itself, for importing torch takes seconds."""
    library = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL(library)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        return False
