"""NVIDIA cards, with stand-ins for drivers and libraries: what is found, what fits, what runs where, what is said."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import re
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from small_network import face_crops, random_checkpoint

from tabrt import hardware, heatmaps
from tabrt.card import MAX_BATCH, ModelCard
from tabrt.engines import decoding, gpu
from tabrt.engines import engine as loading
from tabrt.engines import torch as torch_engine
from tabrt.engines.engine import BATCH_SIZES, MODELS, Way, fp16_file, load_engine
from tabrt.engines.onnxruntime import gpu as on_gpu
from tabrt.engines.onnxruntime.cpu import CpuEngine
from tabrt.engines.tensorrt import running
from tabrt.engines.tensorrt.running import GpuProgram, Kernels
from tabrt.errors import EngineUnavailable, TabrtError
from tabrt.hardware import Gpu

RTX_3060 = Gpu("NVIDIA GeForce RTX 3060", (8, 6), 12 << 30, "580.65", (13, 0))
GTX_1080 = Gpu("NVIDIA GeForce GTX 1080", (6, 1), 8 << 30, "580.65", (13, 0))
H100 = Gpu("NVIDIA H100", (9, 0), 80 << 30, "580.65", (13, 0))
OLD_DRIVER = Gpu("NVIDIA GeForce RTX 3060", (8, 6), 12 << 30, "535.10", (12, 2))

# The driver


class Driver:
    """A stand-in for libcuda. Everything it gives goes through pointers, as there."""

    def __init__(self, init: int = 0, count: int = 1):
        self._init, self._count = init, count

    def cuInit(self, _flags):
        return self._init

    def cuDeviceGetCount(self, into):
        into._obj.value = self._count
        return 0

    def cuDriverGetVersion(self, into):
        into._obj.value = 13020
        return 0

    def cuDeviceGet(self, into, index):
        into._obj.value = index
        return 0

    def cuDeviceGetName(self, into, length, _device):
        into.value = b"RTX A"
        return 0

    def cuDeviceTotalMem_v2(self, into, _device):
        into._obj.value = 12 << 30
        return 0

    def cuDeviceGetAttribute(self, into, attribute, _device):
        into._obj.value = {75: 8, 76: 6}[attribute]
        return 0


def _looked(monkeypatch: pytest.MonkeyPatch, driver) -> Gpu | str:
    def load(name: str):
        if isinstance(driver, OSError) or "ml" in name:
            raise OSError(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    return hardware.look_for_gpu.__wrapped__()


def test_the_driver_describes_its_first_card(monkeypatch: pytest.MonkeyPatch):
    assert _looked(monkeypatch, Driver()) == Gpu("RTX A", (8, 6), 12 << 30, "unknown", (13, 2))


@pytest.mark.parametrize(
    ("driver", "visible", "told"),
    [
        (OSError(), None, "no NVIDIA driver is here"),
        (Driver(init=100), None, "finds no GPU"),
        (Driver(init=100), "", "CUDA_VISIBLE_DEVICES='' hides every GPU"),
        (Driver(count=0), "-1", "CUDA_VISIBLE_DEVICES='-1' hides every GPU"),
        (Driver(init=803), None, "does not start .CUDA error 803.* restart"),
        (types.SimpleNamespace(), None, "too old"),
    ],
)
def test_without_a_card_it_says_why(monkeypatch: pytest.MonkeyPatch, driver, visible: str | None, told: str):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if isinstance(driver, types.SimpleNamespace):
        monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
        found = hardware.look_for_gpu.__wrapped__()
    else:
        found = _looked(monkeypatch, driver)
    assert isinstance(found, str)
    assert re.search(told, found)


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch):
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(EngineUnavailable, match="XDG_CACHE_HOME"):
        hardware.cache_folder()


# What fits


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Distributions that are there, with their versions: what a test puts in."""
    found: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in found:
            raise gpu.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(gpu.metadata, "version", version)
    return found


