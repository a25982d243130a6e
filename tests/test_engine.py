"""Engines: the card, the loading, what they do with good crops and with bad files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_network import face_crops, random_checkpoint, random_network

from tabrt.card import ModelCard
from tabrt.engines.engine import MODELS, FakeEngine, int8_file, load_engine
from tabrt.errors import EngineUnavailable, TabrtError
from tabrt.exporting.graph import to_onnx, write_card
from tabrt.hardware import available_threads, int8_instructions
from tabrt.heatmaps import decode

CARD = ModelCard(name="random", licence="none", figures={"nme": 0.036})
NO_CROPS = np.zeros((0, 256, 256, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """random1.onnx and random1.safetensors, the same network."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = random_checkpoint(folder)
    model = to_onnx(random_network())
    write_card(model, CARD)
    checkpoint.with_suffix(".onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.fixture(scope="module", params=["onnxruntime", "openvino", "torch"])
def engine(request: pytest.FixtureRequest, folder: Path):
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    path = folder / ("random1.safetensors" if request.param == "torch" else "random1.onnx")
    engine = load_engine(path, request.param, device="cpu")
    yield engine
    engine.close()


def test_card_survives_its_journey():
    assert ModelCard.from_json(CARD.to_json()) == CARD


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[" * 60_000, "not JSON"),
        ("[]", "no name"),
        ('{"topology": "wflw98"}', "no name"),
        ('{"name": "x", "colour": 1}', "unknown fields"),
        ('{"name": "x", "topology": "wflw99"}', "wflw99"),
        ('{"name": "x", "hourglasses": true}', "hourglasses"),
        ('{"name": "x", "crop_margin": NaN}', "crop_margin"),
        ('{"name": "x", "crop_size": 100}', "crop_size"),
        ('{"name": "x", "crop_size": 1000000}', "crop_size"),
        ('{"name": "x", "crop_size": 192.0}', "crop_size"),
        ('{"name": "x", "decoding": "argmax"}', "decoding"),
        ('{"name": "x", "figures": {"nme": "good"}}', "figures"),
        ('{"name": 5}', "name"),
        ('{"name": "' + "x" * 100_000 + '"}', "characters"),
    ],
)
def test_a_wrong_card_is_refused(text: str, problem: str):
    with pytest.raises(TabrtError, match=problem):
        ModelCard.from_json(text)


@pytest.mark.parametrize("decoding", ["softmax", "gaussian"])
def test_fake_engine_gives_its_points(decoding: str):
    points = np.random.default_rng(0).uniform(30, 220, (2, 98, 2)).astype(np.float32)
    card = ModelCard(name="fake", decoding=decoding)
    found, confidence = decode(FakeEngine(points, card)(face_crops(2)), card.decoding, card.offset)
    assert np.abs(found - points).max() < 0.2
    assert confidence.min() > 0.7


def test_fake_engine_repeats_one_face_and_needs_points_for_all():
    points = np.full((98, 2), 100.0)
    assert FakeEngine(points)(face_crops(3)).shape == (3, 98, 64, 64)
    with pytest.raises(TabrtError, match="1 crops"):
        FakeEngine(points[None])(face_crops(2))


def test_a_card_may_ask_for_smaller_crops():
    points = np.random.default_rng(0).uniform(20, 170, (98, 2)).astype(np.float32)
    engine = FakeEngine(points, ModelCard(name="small", crop_size=192))
    crops = np.zeros((2, 192, 192, 3), np.uint8)
    maps, boundaries = engine.both(crops)
    assert (maps.shape, boundaries.shape) == ((2, 98, 48, 48), (2, 16, 48, 48))
    assert np.abs(decode(maps)[0] - points).max() < 0.2
    with pytest.raises(TabrtError, match=r"\(N, 192, 192, 3\); it was given uint8 \(2, 256, 256, 3\)"):
        engine(face_crops(2))


@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_any_number_of_crops(engine, count: int):
    crops = np.repeat(face_crops(1), count, axis=0)
    landmarks, boundaries = engine.both(crops)
    assert landmarks.shape == (count, 98, 64, 64)
    assert boundaries.shape == (count, 16, 64, 64)
    assert landmarks.dtype == boundaries.dtype == np.float32


