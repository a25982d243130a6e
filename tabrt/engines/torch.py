"""PyTorch, on CUDA or the CPU: float32, the reference that every other engine is compared with. Reads checkpoints."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from tabrt.engines.engine import checkpoint_file, in_batches
from tabrt.errors import EngineUnavailable, TabrtError, install_extra

try:
    import torch

    from tabrt.network.checkpoint import load_checkpoint
    from tabrt.network.deployed import Deployed
except ModuleNotFoundError as error:
    if (error.name or "").startswith("tabrt"):
        raise
    raise EngineUnavailable(f"engine torch needs {error.name}; {install_extra('export')}") from error


def load(path: Path, threads: int | None = None) -> TorchEngine:
    """Load a checkpoint, or the one of a shipped model. Raises TabrtError for any other file.

    threads: sets torch's CPU threads for the whole process.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchEngine(path)


class TorchEngine:
    """See `tabrt.engines.engine.Engine`. Calls from several threads wait for each other."""

    name = "torch"

    def __init__(self, path: Path):
        path = checkpoint_file(path)
        if path.suffix.lower() == ".onnx":
            raise TabrtError(f"engine torch reads checkpoints, not {path.name}; give a .safetensors or .pth file")
        network, self.card = load_checkpoint(path)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._module: Deployed | None = Deployed(network).eval().to(self.device)
        self._lock = threading.Lock()

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return self.both(crops)[0]

    def boundaries(self, crops: np.ndarray) -> np.ndarray:
        return self.both(crops)[1]

    def both(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        landmarks, boundaries = in_batches(self._run, crops, self.card)
        return landmarks, boundaries

    def _run(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # TF32 has ten bits of mantissa: not the reference. The flag is per thread of execution, so set around each run.
        with self._lock, torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            if self._module is None:
                raise TabrtError("the engine is closed; load it again with load_engine")
            landmarks, boundaries = self._module(torch.from_numpy(batch).to(self.device))
            return landmarks.cpu().numpy(), boundaries.cpu().numpy()

    def close(self) -> None:
        with self._lock:
            self._module = None