def _card(monkeypatch: pytest.MonkeyPatch, found: Gpu | str) -> None:
    monkeypatch.setattr(gpu, "look_for_gpu", lambda: found)
    monkeypatch.setattr(loading, "has_cuda", lambda: isinstance(found, Gpu))


@pytest.mark.parametrize(
    ("card", "fitting"),
    [
        (RTX_3060, [gpu.PLUGIN, gpu.CUDA_PROVIDER, gpu.TENSORRT, gpu.TENSORRT_RTX]),
        (H100, [gpu.CUDA_PROVIDER, gpu.TENSORRT]),
        (Gpu("T4", (7, 5), 1, "580", (13, 0)), [gpu.CUDA_PROVIDER, gpu.TENSORRT]),
        (Gpu("A100", (8, 0), 1, "580", (13, 0)), [gpu.CUDA_PROVIDER, gpu.TENSORRT]),
        (Gpu("RTX 5090", (12, 0), 1, "580", (13, 0)), list(gpu.LIBRARIES)),
        (GTX_1080, []),
        (OLD_DRIVER, []),
    ],
)
def test_each_card_has_its_libraries(card: Gpu, fitting: list):
    assert gpu.fitting_libraries(card) == fitting


@pytest.mark.parametrize(
    ("card", "packages", "engine", "told"),
    [
        ("no NVIDIA driver is here", {}, "tensorrt", "no NVIDIA driver is here; leave --engine and --device out"),
        ("no NVIDIA driver is here", {}, "onnxruntime", "no NVIDIA driver is here; use --device cpu"),
        (GTX_1080, {"torch-tensorrt": "2.13.0"}, "tensorrt", r"does not serve the .* 1080 \(compute capability 6.1\)"),
        (OLD_DRIVER, {"torch-tensorrt": "2.13.0"}, "tensorrt", "driver 535.10 is too old for CUDA 13.0; .* 580"),
        (OLD_DRIVER, {}, "onnxruntime", "driver 535.10 is too old"),
        (GTX_1080, {}, "onnxruntime", "does not serve the NVIDIA GeForce GTX 1080"),
        (
            H100,
            {"torch-tensorrt-rtx": "2.13.0"},
            "tensorrt",
            "RTX by Torch-TensorRT does not serve the .*H100",
        ),
        (H100, {}, "onnxruntime", r"CUDA in ONNX Runtime is not installed; pip uninstall onnxruntime; pip install"),
        (RTX_3060, {}, "onnxruntime", r"TensorRT-RTX in ONNX Runtime is not installed; .* pip install '\.\[rtx\]'"),
        (RTX_3060, {}, "tensorrt", r"TensorRT by Torch-TensorRT is not installed; .* pip install '\.\[cuda\]'"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_imported(
    monkeypatch, installed: dict, card, packages: dict, engine: str, told: str
):
    installed.update(packages)
    _card(monkeypatch, card)
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    with pytest.raises(EngineUnavailable, match=told):
        gpu.require_library(engine)


def test_the_library_that_fits_is_taken(monkeypatch: pytest.MonkeyPatch, installed: dict):
    installed.update({"onnxruntime-ep-nv-tensorrt-rtx-cu13": "0.5.0", "onnxruntime-gpu": "1.28.0"})
    for card, library in ((RTX_3060, gpu.PLUGIN), (H100, gpu.CUDA_PROVIDER)):
        _card(monkeypatch, card)
        assert gpu.require_library("onnxruntime") == (card, library)


def test_what_stands_in_its_own_way_is_told(installed: dict):
    assert gpu.conflicts() == []
    installed.update({"torch-tensorrt": "2.13.0", "torch-tensorrt-rtx": "2.13.0"})
    installed.update({"onnxruntime": "1.28.0", "onnxruntime-gpu": "1.29.0"})
    assert [line.split(":")[0] for line in gpu.conflicts()] == [
        "torch-tensorrt and torch-tensorrt-rtx own the same module",
        "onnxruntime and onnxruntime-gpu own the same module",
        "onnxruntime-gpu 1.29.0 reports usage to its maker",
    ]


# Which ways are tried


CHECKPOINT, FILE = Path("a.safetensors"), Path("a.onnx")
ORT, TRT, TORCH = (Way(name, "gpu") for name in ("onnxruntime", "tensorrt", "torch"))
CACHED = Way("tensorrt", "gpu", only_if_cached=True)
CPU_ORT, CPU_TORCH = Way("onnxruntime", "cpu"), Way("torch", "cpu")


@pytest.mark.parametrize(
    ("path", "engine", "device", "there", "cached", "ways"),
    [
        ("shipped", "auto", "auto", "", False, [CPU_ORT]),
        ("shipped", "auto", "auto", "onnxruntime", False, [ORT, CPU_ORT]),
        ("shipped", "auto", "auto", "onnxruntime tensorrt", True, [ORT, CACHED, CPU_ORT]),
        ("shipped", "auto", "auto", "tensorrt", False, [CPU_ORT]),
        ("shipped", "auto", "cpu", "onnxruntime tensorrt", True, [CPU_ORT]),
        ("shipped", "auto", "gpu", "onnxruntime tensorrt", False, [ORT, TRT]),
        ("shipped", "auto", "gpu", "", False, [ORT, TRT]),
        (FILE, "auto", "auto", "onnxruntime", False, [ORT, CPU_ORT]),
        (FILE, "onnxruntime", "auto", "", False, [CPU_ORT]),
        (FILE, "onnxruntime", "gpu", "", False, [ORT]),
        (FILE, "openvino", "auto", "onnxruntime", False, [Way("openvino", "cpu")]),
        (CHECKPOINT, "auto", "auto", "", False, [TORCH, CPU_TORCH]),
        (CHECKPOINT, "auto", "auto", "tensorrt", True, [CACHED, TORCH, CPU_TORCH]),
        (CHECKPOINT, "torch", "cpu", "", False, [CPU_TORCH]),
        (CHECKPOINT, "tensorrt", "auto", "", False, [TRT]),
        (Path("a.ep"), "auto", "auto", "", False, [TRT]),
    ],
)
def test_the_ways_that_are_tried(monkeypatch, path, engine: str, device: str, there: str, cached: bool, ways: list):
    path = MODELS["tab1-lite"] if path == "shipped" else path
    _card(monkeypatch, RTX_3060)
    monkeypatch.setattr(loading, "is_installed", lambda engine: engine in there.split())
    monkeypatch.setattr(loading, "_is_compiled", lambda path: cached)
    assert loading._ways(path, engine, device) == ways


@pytest.mark.parametrize(("engine", "device"), [("openvino", "gpu"), ("tensorrt", "cpu")])
def test_an_engine_is_not_asked_for_what_it_cannot(engine: str, device: str):
    with pytest.raises(TabrtError, match=f"engine {engine} runs on the"):
        loading._ways(FILE, engine, device)


def test_nothing_else_is_said_to_be_used_where_nothing_can(monkeypatch: pytest.MonkeyPatch, caplog):
    _card(monkeypatch, "no NVIDIA driver is here")
    with pytest.raises(EngineUnavailable, match="no NVIDIA driver is here; use --device cpu$"):
        load_engine("tab1-lite", device="gpu")
    assert not caplog.records


def test_an_unknown_device_is_refused():
    with pytest.raises(TabrtError, match="no device is called"):
        load_engine("tab1-lite", device="cuda")


def test_on_a_gpu_a_name_is_its_float16_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = tmp_path / "x.onnx"
    monkeypatch.setitem(MODELS, "x", path)
    path.touch()
    assert loading.model_file("x", "onnxruntime", "gpu") == path
    fp16_file(path).touch()
    assert loading.model_file("x", "onnxruntime", "gpu") == fp16_file(path)
    assert loading.model_file("x", "openvino", "cpu") == path


# torch


@pytest.mark.parametrize(
    ("architectures", "capability", "has"),
    [
        (["sm_75", "sm_80", "sm_86", "sm_90"], (8, 9), True),
        (["sm_75", "sm_80", "sm_90"], (8, 6), True),
        (["sm_75", "sm_80"], (6, 1), False),
        (["sm_86"], (8, 0), False),
        (["sm_90a", "compute_90"], (9, 0), True),
        (["sm_100", "sm_120"], (12, 0), True),
        ([], (8, 6), False),
    ],
)
def test_torch_has_kernels_for_a_card_or_not(architectures: list[str], capability: tuple[int, int], has: bool):
    assert torch_engine._has_kernels(architectures, capability) is has


@pytest.mark.parametrize(
    ("card", "made_for", "available", "architectures", "told"),
    [
        (RTX_3060, None, False, [], r"made without CUDA; .* pip install '\.\[cuda\]'"),
        (OLD_DRIVER, "13.0", False, [], "driver 535.10 is too old for CUDA 13.0; install driver 580"),
        (RTX_3060, "13.0", False, [], "torch cannot use the"),
        (
            GTX_1080,
            "13.0",
            True,
            ["sm_75", "sm_80"],
            r"no kernels for the .* 6.1\); use --device cpu",
        ),
    ],
)
def test_a_torch_that_cannot_use_the_card_says_why(monkeypatch, card, made_for, available, architectures, told: str):
    _card(monkeypatch, card)
    monkeypatch.setattr(torch.version, "cuda", made_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    with pytest.raises(EngineUnavailable, match=told):
        torch_engine.require_cuda()


def test_torch_goes_on_on_the_cpu_when_the_card_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog):
    def no_memory(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate …\nmore")

    _card(monkeypatch, RTX_3060)
    monkeypatch.setattr(torch_engine, "require_cuda", lambda: RTX_3060)
    monkeypatch.setattr(torch_engine.TorchEngine, "move", no_memory)
    checkpoint = random_checkpoint(tmp_path)
    engine = load_engine(checkpoint, "torch")
    assert (engine.device, engine(face_crops(1)).shape) == ("CPU", (1, 98, 64, 64))
    assert "torch on the GPU cannot be used" in caplog.text
    with pytest.raises(EngineUnavailable, match="CUDA out of memory"):
        load_engine(checkpoint, "torch", device="gpu")


class Capture:
    """A stand-in for what torch.cuda captures graphs with; a replay runs the network again on the crops of then."""

    def __init__(self, engine: torch_engine.TorchEngine, fails: Exception | None = None):
        self._engine, self._fails = engine, fails
        self.sizes: list[int] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = types.SimpleNamespace(synchronize=lambda: None)
        for name, value in {
            "Stream": lambda: stream,
            "stream": lambda _: contextlib.nullcontext(),
            "graph_pool_handle": lambda: None,
            "CUDAGraph": lambda: types.SimpleNamespace(replay=lambda: None),
            "graph": self.graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch_engine, "_replayed", self.replayed)

    @contextlib.contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        if self._fails:
            raise self._fails
        assert capture_error_mode == "thread_local"
        yield

    def replayed(self, graph, maps):
        size = len(maps[0])
        self.sizes.append(size)
        return lambda: self._engine._module(self._engine._crops[:size])


def test_torch_runs_each_batch_size_as_a_graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    engine = torch_engine.TorchEngine(random_checkpoint(tmp_path))
    crops = face_crops(5)
    expected = engine.both(crops), engine(crops[:1])
    capture = Capture(engine)
    capture.install(monkeypatch)
    engine._capture()
    assert tuple(capture.sizes) == BATCH_SIZES
    for _ in range(2):
        for found, maps in zip(engine.both(crops), expected[0], strict=True):
            np.testing.assert_allclose(found, maps, atol=1e-5)
        np.testing.assert_allclose(engine(crops[:1]), expected[1], atol=1e-5)


def test_torch_runs_on_where_graphs_cannot_be_captured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog):
    engine = torch_engine.TorchEngine(random_checkpoint(tmp_path))
    crops = face_crops(2)
    expected = engine(crops)
    Capture(engine, RuntimeError("operation not permitted")).install(monkeypatch)
    engine._capture()
    assert "operation not permitted" in caplog.text
    np.testing.assert_array_equal(engine(crops), expected)


# Maps read by torch


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
@pytest.mark.parametrize("offset", [1.5, 0.0])
@pytest.mark.parametrize("reading", ["softmax", "gaussian"])
def test_torch_reads_maps_as_numpy_does(reading: str, offset: float, kind: torch.dtype):
    rng = np.random.default_rng(0)
    points = rng.uniform(-2, 258, (3, 98, 2)).astype(np.float32)  # beyond the edges too
    draw = heatmaps.render_logits if reading == "softmax" else heatmaps.render
    maps = draw(points, offset=offset)
    maps += rng.normal(0, 0.02, maps.shape).astype(np.float32) * (np.abs(maps) < 20)
    given = torch.from_numpy(maps).to(kind)
    truth, confidence = heatmaps.decode(given.float().numpy(), reading, offset)
    found = decoding.decode(given, reading, offset).numpy()
    assert np.abs(found[..., :2] - truth).max() < 1e-3
    assert np.abs(found[..., 2] - confidence).max() < 1e-4


# A TensorRT engine that runs on the host's memory


class Kind(enum.Enum):
    UINT8 = 0
    HALF = 1
    FLOAT = 2


SHAPES = {"output1": (-1, 16, 64, 64), "output0": (-1, 98, 64, 64), "x": (-1, 256, 256, 3)}


class Engine:
    """Gives points that the first pixel of each crop says, through the addresses that it was given."""

    device_memory_size_v2 = 512
    num_io_tensors = 3

    def __init__(self, rtx: bool = False, shapes: dict | None = None):
        self.contexts: list[Context] = []
        self.shapes = shapes or SHAPES
        self.config = types.SimpleNamespace(cache=b"") if rtx else None

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "x" else "out"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, name: str) -> Kind:
        return Kind.UINT8 if name == "x" else Kind.HALF

    def create_execution_context(self, how):
        self.contexts.append(Context(how))
        return self.contexts[-1]

    def create_runtime_config(self):
        config = self.config
        config.set_execution_context_allocation_strategy = lambda how: None
        cache = types.SimpleNamespace(
            deserialize=lambda data: setattr(config, "cache", bytes(data)), serialize=lambda: config.cache + b"!"
        )
        config.create_runtime_cache = lambda: cache
        config.set_runtime_cache = lambda given: setattr(config, "given", given)
        return config


class Context:
    def __init__(self, how):
        self.how, self.where, self.runs = how, {}, 0

    def set_device_memory(self, address: int, size: int) -> None:
        assert size == 512

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.size = shape[0]
        return shape[0] <= MAX_BATCH

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.where[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.runs += 1
        crops = _at(self.where["x"], (self.size, 256, 256, 3), np.uint8)
        points = np.broadcast_to(crops[:, 0, 0, :1, None], (self.size, 98, 2)).astype(np.float32)
        _at(self.where["output0"], (self.size, 98, 64, 64), np.float16)[:] = heatmaps.render_logits(points)
        _at(self.where["output1"], (self.size, 16, 64, 64), np.float16)[:] = crops[:, 0, 0, 0, None, None, None]
        return True


def _at(address: int, shape: tuple[int, ...], kind: type) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), kind).reshape(shape)


class Cuda:
    """A stand-in for torch.cuda: what is captured is noted, and played by running the context again."""

    def __init__(self, fails: Exception | None = None):
        self.captured: list[str] = []
        self.replayed = self.emptied = self.reset = 0
        self._fails = fails

    class Stream:
        cuda_stream = 7

        def synchronize(self) -> None:
            pass

    def Event(self):
        return types.SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)

    def CUDAGraph(self):
        def replay() -> None:
            self.replayed += 1

        def reset() -> None:
            self.reset += 1

        return types.SimpleNamespace(replay=replay, reset=reset)

    @contextlib.contextmanager
    def stream(self, stream):
        yield

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        if self._fails:
            raise self._fails
        self.captured.append(capture_error_mode)
        yield

    def empty_cache(self) -> None:
        self.emptied += 1


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    stand_in = Cuda()
    monkeypatch.setattr(running, "cuda", stand_in)
    monkeypatch.setattr(running, "DEVICE", "cpu")
    return stand_in


