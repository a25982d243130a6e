"""A checkpoint as an ONNX model in any precision, and how it compares with torch float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tabrt.card import PRECISIONS, ModelCard
from tabrt.engines.parity import Shift, onnx_maps
from tabrt.errors import TabrtError
from tabrt.exporting.graph import to_onnx, write_card
from tabrt.exporting.half import to_half
from tabrt.exporting.int8 import to_int8
from tabrt.network.checkpoint import load_checkpoint
from tabrt.network.deployed import torch_maps
from tabrt.network.folding import folded


@dataclass(frozen=True)
class Converted:
    """A serialised ONNX model, and how it compares with torch float32."""

    data: bytes
    card: ModelCard
    shift: Shift
    objection: str | None  # why its points are too far from float32's
    float_layers: tuple[str, ...]  # left in float32 for the sake of accuracy


def convert(checkpoint: str | Path, precision: str, crops: np.ndarray, calibration: np.ndarray) -> Converted:
    """Checkpoint to an ONNX model, compared with torch float32 on crops; int8 is calibrated on `calibration`."""
    if precision not in PRECISIONS:
        raise TabrtError(f"no precision is called {precision!r}; there are: {', '.join(PRECISIONS)}")
    network, card = load_checkpoint(checkpoint)
    card = replace(card, precision=precision)
    truth = torch_maps(network, crops)[0]
    model = to_onnx(folded(network) if precision == "fp16" else network)
    float_layers: tuple[str, ...] = ()
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
    return Converted(data, card, shift, shift.objection(precision), float_layers)


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
