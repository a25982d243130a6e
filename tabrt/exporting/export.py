"""From a checkpoint to a model that runs where the user is, and the proof that it still computes the same."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from tabrt.card import CARD_KEY, PRECISIONS, ModelCard
from tabrt.engines.engine import MODEL_FOLDER
from tabrt.engines.parity import BOUNDS, Shift, onnx_maps, sample_crops
from tabrt.errors import TabrtError
from tabrt.exporting.half import to_half
from tabrt.exporting.int8 import to_int8
from tabrt.files import write_atomically
from tabrt.geometry import CROP_SIZE
from tabrt.hardware import has_cuda
from tabrt.network.checkpoint import load_checkpoint
from tabrt.network.deployed import Deployed, torch_maps
from tabrt.network.tab import Tab
from tabrt.variants import DEFAULT_WIDTH, variant_name

OPSET = 20
OUTPUTS = ("landmarks", "boundaries")
TARGETS = ("onnx", "tensorrt")


@dataclass(frozen=True)
class Report:
    """What was exported, and how far its points are from those of torch float32."""

    path: Path
    target: str
    precision: str
    size: int  # bytes
    shift: Shift
    crops: int
    float_layers: tuple[str, ...] = ()  # left in float32 for the sake of accuracy

    def __str__(self) -> str:
        kept = f"; {len(self.float_layers)} layers stay in float32" if self.float_layers else ""
        return (
            f"{self.path}: {self.target} {self.precision}, {self.size / 1e6:.1f} MB; points differ from torch float32 "
            f"by at most {self.shift.worst:.4f} px (95 of 100 by at most {self.shift.most:.4f}, median "
            f"{self.shift.median:.4f}) of 256 on {self.crops} crops{kept}"
        )


def export(
    hourglasses: int,
    width: str | None = None,
    checkpoint: str | Path | None = None,
    to: str | None = None,
    precision: str | None = None,
    out: str | Path | None = None,
) -> Report:
    """What `tabrt export` does: the shipped weights, or a checkpoint, to ONNX or a TensorRT engine.

    to: None for `tensorrt` where CUDA is there, else `onnx`. precision: None for fp16 in TensorRT, else fp32.
    out: None for a name that says what it is, in the working folder. Raises TabrtError for a checkpoint with another
    number of hourglasses or another width than asked, and for a model that does not compute the same.
    """
    to = to or ("tensorrt" if has_cuda() and importlib.util.find_spec("torch_tensorrt") else "onnx")
    precision = precision or ("fp16" if to == "tensorrt" else "fp32")
    _require_one_of("target", to, TARGETS)
    _require_one_of("precision", precision, PRECISIONS)
    path = _checkpoint_for(hourglasses, width, checkpoint)
    config = load_checkpoint(path)[0].config
    if config.hourglasses != hourglasses:
        raise TabrtError(
            f"{path} has {config.hourglasses} hourglasses, not {hourglasses}, and its landmark part was trained on "
            f"the last one; use --hourglasses {config.hourglasses}"
        )
    if width is not None and config.width != width:
        raise TabrtError(f"{path} has width {config.width}, not {width}; use --width {config.width}")
    if to == "onnx":
        return export_onnx(path, out or f"{path.stem}-{precision}.onnx", precision)
    return export_tensorrt(path, out or f"{path.stem}-{precision}.ep", precision)


def _require_one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise TabrtError(f"no {what} is called {value!r}; there are: {', '.join(allowed)}")


def _checkpoint_for(hourglasses: int, width: str | None, checkpoint: str | Path | None) -> Path:
    if checkpoint is not None:
        return Path(checkpoint)
    width = width or DEFAULT_WIDTH
    path = MODEL_FOLDER / f"{variant_name(hourglasses, width)}.safetensors"
    if not path.is_file():
        raise TabrtError(f"no weights ship for {hourglasses} hourglasses of width {width}; give --checkpoint FILE")
    return path


def export_onnx(
    checkpoint: str | Path, out: str | Path, precision: str = "fp32", crops: np.ndarray | None = None
) -> Report:
    """Checkpoint to one self-contained ONNX file, checked against torch float32 before it is written.

    crops: uint8 (N, 256, 256, 3) RGB to check on, and to calibrate int8 with; None for those of `sample_crops`.
    Raises TabrtError where the points move further than BOUNDS allows.
    """
    crops = sample_crops() if crops is None else crops
    converted = convert(checkpoint, precision, crops, calibration=crops)
    if not converted.accepted:
        raise TabrtError(
            f"{precision} moves points by {converted.shift.bounded(precision):.2f} px of 256; at most "
            f"{BOUNDS[precision]} is allowed: export with --precision fp32"
        )
    write_atomically(out, converted.data)
    size = len(converted.data)
    return Report(Path(out), "onnx", precision, size, converted.shift, len(crops), converted.float_layers)


@dataclass(frozen=True)
class Converted:
    """A serialised ONNX model, and how it compares with torch float32."""

    data: bytes
    card: ModelCard
    shift: Shift
    accepted: bool
    float_layers: tuple[str, ...]  # left in float32 for the sake of accuracy


def convert(checkpoint: str | Path, precision: str, crops: np.ndarray, calibration: np.ndarray) -> Converted:
    """Checkpoint to an ONNX model, compared with torch float32 on crops; int8 is calibrated on `calibration`."""
    _require_one_of("precision", precision, PRECISIONS)
    network, card = load_checkpoint(checkpoint)
    card = replace(card, precision=precision)
    truth = torch_maps(network, crops)[0]
    model, float_layers = to_onnx(network), ()
    if precision == "fp16":
        model, float_layers = to_half(model, truth, crops, card)
    if precision == "int8":
        model = to_int8(model, calibration)
    if precision == "fp32":
        _store_in_half(model)
    write_card(model, card)
    data = model.SerializeToString()
    onnx.checker.check_model(data, full_check=True)
    shift = Shift.between(truth, onnx_maps(data, crops), card)
    return Converted(data, card, shift, _accepted(shift, truth, precision), float_layers)


def export_tensorrt(checkpoint: Path, out: str | Path, precision: str) -> Report:
    """Checkpoint to a TensorRT engine for the GPU of this machine, checked against float32 before it is written."""
    from tabrt.engines import tensorrt  # its packages are an extra

    built = tensorrt.export_engine(checkpoint, Path(out), precision)
    size = Path(out).stat().st_size
    return Report(Path(out), "tensorrt", precision, size, built.shift, built.crops, built.float_parts)


def _accepted(shift: Shift, truth: np.ndarray, precision: str) -> bool:
    # Float32 is judged by its maps too: where two peaks are level, the last bit decides between their points.
    same_maps = precision == "fp32" and shift.maps <= 1e-4 * np.abs(truth).max()
    return shift.bounded(precision) <= BOUNDS[precision] or same_maps


def to_onnx(network: Tab) -> onnx.ModelProto:
    """The deployed network in float32: dynamic batch, every other size constant, nodes named after their modules."""
    example = torch.zeros(2, CROP_SIZE, CROP_SIZE, 3, dtype=torch.uint8)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            Deployed(network).eval(),
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["crops"],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("faces", min=1, max=1024)},),
            verbose=False,
        )
    model = program.model_proto
    _name_nodes(model)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' chatter, which tells a user nothing."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name nodes after their modules, and drop the exporter's notes, which tell of source files and their lines."""
    for index, node in enumerate(model.graph.node):
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = re.findall(r"'([^']*)'", notes.get("pkg.torch.onnx.name_scopes", ""))
        module = next((scope for scope in reversed(scopes[:-1]) if scope), "normalise")
        node.name = f"{module}/{node.op_type}_{index}"
        del node.metadata_props[:]
        node.doc_string = ""
    graph = model.graph
    for value in (graph, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""


def _store_in_half(model: onnx.ModelProto) -> None:
    """Keep in float16 the kernels that it holds exactly, an eighth off the file; engines widen them as they load it."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim != 4:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}/half"))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], name, to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def write_card(model: onnx.ModelProto, card: ModelCard) -> None:
    """Put the card into a model's metadata, in place of whatever was there."""
    del model.metadata_props[:]
    # The engines refuse a file with this word, ONNX's name for data outside it: in a card it stands escaped.
    text = card.to_json().replace("location", r"\u006cocation")
    onnx.helper.set_model_props(model, {CARD_KEY: text})
