"""The TensorRT engine's decisions, with a stand-in for the GPU: what is compiled, cached, trusted and refused."""

from __future__ import annotations

import json
import logging
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import face_crops, random_checkpoint, random_network

from tabrt.card import MAX_BATCH
from tabrt.engines import tensorrt
from tabrt.engines.engine import BATCH_SIZES, load_engine, padded_size
from tabrt.engines.tensorrt import building, judging, opening
from tabrt.engines.tensorrt.building import Refused, compile_settings, profile, settings_in_words
from tabrt.engines.tensorrt.cache import KEPT, Cache, identity_of
from tabrt.engines.tensorrt.judging import build
from tabrt.engines.tensorrt.opening import TensorRTEngine, export_engine
from tabrt.errors import EngineUnavailable, TabrtError
from tabrt.hardware import Gpu
from tabrt.heatmaps import decode, render_logits
from tabrt.network.config import TabConfig
from tabrt.network.folding import folded
from tabrt.network.tab import Tab

POINTS = np.random.default_rng(0).uniform(40, 216, (98, 2)).astype(np.float32)
HERE = {"tensorrt": "tensorrt 10.13", "torch": "2.13.0", "driver": "580.65", "gpu": "RTX A", "capability": "8.6"}
RTX_A = Gpu("RTX A", (8, 6), 8 << 30, "580.65", (13, 0))


class StandIn:
    """A runtime without a GPU. moved: how far, in px, an engine with these float_parts moves its points, all of them or
    the first `level` of all. fails: what is raised, by the step that raises it."""

    device = "RTX A"

    def __init__(
        self,
        here: dict[str, str] | None = None,
        moved: dict | None = None,
        level: int | None = None,
        fails: dict[str, Exception] | None = None,
    ):
        self.here, self.moved, self.level, self.fails = here or HERE, moved or {}, level, fails or {}
        self.compiled: list[tuple[str, tuple[str, ...]]] = []
        self.started: list[bytes] = []
        self.closed = 0
        self.sizes: list[int] = []
        self.running = False

    def _step(self, name: str) -> None:
        if name in self.fails:
            raise self.fails[name]

    def describe(self) -> dict[str, str]:
        self._step("describe")
        return self.here

    def compile(self, network, precision: str, float_parts: tuple[str, ...]) -> bytes:
        self.compiled.append((precision, float_parts))
        self._step("compile")
        return str(self.moved.get(float_parts, 0.0)).encode()

    def start(self, plan: bytes, card):
        self._step("start")
        self.started.append(plan)
        return StandInProgram(self, float(plan))

    def reference(self, network, crops: np.ndarray) -> np.ndarray:
        self._step("reference")
        return np.repeat(render_logits(POINTS)[None], len(crops), axis=0)


class StandInProgram:
    def __init__(self, runtime: StandIn, moved: float):
        self.runtime, self.moved = runtime, moved

    def __call__(self, crops: np.ndarray, outputs: tuple[str, ...]) -> tuple[np.ndarray, ...]:
        runtime = self.runtime
        runtime._step("run")
        assert not runtime.running, "two runs at once"
        runtime.running = True
        runtime.sizes.append(len(crops))
        points = np.repeat(POINTS[None], len(crops), axis=0)
        points.reshape(-1, 2)[: runtime.level] += np.float32(self.moved)
        values = {
            "landmarks": lambda: render_logits(points),
            "boundaries": lambda: np.zeros((len(crops), 16, 64, 64), np.float32),
            "points": lambda: np.concatenate([points, np.ones_like(points[..., :1])], axis=2),
        }
        found = tuple(values[name]() for name in outputs)
        runtime.running = False
        return found

    def close(self) -> None:
        self.runtime.closed += 1


def open_engine(path: Path, runtime: StandIn, cache: Path, compiling: bool = True) -> TensorRTEngine:
    return opening.open_engine(path, runtime, Cache(cache), compiling)


