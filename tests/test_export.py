"""Export: the model computes the same, carries its card, and is refused where it does not."""

from __future__ import annotations

import collections
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_network import face_crops, random_checkpoint, random_network, shipped_checkpoint

from tabrt.engine import ModelCard, load_engine
from tabrt.errors import TabrtError
from tabrt.heatmaps import render_logits
from tabrt.network import export as export_module
from tabrt.network import half as half_module
from tabrt.network.deployed import torch_maps
from tabrt.network.export import export, export_onnx, to_int8, to_onnx
from tabrt.network.half import overflowing_layers, to_half
from tabrt.network.parity import BOUNDS, Shift, onnx_maps, sample_crops

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


def test_a_model_that_computes_something_else_is_not_written(checkpoint: Path, tmp_path: Path, monkeypatch):
    wrong = random_network(1)
    with torch.no_grad():
        wrong.balt.out.bias[3:9] += torch.linspace(5, 9, 6)
        wrong.balt.out.weight *= -1
    monkeypatch.setattr(export_module, "to_onnx", lambda network: to_onnx(wrong))
    try:
        with pytest.raises(TabrtError, match="moves points"):
            export_onnx(checkpoint, tmp_path / "a.onnx", crops=face_crops(1))
    finally:
        random_network.cache_clear()
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


def test_without_cuda_plain_export_gives_onnx(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export_module, "has_cuda", lambda: False)
    monkeypatch.setattr(export_module, "sample_crops", lambda: face_crops(1))
    report = export(1, checkpoint=checkpoint)
    assert (report.target, report.precision, report.path.name) == ("onnx", "fp32", "random1-fp32.onnx")
    assert str(report).startswith("random1-fp32.onnx: onnx fp32")
    assert load_engine(report.path).card.precision == "fp32"


def test_with_cuda_plain_export_gives_tensorrt(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export_module, "has_cuda", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    asked = []
    monkeypatch.setattr(export_module, "export_tensorrt", lambda *arguments: asked.append(arguments))
    export(1, checkpoint=checkpoint)
    assert asked == [(checkpoint, "random1-fp16.ep", "fp16")]


def test_half_precision_keeps_its_ends_in_float32(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(BOUNDS, "fp16", 1e9)  # a random network has no peaks to hold on to
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


def test_layers_that_overflow_stay_in_float32(monkeypatch: pytest.MonkeyPatch):
    """One convolution gives values beyond float16's 65,504; the batch norms after it bring them back."""
    monkeypatch.setitem(BOUNDS, "fp16", 1e9)
    crops = face_crops(1)
    network = random_network(1)
    top = network.scbe.stacks[0].top
    with torch.no_grad():
        top.conv3.weight *= 1e6
        network.scbe.stacks[0].last.weight[:, -16:] *= 1e-6
    try:
        model = to_onnx(network)
        truth = torch_maps(network, crops)[0]
        large = overflowing_layers(model, crops)
        half, float_layers = to_half(model, truth, crops, CARD)
    finally:
        random_network.cache_clear()
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


def test_int8_is_what_it_says(model: onnx.ModelProto):
    crops = face_crops(2)
    truth = torch_maps(random_network(), crops)[0]
    small = to_int8(model, crops)
    assert small.ByteSize() < 0.45 * model.ByteSize()
    types = {value.name: value.data_type for value in small.graph.initializer}
    made_by = {name: node for node in small.graph.node for name in node.output}
    kernels = []
    for node in small.graph.node:
        if node.op_type == "Conv" and made_by.get(node.input[1]) is not None:
            scale, weight = made_by[node.input[1]].input[1], made_by[node.input[1]].input[0]
            kernels.append((types[weight], next(len(v.dims) for v in small.graph.initializer if v.name == scale)))
    assert set(kernels) == {(onnx.TensorProto.INT8, 1)}  # a scale for each channel
    assert len(kernels) == sum(node.op_type == "Conv" for node in small.graph.node) - 3  # first, and those of the maps
    maps = onnx_maps(small.SerializeToString(), crops)
    assert np.corrcoef(maps.ravel(), truth.ravel())[0, 1] > 0.95


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


def test_the_shipped_model_is_its_checkpoint():
    checkpoint = shipped_checkpoint()
    crops = face_crops(2)
    truth = load_engine(checkpoint, "torch")
    shipped = load_engine(checkpoint.with_suffix(".onnx"), "onnxruntime")
    if shipped.card.precision == "fp32":
        assert Shift.between(truth(crops), shipped(crops), truth.card).worst <= BOUNDS["fp32"]
    assert Shift.between(truth(crops), shipped(crops), truth.card).median <= BOUNDS[shipped.card.precision] / 4
