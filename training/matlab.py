"""Arrays and pictures from Matlab's .mat files: old ones by scipy, those of version 7.3 by h5py. Neither runs code."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from tabrt.errors import TabrtError

T = TypeVar("T")


def load_matlab(path: Path, key: str) -> np.ndarray:
    """One array of a .mat file, its axes in Matlab's order. Raises TabrtError naming the file and the key."""
    if _is_hdf5(path):
        return _opened(path, lambda file: _transposed(_entry(file, path, key)[()]))
    return _entry(_old(path), path, key)


def read_matlab_picture(path: Path, key: str, i: int) -> np.ndarray:
    """Picture i of a cell array of pictures, as uint8 (H, W, 3) BGR."""
    if _is_hdf5(path):
        picture = _opened(path, lambda file: _transposed(file[_cell(_entry(file, path, key)[()], path, key, i)][()]))
    else:
        picture = _cell(_kept(path, key), path, key, i)
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise TabrtError(f"{path}: {key}{{{i + 1}}} is {picture.dtype} {picture.shape}; expected a picture of uint8")
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    return np.ascontiguousarray(picture[..., ::-1])


def _cell(cells: np.ndarray, path: Path, key: str, i: int):
    cells = cells.ravel()
    if i >= len(cells):
        raise TabrtError(f"{path}: {key} has {len(cells)} pictures; expected more than {i}")
    return cells[i]


def _transposed(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).T  # HDF5 keeps Matlab's columns as rows


def _entry(file, path: Path, key: str):
    if key not in file:
        found = ", ".join(name for name in list(file)[:8] if not name.startswith("__"))
        raise TabrtError(f"{path}: no {key} in it (it has {found}); expected the data set's own file")
    return file[key]


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise TabrtError(f"{path}: {error.strerror}; fetch the data set again") from None
    return b"\x89HDF\r\n\x1a\n" in start  # at byte 512 in Matlab's files, 0 in others'


def _opened(path: Path, read: Callable[..., T]) -> T:
    try:
        import h5py
    except ImportError:
        raise TabrtError(f"{path} is of Matlab 7.3; to read it: pip install h5py") from None
    try:
        with h5py.File(path, "r") as file:
            return read(file)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise TabrtError(f"{path}: damaged ({error}); fetch it again") from None


def _old(path: Path) -> dict:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise TabrtError(f"{path} is a Matlab file; to read it: pip install scipy") from None
    try:
        return loadmat(path)
    except Exception as error:  # whatever a damaged file can raise
        raise TabrtError(f"{path}: not a Matlab file, or damaged ({error}); fetch it again") from None


@lru_cache(maxsize=2)
def _kept(path: Path, key: str) -> np.ndarray:
    return _entry(_old(path), path, key)