@pytest.fixture(autouse=True)
def _few_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "sample_crops", lambda **_: face_crops(3))


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
    assert (len(runtime.compiled), len(runtime.started)) == (1, 1)  # what it compiled, not what lay there
    assert "compiling it again" in caplog.text
    assert engine(face_crops(1)).shape == (1, 98, 64, 64)
    healed = StandIn()
    open_engine(checkpoint, healed, cache)
    assert healed.compiled == []


def test_an_engine_that_no_longer_loads_is_rebuilt(checkpoint: Path, cache: Path):
    open_engine(checkpoint, StandIn(), cache)
    runtime = StandIn()
    start = runtime.start

    def fail_once(plan: bytes, card):
        runtime.start = start
        raise RuntimeError("deserialization failed\nat line 3")

    runtime.start = fail_once
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
    export_engine(checkpoint, out, "fp16", StandIn(), Cache(cache))
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
    assert elsewhere.started == []


def test_an_engine_from_elsewhere_is_not_opened(checkpoint: Path, cache: Path, tmp_path: Path):
    """Opening one could run code that lies in it."""
    path = _exported(checkpoint, tmp_path / "tab.ep", tmp_path / "the cache of another")
    runtime = StandIn()
    with pytest.raises(TabrtError, match="not made on this machine"):
        open_engine(path, runtime, cache)
    assert runtime.started == []


def test_half_precision_that_moves_no_point_is_taken_whole(checkpoint: Path):
    runtime = StandIn()
    built = build(checkpoint, "fp16", runtime)
    assert (built.float_parts, built.card.precision, built.crops) == ((), "fp16", 3)
    assert built.shift.worst < 0.01


@pytest.mark.parametrize("trouble", [0.5, np.nan])
def test_parts_stay_in_float32_when_points_move(checkpoint: Path, caplog, trouble: float):
    runtime = StandIn(moved={(): trouble, ("balt.out",): trouble})
    built = build(checkpoint, "fp16", runtime)
    assert [parts for _, parts in runtime.compiled] == [(), ("balt.out",), ("balt.out", "balt.decoders")]
    assert built.float_parts == ("balt.out", "balt.decoders")
    assert "balt.decoders stay in float32" in caplog.text


NEVER_RIGHT = dict.fromkeys(judging.HALF_PARTS, 3.0)


def test_an_engine_that_is_never_right_is_not_used_and_that_is_remembered(checkpoint: Path, cache: Path):
    first, second = StandIn(moved=NEVER_RIGHT), StandIn(moved=NEVER_RIGHT)
    with pytest.raises(EngineUnavailable, match="fp16 moves points by"):
        open_engine(checkpoint, first, cache)
    assert (_engines(cache), first.closed) == ([], len(judging.HALF_PARTS))
    with pytest.raises(EngineUnavailable, match="fp16 moves points by .*found before"):
        open_engine(checkpoint, second, cache)
    assert second.compiled == []


def test_a_refusal_holds_for_what_was_refused_alone(checkpoint: Path, cache: Path, tmp_path: Path):
    with pytest.raises(EngineUnavailable):
        open_engine(checkpoint, StandIn(moved=NEVER_RIGHT), cache)
    newer = StandIn({**HERE, "driver": "581.00"})
    assert open_engine(checkpoint, newer, cache).name == "tensorrt"
    export_engine(
        checkpoint, tmp_path / "a.ep", "fp16", StandIn(), Cache(cache)
    )  # asked for by name, it is tried again
    assert open_engine(checkpoint, StandIn(), cache).name == "tensorrt"


@pytest.mark.parametrize("text", ["{", "[]", '{"reason": "x"}', '{"identity": {}, "reason": "x"}', "\0" * 100])
def test_a_damaged_refusal_is_none(checkpoint: Path, cache: Path, text: str):
    with pytest.raises(EngineUnavailable):
        open_engine(checkpoint, StandIn(moved=NEVER_RIGHT), cache)
    next(cache.glob("*.refused")).write_text(text)
    assert open_engine(checkpoint, StandIn(), cache).name == "tensorrt"


