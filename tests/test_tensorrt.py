"""The TensorRT engine's decisions, with a stand-in for the GPU: what is compiled, cached, trusted and refused."""

from __future__ import annotations

import re
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from small_network import face_crops, random_checkpoint

from tabrt.card import MAX_BATCH
from tabrt.engines import tensorrt
from tabrt.engines.engine import load_engine
from tabrt.engines.tensorrt import build, compile_settings, open_engine, open_sealed, padded_size, profile
from tabrt.errors import EngineUnavailable, TabrtError
from tabrt.heatmaps import decode, render_logits

POINTS = np.random.default_rng(0).uniform(40, 216, (98, 2)).astype(np.float32)
HERE = {"tensorrt": "tensorrt 10.13", "torch": "2.13.0", "driver": "580.65", "gpu": "RTX A", "capability": "8.6"}


class StandIn:
    """A runtime without a GPU. `moved`: how far, in px, an engine with these float_parts moves its points."""

    def __init__(self, here: dict[str, str] | None = None, moved: dict | None = None, broken: bool = False):
        self.here, self.moved, self.broken = here or HERE, moved or {}, broken
        self.compiled: list[tuple[str, tuple[str, ...]]] = []
        self.loaded: list[Path] = []
        self.sizes: list[int] = []
        self.running = False

    def describe(self) -> dict[str, str]:
        return self.here

    def compile(self, network, precision: str, float_parts: tuple[str, ...]):
        if self.broken:
            raise EngineUnavailable("TensorRT does not compile the model: unsupported")
        self.compiled.append((precision, float_parts))
        return {"moved": self.moved.get(float_parts, 0.0)}

    def save(self, program, path: Path, extra: dict[str, str]) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("engine/program", str(program["moved"]))
            for name, text in extra.items():
                archive.writestr(f"engine/extra/{name}", text)

    def load(self, path: Path):
        self.loaded.append(path)
        with zipfile.ZipFile(path) as archive:
            return {"moved": float(archive.read("engine/program"))}

    def start(self, program):
        return program

    def run(self, program, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert not self.running, "two runs at once"
        self.running = True
        self.sizes.append(len(crops))
        maps = np.repeat(render_logits(POINTS + np.float32(program["moved"]))[None], len(crops), axis=0)
        self.running = False
        return maps, np.zeros((len(crops), 16, 64, 64), np.float32)

    def reference(self, network, crops: np.ndarray) -> np.ndarray:
        return np.repeat(render_logits(POINTS)[None], len(crops), axis=0)


@pytest.fixture(autouse=True)
def _few_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "sample_crops", lambda: face_crops(3))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return random_checkpoint(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def _engines(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.ep"))


def test_an_engine_is_compiled_once(checkpoint: Path, cache: Path):
    first, second = StandIn(), StandIn()
    engine = open_engine(checkpoint, first, cache)
    again = open_engine(checkpoint, second, cache)
    assert (len(first.compiled), len(second.compiled), len(_engines(cache))) == (1, 0, 1)
    assert again.card == engine.card
    assert (again.name, again.card.precision, again.card.name) == ("tensorrt", "fp16", "random")
    points = decode(again(face_crops(2)))[0]
    assert np.abs(points - POINTS).max() < 0.2


@pytest.mark.parametrize("field", list(HERE))
def test_another_gpu_driver_or_version_needs_another_engine(checkpoint: Path, cache: Path, field: str):
    open_engine(checkpoint, StandIn(), cache)
    elsewhere = StandIn({**HERE, field: "other"})
    open_engine(checkpoint, elsewhere, cache)
    assert len(elsewhere.compiled) == 1
    assert len(_engines(cache)) == 2


def test_another_model_of_the_same_name_needs_another_engine(checkpoint: Path, cache: Path):
    open_engine(checkpoint, StandIn(), cache)
    random_checkpoint(checkpoint.parent, licence="another")
    runtime = StandIn()
    assert open_engine(checkpoint, runtime, cache).card.licence == "another"
    assert len(runtime.compiled) == 1


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_name(path.name + ".seal").unlink(),
        lambda path: path.with_name(path.name + ".seal").write_text("0" * 64),
        lambda path: path.with_name("key").write_bytes(b"another user's key, 32 bytes long"),
    ],
)
def test_a_damaged_cache_is_rebuilt_and_never_opened(checkpoint: Path, cache: Path, damage, caplog):
    open_engine(checkpoint, StandIn(), cache)
    damage(_engines(cache)[0])
    runtime = StandIn()
    engine = open_engine(checkpoint, runtime, cache)
    assert (len(runtime.compiled), runtime.loaded) == (1, [])
    assert "compiling it again" in caplog.text
    assert engine(face_crops(1)).shape == (1, 98, 64, 64)
    healed = StandIn()
    open_engine(checkpoint, healed, cache)
    assert healed.compiled == []


