"""The ways to run a network that `benchmarks gpu` times: torch as it is, in a CUDA graph, TensorRT, ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.contract import Timing
from tabrt.card import ModelCard
from tabrt.engines import CPU, load_engine
from tabrt.engines.torch import require_cuda
from tabrt.errors import EngineUnavailable, TabrtError, first_line
from tabrt.geometry import CROP_SIZE
from tabrt.network.checkpoint import load_checkpoint
from tabrt.network.deployed import Deployed


class Device(Protocol):
    """Where it runs, and how time is taken there."""

    name: str
    where: str  # torch's name

    def network(self, launch: Callable[[], object], runs: int, stream: Any = None) -> Timing | None:
        """Milliseconds of what a call starts on the device, measured there; None where it cannot be."""
        ...

    def synchronise(self) -> None: ...

    def memory_mib(self) -> float | None:
        """The most that was held since it was asked last."""
        ...


class CpuDevice:
    """No card is here: the same steps, to see that they run."""

    name = CPU
    where = "cpu"

    def network(self, launch: Callable[[], object], runs: int, stream: Any = None) -> Timing | None:
        return None

    def synchronise(self) -> None:
        pass

    def memory_mib(self) -> float | None:
        return None


class CudaDevice:
    """The first card. Raises EngineUnavailable, with the reason, where torch cannot use it."""

    where = "cuda"

    def __init__(self) -> None:
        self.name = require_cuda().name

    def network(self, launch: Callable[[], object], runs: int, stream: Any = None) -> Timing | None:
        stream = stream or torch.cuda.current_stream()
        seconds = []
        with torch.cuda.stream(stream):
            for _ in range(runs):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record(stream)
                launch()
                end.record(stream)
                end.synchronize()
                seconds.append(begin.elapsed_time(end) / 1e3)
        return Timing.of(seconds)

    def synchronise(self) -> None:
        torch.cuda.synchronize()

    def memory_mib(self) -> float | None:
        free, whole = torch.cuda.mem_get_info()
        return (whole - free) / 2**20


def find_device() -> tuple[Device, str | None]:
    """The card, or the CPU with the reason."""
    try:
        return CudaDevice(), None
    except TabrtError as problem:
        return CpuDevice(), str(problem)


@dataclass(frozen=True)
class Runner:
    """A network that is ready to run. launch: starts it on crops that lie on the device already, for a batch."""

    call: Callable[[np.ndarray], np.ndarray]  # crops in the host's memory to maps there
    launch: Callable[[int], Callable[[], object]] | None
    close: Callable[[], None]
    stream: Any = None
    most: int = 64  # crops at once


Maker = Callable[[Path, Device, str], Runner]


def eager(checkpoint: Path, device: Device, precision: str) -> Runner:
    """torch, layer by layer."""
    module, _ = _module(checkpoint, device)
    half = _half(device, precision)

    def call(crops: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), _exact(), half():
            return module(torch.from_numpy(crops).to(device.where))[0].float().cpu().numpy()

    def launch(batch: int) -> Callable[[], object]:
        there = _crops(batch, device)

        def run() -> None:
            with torch.inference_mode(), _exact(), half():
                module(there)

        return run

    return Runner(call, launch, lambda: None)


def graph(checkpoint: Path, device: Device, precision: str) -> Runner:
    """torch in a CUDA graph: the same kernels, started at once."""
    if device.where != "cuda":
        raise EngineUnavailable("CUDA graphs need a GPU")
    module, _ = _module(checkpoint, device)
    half, stream = _half(device, precision), torch.cuda.Stream()
    graphs: dict[int, tuple[Any, torch.Tensor, torch.Tensor]] = {}

    def captured(batch: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
        if batch not in graphs:
            there = _crops(batch, device)
            with torch.inference_mode(), _exact(), half(), torch.cuda.stream(stream):
                for _ in range(3):
                    module(there)
                made = torch.cuda.CUDAGraph()
                stream.synchronize()
                with torch.cuda.graph(made, stream=stream):
                    maps = module(there)[0]
            graphs[batch] = (made, there, maps)
        return graphs[batch]

    def call(crops: np.ndarray) -> np.ndarray:
        made, there, maps = captured(len(crops))
        with torch.inference_mode(), torch.cuda.stream(stream):
            there.copy_(torch.from_numpy(crops))
            made.replay()
            return maps.float().cpu().numpy()

    return Runner(call, lambda batch: captured(batch)[0].replay, graphs.clear, stream)


def compiled(checkpoint: Path, device: Device, precision: str) -> Runner:
    """torch.compile: fused kernels, in a CUDA graph of torch's own. It compiles for half a minute."""
    if device.where != "cuda":
        raise EngineUnavailable("torch.compile is timed on a GPU only")
    module, _ = _module(checkpoint, device)
    half, fast = _half(device, precision), torch.compile(module, mode="reduce-overhead", fullgraph=True)

    def started(there: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), _exact(), half():
            torch.compiler.cudagraph_mark_step_begin()
            maps: torch.Tensor = fast(there)[0]
            return maps

    def call(crops: np.ndarray) -> np.ndarray:
        return started(torch.from_numpy(crops).to(device.where)).float().cpu().numpy()

    def launch(batch: int) -> Callable[[], object]:
        there = _crops(batch, device)
        return lambda: started(there)

    return Runner(call, launch, lambda: None)