def test_what_may_pass_is_not_remembered(checkpoint: Path, cache: Path):
    with pytest.raises(EngineUnavailable, match="compiling failed: RuntimeError: CUDA out of memory"):
        open_engine(checkpoint, StandIn(fails={"compile": RuntimeError("CUDA out of memory\nTried …")}), cache)
    again = StandIn()
    open_engine(checkpoint, again, cache)
    assert len(again.compiled) == 1


@pytest.mark.parametrize("step", ["describe", "reference", "compile", "start", "run"])
@pytest.mark.parametrize(
    "problem",
    [
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        AssertionError(),
        OSError(28, "No space left on device"),
        KeyError("x"),
    ],
)
def test_whatever_the_gpu_has_against_it_is_one_stated_problem(checkpoint: Path, cache: Path, step: str, problem):
    with pytest.raises(EngineUnavailable, match="failed: " + type(problem).__name__) as raised:
        open_engine(checkpoint, StandIn(fails={step: problem}), cache)
    assert "\n" not in str(raised.value)


def test_a_run_that_fails_later_is_a_stated_problem(checkpoint: Path, cache: Path):
    runtime = StandIn()
    engine = open_engine(checkpoint, runtime, cache)
    runtime.fails["run"] = RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
    with pytest.raises(TabrtError, match="the GPU failed while running: CUDA error.*--device cpu"):
        engine(face_crops(1))


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), RuntimeError("x"), MemoryError()])
def test_an_engine_that_cannot_be_saved_still_runs(checkpoint: Path, cache: Path, monkeypatch, caplog, problem):
    def fail(*_):
        raise problem

    monkeypatch.setattr(Cache, "save", fail)
    assert open_engine(checkpoint, StandIn(), cache)(face_crops(1)).shape == (1, 98, 64, 64)
    assert "not cached" in caplog.text


def _automatic(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, runtime: StandIn, cache: Path, engine: str = "auto"):
    """`load_engine` where a card is there and TensorRT is installed, and torch has no CUDA."""
    monkeypatch.setattr("tabrt.engines.engine.has_cuda", lambda: True)
    monkeypatch.setattr("tabrt.engines.engine.is_installed", lambda engine: engine == "tensorrt")
    monkeypatch.setattr("tabrt.engines.gpu.look_for_gpu", lambda: RTX_A)
    monkeypatch.setattr(tensorrt, "here", lambda: (runtime, Cache(cache)))
    monkeypatch.setattr(tensorrt, "cache_folder", lambda: cache)
    return load_engine(checkpoint, engine)


