"""MediaPipe's Face Landmarker, put together from the parts of its own wheel. Runs inside the peer's environment.

Face Landmarker wants a mesh of 478 points; that which the wheel carries has 468, and would be read out of step (two
numbers a point instead of three). So the model's output is lengthened by its own first ten points, in the place of the
irises: what it computes is unchanged.
"""

import io
import zipfile
from pathlib import Path

MISSING = 10  # points of the irises
OF_POINT = 3  # x, y, z


def task() -> bytes:
    """A Face Landmarker .task: short-range face detector and lengthened mesh, of the installed mediapipe."""
    import mediapipe

    parts = Path(mediapipe.__file__).parent / "modules"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # not compressed: MediaPipe maps the files into memory
        archive.write(parts / "face_detection" / "face_detection_short_range.tflite", "face_detector.tflite")
        mesh = (parts / "face_landmark" / "face_landmark.tflite").read_bytes()
        archive.writestr("face_landmarks_detector.tflite", lengthened(mesh))
    return packed.getvalue()


def lengthened(model: bytes) -> bytes:
    """A .tflite whose first output (1, 1, 1, 1404) is followed by its own first 30 numbers."""
    import flatbuffers
    from mediapipe.tasks.metadata import schema_py_generated as schema

    network = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    graph = network.subgraphs[0]
    mesh, *others = graph.outputs
    count = MISSING * OF_POINT
    shape = [*graph.tensors[mesh].shape[:-1], count]
    first = _tensor(schema, network, "first points", shape)
    corner, size = (_tensor(schema, network, name, [4], values) for name, values in (("0", [0] * 4), ("n", shape)))
    longer = _tensor(schema, network, "longer mesh", [*shape[:-1], graph.tensors[mesh].shape[-1] + count])
    _operator(schema, network, "Slice", [mesh, corner, size], first)
    _operator(schema, network, "Concatenation", [mesh, first], longer, axis=3)
    graph.outputs = [longer, *others]
    builder = flatbuffers.Builder(len(model))
    builder.Finish(network.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(schema, network, name: str, shape: list, values: list | None = None) -> int:
    """Add a float32 tensor, or a constant int32 one with these values; returns its index."""
    import numpy

    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, shape, 0  # buffer 0 is empty: computed
    tensor.type = schema.TensorType.FLOAT32 if values is None else schema.TensorType.INT32
    if values is not None:
        buffer = schema.BufferT()
        buffer.data = numpy.frombuffer(numpy.asarray(values, numpy.int32).tobytes(), numpy.uint8)
        network.buffers.append(buffer)
        tensor.buffer = len(network.buffers) - 1
    network.subgraphs[0].tensors.append(tensor)
    return len(network.subgraphs[0].tensors) - 1


def _operator(schema, network, name: str, inputs: list, output: int, **options: int) -> None:
    """Add an operator at the end."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name.upper())
    code.version = 1
    network.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(network.operatorCodes) - 1
    operator.inputs, operator.outputs = inputs, [output]
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{name}Options")
    operator.builtinOptions = getattr(schema, f"{name}OptionsT")()
    for key, value in options.items():
        setattr(operator.builtinOptions, key, value)
    network.subgraphs[0].operators.append(operator)
