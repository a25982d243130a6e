"""Export: the model computes the same, carries its card, and is refused where it does not."""

from __future__ import annotations

import collections
import copy
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from small_network import face_crops, random_checkpoint, random_network, shipped_checkpoint
from torch.nn import functional

from tabrt.card import ModelCard
from tabrt.engines.engine import MODELS, fp16_file, int8_file, load_engine
from tabrt.engines.parity import BOUNDS, FARTHEST, Shift, onnx_maps, sample_crops
from tabrt.errors import EngineUnavailable, TabrtError
from tabrt.exporting import export as export_module
from tabrt.exporting import half as half_module
from tabrt.exporting.export import export, export_onnx
from tabrt.exporting.graph import to_onnx, write_card
from tabrt.exporting.half import overflowing_layers, to_half
from tabrt.exporting.int8 import by_groups, to_int8
from tabrt.heatmaps import render_logits
from tabrt.network import Tab
from tabrt.network.checkpoint import save_checkpoint
from tabrt.network.deployed import torch_maps

ROOT = Path(__file__).parents[1]
CARD = ModelCard(name="random")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return random_checkpoint(folder, training_data="none", figures={"nme": 0.5})


@pytest.fixture(scope="module")
def report(checkpoint: Path, folder: Path):
    return export_onnx(checkpoint, folder / "out" / "random.onnx", crops=face_crops(2))


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return to_onnx(random_network())


def test_the_file_stands_alone(report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in report.path.parent.iterdir()] == ["random.onnx"]
    card = load_engine(report.path).card
    assert (card.name, card.training_data, card.figures) == ("random", "none", {"nme": 0.5})
    assert str(ROOT).encode() not in report.path.read_bytes()


def test_the_signature_is_the_promised_one(report):
    graph = onnx.load(report.path).graph

    def described(value: onnx.ValueInfoProto) -> tuple:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [d.dim_value or "N" for d in tensor.shape.dim]

    assert [described(value) for value in graph.input] == [("crops", onnx.TensorProto.UINT8, ["N", 256, 256, 3])]
    assert [described(value) for value in graph.output] == [
        ("landmarks", onnx.TensorProto.FLOAT, ["N", 98, 64, 64]),
        ("boundaries", onnx.TensorProto.FLOAT, ["N", 16, 64, 64]),
    ]


def test_sizes_inside_are_constant(report):
    graph = onnx.load(report.path).graph
    constants = {value.name for value in graph.initializer}
    counted = collections.Counter(node.op_type for node in graph.node)
    assert not counted.keys() & {"Shape", "Gather", "Reshape", "Slice"}
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    assert len(resizes) == 8
    assert all(name in constants for node in resizes for name in node.input[1:] if name)
    assert graph.node[0].op_type == "Cast"  # where TensorRT wants it


def test_it_computes_the_same(report):
    crops = face_crops(3)
    engine = load_engine(report.path)
    for found, truth in zip(engine.both(crops), torch_maps(random_network(), crops), strict=True):
        assert np.abs(found - truth).max() < 1e-4 * np.abs(truth).max()
    assert "points differ from torch float32" in str(report)


def _changed(model: onnx.ModelProto, changes: dict[str, Callable[[np.ndarray], np.ndarray]]) -> onnx.ModelProto:
    """A copy with other weights, by the names of the network's: tracing it again would take ten seconds."""
    copied = copy.deepcopy(model)
    tensors = {value.name: value for value in copied.graph.initializer}
    for name, change in changes.items():
        tensor = tensors[f"network.{name}"]
        values = change(numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copied


def test_a_model_that_computes_something_else_is_not_written(checkpoint, model, tmp_path: Path, monkeypatch):
    wrong = _changed(model, {"balt.out.weight": np.negative})
    monkeypatch.setattr("tabrt.exporting.converting.to_onnx", lambda network: wrong)
    with pytest.raises(TabrtError, match="moves points"):
        export_onnx(checkpoint, tmp_path / "a.onnx", crops=face_crops(1))
    assert list(tmp_path.iterdir()) == []


def test_another_number_of_hourglasses_is_refused(checkpoint: Path):
    with pytest.raises(TabrtError, match="has 1 hourglasses, not 2.*--hourglasses 1"):
        export(2, None, checkpoint)


def test_another_width_is_refused(checkpoint: Path):
    with pytest.raises(TabrtError, match="has width lite, not full"):
        export(1, "full", checkpoint)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"hourglasses": 1, "to": "tflite"}, "no target"),
        ({"hourglasses": 1, "precision": "fp8"}, "no precision"),
        ({"hourglasses": 7}, "no weights ship for 7"),
        ({"hourglasses": 1, "width": "full"}, "--checkpoint"),
        ({"hourglasses": 1, "checkpoint": "missing.safetensors"}, "no checkpoint"),
    ],
)
def test_wrong_arguments(arguments: dict, problem: str):
    with pytest.raises(TabrtError, match=problem):
        export(**arguments)


