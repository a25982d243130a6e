"""filterpy's KalmanFilter, from its own file alone.

`import filterpy` imports all of itself, and scipy with it: half of the time that a command takes to start. The filter
needs four names of the rest: two helpers, which have a file of their own, and logpdf for a likelihood that nobody asks
for here, and which is had all the same. So its file is run with an import statement of its own. Nothing outside this
module sees that: sys.modules and whoever imports filterpy are left as they are.
"""

from __future__ import annotations

import builtins
import importlib.util
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tabrt.errors import TabrtError


def _run(file: Path, instead: Mapping[str, Any]) -> ModuleType:
    """The module in a file, run with other things in the place of what it imports."""

    def import_(name: str, *rest: Any, **options: Any) -> Any:
        return instead[name] if name in instead else builtins.__import__(name, *rest, **options)

    loader = SourceFileLoader(f"{__name__}.{file.stem}", str(file))
    module = ModuleType(loader.name)
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_}
    loader.exec_module(module)
    return module


def _logpdf(*arguments: Any, **options: Any) -> Any:
    from filterpy.stats import logpdf

    return logpdf(*arguments, **options)


def _kalman_filter() -> type:
    package = importlib.util.find_spec("filterpy")
    if package is None or package.origin is None:
        raise TabrtError("filterpy is not installed; install tabrt again")
    folder = Path(package.origin).parent
    helpers = _run(folder / "common" / "helpers.py", {})
    instead = {"filterpy.stats": SimpleNamespace(logpdf=_logpdf), "filterpy.common": helpers}
    return _run(folder / "kalman" / "kalman_filter.py", instead).KalmanFilter


KalmanFilter = _kalman_filter()


class BlockFilter(KalmanFilter):  # type: ignore[misc, valid-type]
    """filterpy's filter of B blocks that know nothing of each other, each a position and its velocity.

    What filterpy does with block-diagonal matrices, without the products with the zeros between the blocks. All numbers
    of a block share one covariance. `x` is (2, N): positions, then velocities, of the N numbers. `P` is (3, B): the
    variance of a block's positions, its covariance with that of the velocities, and the variance of those.
    """

    def __init__(self, positions: np.ndarray, blocks: np.ndarray, variances: np.ndarray):
        """positions: (N,), which may be complex. blocks: (N,) the block of each. variances: (B,) at the start."""
        count = len(variances)
        super().__init__(dim_x=2 * count, dim_z=count)
        self.blocks = blocks
        self.x = np.stack([positions, np.zeros_like(positions)])
        self.P = np.stack([variances, np.zeros(count), variances])

    def predict(self, step: float, kept: np.ndarray, drift: np.ndarray) -> None:
        """Move on by `step` seconds. Of each block (B,): the share of a velocity that is kept, and the spectral density
        of the white noise that its acceleration is.
        """
        position, velocity = self.x
        velocity *= kept[self.blocks]
        position += step * velocity
        variance, covariance, speed = self.P
        covariance *= kept
        speed *= kept * kept
        forward = step * speed
        variance += step * (2 * covariance + forward)
        covariance += forward
        self.P += np.array([[step**3 / 3], [step**2 / 2], [step]]) * drift

    def update(self, innovation: np.ndarray, noise: np.ndarray) -> None:
        """Take in how far measured positions (N,) lie from the predicted ones; their noise has variances (B,)."""
        variances, speed = self.P[:2], self.P[2]
        gain = self.K = variances / (variances[0] + noise)
        self.y = innovation
        self.x += gain.take(self.blocks, axis=1) * innovation
        speed -= gain[1] * variances[1]
        variances *= 1 - gain[0]
