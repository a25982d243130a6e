"""A float32 ONNX model in float16, as far as its points allow."""

from __future__ import annotations

import copy
from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tabrt.card import ModelCard
from tabrt.engines.parity import HALF_PARTS, Shift, onnx_maps
from tabrt.errors import TabrtError
from tabrt.exporting.inside import inner_values

HALF_LIMIT = 30_000.0  # a layer with values beyond this stays in float32: float16 ends at 65,504
FLOAT_INPUTS = {"Resize": 1}  # the number of inputs that are maps: the others, its scales, are always float32
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def to_half(
    model: onnx.ModelProto, truth: np.ndarray, crops: np.ndarray, card: ModelCard
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A float32 model to float16 inside; and the names of the layers that had to stay in float32.

    Accepted when points move no further than Shift.objection allows from float32's maps `truth`; until then, layers
    that overflow and then HALF_PARTS stay in float32. Raises TabrtError if all of that does not help.
    """
    too_large = overflowing_layers(model, crops)
    for parts in HALF_PARTS:
        prefixes = tuple(f"network.{part}{end}" for part in parts for end in "./")
        kept = [node.name for node in model.graph.node if node.name in too_large or node.name.startswith(prefixes)]
        half = half_but(model, kept)
        shift = Shift.between(truth, onnx_maps(half.SerializeToString(), crops), card)
        if not shift.objection("fp16"):
            return half, tuple(kept)
    raise TabrtError(
        f"{shift.objection('fp16')}, and does so whichever layers stay in float32; export with --precision fp32"
    )


def half_but(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """A float32 model in float16, but for its inputs and outputs, the normalisation, and the nodes named in `kept`.

    A value is cast only where a float16 and a float32 node meet, so what stays in float32 loses nothing on the way.
    """
    half = copy.deepcopy(model)
    graph = half.graph
    weights = {value.name: value for value in graph.initializer if value.data_type == FLOAT}
    types = dict.fromkeys((value.name for value in graph.input), FLOAT)
    nodes: list[onnx.NodeProto] = []
    casts: dict[tuple[str, int], str] = {}

    def cast(name: str, kind: int) -> str:
        if (name, kind) not in casts:
            made = casts[name, kind] = f"{name}_{'half' if kind == HALF else 'float'}"
            if name in weights:
                graph.initializer.append(_half_weight(weights[name], made))
            else:
                nodes.append(helper.make_node("Cast", [name], [made], f"cast/{made}", to=kind))
        return casts[name, kind]

    for node in graph.node:
        kind = FLOAT if node.name in kept or node.name.startswith("normalise") else HALF
        for index, name in enumerate(node.input[: FLOAT_INPUTS.get(node.op_type)]):
            if name and types.get(name, FLOAT) != kind:
                node.input[index] = cast(name, kind)
        types |= dict.fromkeys(node.output, kind)
        nodes.append(node)
    _cast_back([output.name for output in graph.output if types[output.name] == HALF], nodes)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    _drop_unused(graph)
    return half


def _cast_back(outputs: list[str], nodes: list[onnx.NodeProto]) -> None:
    """Let what was an output become an inner value, and its cast to float32 the output."""
    for output in outputs:
        inner = f"{output}_inner"
        for node in nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == output:
                        names[index] = inner
        nodes.append(helper.make_node("Cast", [inner], [output], f"cast/{output}", to=FLOAT))


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [value for value in graph.initializer if value.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _half_weight(weight: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(weight)
    return numpy_helper.from_array(np.clip(values, -65504, 65504).astype(np.float16), name)


def overflowing_layers(model: onnx.ModelProto, crops: np.ndarray) -> set[str]:
    """Names of the nodes that give or take values beyond HALF_LIMIT on these crops, one crop at a time."""
    large: set[str] = set()
    for values in inner_values(model, crops):
        large |= {name for name, value in values.items() if not np.abs(value).max() < HALF_LIMIT}
    large -= {value.name for value in model.graph.output}  # those are float32 as it is
    return {node.name for node in model.graph.node if large & {*node.input, *node.output}}