def _library(engine: Engine | None):
    """A stand-in for the module tensorrt, or tensorrt_rtx."""
    names = types.SimpleNamespace
    logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})
    return names(
        Logger=logger,
        Runtime=lambda logger: names(deserialize_cuda_engine=lambda plan: engine),
        TensorIOMode=names(INPUT="in"),
        ExecutionContextAllocationStrategy=names(USER_MANAGED="user"),
        DynamicShapesKernelSpecializationStrategy=names(EAGER="eager"),
        CudaGraphStrategy=names(WHOLE_GRAPH_CAPTURE="whole", DISABLED="off"),
    )


def _crops(*pixels: int) -> np.ndarray:
    crops = np.zeros((len(pixels), 256, 256, 3), np.uint8)
    crops[:, 0, 0, 0] = pixels
    return crops


CARD = ModelCard(name="x")


def test_an_engine_gives_points_and_maps_of_any_batch(cuda: Cuda):
    program = GpuProgram(b"plan", CARD, _library(Engine()), graphs=False)
    for pixels in ((80,), (60, 90, 120), tuple(range(40, 56)), (70, 75, 80, 85, 90)):
        points, landmarks, boundaries = program(_crops(*pixels), ("points", "landmarks", "boundaries"))
        assert [value.dtype for value in (points, landmarks, boundaries)] == [np.float32] * 3
        assert np.abs(points[:, :, :2] - np.array(pixels)[:, None, None]).max() < 0.2
        assert np.abs(heatmaps.decode(landmarks)[0] - points[..., :2]).max() < 1e-2
        assert (boundaries[:, 3, 5, 7] == pixels).all()
    again = points.copy()
    program(_crops(200), ("points",))
    assert (points == again).all(), "what was given must not change with the next run"