def test_nothing_that_is_there_is_replaced_unasked_and_the_checkpoint_never(checkpoint: Path, tmp_path: Path):
    there = tmp_path / "there.onnx"
    there.write_text("mine")
    with pytest.raises(TabrtError, match="there already.*--overwrite"):
        export(1, checkpoint=checkpoint, to="onnx", out=there, overwrite=False)
    assert there.read_text() == "mine"
    weights = tmp_path / "own.onnx"  # under whatever name: the file is the same
    weights.symlink_to(checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(TabrtError, match="choose another name"):
        export(1, checkpoint=checkpoint, to="onnx", out=weights)
    assert checkpoint.read_bytes() == before


def test_a_name_under_which_no_model_is_found_again_is_refused(checkpoint: Path, tmp_path: Path):
    with pytest.raises(TabrtError, match=r"ends in \.onnx"):
        export(1, checkpoint=checkpoint, to="onnx", out=tmp_path / "model.txt")
    assert list(tmp_path.iterdir()) == []


def test_without_cuda_plain_export_gives_onnx(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export_module, "has_cuda", lambda: False)
    monkeypatch.setattr(export_module, "sample_crops", lambda **_: face_crops(1))
    report = export(1, checkpoint=checkpoint)
    assert (report.target, report.precision, report.path.name) == ("onnx", "fp32", "random1-fp32.onnx")
    assert str(report).startswith("random1-fp32.onnx: onnx fp32")
    assert load_engine(report.path).card.precision == "fp32"


def test_with_cuda_plain_export_gives_tensorrt(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export_module, "has_cuda", lambda: True)
    monkeypatch.setattr(export_module, "is_installed", lambda engine: True)
    asked = []
    monkeypatch.setattr(export_module, "export_tensorrt", lambda *arguments: asked.append(arguments))
    export(1, checkpoint=checkpoint)
    assert asked == [(checkpoint, "random1-fp16.ep", "fp16")]


def test_export_without_a_card_names_an_option_that_it_has(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tabrt.engines.gpu.look_for_gpu", lambda: "no NVIDIA driver is here")
    with pytest.raises(EngineUnavailable, match="^no NVIDIA driver is here; export with --to onnx") as raised:
        export(1, checkpoint=checkpoint, to="tensorrt")
    assert "--engine" not in str(raised.value)


def test_half_precision_keeps_its_ends_in_float32(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(BOUNDS, "fp16", 1e9)  # a random network has no peaks to hold on to
    monkeypatch.setitem(FARTHEST, "fp16", 1e9)
    crops = face_crops(1)
    truth = torch_maps(random_network(), crops)[0]
    half, float_layers = to_half(model, truth, crops, CARD)
    assert float_layers == ()
    assert {value.type.tensor_type.elem_type for value in half.graph.output} == {onnx.TensorProto.FLOAT}
    weights = [value.data_type for value in half.graph.initializer if len(value.dims) == 4 and value.dims[0] > 1]
    assert set(weights) == {onnx.TensorProto.FLOAT16}
    onnx.checker.check_model(half, full_check=True)
    assert half.ByteSize() < 0.55 * model.ByteSize()
    assert np.abs(onnx_maps(half.SerializeToString(), crops) - truth).max() < 0.02 * np.abs(truth).max()


def test_layers_that_overflow_stay_in_float32(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch):
    """One convolution gives values beyond float16's 65,504; the batch norms after it bring them back."""
    monkeypatch.setitem(BOUNDS, "fp16", 1e9)
    monkeypatch.setitem(FARTHEST, "fp16", 1e9)
    crops = face_crops(1)
    less = np.ones((1, 64, 1, 1), np.float32)
    less[:, -16:] = 1e-6
    names = {"top.conv3.weight": lambda weight: weight * 1e6, "last.weight": lambda weight: weight * less}
    large_model = _changed(model, {f"scbe.stacks.0.{name}": change for name, change in names.items()})
    truth = onnx_maps(large_model.SerializeToString(), crops)
    large = overflowing_layers(large_model, crops)
    half, float_layers = to_half(large_model, truth, crops, CARD)
    assert large
    assert all("stacks.0" in name for name in large), large
    assert len(large) < 12
    assert large <= set(float_layers)
    assert np.abs(onnx_maps(half.SerializeToString(), crops) - truth).max() < 0.02 * np.abs(truth).max()


def test_half_precision_that_moves_points_is_refused(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(BOUNDS, "fp16", -1.0)
    monkeypatch.setattr(half_module, "HALF_PARTS", ((), ("balt.out",)))
    crops = face_crops(1)
    with pytest.raises(TabrtError, match="whichever layers"):
        to_half(model, torch_maps(random_network(), crops)[0], crops, CARD)


@pytest.fixture(scope="module", params=["slim", "vgg", "fan", "resnet"])
def plain_and_small(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A network with each kind of first convolution, in float32 and in int8."""
    crops = face_crops(3)
    network = random_network(2 if request.param == "fan" else 1, stem=request.param)
    model = to_onnx(network)
    return model, to_int8(model, crops)


def test_int8_gives_nearly_the_same_maps(plain_and_small):
    crops = face_crops(4)[1:]
    model, small = plain_and_small
    truth, maps = (onnx_maps(kind.SerializeToString(), crops) for kind in (model, small))
    # Random weights have no peaks to compare, and spread the error of 7-bit kernels further than trained ones.
    assert np.corrcoef(maps.ravel(), truth.ravel())[0, 1] > 0.85
    assert small.ByteSize() < 0.45 * model.ByteSize()
    onnx.checker.check_model(small, full_check=True)


def test_int8_computes_in_int8(plain_and_small, tmp_path: Path):
    """What ONNX Runtime makes of it: the maps' convolution alone in float, and the picture turned round at the ends."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(plain_and_small[1].SerializeToString(), options, providers=["CPUExecutionProvider"])
    counted = collections.Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    assert counted["Conv"] == 1
    assert counted["QLinearConv"] > 90
    assert counted["Transpose"] <= 2
    assert not counted.keys() & {"BatchNormalization", "Add", "Concat", "Relu", "AveragePool", "ReorderOutput"}


def test_int8_fits_in_sixteen_bits_by_pairs(plain_and_small):
    """CPUs without VNNI add two products of a uint8 and an int8 in int16."""
    assert _largest_pair(plain_and_small[1]) * 255 <= 2**15 - 1


def _largest_pair(model: onnx.ModelProto) -> int:
    """The largest sum of two weights, without their signs, that one channel of a convolution holds."""
    levels = {value.name: numpy_helper.to_array(value).astype(int) for value in model.graph.initializer}
    kernels = [levels[name] for name in levels if name.endswith("/weight/levels")]
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert len(kernels) == convolutions - 1 > 80  # that of the maps is left in float
    return max(int(np.sort(np.abs(kernel).reshape(len(kernel), -1))[:, -2:].sum(axis=1).max()) for kernel in kernels)


def _written(model: onnx.ModelProto, path: Path) -> Path:
    write_card(model, replace(CARD, precision="int8"))
    path.write_bytes(model.SerializeToString())
    return path


def test_int8_is_the_same_in_a_batch_and_on_threads(plain_and_small, tmp_path: Path):
    path = _written(plain_and_small[1], tmp_path / "small.onnx")
    crops = face_crops(3)
    together = load_engine(path, threads=1).both(crops)
    other = load_engine(path, threads=2)
    alone = [np.concatenate(maps) for maps in zip(*(other.both(crop[None]) for crop in crops), strict=True)]
    for maps, expected in zip(together, alone, strict=True):
        assert np.abs(maps - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_half_precision_keeps_the_points_of_the_shipped_model_in_every_engine(tmp_path: Path):
    shipped, crops = shipped_checkpoint(), sample_crops()
    path = export_onnx(shipped, tmp_path / "half.onnx", "fp16").path
    torch_engine = load_engine(shipped, "torch", device="cpu")
    truth, card = torch_engine(crops), torch_engine.card
    for name in ("onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])):
        engine = load_engine(path, name)
        assert engine.card.precision == "fp16"
        assert Shift.between(truth, engine(crops), card).objection("fp16") is None, name


def test_openvino_runs_the_int8_file(plain_and_small, tmp_path: Path):
    pytest.importorskip("openvino")
    path = _written(plain_and_small[1], tmp_path / "small.onnx")
    crops = face_crops(1)
    found, expected = (load_engine(path, name)(crops) for name in ("openvino", "onnxruntime"))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9


def test_every_channel_has_its_own_scale(plain_and_small):
    graph = plain_and_small[1].graph
    kinds = {value.name: (value.data_type, tuple(value.dims)) for value in graph.initializer}
    kernels = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.output[0].endswith("/weight")]
    assert len(kernels) > 90
    for node in kernels:
        (kind, shape), (_, scales) = kinds[node.input[0]], kinds[node.input[1]]
        assert (kind, scales) == (onnx.TensorProto.INT8, shape[:1])


@pytest.mark.parametrize(("size", "pad"), [(3, 1), (5, 2), (7, 3)])
def test_a_kernel_over_groups_of_pixels_is_the_kernel(size: int, pad: int):
    draw = np.random.default_rng(0).normal
    kernel, picture = draw(size=(5, 3, size, size)), torch.from_numpy(draw(size=(1, 3, 16, 32)))
    truth = functional.conv2d(picture, torch.from_numpy(kernel), stride=2, padding=pad).numpy()  # (1, 5, 8, 16)
    wide, left, right = by_groups(kernel, pad)
    groups = picture.permute(0, 2, 3, 1).reshape(1, 16, 8, 12).permute(0, 3, 1, 2)
    padded = functional.pad(groups, (left, right, pad, pad))
    pairs = functional.conv2d(padded, torch.from_numpy(wide), stride=(2, 1)).numpy()  # (1, 10, 8, 8)
    found = pairs.reshape(1, 2, 5, 8, 8).transpose(0, 2, 3, 4, 1).reshape(1, 5, 8, 16)
    np.testing.assert_allclose(found, truth, atol=1e-9)


@pytest.mark.slow
def test_a_channel_of_next_to_no_weight_keeps_its_bias():
    """As training leaves some batch norms: the scale of its weights must not be too fine for its bias."""
    crops = face_crops(1)
    network = random_network(1)
    with torch.no_grad():
        bn = network.scbe.stacks[0].hourglass.skip[3].bn1
        bn.weight[:] = 1e-20
        bn.bias[:] = torch.linspace(0.5, 1, len(bn.bias))
    try:
        model = to_onnx(network)
    finally:
        random_network.cache_clear()
    small = to_int8(model, crops)
    biases = [numpy_helper.to_array(v) for v in small.graph.initializer if v.name.endswith("/bias/levels")]
    assert len(biases) > 90
    assert all(np.abs(levels.astype(np.int64)).max() < 1.01 * 2**30 for levels in biases)
    truth, maps = (onnx_maps(kind.SerializeToString(), crops) for kind in (model, small))
    assert np.corrcoef(maps.ravel(), truth.ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_a_network_of_smaller_crops_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(BOUNDS, "int8", 1e9)  # a random network has no peaks to hold on to
    network = Tab(replace(random_network().config, crop_size=192))
    network.load_state_dict(random_network().state_dict())
    save_checkpoint(tmp_path / "small.safetensors", network, replace(CARD, crop_size=192))
    crops = sample_crops(2, 192)
    assert crops.shape == (2, 192, 192, 3)
    truth = load_engine(tmp_path / "small.safetensors", "torch").both(crops)
    path = export_onnx(tmp_path / "small.safetensors", tmp_path / "small.onnx", "int8", crops).path
    engine = load_engine(path)
    assert engine.card.crop_size == 192
    maps = engine.both(crops)
    assert [values.shape for values in maps] == [(2, 98, 48, 48), (2, 16, 48, 48)]
    assert np.corrcoef(maps[0].ravel(), truth[0].ravel())[0, 1] > 0.85


def test_shift_is_in_pixels_of_the_crop():
    points = np.random.default_rng(0).uniform(60, 200, (1, 98, 2)).astype(np.float32)
    moved = points.copy()
    moved[0, 5] += (3, 4)
    shift = Shift.between(render_logits(points), render_logits(moved), CARD)
    assert shift.worst == pytest.approx(5, abs=0.2)
    assert shift.median == 0
    assert Shift.between(render_logits(points), np.full((1, 98, 64, 64), np.nan, np.float32), CARD).worst == np.inf


def test_sample_crops_are_the_same_every_time():
    crops = sample_crops(2)
    assert (crops.shape, crops.dtype) == ((2, 256, 256, 3), np.uint8)
    assert np.array_equal(crops, sample_crops(2))
    assert crops.std() > 20


@pytest.mark.parametrize(
    "path",
    [path for name in MODELS.values() for path in (name, fp16_file(name), int8_file(name))],
    ids=lambda p: p.stem,
)
def test_a_shipped_model_is_its_checkpoint(path: Path):
    if not path.is_file():
        pytest.skip(f"{path.name} does not ship")
    precision = next((kind for kind in ("fp16", "int8") if path.stem.endswith(f"-{kind}")), "fp32")
    truth = load_engine(shipped_checkpoint(path.stem.removesuffix(f"-{precision}")), "torch", device="cpu")
    shipped = load_engine(path, "onnxruntime", device="cpu")
    assert shipped.card == replace(truth.card, precision=precision)
    crops = face_crops(2, truth.card.crop_size)
    shift = Shift.between(truth(crops), shipped(crops), truth.card)
    assert shift.objection(precision) is None


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_int8_file_fits_in_sixteen_bits_by_pairs(name: str):
    path = int8_file(MODELS[name])
    if not path.is_file():
        pytest.skip(f"{path.name} does not ship")
    assert _largest_pair(onnx.load(path)) * 255 <= 2**15 - 1