def test_an_engine_that_no_longer_loads_is_rebuilt(checkpoint: Path, cache: Path):
    open_engine(checkpoint, StandIn(), cache)
    runtime = StandIn()

    def fail(path: Path):
        raise RuntimeError("deserialization failed\nat line 3")

    runtime.load = fail
    open_engine(checkpoint, runtime, cache)
    assert len(runtime.compiled) == 1


def test_the_cache_is_the_users_own(checkpoint: Path, cache: Path):
    open_engine(checkpoint, StandIn(), cache)
    assert (cache / "key").stat().st_mode & 0o077 == 0
    assert len((cache / "key").read_bytes()) == 32


def test_without_a_cache_it_still_runs(checkpoint: Path, tmp_path: Path, caplog):
    (tmp_path / "file").write_text("no folder")
    engine = open_engine(checkpoint, StandIn(), tmp_path / "file" / "cache")
    assert engine(face_crops(1)).shape == (1, 98, 64, 64)
    assert "not cached" in caplog.text


def _exported(checkpoint: Path, out: Path, cache: Path) -> Path:
    runtime = StandIn()
    built, card = build(checkpoint, "fp16", runtime)
    identity = tensorrt.identity_of(checkpoint, "fp16", runtime)
    tensorrt.save_sealed(built.program, card, identity, out, runtime, cache)
    return out


def test_an_exported_engine_runs_without_its_checkpoint(checkpoint: Path, cache: Path, tmp_path: Path):
    path = _exported(checkpoint, tmp_path / "tab.ep", cache)
    checkpoint.unlink()
    runtime = StandIn()
    engine = open_engine(path, runtime, cache)
    assert (engine.card.name, runtime.compiled) == ("random", [])
    assert engine(face_crops(1)).shape == (1, 98, 64, 64)


@pytest.mark.parametrize("field", list(HERE))
def test_an_engine_of_another_gpu_is_refused_by_name(checkpoint: Path, cache: Path, tmp_path: Path, field: str):
    path = _exported(checkpoint, tmp_path / "tab.ep", cache)
    elsewhere = StandIn({**HERE, field: "other"})
    with pytest.raises(TabrtError, match=rf"made for {field} .*tabrt export --to tensorrt"):
        open_engine(path, elsewhere, cache)
    assert elsewhere.loaded == []


def test_an_engine_from_elsewhere_is_not_opened(checkpoint: Path, cache: Path, tmp_path: Path):
    """Opening one could run code that lies in it."""
    path = _exported(checkpoint, tmp_path / "tab.ep", tmp_path / "the cache of another")
    runtime = StandIn()
    with pytest.raises(TabrtError, match="not made on this machine"):
        open_sealed(path, runtime, cache)
    assert runtime.loaded == []


def test_half_precision_that_moves_no_point_is_taken_whole(checkpoint: Path):
    runtime = StandIn()
    built, card = build(checkpoint, "fp16", runtime)
    assert (built.float_parts, card.precision, built.crops) == ((), "fp16", 3)
    assert built.shift.worst < 0.01


@pytest.mark.parametrize("trouble", [0.5, np.nan])
def test_parts_stay_in_float32_when_points_move(checkpoint: Path, caplog, trouble: float):
    runtime = StandIn(moved={(): trouble, ("balt.out",): trouble})
    built, _ = build(checkpoint, "fp16", runtime)
    assert [parts for _, parts in runtime.compiled] == [(), ("balt.out",), ("balt.out", "balt.decoders")]
    assert built.float_parts == ("balt.out", "balt.decoders")
    assert "balt.decoders stay in float32" in caplog.text


