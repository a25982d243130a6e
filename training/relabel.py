"""Labels bettered by a network of ours: its points, averaged over flips, scales and turns, beside the old ones."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tabrt.engines import Engine
from tabrt.errors import TabrtError
from tabrt.files import write_atomically
from tabrt.geometry import Crop
from tabrt.heatmaps import decode
from tabrt.topology import topology_named
from training.augment import truth_crop
from training.sets import FaceSet

_VIEWS = ((0.92, -10.0), (1.0, 0.0), (1.08, 10.0))  # factor on the crop's side, degrees of roll
_MAX_BYTES = 2**28


def relabelled(faces: FaceSet, engine: Engine, weight: float, say: Callable[[str], None] = print) -> np.ndarray:
    """New points (N, L, 2): `weight` of the network's mean and the rest the old points, each weighed by confidence.

    Where the network is not sure of a point its old label keeps more of its say; an unlabelled one stays so.
    """
    topology = topology_named(engine.card.topology)
    if topology is not faces.topology:
        raise TabrtError(f"the model has {topology.name} points and {faces.name} {faces.topology.name}; use another")
    out = np.empty_like(faces.points)
    for i in range(len(faces)):
        mean, sure = mean_points(engine, faces.read(i), faces.points[i], topology.mirror)
        share = (weight * sure)[:, None]
        out[i] = share * mean + (1 - share) * faces.points[i]
        if i % 200 == 199 or i == len(faces) - 1:
            say(f"{faces.name}: {i + 1} of {len(faces)}")
    return out


def mean_points(
    engine: Engine, image: np.ndarray, points: np.ndarray, mirror: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of an engine's points (L, 2), in image px, over varied crops and their mirror images; its confidence."""
    size = engine.card.crop_size
    crops = list(_views(replace(truth_crop(points, engine.card.crop_margin), size=size)))
    pixels = np.stack([crop.cut(image) for crop in crops])
    both = np.concatenate([pixels, pixels[:, :, ::-1]])
    found, sure = decode(engine(both), engine.card.decoding, engine.card.offset)
    count = len(crops)
    found[count:] = found[count:, mirror] * (-1, 1) + (size - 1, 0)
    sure[count:] = sure[count:, mirror]
    moved = np.stack([crop.to_frame(p) for crop, p in zip(crops * 2, found, strict=True)])
    weights = sure[..., None] + 1e-6
    return (moved * weights).sum(axis=0) / weights.sum(axis=0), sure.mean(axis=0)


def _views(crop: Crop) -> Iterator[Crop]:
    for side, roll in _VIEWS:
        yield replace(crop, side=crop.side * side, roll=crop.roll + float(np.deg2rad(roll)))


def write_labels(path: Path, labels: dict[str, np.ndarray]) -> None:
    """Points by set, as an .npz."""
    memory = io.BytesIO()
    np.savez_compressed(memory, **labels)  # type: ignore[arg-type]
    write_atomically(path, memory.getvalue())


def with_labels(sets: dict[str, FaceSet], path: Path) -> dict[str, FaceSet]:
    """The sets with the points of an .npz by `write_labels`. Raises TabrtError for one that does not fit them."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            labels = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TabrtError(f"{path}: not an .npz of labels ({error}); make it by `python -m training relabel`") from None
    for name, points in labels.items():
        if name not in sets or points.shape != sets[name].points.shape:
            expected = sets[name].points.shape if name in sets else f"one of {', '.join(sets)}"
            raise TabrtError(f"{path}: {name} {points.shape} does not fit the data; expected {expected}")
    return {
        name: replace(faces, points=labels[name].astype(np.float32)) if name in labels else faces
        for name, faces in sets.items()
    }