def test_each_batch_size_has_a_context_and_a_graph_captured_at_the_start(cuda: Cuda):
    engine = Engine()
    program = GpuProgram(b"plan", CARD, _library(engine))
    assert [context.size for context in engine.contexts] == list(BATCH_SIZES)
    assert cuda.captured == ["thread_local"] * len(BATCH_SIZES)
    assert all(context.runs == 2 for context in engine.contexts)  # once before the capture, once within
    for count in (1, 9, 8, 9, 16, 1):
        program(_crops(*[50] * count), ("points",))
    assert (cuda.replayed, len(cuda.captured)) == (6, len(BATCH_SIZES))  # nothing is captured anew
    program.close()
    assert (cuda.reset, cuda.emptied) == (len(BATCH_SIZES), 1)
    held = [name for name, value in vars(program).items() if isinstance(value, Engine | Context | torch.Tensor)]
    assert held == []


def test_tensorrt_rtx_captures_by_itself_and_keeps_its_kernels(cuda: Cuda):
    class Kept(Kernels):
        data = b"kernels"

        def read(self) -> bytes:
            return self.data

        def write(self, data: bytes) -> None:
            self.data = data

    engine, kept = Engine(rtx=True), Kept()
    GpuProgram(b"plan", CARD, _library(engine), kept)
    assert (engine.config.cuda_graph_strategy, cuda.captured) == ("whole", [])
    assert engine.config.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert all(context.how is engine.config for context in engine.contexts)
    assert kept.data == b"kernels!"


