"""What is done on the GPU, and nothing else is: describing it, compiling for it, running there."""

from __future__ import annotations

import contextlib
import importlib
import logging
from importlib import metadata
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from tabrt.card import ModelCard
from tabrt.engines.gpu import TENSORRT_RTX, require_library
from tabrt.engines.tensorrt import building
from tabrt.engines.tensorrt.cache import Cache
from tabrt.engines.tensorrt.running import GpuProgram, Kernels
from tabrt.engines.torch import capturing, require_cuda
from tabrt.errors import EngineUnavailable, TabrtError, first_line
from tabrt.network.deployed import Deployed
from tabrt.network.tab import Tab

log = logging.getLogger("tabrt")


class Program(Protocol):
    """An engine on the GPU, ready for many runs."""

    def __call__(self, crops: np.ndarray, outputs: tuple[str, ...]) -> tuple[np.ndarray, ...]:
        """Outputs of at most MAX_BATCH crops, each float32: "landmarks" and "boundaries" are maps, "points" are read
        from them (N, L, 3): x and y in crop px, confidence."""
        ...

    def close(self) -> None: ...


class Runtime(Protocol):
    """What is done on the GPU."""

    device: str

    def describe(self) -> dict[str, str]:
        """Versions, driver and GPU: an engine runs only where all of these are the same."""
        ...

    def compile(self, network: Tab, precision: str, float_parts: tuple[str, ...]) -> bytes:
        """TensorRT's plan of a network. Raises building.Refused for one that would be refused again."""
        ...

    def start(self, plan: bytes, card: ModelCard) -> Program: ...

    def reference(self, network: Tab, crops: np.ndarray) -> np.ndarray:
        """Landmark maps in torch float32."""
        ...


class CudaRuntime:
    """The real runtime. Raises EngineUnavailable where it cannot be."""

    def __init__(self, cache: Cache) -> None:
        self._gpu, library = require_library("tensorrt")
        require_cuda()
        self._rtx = library is TENSORRT_RTX
        self._distribution = library.distribution
        self._cache = cache
        self.device = self._gpu.name
        try:
            self._tensorrt = importlib.import_module("tensorrt_rtx" if self._rtx else "tensorrt")
        except Exception as error:  # a library that is missing, or of another version
            raise EngineUnavailable(f"TensorRT does not load: {first_line(error)}; install it again") from error

    def describe(self) -> dict[str, str]:
        return {
            "tensorrt": f"{self._tensorrt.__name__} {self._tensorrt.__version__}",
            "torch_tensorrt": f"{self._distribution} {metadata.version(self._distribution)}",
            "torch": torch.__version__,
            "driver": self._gpu.driver,
            "gpu": self._gpu.name,
            "capability": self._gpu.capability_name,
        }

    def compile(self, network: Tab, precision: str, float_parts: tuple[str, ...]) -> bytes:
        timing = self._cache.folder / "timing.bin"  # Torch-TensorRT's own place for it is shared by all users
        plan = building.compiled(building.import_library(), network, precision, float_parts, timing)
        torch.cuda.empty_cache()  # what the compiler's own copy of the engine took
        return plan

    def start(self, plan: bytes, card: ModelCard) -> Program:
        kernels = _SealedKernels(self._cache, card.name) if self._rtx else None
        with capturing:
            try:
                return GpuProgram(plan, card, self._tensorrt, kernels)
            except EngineUnavailable:
                raise
            except Exception as error:
                # A stream may be left in the middle of a capture: nothing of this try is used again.
                log.warning("CUDA graphs cannot be captured (%s); running without", first_line(error))
            return GpuProgram(plan, card, self._tensorrt, kernels, graphs=False)

    def reference(self, network: Tab, crops: np.ndarray) -> np.ndarray:
        deployed = Deployed(network).eval().to("cuda")
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [deployed(torch.from_numpy(crop[None]).to("cuda"))[0].cpu() for crop in crops]
        deployed.to("cpu")
        return torch.cat(parts).numpy()


class _SealedKernels(Kernels):
    """TensorRT-RTX compiles its kernels when an engine starts: they are kept for the next start."""

    def __init__(self, cache: Cache, model: str):
        self._cache = cache
        self._path = Path(cache.folder, f"{model}.kernels")

    def read(self) -> bytes:
        with contextlib.suppress(TabrtError):
            return self._cache.read_sealed(self._path)
        return b""

    def write(self, data: bytes) -> None:
        with contextlib.suppress(TabrtError):
            self._cache.write_sealed(self._path, data)
