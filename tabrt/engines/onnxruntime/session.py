"""ONNX files of tabrt's, opened with distrust: what every engine that reads them checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from tabrt.card import CARD_KEY, ModelCard
from tabrt.errors import TabrtError, first_line
from tabrt.topology import BOUNDARY_CHANNELS

# The key by which ONNX names data outside the file. It is looked for in the bytes, before ONNX Runtime sees them: some
# releases read whatever file, or memory address, stands there.
OUTSIDE = b"location"
onnxruntime.disable_telemetry_events()  # which its builds for Windows write into the system's log, and that may send
SILENT = 4  # ONNX Runtime's log: what it has to say comes as an exception


def options_for(threads: int) -> onnxruntime.SessionOptions:
    """Options of a session that says nothing and takes this many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    return options


def open_session(
    path: Path,
    model: bytes,
    options: onnxruntime.SessionOptions,
    providers: Sequence[str | tuple[str, dict[str, str]]] | None = ("CPUExecutionProvider",),
) -> tuple[onnxruntime.InferenceSession, ModelCard]:
    """A session of a model's bytes, and its card. providers: None where the options name them.

    Raises TabrtError unless the bytes are a model of tabrt's that holds everything it needs.
    """
    if OUTSIDE in model:
        raise TabrtError(f"{path} keeps its weights outside the file; make it with tabrt export, which does not")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers and list(providers))
    except Exception as error:
        raise TabrtError(f"{path} is no model that runs here: {first_line(error)}; export it again") from error
    card = _card(session, path)
    _check_signature(session, card, path)
    return session, card


def checked(path: Path, model: bytes) -> ModelCard:
    """The card of an ONNX file's bytes. Raises TabrtError unless they are a model of tabrt's."""
    options = options_for(threads=1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(path, model, options)[1]


def _card(session: onnxruntime.InferenceSession, path: Path) -> ModelCard:
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise TabrtError(f"{path} carries no model card, so it is not tabrt's; make the model with tabrt export")
    return ModelCard.from_json(text)


def _check_signature(session: onnxruntime.InferenceSession, card: ModelCard, path: Path) -> None:
    """Raises TabrtError unless inputs and outputs have tabrt's names, types and sizes."""
    maps = [card.map_size, card.map_size]
    expected = [
        ("crops", "tensor(uint8)", [card.crop_size, card.crop_size, 3]),
        ("landmarks", "tensor(float)", [card.points, *maps]),
        ("boundaries", "tensor(float)", [BOUNDARY_CHANNELS, *maps]),
    ]
    values = [*session.get_inputs(), *session.get_outputs()]
    found = [(value.name, value.type, list(value.shape[1:])) for value in values]
    if found != expected:
        raise TabrtError(f"{path} has other inputs and outputs than tabrt's ({found}); make it with tabrt export")
    if not all(isinstance(value.shape[0], str) for value in values):
        raise TabrtError(f"{path} has a fixed batch size; make it with tabrt export")