def test_every_engine_computes_the_same(engine, folder: Path):
    crops = face_crops(2)
    truth = load_engine(folder / "random1.safetensors", "torch", device="cpu").both(crops)
    for maps, expected in zip(engine.both(crops), truth, strict=True):
        assert np.abs(maps - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_batch_gives_what_single_crops_give(engine):
    crops = face_crops(3)
    together = engine(crops)
    for index in range(3):
        alone = engine(crops[index : index + 1])[0]
        assert np.abs(together[index] - alone).max() < 1e-4 * np.abs(alone).max()


def test_calls_from_two_threads_do_not_mix(engine):
    crops = face_crops(2)
    expected = [engine(crops[index : index + 1]) for index in range(2)]
    found: list = [None, None]

    def work(index: int) -> None:
        for _ in range(3):
            found[index] = engine(crops[index : index + 1])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for maps, truth in zip(found, expected, strict=True):
        assert np.abs(maps - truth).max() < 1e-4 * np.abs(truth).max()


@pytest.mark.parametrize("crops", [np.zeros((1, 256, 256, 3), np.float32), np.zeros((256, 256, 3), np.uint8), [[1, 2]]])
def test_wrong_crops_are_refused(engine, crops):
    with pytest.raises(TabrtError, match="takes crops"):
        engine(crops)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_threads_do_not_change_the_maps(folder: Path, name: str):
    pytest.importorskip(name)
    one, two = (load_engine(folder / "random1.onnx", name, threads)(face_crops(1)) for threads in (1, 2))
    assert np.abs(one - two).max() < 1e-4 * np.abs(one).max()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_a_closed_engine_says_so(folder: Path, name: str):
    pytest.importorskip(name)
    engine = load_engine(folder / ("random1.safetensors" if name == "torch" else "random1.onnx"), name)
    engine.close()
    engine.close()
    with pytest.raises(TabrtError, match="closed"):
        engine(face_crops(1))


def test_auto_takes_what_the_file_needs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tabrt.engines.engine.has_cuda", lambda: False)
    assert load_engine(folder / "random1.onnx").name == "onnxruntime"
    assert load_engine(folder / "random1.safetensors").name == "torch"


@pytest.fixture
def installed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with an int8 file, as it were shipped under the name `random1`. The file only claims to be int8."""
    path = tmp_path / "random1.onnx"
    model = onnx.load(folder / "random1.onnx")
    for file, precision in ((path, "fp32"), (tmp_path / "random1-int8.onnx", "int8")):
        write_card(model, replace(CARD, precision=precision))
        file.write_bytes(model.SerializeToString())
    shutil.copy(folder / "random1.safetensors", tmp_path)
    monkeypatch.setitem(MODELS, "random1", path)
    monkeypatch.setattr("tabrt.engines.engine.has_cuda", lambda: False)
    return path


@pytest.mark.parametrize(
    ("asked", "int8", "ran"),
    [
        ("auto", "VNNI", ("onnxruntime", "int8")),
        ("auto", "AVX2", ("onnxruntime", "int8")),
        ("auto", None, ("onnxruntime", "fp32")),
        ("onnxruntime", "dot product", ("onnxruntime", "int8")),
        ("openvino", "VNNI", ("openvino", "fp32")),
        ("torch", "VNNI", ("torch", "fp32")),
    ],
)
def test_a_name_is_what_runs_fastest_here(installed: Path, monkeypatch, asked: str, int8: str | None, ran):
    pytest.importorskip("openvino") if asked == "openvino" else None
    monkeypatch.setattr("tabrt.engines.engine.int8_instructions", lambda: int8)
    engine = load_engine("random1", asked)
    assert (engine.name, engine.card.precision) == ran


def test_a_file_is_run_as_it_is(installed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tabrt.engines.engine.int8_instructions", lambda: "VNNI")
    assert load_engine(installed).card.precision == "fp32"
    int8_file(installed).unlink()
    assert load_engine("random1").card.precision == "fp32"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni\n", "VNNI"),
        ("processor: 0\nflags : avx_vnni avx2\n", "VNNI"),
        ("flags\t: fpu avx2 avx512f avx512bw\n", "AVX2"),
        ("flags\t: fpu sse4_2 avx\n", None),
        ("processor: 0\nFeatures : fp asimd asimddp\n", "dot product"),
        ("Features : fp asimd\n", None),
        ("model name: none\n", None),
    ],
)
def test_int8_instructions_are_read_from_what_the_kernel_says(tmp_path: Path, monkeypatch, text: str, found):
    told = tmp_path / "cpuinfo"
    told.write_text(text)
    monkeypatch.setattr("tabrt.hardware.cpu.CPU_INFO", told)
    assert int8_instructions.__wrapped__() == found
    told.unlink()
    assert int8_instructions.__wrapped__() is None


def test_auto_says_why_a_faster_engine_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    """A driver is there, Torch-TensorRT is found, and then cannot be used."""
    monkeypatch.setattr("tabrt.engines.engine.has_cuda", lambda: True)
    monkeypatch.setattr("tabrt.engines.engine.is_installed", lambda engine: True)
    monkeypatch.setattr("tabrt.engines.engine._is_compiled", lambda path: True)
    assert load_engine(folder / "random1.safetensors").name == "torch"
    assert "tensorrt on the GPU cannot be used" in caplog.text and caplog.text.endswith("; using torch\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("tab1-lite", "tflite"), "no engine is called"),
        (("no-such-model",), "no model is called"),
        (("tab1-lite", "onnxruntime", 0), "threads"),
    ],
)
def test_wrong_arguments(arguments: tuple, problem: str):
    with pytest.raises(TabrtError, match=problem):
        load_engine(*arguments)


def test_files_of_the_wrong_kind(folder: Path):
    for name, file in (("onnxruntime", "random1.safetensors"), ("torch", "random1.onnx")):
        with pytest.raises(TabrtError, match="reads"):
            load_engine(folder / file, name)


def test_a_file_of_no_models_kind_is_told_all_kinds(tmp_path: Path):
    (tmp_path / "model.txt").write_text("no model")
    with pytest.raises(TabrtError, match=r"no model: .*\.onnx.*\.safetensors"):
        load_engine(tmp_path / "model.txt")


def test_a_missing_extra_names_the_command():
    script = (
        "import sys; sys.modules['openvino'] = None\n"
        "from tabrt.engines.engine import load_engine, MODELS\n"
        "from tabrt.errors import EngineUnavailable\n"
        "from tabrt.engines import engine; engine.model_file = lambda *_: __import__('pathlib').Path('x.onnx')\n"
        "try: load_engine('x', 'openvino')\n"
        "except EngineUnavailable as problem: print(problem)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "pip install '.[openvino]'" in told


def test_threads_are_those_of_this_process():
    assert available_threads(3) == 3
    assert available_threads(None) >= 1


def _tiny(
    inputs=("crops", TensorProto.UINT8, ["n", 256, 256, 3]), card: str | None = CARD.to_json()
) -> onnx.ModelProto:
    """A model that is valid but is none of tabrt's: it gives back its input."""
    name, kind, shape = inputs
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], ["landmarks"])],
        "graph",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info("landmarks", kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if card is not None:
        helper.set_model_props(model, {"tabrt": card})
    return model


def _refused(path: Path, problem: str) -> None:
    for name in ("onnxruntime", "openvino"):
        pytest.importorskip(name)
        with pytest.raises(TabrtError, match=problem) as raised:
            load_engine(path, name)
        assert "\n" not in str(raised.value)


def test_foreign_models_are_refused(tmp_path: Path):
    path = tmp_path / "m.onnx"
    for model, problem in (
        (_tiny(card=None), "no model card"),
        (_tiny(), "other inputs and outputs"),
        (_tiny(inputs=("x", TensorProto.FLOAT, [1, 3])), "other inputs and outputs"),
        (_tiny(card="[" * 10), "not JSON"),
        (_tiny(card=json.dumps({"name": "x", "topology": "../etc"})), "landmark scheme"),
    ):
        path.write_bytes(model.SerializeToString())
        _refused(path, problem)


def test_damaged_files_are_refused(folder: Path, tmp_path: Path):
    path = tmp_path / "m.onnx"
    whole = (folder / "random1.onnx").read_bytes()
    for data, problem in (
        (b"", "bytes"),
        (b"\0" * 4096, "no model that runs"),
        (b"<html>not found</html>", "no model that runs"),
        (whole[: len(whole) // 2], "no model that runs"),
    ):
        path.write_bytes(data)
        _refused(path, problem)


def test_two_gigabytes_of_zeros_are_not_read(tmp_path: Path):
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(2 * 2**30)
    _refused(path, "bytes")


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret.bin", "secret.bin", "*/_ORT_MEM_ADDR_/*"])
def test_data_outside_the_file_is_not_read(folder: Path, tmp_path: Path, monkeypatch, location: str):
    """Not even when it lies in the working folder, where a model without a path is thought to be."""
    model = onnx.load(folder / "random1.onnx")
    weight = next(value for value in model.graph.initializer if len(value.raw_data) > 1024)
    for place in (tmp_path / "secret.bin", tmp_path / "inner" / "secret.bin"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(numpy_helper.to_array(weight).tobytes())
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    path = tmp_path / "inner" / "m.onnx"
    path.write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path / "inner")
    _refused(path, "outside the file")


def test_a_card_may_speak_of_a_location(tmp_path: Path):
    model = to_onnx(random_network())
    write_card(model, ModelCard(name="x", training_data="faces of one location"))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert load_engine(tmp_path / "m.onnx").card.training_data == "faces of one location"


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(TabrtError, match="Permission denied"):
        load_engine(path, "onnxruntime")


@pytest.mark.parametrize("name", list(MODELS))
def test_shipped_models(name: str):
    if not MODELS[name].is_file():
        pytest.skip(f"{name} is not in this checkout")
    engine = load_engine(name)
    assert engine.card.name == name
    assert "research" in engine.card.licence
    size = engine.card.crop_size
    points, confidence = decode(engine(face_crops(1, size)), engine.card.decoding, engine.card.offset)
    eyes, mouth = points[0, 60:76, 1].mean(), points[0, 76:96, 1].mean()
    assert eyes + 0.12 * size < mouth  # the face in the film is upright
    assert np.median(confidence) > 0.5


def test_engine_unavailable_is_a_stated_problem():
    assert issubclass(EngineUnavailable, TabrtError)