def tensorrt(checkpoint: Path, device: Device, precision: str) -> Runner:
    """What `--engine tensorrt` runs: the graph holds the crops' way there and the points' way back too."""
    from tabrt.engines import tensorrt as door
    from tabrt.engines.tensorrt.judging import build, guarded
    from tabrt.engines.tensorrt.opening import TensorRTEngine

    runtime, _ = door.here()
    if _is_random(checkpoint):  # their points mean nothing, so they cannot be judged
        network, card = load_checkpoint(checkpoint)
        with guarded("compiling"):
            program: Any = runtime.start(runtime.compile(network.eval(), precision, ()), card)
    else:
        built = build(checkpoint, precision, runtime)
        program, card = built.program, built.card
    engine = TensorRTEngine(program, card, device.name)
    return Runner(engine, lambda batch: program.launches[batch], engine.close, program.stream, most=16)


def onnxruntime(checkpoint: Path, device: Device, precision: str) -> Runner:
    """What `--engine onnxruntime` runs."""
    where = "gpu" if device.where == "cuda" else "cpu"
    file = checkpoint.with_name(checkpoint.stem + ("-fp16.onnx" if precision == "fp16" else ".onnx"))
    if not file.is_file():
        raise EngineUnavailable(f"no {file.name} ships")
    engine = load_engine(file, "onnxruntime", device=where)
    return Runner(engine, None, engine.close, most=16)


RUNNERS: dict[str, Maker] = {
    "torch": eager,
    "torch, CUDA graph": graph,
    "torch.compile": compiled,
    "TensorRT": tensorrt,
    "ONNX Runtime": onnxruntime,
}


def open_runner(make: Maker, checkpoint: Path, device: Device, precision: str) -> tuple[Runner, float]:
    """A runner and the seconds it took to be ready. Raises EngineUnavailable, with the reason, where it cannot be."""
    start = time.perf_counter()
    try:
        return make(checkpoint, device, precision), time.perf_counter() - start
    except TabrtError:
        raise
    except Exception as problem:
        raise EngineUnavailable(f"{type(problem).__name__}: {first_line(problem)}") from problem


def _module(checkpoint: Path, device: Device) -> tuple[Deployed, ModelCard]:
    network, card = load_checkpoint(checkpoint)
    return Deployed(network).eval().to(device.where), card


def _half(device: Device, precision: str) -> Callable[[], AbstractContextManager]:
    if precision == "fp32":
        return nullcontext
    if device.where != "cuda":
        raise EngineUnavailable("torch's float16 is timed on a GPU only")
    return lambda: torch.autocast("cuda", torch.float16)


def _exact() -> AbstractContextManager:
    """float32 is float32: not TF32, which has ten bits of mantissa."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)


def _crops(batch: int, device: Device) -> torch.Tensor:
    return torch.zeros(batch, CROP_SIZE, CROP_SIZE, 3, dtype=torch.uint8, device=device.where)


def _is_random(checkpoint: Path) -> bool:
    return load_checkpoint(checkpoint)[1].licence == "none"