def test_auto_compiles_nothing(checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    runtime = StandIn()
    assert _automatic(checkpoint, monkeypatch, runtime, cache).name == "torch"
    assert runtime.compiled == []
    assert _automatic(checkpoint, monkeypatch, runtime, cache, "tensorrt").name == "tensorrt"
    assert len(runtime.compiled) == 1
    assert _automatic(checkpoint, monkeypatch, runtime, cache).name == "tensorrt"
    assert len(runtime.compiled) == 1


@pytest.mark.parametrize("step", ["describe", "start"])
def test_auto_goes_on_with_the_next_engine_and_a_name_does_not(checkpoint, cache, monkeypatch, caplog, step: str):
    """An engine asked for by name runs, or says why not: it is never another one."""
    open_engine(checkpoint, StandIn(), cache)
    broken = StandIn(fails={step: RuntimeError("CUDA out of memory"), "compile": RuntimeError("CUDA out of memory")})
    assert _automatic(checkpoint, monkeypatch, broken, cache).name == "torch"
    assert "tensorrt on the GPU cannot be used" in caplog.text
    with pytest.raises(EngineUnavailable, match="CUDA out of memory"):
        _automatic(checkpoint, monkeypatch, broken, cache, "tensorrt")


def test_auto_does_not_compile_for_a_new_driver(checkpoint: Path, cache: Path, monkeypatch, caplog):
    open_engine(checkpoint, StandIn(), cache)
    newer = StandIn({**HERE, "driver": "581.00"})
    assert _automatic(checkpoint, monkeypatch, newer, cache).name == "torch"
    assert (newer.compiled, "--engine tensorrt compiles it" in caplog.text) == ([], True)


def test_one_level_peak_does_not_refuse_a_sound_engine(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    """Of 3,136 points, six may lie up to 2 px away; a seventh, or one that is farther, tells of something else."""
    monkeypatch.setattr(judging, "sample_crops", lambda **_: np.repeat(face_crops(1), 32, axis=0))
    runtime = StandIn(moved={(): 1.0}, level=3)  # in each of two batches
    assert build(checkpoint, "fp16", runtime).float_parts == ()
    assert len(runtime.compiled) == 1
    for moved, level in ((1.0, 4), (2.0, 1)):
        runtime = StandIn(moved={(): moved}, level=level)
        assert build(checkpoint, "fp16", runtime).float_parts == ("balt.out",)


def test_the_oldest_engines_go(checkpoint: Path, cache: Path):
    for number in range(KEPT + 3):
        open_engine(checkpoint, StandIn({**HERE, "driver": f"580.{number}"}), cache)
    assert len(_engines(cache)) == len(list(cache.glob("*.seal"))) == KEPT


def test_engines_made_with_other_settings_are_others(checkpoint: Path):
    one, other = (identity_of(checkpoint, "fp16", settings_in_words(kind), HERE) for kind in ("fp16", "fp32"))
    assert one["settings"] != other["settings"]


def test_closing_an_engine_gives_the_gpu_back(checkpoint: Path, cache: Path):
    runtime = StandIn()
    engine = open_engine(checkpoint, runtime, cache)
    engine.close()
    engine.close()
    assert runtime.closed == 1


def test_batches_are_shared_out_evenly_and_filled_up_to_few_sizes(checkpoint: Path, cache: Path):
    assert [padded_size(count) for count in (1, 2, 3, 4, 5, 7, 9, 13, 16)] == [1, 2, 3, 4, 6, 8, 12, 16, 16]
    assert BATCH_SIZES[-1] == MAX_BATCH
    runtime = StandIn()
    engine = open_engine(checkpoint, runtime, cache)
    for count, sizes in ((0, []), (1, [1]), (3, [3]), (16, [16]), (17, [9, 8]), (33, [11] * 3), (64, [16] * 4)):
        runtime.sizes.clear()
        landmarks, boundaries = engine.both(np.repeat(face_crops(1), count, axis=0))
        assert (runtime.sizes, len(landmarks), len(boundaries)) == (sizes, count, count)


def test_points_are_read_without_their_maps(checkpoint: Path, cache: Path):
    engine = open_engine(checkpoint, StandIn(), cache)
    points, confidence = engine.read(face_crops(3))
    assert (points.shape, confidence.shape) == ((3, 98, 2), (3, 98))
    assert [part.shape for part in engine.read(face_crops(3)[:0])] == [(0, 98, 2), (0, 98)]


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


def test_a_sealed_file_that_is_no_engine_is_damaged(cache: Path, tmp_path: Path):
    for data in (b"PK nothing", b"\0" * 100, json.dumps({}).encode()):
        Cache(cache).write_sealed(tmp_path / "a.ep", data)
        with pytest.raises(TabrtError, match="damaged"):
            open_engine(tmp_path / "a.ep", StandIn(), cache)


def test_without_a_driver_it_says_what_to_do(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tabrt.engines.gpu.look_for_gpu", lambda: "no NVIDIA driver is here")
    with pytest.raises(EngineUnavailable, match="; leave --engine and --device out$"):
        load_engine(checkpoint, "tensorrt")


def test_an_engine_file_is_left_to_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not to torch, which would call it no checkpoint."""
    monkeypatch.setattr("tabrt.engines.gpu.look_for_gpu", lambda: "no NVIDIA driver is here")
    path = tmp_path / "a.ep"
    path.write_bytes(b"PK nothing")
    with pytest.raises(EngineUnavailable, match="no NVIDIA driver"):
        load_engine(path)


def test_without_its_packages_it_names_the_command(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tabrt.engines.gpu.look_for_gpu", lambda: RTX_A)
    with pytest.raises(EngineUnavailable, match=r"in tabrt's checkout, run: pip install '\.\[cuda\]'"):
        load_engine(checkpoint, "tensorrt")


# What Torch-TensorRT says and asks


class Talking:
    """A stand-in for torch_tensorrt."""

    def __init__(self, plans: int = 1, raises: Exception | None = None, says: str = ""):
        self.asked: dict = {}
        self.dynamo = self
        self._plans, self._raises, self._says = plans, raises, says

    def Input(self, **_):
        return "crops"

    def compile(self, program, **settings):
        self.asked = settings
        logging.getLogger("torch_tensorrt").warning("Unable to import quantization op. Please install modelopt")
        logging.getLogger("py.warnings").warning("FutureWarning")
        if self._says:
            logging.getLogger("torch_tensorrt [TensorRT Conversion Context]").error(self._says)
        if self._raises:
            raise self._raises
        module = torch.nn.Module()
        for index in range(self._plans):
            engine = torch.nn.Module()
            engine.serialized_engine = b"plan"
            module.add_module(str(index), engine)
        return module


@pytest.fixture
def unexported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "exported_program", lambda network, device: "program")


def test_what_torch_tensorrt_chats_is_not_passed_on(unexported, tmp_path: Path, caplog):
    library = Talking()
    assert building.compiled(library, random_network(), "fp16", (), tmp_path / "timing.bin") == b"plan"
    assert caplog.text == ""
    assert library.asked["timing_cache_path"] == str(tmp_path / "timing.bin")  # not the one that all users share
    assert logging.getLogger("torch_tensorrt").propagate


def test_an_empty_assertion_is_told_with_what_tensorrt_said_last(unexported, tmp_path: Path):
    library = Talking(raises=AssertionError(), says="Error Code 9: Target GPU SM 90 is not supported\nmore")
    with pytest.raises(Refused, match="does not compile the model: AssertionError; Error Code 9: Target GPU SM 90"):
        building.compiled(library, random_network(), "fp16", (), tmp_path / "t")


def test_too_little_memory_is_no_refusal(unexported, tmp_path: Path):
    library = Talking(raises=AssertionError(), says="Requested size was 1 bytes: out of memory")
    with pytest.raises(EngineUnavailable) as raised:
        building.compiled(library, random_network(), "fp16", (), tmp_path / "t")
    assert not isinstance(raised.value, Refused)


def test_a_network_in_several_engines_is_refused(unexported, tmp_path: Path):
    with pytest.raises(Refused, match="to 2 engines"):
        building.compiled(Talking(plans=2), random_network(), "fp16", (), tmp_path / "t")


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (KeyError("getpwuid(): uid not found: 1234"), "asks for the name of user"),
        (ImportError("libnvinfer.so.11: cannot open shared object file"), "libnvinfer.so.11"),
        (AssertionError("CUDA"), "does not load: CUDA"),
    ],
)
def test_a_library_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch, problem: Exception, told: str):
    def fail(name: str):
        raise problem

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(EngineUnavailable, match=told):
        building.import_library()


# Batch norms


@pytest.mark.parametrize("stem", ["vgg", "fan", "resnet", "slim"])
def test_folding_batch_norms_changes_nothing(stem: str):
    torch.manual_seed(0)
    network = Tab(TabConfig(stem=stem, channels=32, balt_channels=4, hourglasses=2)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    crops = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        truth, found = network(crops).landmarks, folded(network)(crops).landmarks
    assert (found - truth).abs().max() < 1e-4 * truth.abs().max()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_variance_is_left_that_float16_could_not_hold():
    network = random_network()
    norms = [module for module in folded(network).modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert 0 < len(norms) < sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert all(bool((norm.running_var == 1).all() and (norm.running_mean == 0).all()) for norm in norms)