def test_an_engine_that_is_never_right_is_not_used(checkpoint: Path, cache: Path, caplog):
    runtime = StandIn(moved={parts: 3.0 for parts in tensorrt.HALF_PARTS})
    engine = open_engine(checkpoint, runtime, cache)
    assert engine.name == "torch"
    assert "fp16 moves points by" in caplog.text
    assert _engines(cache) == []


def test_when_nothing_compiles_torch_runs_it_and_says_why(checkpoint: Path, cache: Path, caplog):
    assert open_engine(checkpoint, StandIn(broken=True), cache).name == "torch"
    assert "does not compile the model: unsupported" in caplog.text


def test_batches_are_filled_up_to_few_sizes(checkpoint: Path, cache: Path):
    assert [padded_size(count) for count in (1, 2, 3, 4, 5, 8, 9, 16)] == [1, 2, 4, 4, 8, 8, 16, 16]
    runtime = StandIn()
    engine = open_engine(checkpoint, runtime, cache)
    for count, sizes in ((0, []), (1, [1]), (3, [4]), (16, [16]), (17, [16, 1]), (64, [16] * 4)):
        runtime.sizes.clear()
        landmarks, boundaries = engine.both(np.repeat(face_crops(1), count, axis=0))
        assert (runtime.sizes, len(landmarks), len(boundaries)) == (sizes, count, count)


def test_the_profile_covers_every_batch():
    shapes = profile()
    assert shapes["min_shape"] == shapes["opt_shape"] == (1, 256, 256, 3)
    assert shapes["max_shape"] == (MAX_BATCH, 256, 256, 3)


def test_float_parts_are_matched_by_module_name():
    patterns = compile_settings("fp16", ("balt.out",))["autocast_excluded_nodes"]
    kept = [
        name
        for name in ("", "network.balt.out", "network.balt.outer", "network.balt", "network.scbe.stem.0")
        if any(re.match(pattern, name) for pattern in patterns)
    ]
    assert kept == ["", "network.balt.out"]
    assert "enable_autocast" not in compile_settings("fp32", ())


def test_calls_from_two_threads_wait_for_each_other(checkpoint: Path, cache: Path):
    engine = open_engine(checkpoint, StandIn(), cache)
    problems: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                engine(face_crops(2))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    engine.close()
    with pytest.raises(TabrtError, match="closed"):
        engine(face_crops(1))


def test_files_and_precisions_it_cannot_take(checkpoint: Path, cache: Path, tmp_path: Path):
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(TabrtError, match="compiles checkpoints"):
        open_engine(tmp_path / "a.onnx", StandIn(), cache)
    with pytest.raises(TabrtError, match="fp32 or fp16, not int8"):
        build(checkpoint, "int8", StandIn())
    (tmp_path / "a.ep").write_bytes(b"PK nothing")
    with pytest.raises(TabrtError, match="not made on this machine"):
        open_engine(tmp_path / "a.ep", StandIn(), cache)


def test_without_a_driver_it_says_what_to_do(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorrt, "has_cuda", lambda: False)
    with pytest.raises(EngineUnavailable, match="--engine onnxruntime or --to onnx"):
        load_engine(checkpoint, "tensorrt")


def test_an_engine_file_is_left_to_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not to torch, which would call it no checkpoint."""
    monkeypatch.setattr(tensorrt, "has_cuda", lambda: False)
    path = tmp_path / "a.ep"
    path.write_bytes(b"PK nothing")
    with pytest.raises(EngineUnavailable, match="no NVIDIA driver"):
        load_engine(path)


def test_without_its_packages_it_names_the_command(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorrt, "has_cuda", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EngineUnavailable, match=r"pip install .*tabrt\[cuda\]"):
        load_engine(checkpoint, "tensorrt")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'tabrt\[cuda\]'"):
        load_engine(checkpoint, "tensorrt")
