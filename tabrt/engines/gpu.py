"""Which library runs on which NVIDIA card: known before anything is imported, let alone compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from tabrt.errors import EngineUnavailable, install_extra
from tabrt.hardware import Gpu, look_for_gpu

DRIVERS = {(13, 0): "580"}  # the oldest driver that runs programs of a CUDA version, on Linux


@dataclass(frozen=True)
class Library:
    """One way to run on a card."""

    title: str
    engine: str  # of ENGINES
    distribution: str  # as pip knows it
    serves: Callable[[tuple[int, int]], bool]  # by compute capability
    cards: str  # the same in words
    install: str
    cuda: tuple[int, int] = (13, 0)  # that it was made with

    @property
    def version(self) -> str | None:
        """The version that is installed."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def refusal(self, gpu: Gpu) -> str | None:
        """Why it cannot run on a card; None where it can."""
        if not self.serves(gpu.capability):
            return (
                f"{self.title} does not serve the {gpu.name} (compute capability {gpu.capability_name}): {self.cards}"
            )
        if gpu.cuda < self.cuda:
            wanted = ".".join(map(str, self.cuda))
            return f"driver {gpu.driver} is too old for CUDA {wanted}; install driver {DRIVERS[self.cuda]} or newer"
        return None


def _rtx(capability: tuple[int, int]) -> bool:
    return capability in ((8, 6), (8, 9)) or capability >= (12, 0)


def _turing(capability: tuple[int, int]) -> bool:
    return capability >= (7, 5)


RTX_CARDS = "GeForce and RTX 30, 40, 50"
ALL_CARDS = "GTX 16 and RTX 20 onwards, and data centre cards from T4 on"
PLUGIN = Library(
    "TensorRT-RTX in ONNX Runtime",
    "onnxruntime",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    _rtx,
    RTX_CARDS,
    install_extra("rtx"),
)
CUDA_PROVIDER = Library(
    "CUDA in ONNX Runtime",
    "onnxruntime",
    "onnxruntime-gpu",
    _turing,
    ALL_CARDS,
    "pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]==1.28.0'",
)
TENSORRT = Library(
    "TensorRT by Torch-TensorRT", "tensorrt", "torch-tensorrt", _turing, ALL_CARDS, install_extra("cuda")
)
TENSORRT_RTX = Library(
    "TensorRT-RTX by Torch-TensorRT",
    "tensorrt",
    "torch-tensorrt-rtx",
    _rtx,
    RTX_CARDS,
    "pip install 'torch==2.13.*' 'torch-tensorrt-rtx==2.13.*' 'safetensors>=0.5,<1'",
)
LIBRARIES = (PLUGIN, CUDA_PROVIDER, TENSORRT, TENSORRT_RTX)


def require_gpu(remedy: str = "use --device cpu") -> Gpu:
    """The card. Raises EngineUnavailable, with the reason and the remedy, where there is none."""
    found = look_for_gpu()
    if isinstance(found, str):
        raise EngineUnavailable(f"{found}; {remedy}")
    return found


def require_library(engine: str) -> tuple[Gpu, Library]:
    """The card and the installed library that an engine runs on it with. Raises EngineUnavailable, with what to do."""
    gpu = require_gpu("leave --engine and --device out") if engine == "tensorrt" else require_gpu()
    refusals = []
    for library in LIBRARIES:
        if library.engine == engine and library.version:
            refusal = library.refusal(gpu)
            if refusal is None:
                return gpu, library
            refusals.append(refusal)
    if refusals:
        raise EngineUnavailable("; ".join(refusals))
    fitting = next((library for library in fitting_libraries(gpu) if library.engine == engine), None)
    if fitting is None:
        served = next(library for library in LIBRARIES if library.engine == engine)
        raise EngineUnavailable(served.refusal(gpu) or f"nothing of engine {engine} fits the {gpu.name}")
    raise EngineUnavailable(f"{fitting.title} is not installed; {fitting.install}")


def fitting_libraries(gpu: Gpu) -> list[Library]:
    """Every library that could run on a card, the one to be preferred first."""
    return [library for library in LIBRARIES if library.refusal(gpu) is None]


def is_installed(engine: str) -> bool:
    """Whether anything is installed that may run an engine on a card. Imports nothing."""
    return any(library.engine == engine and library.version for library in LIBRARIES)


def conflicts() -> list[str]:
    """What is installed and stands in its own way."""
    found = []
    if TENSORRT.version and TENSORRT_RTX.version:
        found.append("torch-tensorrt and torch-tensorrt-rtx own the same module: pip uninstall one of them")
    if CUDA_PROVIDER.version and _installed("onnxruntime"):
        found.append(
            "onnxruntime and onnxruntime-gpu own the same module: pip uninstall both, then install the one you want"
        )
    if _installed("onnxruntime-directml") and _installed("onnxruntime"):
        found.append(
            "onnxruntime and onnxruntime-directml own the same module: pip uninstall both, then install the one wanted"
        )
    if CUDA_PROVIDER.version and _release(CUDA_PROVIDER.version) >= (1, 29):
        version = CUDA_PROVIDER.version
        found.append(
            f"onnxruntime-gpu {version} reports usage to its maker: install 1.28, or set ORT_DISABLE_TELEMETRY=1"
        )
    return found


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _installed(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False
