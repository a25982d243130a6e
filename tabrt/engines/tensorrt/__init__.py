"""TensorRT on an NVIDIA card. A checkpoint is compiled once for the card at hand, and kept in a cache.

building compiles a network, by Torch-TensorRT; running runs what was compiled, by TensorRT itself; judging compares it
with float32; cache keeps it, or that it was refused; opening makes an engine of them. Whatever touches the GPU is in
`runtime.CudaRuntime`: all else can be tried on any machine with a stand-in for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tabrt.errors import EngineUnavailable, install_extra
from tabrt.hardware import cache_folder

if TYPE_CHECKING:
    from tabrt.engines.engine import Engine
    from tabrt.engines.tensorrt.cache import Cache
    from tabrt.engines.tensorrt.judging import Built
    from tabrt.engines.tensorrt.runtime import CudaRuntime


def load(path: Path, threads: int | None = None, device: str = "gpu") -> Engine:
    """Load an engine file, or compile a checkpoint (once: the engine is cached). `threads` plays no part here.

    Raises EngineUnavailable without driver, GPU or packages, and for a model that was refused; TabrtError for a file
    that cannot be used.
    """
    return _open(path, compiling=True)


def load_cached(path: Path) -> Engine:
    """`load`, but only what is compiled already. Raises EngineUnavailable for anything else."""
    return _open(path, compiling=False)


def is_cached(path: Path) -> bool:
    """Whether a checkpoint was compiled on this machine before. Costs milliseconds: nothing is imported or opened."""
    from tabrt.engines.engine import checkpoint_file
    from tabrt.engines.tensorrt.cache import Cache

    try:
        return Cache(cache_folder()).holds(checkpoint_file(path))
    except EngineUnavailable:
        return False


def export_engine(checkpoint: Path, out: Path, precision: str) -> Built:
    """Compile a checkpoint and write the engine to a file for this machine. Raises TabrtError."""
    from tabrt.engines.tensorrt import opening  # torch, an extra

    return opening.export_engine(checkpoint, out, precision, *here())


def _open(path: Path, compiling: bool) -> Engine:
    runtime, cache = here()
    from tabrt.engines.tensorrt import opening

    return opening.open_engine(path, runtime, cache, compiling)


def here() -> tuple[CudaRuntime, Cache]:
    """The runtime and the cache of this machine."""
    from tabrt.engines.gpu import require_library
    from tabrt.engines.tensorrt.cache import Cache

    require_library("tensorrt")  # first of all: an old card or driver, or no package, costs no second
    try:
        from tabrt.engines.tensorrt.runtime import CudaRuntime
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tabrt"):
            raise
        raise EngineUnavailable(f"engine tensorrt needs {error.name}; {install_extra('cuda')}") from error
    cache = Cache(cache_folder())
    return CudaRuntime(cache), cache
