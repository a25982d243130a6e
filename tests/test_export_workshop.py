"""The export workshop: what it rebuilds, what it says of it, and the repository it writes for Triton."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from small_network import face_crops, random_checkpoint, random_network

import export.parity
import export.rebuild
import training.spread
from export.parity import compare, page
from export.plot import draw
from export.rebuild import Variant, checkpoints, rebuild
from export.rows import Row, accurate_in_int8, winner
from export.triton import config, write_repository
from tabrt.card import MAX_BATCH, ModelCard
from tabrt.engines.engine import load_engine
from tabrt.engines.parity import BOUNDS
from tabrt.errors import TabrtError
from training.spread import calibration_crops

ROOT = Path(__file__).parents[1]
SHARED_FACES = ROOT.parent / "shared" / "faces"
TIMES = {"1×1": 8.0, "1×4": 30.0, "2×1": 5.0, "2×4": 18.0}


def _row(**changes) -> Row:
    given = {"name": "tab1-lite", "engine": "onnxruntime", "precision": "fp32", "megabytes": 4.2}
    measured = {"worst": 0.001, "most": 0.0005, "median": 0.0001, "nme": 0.036, "milliseconds": TIMES}
    return Row(**{**given, **measured, **changes})


def _int8(milliseconds: float, nme: float | None) -> Row:
    return _row(precision="int8", milliseconds={**TIMES, "2×1": milliseconds}, nme=nme)


@pytest.mark.parametrize(("nme", "ships"), [(0.0362, True), (0.0370, False), (None, False)])
def test_int8_ships_only_if_it_is_as_accurate(tmp_path: Path, monkeypatch, nme: float | None, ships: bool):
    single, small = tmp_path / "out" / "tab1-lite.onnx", tmp_path / "out" / "tab1-lite-int8.onnx"
    installed = tmp_path / "models" / "tab1-lite.onnx"
    for folder in (single.parent, installed.parent):
        folder.mkdir()
    checkpoint = single.with_suffix(".safetensors")
    for path in (single, small, checkpoint):
        path.write_text(f"new {path.name}")
    old = installed.with_name("tab1-lite-int8.onnx")
    old.write_text("of older weights")
    monkeypatch.setattr(export.rebuild, "MODELS", {"tab1-lite": installed})
    variants = [
        Variant("tab1-lite", checkpoint, precision, path)
        for precision, path in (("fp32", single), ("fp16", None), ("int8", small))
    ]
    rows = [_row(), _row(engine="openvino", milliseconds={**TIMES, "2×1": 1.0}), _int8(2.0, nme)]
    export.rebuild.ship(variants, accurate_in_int8(rows))
    assert installed.read_text() == "new tab1-lite.onnx"
    assert installed.with_suffix(".safetensors").read_text() == "new tab1-lite.safetensors"
    assert (old.read_text() == "new tab1-lite-int8.onnx") if ships else not old.exists()


def test_float16_ships_where_it_could_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For GPUs. One of older weights does not stay."""
    single = tmp_path / "tab1-lite.onnx"
    half = tmp_path / "tab1-lite-fp16.onnx"
    half.write_text("of older weights")
    made = tmp_path / "made.onnx"
    made.write_text("new")
    monkeypatch.setattr(export.rebuild, "MODELS", {"tab1-lite": single})
    export.rebuild.ship([Variant("tab1-lite", made, "fp16", made)], set())
    assert half.read_text() == "new"
    export.rebuild.ship([Variant("tab1-lite", made, "fp16", None, "moves points")], set())
    assert not half.exists()


@pytest.mark.parametrize(
    ("rows", "precision"),
    [
        ([_row(), _int8(2.0, 0.0362)], "int8"),  # within 1 %
        ([_row(), _int8(2.0, 0.0370)], "fp32"),  # not
        ([_row(), _int8(9.0, 0.0360)], "fp32"),  # slower
        ([_row(nme=None), _int8(2.0, None)], "fp32"),  # unproven
    ],
)
def test_the_fastest_wins_only_if_it_is_as_accurate(rows: list[Row], precision: str):
    assert winner(rows, "tab1-lite").precision == precision


