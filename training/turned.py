"""The set `turned`: portraits of the other sets turned to half and full profiles, made ahead into a zip like theirs."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tabrt.errors import TabrtError
from tabrt.files import write_atomically
from training.sets import MISLABELLED, TURNED, FaceSet, coded, load_zip, write_zip
from training.turning import Shape, turn, yaw_of

_MESHED = {"human": 0.50, "video": 0.10, "facemask": 0.12, "utkface": 0.10, "allage": 0.18}  # share of the faces made
_FRONTAL = 10.0  # degrees: a face within is turned to either side, any other only further to its own
_BLOCK = 100  # faces made between saves
_ANCHORS = {4: 54, 152: 16, 61: 76, 291: 82, 33: 60, 263: 72}  # mesh vertex -> the wflw98 point on the same spot
_MISFIT = 12.0  # px: mean distance of those above which a mesh is not that of its face


@dataclass(frozen=True)
class Turn:
    """One face to be made: face `index` of a set, and the angles in degrees."""

    set: str
    index: int
    yaw: float
    pitch: float


def make_turned(root: Path, cache: Path, count: int, seed: int = 0, say: Callable[[str], None] = print) -> Path:
    """Make about `count` turned faces of the zips under root and their meshes.npz into cache/turned.zip.

    A run that was stopped goes on where it was. Raises TabrtError for a missing or wrong file.
    """
    sets = {name: load_zip(root / f"{name}.zip", cache)[0] for name in _MESHED}
    meshes, shape = load_meshes(root / "meshes.npz")
    turns = plan_turns(sets, meshes, count, seed)
    parts = cache / f"turned-{len(turns)}-{seed}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(turns), _BLOCK):
        part = parts / f"{first:06}.npz"
        if not part.is_file():
            _write_part(part, turns[first : first + _BLOCK], sets, meshes, shape)
        say(f"turned: {min(first + _BLOCK, len(turns))} of {len(turns)}")
    path = cache / TURNED
    write_zip(path, _faces_in(sorted(parts.glob("*.npz"))))
    shutil.rmtree(parts)
    return path


def load_meshes(path: Path) -> tuple[dict[str, np.ndarray], Shape]:
    """The meshes (N, 478, 3) by set, NaN where no face was found, and their shape."""
    try:
        with np.load(path, allow_pickle=False) as file:
            meshes = {name: file[name] for name in _MESHED}
            shape = Shape(file["triangles"].astype(int), int(file["surface"]), file["oval"].astype(int))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TabrtError(f"{path}: not the meshes of the faces ({error}); put meshes.npz beside their zips") from None
    return meshes, shape


def plan_turns(sets: dict[str, FaceSet], meshes: dict[str, np.ndarray], count: int, seed: int) -> list[Turn]:
    """Which faces are turned, and how far: two thirds beyond 50°. A function of the data and the seed alone."""
    turns = []
    for number, (name, share) in enumerate(_MESHED.items()):
        rng = np.random.default_rng((seed, number))
        faces, mesh = sets[name], meshes[name]
        good = np.flatnonzero(fits(mesh, faces.points) & ~np.isin(faces.names, MISLABELLED))
        for index in rng.permutation(good)[: round(share * count)].tolist():
            yaw = yaw_of(mesh[index].astype(float))
            side = rng.choice((-1, 1)) if abs(yaw) < _FRONTAL else np.sign(yaw)
            by = rng.uniform(50, 80) if rng.random() < 2 / 3 else rng.uniform(20, 50)
            turns.append(Turn(name, index, float(side * by), float(np.clip(rng.normal(0, 9), -20, 20))))
    return turns


def fits(meshes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) bool: whether each mesh lies where the labels are."""
    vertices, marks = (list(part) for part in (_ANCHORS, _ANCHORS.values()))
    away = np.linalg.norm(meshes[:, vertices, :2].astype(np.float32) - points[:, marks], axis=2)
    return away.mean(axis=1) < _MISFIT  # NaN is none


def _write_part(
    path: Path, turns: list[Turn], sets: dict[str, FaceSet], meshes: dict[str, np.ndarray], shape: Shape
) -> None:
    names, points, pictures = [], [], []
    for item in turns:
        faces = sets[item.set]
        mesh = meshes[item.set][item.index].astype(np.float64)
        image, moved = turn(faces.read(item.index), mesh, faces.points[item.index], shape, item.yaw, item.pitch)
        names.append(f"turned_{item.set}_{faces.names[item.index]}")
        points.append(moved)
        pictures.append(coded(image))
    memory = io.BytesIO()
    lengths = np.array([len(blob) for blob in pictures])
    together = np.frombuffer(b"".join(pictures), np.uint8)
    np.savez(memory, image=np.array(names), points98=np.stack(points), lengths=lengths, coded=together)
    write_atomically(path, memory.getvalue())


def _faces_in(parts: list[Path]) -> Iterator[tuple[str, bytes, np.ndarray]]:
    for part in parts:
        with np.load(part, allow_pickle=False) as file:
            blobs = np.split(file["coded"], np.cumsum(file["lengths"])[:-1])
            for name, blob, points in zip(file["image"], blobs, file["points98"], strict=True):
                yield str(name), blob.tobytes(), points
