"""PyTorch, on a GPU or the CPU: float32, the reference that every other engine is compared with. Reads checkpoints."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tabrt.card import MAX_BATCH
from tabrt.engines.engine import BATCH_SIZES, CPU, OUTPUTS, MapsByName, checkpoint_file, padded_size
from tabrt.engines.gpu import DRIVERS, require_gpu
from tabrt.errors import EngineUnavailable, TabrtError, first_line, install_extra
from tabrt.hardware import Gpu

try:
    import torch

    from tabrt.network.checkpoint import load_checkpoint
    from tabrt.network.deployed import Deployed
except ModuleNotFoundError as error:
    if (error.name or "").startswith("tabrt"):
        raise
    raise EngineUnavailable(f"engine torch needs {error.name}; {install_extra('export')}") from error

# Graphs are captured one at a time in a process: a capture that meets another may break both.
capturing = threading.Lock()

log = logging.getLogger("tabrt")


def load(path: Path, threads: int | None = None, device: str = "cpu") -> TorchEngine:
    """Load a checkpoint, or the one of a shipped model. Raises TabrtError for any other file.

    threads: sets torch's CPU threads for the whole process. Raises EngineUnavailable for a GPU that cannot be used.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cpu":
        return TorchEngine(path)
    gpu = require_cuda()
    engine = TorchEngine(path)  # what is wrong with the file is not the GPU's fault
    try:
        engine.move("cuda", gpu.name)
        size = engine.card.crop_size
        engine(np.zeros((1, size, size, 3), np.uint8))
        return engine
    except Exception as error:  # no memory, a card that another process holds alone
        raise EngineUnavailable(f"torch does not run on the {gpu.name}: {first_line(error)}") from error


def require_cuda() -> Gpu:
    """The card, where this torch runs on it. Raises EngineUnavailable, with the reason, where it does not."""
    gpu = require_gpu()
    if torch.version.cuda is None:
        raise EngineUnavailable(f"this torch ({torch.__version__}) was made without CUDA; {install_extra('cuda')}")
    if not torch.cuda.is_available():
        major, minor = torch.version.cuda.split(".")[:2]
        made_for = int(major), int(minor)
        if gpu.cuda < made_for:
            wanted = DRIVERS.get(made_for, "a newer one")
            raise EngineUnavailable(
                f"driver {gpu.driver} is too old for CUDA {torch.version.cuda}; install driver {wanted} or newer"
            )
        raise EngineUnavailable(
            f"torch cannot use the {gpu.name}; python -c 'import torch; torch.cuda.init()' says why"
        )
    if not _has_kernels(torch.cuda.get_arch_list(), gpu.capability):
        raise EngineUnavailable(
            f"this torch has no kernels for the {gpu.name} (compute capability {gpu.capability_name}); use --device cpu"
        )
    return gpu


def _has_kernels(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Whether a torch made for these (`sm_86` …) runs on a card: kernels run on cards of the same generation, or of a
    later one that has everything of the former."""
    made_for = [divmod(int(name.removeprefix("sm_").rstrip("af")), 10) for name in architectures if name[:3] == "sm_"]
    return any(major == capability[0] and minor <= capability[1] for major, minor in made_for)


class TorchEngine(MapsByName):
    """See `tabrt.engines.engine.Engine`. Calls from several threads wait for each other."""

    name = "torch"

    def __init__(self, path: Path):
        path = checkpoint_file(path)
        if path.suffix.lower() == ".onnx":
            raise TabrtError(f"engine torch reads checkpoints, not {path.name}; give a .safetensors or .pth file")
        network, self.card = load_checkpoint(path)
        self.device = CPU
        self._where = "cpu"
        self._module: Deployed | None = Deployed(network).eval()
        self._launches: dict[int, Callable[[], tuple[torch.Tensor, ...]]] = {}  # on a GPU, by batch size
        self._lock = threading.Lock()

    def move(self, where: str, device: str) -> None:
        """Run on torch's device `where` from now on; `device` is its name."""
        with self._lock:
            self._module = self._module and self._module.to(where)
            self._where, self.device = where, device
            if where == "cuda":
                with capturing, _exact():
                    self._capture()

    def _capture(self) -> None:
        """The kernels of each batch size as one CUDA graph: started by themselves, each waits for Python."""
        module, size = self._module, self.card.crop_size
        assert module is not None
        self._crops = torch.zeros((MAX_BATCH, size, size, 3), dtype=torch.uint8, device=self._where)
        self._stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        try:
            for count in BATCH_SIZES:
                with torch.cuda.stream(self._stream):  # what a first run chooses or allocates cannot be captured
                    module(self._crops[:count])
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                    maps = module(self._crops[:count])
                self._launches[count] = _replayed(graph, maps)
        except RuntimeError as error:
            log.warning("CUDA graphs cannot be captured (%s); running without", first_line(error))
            self._launches = {}

    def _run(self, crops: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        with self._lock, _exact():
            if self._module is None:
                raise TabrtError("the engine is closed; load it again with load_engine")
            try:
                maps = dict(zip(OUTPUTS, self._maps(self._module, torch.from_numpy(crops)), strict=True))
                return tuple(maps[name].cpu().numpy() for name in outputs)
            except RuntimeError as error:
                raise TabrtError(f"the {self.device} failed while running: {first_line(error)}") from error

    def _maps(self, module: Deployed, crops: torch.Tensor) -> list[torch.Tensor]:
        if not self._launches:
            return list(module(crops.to(self._where)))
        count = len(crops)
        with torch.cuda.stream(self._stream):
            self._crops[:count].copy_(crops)
            maps = [part[:count] for part in self._launches[padded_size(count)]()]
        self._stream.synchronize()
        return maps

    def close(self) -> None:
        with self._lock:
            self._module = None
            self._launches = {}
            if self._where != "cpu":
                torch.cuda.empty_cache()


def _replayed(graph: torch.cuda.CUDAGraph, maps: tuple[torch.Tensor, ...]) -> Callable[[], tuple[torch.Tensor, ...]]:
    def launch() -> tuple[torch.Tensor, ...]:
        graph.replay()
        return maps

    return launch


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Without TF32, which has ten bits of mantissa: not the reference. The flag is per thread of execution."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