def test_the_page_has_a_line_for_every_row_and_says_what_failed(tmp_path: Path):
    rows = [_row(), _int8(2.0, None)]
    failed = Variant("tab1-lite", tmp_path, "fp16", None, "half precision moves points")
    account = {"time": "2026-01-02T03:04", "machine": {"cpu": "A CPU", "cores": 2}}
    text = page(rows, [failed], account)
    assert len(re.findall(r"^\| tab1-lite", text, re.MULTILINE)) == 2
    assert "3.600" in text
    assert "tab1-lite fp16: half precision moves points" in text
    draw(rows, tmp_path / "parity.png")
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_rebuilding_and_comparing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A random network has no peaks to hold on to, so what counts here is that every step is taken."""
    monkeypatch.setitem(BOUNDS, "fp16", 1e9)
    monkeypatch.setattr(export.rebuild, "sample_crops", lambda **_: face_crops(1))
    monkeypatch.setattr(export.parity, "sample_crops", lambda **_: face_crops(1))
    monkeypatch.setattr(export.parity, "FOLDER", tmp_path)
    monkeypatch.setattr(export.parity, "CPU_ENGINES", ("onnxruntime",))
    monkeypatch.setattr(export.parity, "THREADS", (1,))
    monkeypatch.setattr("export.rows.FASTEST", "1×1")
    monkeypatch.setattr("export.plot.FASTEST", "1×1")
    variants = rebuild([random_checkpoint(tmp_path, name="random1")], tmp_path / "out", None)
    assert [variant.precision for variant in variants] == ["fp32", "fp16", "int8"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "random1-fp16.onnx",
        "random1-int8.onnx",
        "random1.onnx",
        "random1.safetensors",
    ]
    # Kernels that no batch norm was merged into, in two bytes a weight.
    weights = sum(value.numel() for value in random_network().state_dict().values())
    assert variants[0].path.stat().st_size < 0.92 * 4 * weights
    rows = compare(variants, None, "smoke")
    assert f"beyond {BOUNDS['int8']}" in rows[3].note
    assert f"- random1 int8 in onnxruntime {rows[3].note}." in (tmp_path / "PARITY.md").read_text("utf-8")
    assert [(row.engine, row.precision) for row in rows] == [
        ("onnxruntime", "fp32"),
        ("torch", "fp32"),
        ("onnxruntime", "fp16"),
        ("onnxruntime", "int8"),
    ]
    assert rows[1].worst == 0
    assert "random1" in (tmp_path / "PARITY.md").read_text("utf-8")
    assert (tmp_path / "parity.json").is_file()


def test_which_checkpoints_are_meant(tmp_path: Path):
    path = random_checkpoint(tmp_path)
    assert checkpoints(str(path)) == [path]
    with pytest.raises(TabrtError, match="give all"):
        checkpoints("tab9")


def first_faces(source: Path, out: Path, count: int) -> None:
    """A set of labelled faces with its first pictures alone."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(out, "w") as part:
        labels = dict(np.load(io.BytesIO(whole.read("labels.npz"))))
        faces = len(labels["image"])
        kept = {name: value[:count] if len(value) == faces else value for name, value in labels.items()}
        memory = io.BytesIO()
        np.savez(memory, **kept)
        part.writestr("labels.npz", memory.getvalue())
        for name in kept["image"]:
            (inside,) = (path for path in (f"images/{name}", f"images/{name}.webp") if path in whole.NameToInfo)
            part.writestr(inside, whole.read(inside))


@pytest.mark.skipif(not (SHARED_FACES / "human.zip").is_file(), reason="no labelled faces beside this checkout")
def test_calibration_faces_are_none_of_those_that_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On the first faces of each set: to decode all of them takes a minute, and eight gigabytes of disk."""
    from training.sets import SHARED_SETS, held_out

    for name in SHARED_SETS:
        first_faces(SHARED_FACES / f"{name}.zip", tmp_path / f"{name}.zip", 60)

    names: list[str] = []
    load = training.spread.shared_faces

    def watched(*arguments):
        sets, judged = load(*arguments)
        names.extend(sets["human"].names)
        return sets, judged

    monkeypatch.setattr(training.spread, "shared_faces", watched)
    crops = calibration_crops(tmp_path, tmp_path / "cache", count=10)
    assert (crops.shape, crops.dtype) == ((10, 256, 256, 3), np.uint8)
    assert 0 < len(names) < 60  # some of these are kept for judging
    assert not held_out(np.asarray(names)).any()


@pytest.mark.parametrize("tensorrt", [False, True])
def test_the_triton_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorrt: bool):
    monkeypatch.setattr("tabrt.exporting.export.sample_crops", lambda **_: face_crops(1))
    told = write_repository(random_checkpoint(tmp_path), tmp_path / "models", tensorrt)
    assert "--model-repository" in told
    place = tmp_path / "models" / "random"
    assert {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} == {
        "config.pbtxt",
        "1/model.onnx",
    }
    text = (place / "config.pbtxt").read_text()
    assert ("gpu_execution_accelerator" in text) == tensorrt
    session = onnxruntime.InferenceSession(place / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    sizes = re.findall(r'name: "(\w+)" data_type: \w+ dims: \[ ([^]]+) \]', text)
    promised = {name: [int(side) for side in dims.split(",")] for name, dims in sizes}
    assert promised == {value.name: value.shape[1:] for value in [*session.get_inputs(), *session.get_outputs()]}
    assert load_engine(place / "1" / "model.onnx").card.name == "random"


def test_the_server_makes_batches_no_larger_than_an_engine_takes():
    text = config(ModelCard(name="tab1-lite"), tensorrt=True)
    assert f"max_batch_size: {MAX_BATCH}" in text
    assert 'key: "precision_mode" value: "FP16"' in text
    assert f'key: "trt_profile_max_shapes" value: "crops:{MAX_BATCH}x256x256x3"' in text  # built once, for every batch
    assert 'key: "trt_engine_cache_path" value: "/models/tab1-lite/cache"' in text
    assert text.count("{") == text.count("}")
    assert text.count("[") == text.count("]")


@pytest.mark.parametrize("arguments", [["tab9"], ["tab9", "--to", "triton"]])
def test_a_problem_is_one_line(arguments: list[str]):
    told = subprocess.run([sys.executable, "-m", "export", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 1
    assert told.stderr.startswith("error: there is no checkpoint")
    assert told.stderr.count("\n") == 1


def test_nothing_ships_without_faces_to_judge_it(tmp_path: Path):
    """Or the int8 files would go, for nobody knew how accurate they are."""
    command = [sys.executable, "-m", "export", "all", "--ship", "--out", str(tmp_path)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 2
    assert "--faces" in told.stderr
    assert list(tmp_path.iterdir()) == []
