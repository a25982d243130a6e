"""MediaPipe's BlazeFace detectors, from TensorFlow Lite to ONNX.

Only the dozen operations that those two models use are known here. Weights stay in float16, as they are in the
.tflite, and are cast as the model is loaded: nothing is lost. The full-range model is sparse there and dense here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tabrt.errors import TabrtError
from tabrt.files import read_bounded, write_atomically

OPSET, IR_VERSION = 17, 9  # what ONNX Runtime 1.22 reads
INPUT, OUTPUTS = "image", ("regressors", "classificators")
TYPES = {0: np.float32, 1: np.float16, 2: np.int32}  # TensorFlow Lite's numbers
SAME, RELU = 0, 1  # Padding, ActivationFunctionType


def convert(path: Path) -> bytes:
    """The ONNX file of a .tflite: uint8 (N, H, W, 3) RGB in; regressors (N, A, 16) and logits (N, A, 1) out.

    Raises TabrtError for a model with operations that BlazeFace has not.
    """
    try:
        import tflite
    except ImportError as error:
        raise TabrtError("reading .tflite needs a package: pip install 'tflite>=2.18,<3'") from error
    return _Conversion(tflite, read_bounded(path)).model.SerializeToString()


def convert_all(source: Path, out: Path) -> list[Path]:
    """Convert the two models of `source`, tabrt/models or a folder like it, into the folder `out`."""
    written = []
    for name, target in (
        ("face_detection_full_range_sparse.tflite", "face_detection_full_range.onnx"),
        ("face_detection_short_range.tflite", "face_detection_short_range.onnx"),
    ):
        write_atomically(out / target, convert(source / name))
        written.append(out / target)
    return written


@dataclasses.dataclass(frozen=True)
class _Padding:
    """A spatial padding by zeros that waits for its convolution."""

    tensor: int
    before: Sequence[int]
    after: Sequence[int]


class _Conversion:
    """One .tflite on its way: tensors are called t0, t1 … by their numbers, and are NCHW here."""

    def __init__(self, tflite, data: bytes):
        self._lite = tflite
        self._source = tflite.Model.GetRootAsModel(data, 0)
        self._graph = self._source.Subgraphs(0)
        self._codes = {number: name for name, number in vars(tflite.BuiltinOperator).items() if isinstance(number, int)}
        self._constants: dict[int, np.ndarray] = {}
        self._paddings: dict[int, _Padding] = {}
        self._casts: list[onnx.NodeProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._read_constants()
        self._read_input()
        for number in range(self._graph.OperatorsLength()):
            self._add(self._graph.Operators(number))
        self.model = self._finished()

    def _shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(length) for length in self._graph.Tensors(tensor).ShapeAsNumpy())

    def _read_constants(self) -> None:
        for number in range(self._graph.TensorsLength()):
            tensor = self._graph.Tensors(number)
            buffer = self._source.Buffers(tensor.Buffer())
            if buffer.DataLength() and tensor.Type() in TYPES:
                values = np.frombuffer(buffer.DataAsNumpy().tobytes(), TYPES[tensor.Type()])
                self._constants[number] = _dense(tensor, values) if tensor.Sparsity() else values
                self._constants[number] = self._constants[number].reshape(self._shape(number))

    def _read_input(self) -> None:
        self._input = int(self._graph.Inputs(0))
        self._weights += [
            numpy_helper.from_array(np.array(1 / 127.5, np.float32), "scale"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ]
        self._nodes += [
            helper.make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
            helper.make_node("Sub", ["scaled", "one"], ["centred"]),
            helper.make_node("Transpose", ["centred"], [f"t{self._input}"], perm=[0, 3, 1, 2]),
        ]

    def _add(self, operator) -> None:
        code = self._source.OperatorCodes(operator.OpcodeIndex())
        name = self._codes[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        known: dict[str, Callable] = {
            "DEQUANTIZE": self._pass_constant, "DENSIFY": self._pass_constant, "PAD": self._pad,
            "CONV_2D": self._convolve, "DEPTHWISE_CONV_2D": self._convolve_depthwise, "ADD": self._sum,
            "RELU": self._rectify, "MAX_POOL_2D": self._pool, "RESIZE_BILINEAR": self._resize,
            "DEPTH_TO_SPACE": self._spread, "RESHAPE": self._reshape, "CONCATENATION": self._join,
        }  # fmt: skip
        if name not in known:
            raise TabrtError(f"the model has the operation {name}, which BlazeFace has not; give MediaPipe's own file")
        known[name](operator, [int(i) for i in operator.InputsAsNumpy()], int(operator.Outputs(0)))

    def _options(self, operator, kind: str):
        options = getattr(self._lite, kind)()
        options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
        return options

    def _node(self, kind: str, inputs: list[str], output: int, activation: int = 0, **attributes: Any) -> None:
        name = f"t{output}"
        first = f"{name}_sum" if activation == RELU else name
        self._nodes.append(helper.make_node(kind, inputs, [first], **attributes))
        if activation == RELU:
            self._nodes.append(helper.make_node("Relu", [f"{name}_sum"], [name]))
        elif activation:
            raise TabrtError("the model has an activation that BlazeFace has not; give MediaPipe's own file")

    def _weight(self, name: str, values: np.ndarray) -> str:
        """A constant kept in float16 and cast as the model is loaded."""
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float16), f"{name}_half"))
        self._casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        return name

    def _pass_constant(self, _, inputs: list[int], output: int) -> None:
        self._constants[output] = self._constants[inputs[0]]

    def _pad(self, _, inputs: list[int], output: int) -> None:
        before_after = self._constants[inputs[1]].reshape(4, 2)
        if before_after[[0, 3]].any():  # of channels
            before, after = before_after[[0, 3, 1, 2]].T
            pads = numpy_helper.from_array(np.concatenate([before, after]).astype(np.int64), f"pads{output}")
            self._weights.append(pads)
            self._node("Pad", [f"t{inputs[0]}", pads.name], output)
        else:
            (top, bottom), (left, right) = before_after[1:3].tolist()
            self._paddings[output] = _Padding(inputs[0], (top, left), (bottom, right))

    def _convolve(self, operator, inputs: list[int], output: int) -> None:
        kernel = self._constants[inputs[1]].transpose(0, 3, 1, 2)  # OHWI -> OIHW
        self._filter(self._options(operator, "Conv2DOptions"), kernel, 1, inputs, output)

    def _convolve_depthwise(self, operator, inputs: list[int], output: int) -> None:
        kernel = self._constants[inputs[1]].transpose(3, 0, 1, 2)  # 1HWC -> C1HW
        self._filter(self._options(operator, "DepthwiseConv2DOptions"), kernel, len(kernel), inputs, output)

    def _filter(self, options, kernel: np.ndarray, groups: int, inputs: list[int], output: int) -> None:
        padding = self._paddings.get(inputs[0], _Padding(inputs[0], (0, 0), (0, 0)))
        strides = [options.StrideH(), options.StrideW()]
        before, after = padding.before, padding.after
        if options.Padding() == SAME:
            sizes = self._shape(inputs[0])[1:3]
            totals = [_same(*each) for each in zip(sizes, strides, kernel.shape[2:], strict=True)]
            before = [more + total // 2 for more, total in zip(before, totals, strict=True)]  # the smaller half
            after = [more + total - total // 2 for more, total in zip(after, totals, strict=True)]
        names = [self._weight(f"w{output}", kernel), self._weight(f"b{output}", self._constants[inputs[2]])]
        attributes: dict[str, Any] = {"group": groups, "strides": strides, "pads": [*before, *after]}
        activation = options.FusedActivationFunction()
        self._node("Conv", [f"t{padding.tensor}", *names], output, activation, **attributes)

    def _sum(self, operator, inputs: list[int], output: int) -> None:
        activation = self._options(operator, "AddOptions").FusedActivationFunction()
        self._node("Add", [f"t{number}" for number in inputs], output, activation)

    def _rectify(self, _, inputs: list[int], output: int) -> None:
        self._node("Relu", [f"t{inputs[0]}"], output)

    def _pool(self, operator, inputs: list[int], output: int) -> None:
        options = self._options(operator, "Pool2DOptions")
        kernel = [options.FilterHeight(), options.FilterWidth()]
        strides = [options.StrideH(), options.StrideW()]
        self._node("MaxPool", [f"t{inputs[0]}"], output, kernel_shape=kernel, strides=strides)

    def _resize(self, operator, inputs: list[int], output: int) -> None:
        if not self._options(operator, "ResizeBilinearOptions").HalfPixelCenters():
            raise TabrtError("the model resizes from corner to corner; give MediaPipe's own file")
        source, target = (self._shape(tensor)[1:3] for tensor in (inputs[0], output))
        scales = [1, 1, *(after / before for before, after in zip(source, target, strict=True))]
        self._weights.append(numpy_helper.from_array(np.array(scales, np.float32), f"scales{output}"))
        names = [f"t{inputs[0]}", "", f"scales{output}"]
        self._node("Resize", names, output, mode="linear", coordinate_transformation_mode="half_pixel")

    def _spread(self, operator, inputs: list[int], output: int) -> None:
        size = self._options(operator, "DepthToSpaceOptions").BlockSize()
        self._node("DepthToSpace", [f"t{inputs[0]}"], output, blocksize=size, mode="DCR")

    def _reshape(self, _, inputs: list[int], output: int) -> None:
        """To rows of anchors, as TensorFlow Lite counts them: channels last."""
        self._nodes.append(helper.make_node("Transpose", [f"t{inputs[0]}"], [f"t{output}_last"], perm=[0, 2, 3, 1]))
        shape = np.array([0, *self._shape(output)[1:]], np.int64)  # 0: as many as come in
        self._weights.append(numpy_helper.from_array(shape, f"shape{output}"))
        self._node("Reshape", [f"t{output}_last", f"shape{output}"], output)

    def _join(self, _, inputs: list[int], output: int) -> None:
        self._node("Concat", [f"t{number}" for number in inputs], output, axis=1)

    def _finished(self) -> onnx.ModelProto:
        outputs = sorted((int(i) for i in self._graph.OutputsAsNumpy()), key=lambda i: -self._shape(i)[-1])
        ends = [helper.make_node("Identity", [f"t{i}"], [name]) for i, name in zip(outputs, OUTPUTS, strict=True)]
        values = [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", *self._shape(self._input)[1:]])]
        for i, name in zip(outputs, OUTPUTS, strict=True):
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *self._shape(i)[1:]]))
        nodes = [*self._casts, *self._nodes, *ends]
        graph = helper.make_graph(nodes, "blazeface", values[:1], values[1:], self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "tabrt"
        onnx.checker.check_model(model)
        return model


def _same(size: int, stride: int, kernel: int) -> int:
    """What TensorFlow's SAME adds to a length, before and after."""
    return max((-(-size // stride) - 1) * stride + kernel - size, 0)


def _dense(tensor, values: np.ndarray) -> np.ndarray:
    """The values of a sparse tensor with its zeros: rows in compressed form along the last dimension."""
    sparsity = tensor.Sparsity()
    shape = tuple(int(length) for length in tensor.ShapeAsNumpy())
    last = sparsity.DimMetadata(len(shape) - 1)
    segments, indices = _indices(last, "ArraySegments"), _indices(last, "ArrayIndices")
    rows = np.zeros((int(np.prod(shape[:-1])), shape[-1]), values.dtype)
    rows[np.repeat(np.arange(len(rows)), np.diff(segments)), indices] = values
    return rows


def _indices(dimension, name: str) -> np.ndarray:
    """One of the arrays of a compressed dimension, of whatever width it is kept in."""
    import tflite

    kinds = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}
    vector = kinds[getattr(dimension, f"{name}Type")()]()
    table = getattr(dimension, name)()
    vector.Init(table.Bytes, table.Pos)
    return vector.ValuesAsNumpy().astype(np.int64)