def test_an_engine_that_cannot_be_read_or_is_another_is_refused(cuda: Cuda):
    with pytest.raises(EngineUnavailable, match="does not read the engine"):
        GpuProgram(b"plan", CARD, _library(None))
    with pytest.raises(EngineUnavailable, match="other inputs and outputs"):
        GpuProgram(b"plan", CARD, _library(Engine(shapes={**SHAPES, "output0": (-1, 68, 64, 64)})))


def test_without_graphs_it_runs_on(cuda: Cuda, monkeypatch: pytest.MonkeyPatch, caplog, tmp_path: Path):
    from tabrt.engines.tensorrt.cache import Cache
    from tabrt.engines.tensorrt.runtime import CudaRuntime

    cuda._fails = RuntimeError("operation not permitted when stream is capturing\nmore")
    runtime = CudaRuntime.__new__(CudaRuntime)
    runtime._rtx, runtime._tensorrt, runtime._cache = False, _library(Engine()), Cache(tmp_path)
    program = runtime.start(b"plan", CARD)
    assert "CUDA graphs cannot be captured (operation not permitted" in caplog.text
    assert program(_crops(50), ("points",))[0].shape == (1, 98, 3)


# ONNX Runtime on a card that is the host


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> on_gpu.Provider:
    """The CPU in the place of a card: real sessions, bindings and buffers."""

    def buffer(shape: tuple[int, ...], kind: type) -> on_gpu.Buffer:
        there, here = (onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", 0) for _ in range(2))

        def copy(source, target) -> None:
            target.numpy()[:] = source.numpy()

        return on_gpu.Buffer(there, here, copy)

    return on_gpu.Provider("CPUExecutionProvider", "RTX A", lambda options, card: ["CPUExecutionProvider"], buffer)


def test_bound_buffers_give_what_plain_runs_give(provider: on_gpu.Provider, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_gpu, "BATCH_SIZES", (1, 2, 4))
    monkeypatch.setattr(on_gpu, "padded_size", lambda count: 1 << (count - 1).bit_length())
    path = MODELS["tab1-lite"]
    engine, truth = on_gpu.GpuEngine(path, provider), CpuEngine(path)
    for count in (3, 1, 2):
        crops = face_crops(count)
        for found, expected in zip(engine.both(crops), truth.both(crops), strict=True):
            assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert engine.device == "RTX A"
    engine.close()
    with pytest.raises(TabrtError, match="closed"):
        engine(face_crops(1))


def test_a_provider_that_was_left_is_no_gpu(provider: on_gpu.Provider):
    """ONNX Runtime goes on without one that fails; that would be called a GPU and be none."""
    left = on_gpu.Provider("CUDAExecutionProvider", "RTX A", provider.configure, provider.buffer)
    with pytest.raises(EngineUnavailable, match="left CUDAExecutionProvider for the CPU"):
        on_gpu.GpuEngine(MODELS["tab1-lite"], left)


@pytest.mark.parametrize("problem", [RuntimeError("libcuda.so.1: cannot open\nmore"), OSError("x"), KeyError("y")])
def test_whatever_a_provider_raises_is_one_stated_problem(monkeypatch, installed: dict, problem: Exception):
    def fail(device: str):
        raise problem

    installed["onnxruntime-ep-nv-tensorrt-rtx-cu13"] = "0.5.0"
    _card(monkeypatch, RTX_3060)
    monkeypatch.setattr(on_gpu, "_plugin", fail)
    with pytest.raises(EngineUnavailable, match="TensorRT-RTX in ONNX Runtime does not run here") as raised:
        load_engine("tab1-lite", "onnxruntime", device="gpu")
    assert "\n" not in str(raised.value)


def test_auto_runs_on_the_cpu_then(monkeypatch: pytest.MonkeyPatch, installed: dict, caplog):
    installed["onnxruntime-ep-nv-tensorrt-rtx-cu13"] = "0.5.0"
    _card(monkeypatch, RTX_3060)
    monkeypatch.setattr(on_gpu, "_plugin", lambda device: (_ for _ in ()).throw(RuntimeError("no")))
    assert load_engine("tab1-lite").device == "CPU"
    assert "onnxruntime on the GPU cannot be used" in caplog.text


class Plugin:
    """A stand-in for NVIDIA's package, and for what ONNX Runtime then knows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, devices: int = 1):
        self.registered: list[tuple[str, str]] = []
        self.added: list[tuple[list, dict]] = []
        names = types.SimpleNamespace(get_ep_name=lambda: "Nv", get_library_path=lambda: "/libnv.so")
        monkeypatch.setattr("importlib.import_module", lambda name: names)
        monkeypatch.setattr(on_gpu, "_registered", {})
        monkeypatch.setattr(
            onnxruntime, "register_execution_provider_library", lambda *given: self.registered.append(given)
        )
        found = [types.SimpleNamespace(ep_name="Nv", memory_info=lambda kind: kind) for _ in range(devices)]
        monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [types.SimpleNamespace(ep_name="CPU"), *found])

    def add_provider_for_devices(self, devices: list, settings: dict) -> None:
        self.added.append((devices, settings))


@pytest.mark.parametrize("size", [256, 192])
def test_the_plug_in_is_asked_for_graphs_and_keeps_its_kernels(monkeypatch, tmp_path: Path, size: int):
    monkeypatch.setattr(on_gpu, "cache_folder", lambda: tmp_path / "cache")
    plugin = Plugin(monkeypatch, devices=2)
    for _ in range(2):
        assert on_gpu._plugin("RTX A").configure(plugin, ModelCard(name="x", crop_size=size)) is None
    assert plugin.registered == [("Nv", "/libnv.so")]  # once in a process
    devices, settings = plugin.added[0]
    assert len(devices) == 1
    assert settings["enable_cuda_graph"] == "1"
    assert settings["nv_profile_max_shapes"] == f"crops:{MAX_BATCH}x{size}x{size}x3"
    kept = Path(settings["nv_runtime_cache_path"])
    assert kept.is_dir() and kept.stat().st_mode & 0o077 == 0


def test_a_plug_in_without_a_card_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(on_gpu, "cache_folder", lambda: tmp_path)
    Plugin(monkeypatch, devices=0)
    with pytest.raises(EngineUnavailable, match="finds no card that it serves"):
        on_gpu._plugin("RTX A")


def test_onnxruntime_gpu_that_lost_its_place_is_told():
    with pytest.raises(EngineUnavailable, match="onnxruntime took its place"):
        on_gpu._cuda("RTX A")


def test_onnxruntime_gpu_does_not_tell_of_each_kernel_it_tries(monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: asked.append("libraries"))
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", asked.append)
    on_gpu._cuda("RTX A")
    assert asked == ["libraries", 4]


def test_each_batch_size_names_its_graph(provider: on_gpu.Provider, monkeypatch: pytest.MonkeyPatch):
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(on_gpu, "BATCH_SIZES", (1, 2))
    run = on_gpu._Batch.run

    def noted(batch) -> None:
        asked.append({key: batch._options.get_run_config_entry(key) for key in on_gpu.GRAPH_KEYS})
        run(batch)

    monkeypatch.setattr(on_gpu._Batch, "run", noted)
    on_gpu.GpuEngine(MODELS["tab1-lite"], provider)
    assert asked == [dict.fromkeys(on_gpu.GRAPH_KEYS, size) for size in "1" * on_gpu.CAPTURES + "2" * on_gpu.CAPTURES]


# The tracker


def test_the_tracker_takes_points_that_were_read_on_the_gpu(monkeypatch: pytest.MonkeyPatch):
    """And looks at no map."""
    from tabrt import Frame, Tracker
    from tabrt.engines.engine import FakeEngine
    from tabrt.geometry import Box

    where = np.stack(np.meshgrid(np.linspace(40, 216, 14), np.linspace(40, 216, 7)), axis=-1).reshape(98, 2)

    class Reading(FakeEngine):
        def read(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            confidence = np.full((len(crops), 98), 0.75, np.float32)
            return np.repeat(where[None].astype(np.float32), len(crops), axis=0), confidence

        def __call__(self, crops: np.ndarray) -> np.ndarray:
            raise AssertionError("maps were asked for")

        def both(self, crops: np.ndarray):
            raise AssertionError("maps were asked for")

    def detector(image, most, thorough=False):
        return [Box(200, 100, 400, 300, 0.9)]

    tracker = Tracker(engine=Reading(where), detector=detector)
    scene = tracker(Frame(np.zeros((480, 640, 3), np.uint8), 0, 0.0))
    assert [face.confidence.max() for face in scene.faces] == [0.75]
