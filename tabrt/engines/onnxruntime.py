"""ONNX Runtime, on the CPU: the engine that is always there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from tabrt.card import CARD_KEY, ModelCard
from tabrt.engines.engine import in_batches
from tabrt.errors import TabrtError
from tabrt.files import read_bounded
from tabrt.geometry import CROP_SIZE, HEATMAP_SIZE
from tabrt.hardware import available_threads
from tabrt.topology import BOUNDARY_CHANNELS

# The key by which ONNX names data outside the file. It is looked for in the bytes, before ONNX Runtime sees them: some
# releases read whatever file, or memory address, stands there.
OUTSIDE = b"location"
SILENT = 4  # ONNX Runtime's log: what it has to say comes as an exception


def load(path: Path, threads: int | None = None) -> OnnxRuntimeEngine:
    """Load an ONNX file of tabrt's. Raises TabrtError for any other file."""
    if path.suffix.lower() != ".onnx":
        raise TabrtError(f"engine onnxruntime reads .onnx files, not {path.name}; tabrt export makes one")
    return OnnxRuntimeEngine(path, threads)


class OnnxRuntimeEngine:
    """See `tabrt.engines.engine.Engine`. It may be called from several threads at once."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None):
        self._session = _open(path, read_bounded(path), available_threads(threads))
        self.card = _card(self._session, path)
        _check_signature(self._session, self.card, path)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return self._maps(crops, "landmarks")[0]  # the others are not even written

    def boundaries(self, crops: np.ndarray) -> np.ndarray:
        return self.both(crops)[1]

    def both(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        landmarks, boundaries = self._maps(crops, "landmarks", "boundaries")
        return landmarks, boundaries

    def _maps(self, crops: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        session = self._session
        if session is None:
            raise TabrtError("the engine is closed; load it again with load_engine")
        return in_batches(lambda batch: tuple(_run(session, batch, outputs)), crops, self.card)

    def close(self) -> None:
        self._session = None


def _run(session: onnxruntime.InferenceSession, batch: np.ndarray, outputs: tuple[str, ...]) -> list[np.ndarray]:
    try:
        return session.run(list(outputs), {"crops": batch})
    except Exception as error:
        raise TabrtError(f"the model failed while running: {_first_line(error)}; export it again") from error


def checked(path: Path, model: bytes) -> ModelCard:
    """The card of an ONNX file's bytes. Raises TabrtError unless they are a model of tabrt's."""
    session = _open(path, model, threads=1, optimised=False)
    card = _card(session, path)
    _check_signature(session, card, path)
    return card


def _open(path: Path, model: bytes, threads: int, optimised: bool = True) -> onnxruntime.InferenceSession:
    if OUTSIDE in model:
        raise TabrtError(f"{path} keeps its weights outside the file; make it with tabrt export, which does not")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Threads that spin while a model runs make it a sixth faster; between frames they would take the cores from the
    # decoder and the detector.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise TabrtError(f"{path} is no model that runs here: {_first_line(error)}; export it again") from error


def _card(session: onnxruntime.InferenceSession, path: Path) -> ModelCard:
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise TabrtError(f"{path} carries no model card, so it is not tabrt's; make the model with tabrt export")
    return ModelCard.from_json(text)


def _check_signature(session: onnxruntime.InferenceSession, card: ModelCard, path: Path) -> None:
    """Raises TabrtError unless inputs and outputs have tabrt's names, types and sizes."""
    maps = [HEATMAP_SIZE, HEATMAP_SIZE]
    expected = [
        ("crops", "tensor(uint8)", [CROP_SIZE, CROP_SIZE, 3]),
        ("landmarks", "tensor(float)", [card.points, *maps]),
        ("boundaries", "tensor(float)", [BOUNDARY_CHANNELS, *maps]),
    ]
    values = [*session.get_inputs(), *session.get_outputs()]
    found = [(value.name, value.type, list(value.shape[1:])) for value in values]
    if found != expected:
        raise TabrtError(f"{path} has other inputs and outputs than tabrt's ({found}); make it with tabrt export")
    if not all(isinstance(value.shape[0], str) for value in values):
        raise TabrtError(f"{path} has a fixed batch size; make it with tabrt export")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
