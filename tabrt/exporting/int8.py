"""A float32 ONNX model in int8, written so that ONNX Runtime computes all but the last layer in int8.

Activations are uint8 with a scale for each value, weights int8 with a scale for each channel. ONNX Runtime has no int8
kernel for a batch norm or a fast one for an average or for nearest upsampling, and turns the picture round wherever it
must leave int8; so these are written as what it has: convolutions by channel, and copies of rows and columns.

Channels made equal across layers and corrected biases were tried too: neither brings points nearer to float32's.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from tabrt.exporting.inside import inner_values
from tabrt.network.tab import IMAGE_MEAN, IMAGE_STD

CLIPPED = 5  # % of the crops whose extremes may lie outside a value's range: one odd crop must not cost all others
PIXEL_ZERO = 114  # the grey that stands for 0: the mean of IMAGE_MEAN, so that padding is nearly what it was
PLANES, ROWS = (0, 3, 1, 2), (0, 2, 3, 1)  # NHWC to NCHW, and back
GROUP = 4  # pixels of a row that the first convolution takes as one, with their colours: kernels want channels by fours
_LARGEST_BIAS = 2**30
_FINEST = 2**23  # levels of a weight in which no bit of float32 is lost
# Levels of any two weights of a channel together. CPUs without VNNI add two products of a uint8 and an int8 in int16,
# and 255 · 128 is the most that fits; two weights are rounded, by one half each.
_LARGEST_PAIR = 127


def to_int8(model: onnx.ModelProto, crops: np.ndarray) -> onnx.ModelProto:
    """A float32 model of tabrt's in int8, calibrated on crops uint8 (N, 256, 256, 3) RGB.

    The convolution that gives the landmarks stays in float32: 256 levels are too few to find a peak between cells.
    """
    plain = _folded(model)
    _as_convolutions(plain)
    return _Int8(plain, _ranges(plain, crops)).model()


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with constants computed and batch norms inside the convolutions before them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "folded.onnx"))
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _as_convolutions(model: onnx.ModelProto) -> None:
    """Write the batch norms and averages that are left as convolutions by channel."""
    graph = model.graph
    values = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    channels = _channels(model)
    for index, node in enumerate(graph.node):
        if node.op_type == "BatchNormalization":
            slope, offset = _line(node, values)
            kernel = slope[:, None, None, None]
            sizes: dict[str, Any] = {"kernel_shape": [1, 1]}
        elif node.op_type == "AveragePool":
            count = channels[node.input[0]]
            kernel, offset = np.full((count, 1, 2, 2), 0.25), np.zeros(count)
            sizes = {"kernel_shape": [2, 2], "strides": [2, 2]}
        else:
            continue
        names = [f"{node.output[0]}/weight", f"{node.output[0]}/bias"]
        for name, value in zip(names, (kernel, offset), strict=True):
            graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        inputs = [node.input[0], *names]
        made = helper.make_node("Conv", inputs, node.output, node.name, group=len(kernel), **sizes)
        graph.node[index].CopyFrom(made)


def _line(node: onnx.NodeProto, values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A batch norm as slope and offset of each channel."""
    scale, bias, mean, variance = (values[name].astype(np.float64) for name in node.input[1:5])
    epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
    slope = scale / np.sqrt(variance + epsilon)
    return slope, bias - mean * slope


def _channels(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.output)}
    return {name: shape[1].dim_value for name, shape in shapes.items() if len(shape) == 4}


def _ranges(model: onnx.ModelProto, crops: np.ndarray) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of everything inside a model, but for what CLIPPED leaves out."""
    names = [name for node in model.graph.node for name in node.output]
    extremes = np.array(
        [[(values[name].min(), values[name].max()) for name in names] for values in inner_values(model, crops)]
    )  # (crops, values, 2)
    lowest = np.percentile(extremes[..., 0], CLIPPED, axis=0)
    highest = np.percentile(extremes[..., 1], 100 - CLIPPED, axis=0)
    return {name: (float(low), float(high)) for name, low, high in zip(names, lowest, highest, strict=True)}


@dataclass(frozen=True)
class _Levels:
    """How a value is written in uint8: value = scale · (level − zero)."""

    scale: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> _Levels:
        low, high = min(low, 0.0), max(high, 0.0)  # 0 must be a level: it is what convolutions are padded with
        scale = max((high - low) / 255, 1e-8)
        return cls(scale, round(-low / scale))


class _Int8:
    """Writes the int8 graph of a float32 one, node by node. A value x is kept as uint8 `x/levels`."""

    def __init__(self, model: onnx.ModelProto, ranges: dict[str, tuple[float, float]]):
        self._source = model
        self._crop_size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._values = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
        self._ranges = ranges
        self._levels: dict[str, _Levels] = {}  # of each value that is written
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)

    def model(self) -> onnx.ModelProto:
        graph = self._source.graph
        first = next(index for index, node in enumerate(graph.node) if node.op_type == "Conv")
        self._first(graph.node[first])  # in place of the normalisation too, which stands before it
        for node in graph.node[first + 1 :]:
            self._add(node)
        made = onnx.ModelProto()
        made.CopyFrom(self._source)
        for field in (made.graph.node, made.graph.initializer, made.graph.value_info):
            del field[:]
        made.graph.node.extend(self._nodes)
        made.graph.initializer.extend(self._constants.values())
        return made

    def _add(self, node: onnx.NodeProto) -> None:
        output = node.output[0]
        if output == "landmarks":
            self._last(node)
        elif node.op_type == "Resize" and _mode(node) == "nearest":
            self._doubled(node.input[0], output)
        elif node.op_type == "Conv":
            kernel, bias = self._weights(node)
            self._convolution(node, self._float(node.input[0]), self._levels[node.input[0]].scale, kernel, bias)
            self._write(output)
        elif node.op_type == "Relu":
            if output not in self._levels:  # the first one is written with its convolution
                self._node("Relu", [node.input[0]], output)
                self._write(output)
        else:
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.input[:] = [self._float(name) for name in node.input]
            self._nodes.append(copied)
            kept = self._levels[node.input[0]] if node.op_type in ("MaxPool", "Resize") else None
            self._write(output, kept)

    def _first(self, node: onnx.NodeProto) -> None:
        """The first convolution, on the pixels as they are: the normalisation goes into its weights."""
        kernel, bias = self._weights(node)
        mean, std = 255 * np.array(IMAGE_MEAN), 255 * np.array(IMAGE_STD)
        bias = bias + (kernel * ((PIXEL_ZERO - mean) / std)[:, None, None]).sum(axis=(1, 2, 3))
        kernel = kernel / std[:, None, None]
        strides, pad = _attribute(node, "strides", [1, 1]), _attribute(node, "pads", [0, 0, 0, 0])[0]
        levels = self._levels["crops"] = _Levels(1.0, PIXEL_ZERO)
        if strides == [2, 2] and [user.op_type for user in self._users[node.output[0]]] == ["Relu"]:
            self._first_by_groups(node, kernel, bias, pad)
            return
        planes = self._node("Transpose", ["crops"], "crops/planes", perm=PLANES)
        self._convolution(node, self._read(planes, levels), levels.scale, kernel, bias)
        self._write(node.output[0])

    def _first_by_groups(self, node: onnx.NodeProto, kernel: np.ndarray, bias: np.ndarray, pad: int) -> None:
        """GROUP pixels of a row as one of 12 channels, and the two outputs they give as one of twice the channels."""
        output = self._users[node.output[0]][0].output[0]
        levels = self._levels["crops"]
        groups = self._reshaped("crops", (self._crop_size, self._crop_size // GROUP, 3 * GROUP))
        planes = self._node("Transpose", [groups], "crops/planes", perm=PLANES)
        wide, left, right = by_groups(kernel, pad)
        sizes: dict[str, Any] = {"kernel_shape": wide.shape[2:], "strides": [2, 1], "pads": [pad, left, pad, right]}
        shaped = helper.make_node("Conv", node.input, node.output, node.name, **sizes)
        self._convolution(shaped, self._read(planes, levels), levels.scale, wide, np.concatenate([bias, bias]))
        pairs = self._node("Relu", node.output, f"{output}/pairs")
        levels = self._levels[output] = self._levels_of(output)
        written = self._node("Transpose", [self._quantised(pairs, levels)], f"{output}/rows", perm=ROWS)
        half = self._crop_size // 2
        self._node("Transpose", [self._reshaped(written, (half, half, len(bias)))], f"{output}/levels", perm=PLANES)

    def _last(self, node: onnx.NodeProto) -> None:
        """The landmark maps in float32.

        Weights that are no plain constant keep ONNX Runtime from laying the maps out in its own way, and back: their
        levels are so fine that nothing is lost.
        """
        kernel, bias = self._weights(node)
        scale = np.maximum(np.abs(kernel).max(axis=(1, 2, 3)), 1e-12) / _FINEST
        name = node.output[0]
        fine = self._weight(f"{name}/kernel", np.round(kernel / scale[:, None, None, None]), scale, np.int32)
        weights = [fine, self._constant(f"{name}/bias", bias.astype(np.float32))]
        self._node("Conv", [self._float(node.input[0]), *weights], name, node.name, kernel_shape=[1, 1])

    def _doubled(self, source: str, output: str) -> None:
        """Nearest upsampling ×2: each row and column twice."""
        side = self._side(output)
        twice = self._constant(f"twice/{side}", np.repeat(np.arange(side // 2), 2))
        rows = self._node("Transpose", [f"{source}/levels"], f"{output}/rows", perm=ROWS)
        columns = self._node("Gather", [rows, twice], f"{output}/columns", axis=2)
        doubled = self._node("Gather", [columns, twice], f"{output}/doubled", axis=1)
        self._node("Transpose", [doubled], f"{output}/levels", perm=PLANES)
        self._levels[output] = self._levels[source]

    def _side(self, name: str) -> int:
        graph = self._source.graph
        shape = next(value for value in graph.value_info if value.name == name).type.tensor_type.shape
        return shape.dim[2].dim_value

    def _weights(self, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
        kernel = self._values[node.input[1]].astype(np.float64)
        return kernel, self._values[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(len(kernel))

    def _convolution(
        self, node: onnx.NodeProto, source: str, scale_in: float, kernel: np.ndarray, bias: np.ndarray
    ) -> None:
        """A convolution with int8 weights and an int32 bias, of the attributes of `node`."""
        # A channel with next to no weights still needs a scale in which its bias can be written.
        scale = np.maximum(_kernel_scale(kernel), np.abs(bias) / (scale_in * _LARGEST_BIAS))
        scale = np.maximum(scale, 1e-12).astype(np.float32).astype(np.float64)
        name = node.output[0]
        weights = [
            self._weight(f"{name}/weight", np.round(kernel / scale[:, None, None, None]), scale, np.int8),
            self._weight(f"{name}/bias", np.round(bias / (scale * scale_in)), scale * scale_in, np.int32),
        ]
        made = helper.make_node("Conv", [source, *weights], [name], node.name)
        made.attribute.extend(node.attribute)
        self._nodes.append(made)

    def _weight(self, name: str, values: np.ndarray, scale: np.ndarray, kind: type) -> str:
        inputs = [
            self._constant(f"{name}/levels", values.astype(kind)),
            self._constant(f"{name}/scale", scale.astype(np.float32)),
            self._constant(f"{name}/zero", np.zeros(len(scale), kind)),
        ]
        return self._node("DequantizeLinear", inputs, name, axis=0)

    def _write(self, name: str, levels: _Levels | None = None) -> None:
        """Write a value of the last node in uint8, unless only a ReLU takes it: that is part of the convolution."""
        if [user.op_type for user in self._users.get(name, [])] == ["Relu"]:
            return
        self._levels[name] = levels or self._levels_of(name)
        if name not in {value.name for value in self._source.graph.output}:
            self._quantised(name, self._levels[name])
            return
        inner = self._nodes[-1].output[0] = f"{name}/inner"
        self._quantised(inner, self._levels[name], f"{name}/levels")
        self._float(name)

    def _levels_of(self, name: str) -> _Levels:
        # What is concatenated is written in the levels of the whole, so that it need only be copied there.
        joined = next((user.output[0] for user in self._users[name] if user.op_type == "Concat"), name)
        return _Levels.of(*self._ranges[joined])

    def _quantised(self, name: str, levels: _Levels, output: str | None = None) -> str:
        return self._node("QuantizeLinear", [name, *self._as_constants(levels)], output or f"{name}/levels")

    def _float(self, name: str) -> str:
        """The name of a value in float: of one that is kept as uint8, what its levels stand for."""
        if name not in self._levels:
            if name in self._values:
                self._constant(name, self._values[name])
            return name
        promised = name in {value.name for value in self._source.graph.output}
        return self._read(f"{name}/levels", self._levels[name], name if promised else f"{name}/value")

    def _read(self, source: str, levels: _Levels, output: str | None = None) -> str:
        output = output or f"{source}/value"
        if any(output in node.output for node in self._nodes):
            return output
        return self._node("DequantizeLinear", [source, *self._as_constants(levels)], output)

    def _as_constants(self, levels: _Levels) -> list[str]:
        scale, zero = np.float32(levels.scale), np.uint8(levels.zero)
        return [self._constant(f"scale/{scale:.9g}", scale), self._constant(f"zero/{zero}", zero)]

    def _reshaped(self, source: str, sizes: tuple[int, ...], output: str | None = None) -> str:
        shape = self._constant(f"shape/{'x'.join(map(str, sizes))}", np.array([0, *sizes]))
        return self._node("Reshape", [source, shape], output or f"{source}/reshaped")

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, name: str | None = None, **attributes) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], name or output, **attributes))
        return output


def _kernel_scale(kernel: np.ndarray) -> np.ndarray:
    """The scale of each channel's weights, such that no two of them together exceed _LARGEST_PAIR levels."""
    sizes = np.sort(np.abs(kernel).reshape(len(kernel), -1), axis=1)[:, -2:]
    return np.maximum(sizes.sum(axis=1) / _LARGEST_PAIR, sizes[:, -1] / 127)


def by_groups(kernel: np.ndarray, pad: int) -> tuple[np.ndarray, int, int]:
    """A kernel (O, C, k, k) of stride 2 over pixels as one (2O, GROUP·C, k, g) over groups of pixels of a row.

    Its outputs are those of the even, then of the odd columns. Returns the kernel, and the groups of padding that the
    rows need on the left and on the right.
    """
    count, colours, rows, size = kernel.shape
    places = np.array([[2 * odd - pad + column for column in range(size)] for odd in (0, 1)])  # pixel in its group
    first, last = int(places.min() // GROUP), int(places.max() // GROUP)
    wide = np.zeros((2, count, GROUP, colours, rows, last - first + 1))
    for odd in (0, 1):
        for column, place in enumerate(places[odd]):
            wide[odd, :, place % GROUP, :, :, place // GROUP - first] = kernel[..., column]
    return wide.reshape(2 * count, GROUP * colours, rows, -1), -first, last


def _mode(node: onnx.NodeProto) -> str:
    return _attribute(node, "mode", b"nearest").decode()


def _attribute(node: onnx.NodeProto, name: str, default):
    found = (helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name)
    return next(found, default)
