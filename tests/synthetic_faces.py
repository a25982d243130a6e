"""Drawn faces with known points, and labelled real ones where the shared folder is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from tabrt.geometry import Crop
from tabrt.topology import WFLW98, Topology
from training.sets import FaceSet, load_zip

SHARED = Path(__file__).parents[1].parent / "shared" / "faces"


def drawn_points(topology: Topology = WFLW98) -> np.ndarray:
    """The points (L, 2) of a plain face in a picture of 320×320 px."""
    points = np.zeros((98, 2))
    points[:33] = _arc((160, 150), (95, 115), np.linspace(np.pi, 0, 33))
    for first, x, order in ((33, 115, 1), (42, 205, -1)):
        upper = np.stack([np.linspace(x - 28, x + 28, 5), [108, 102, 100, 102, 106][::order]], axis=1)
        lower = (upper[1:] if order == 1 else upper[:-1]) + np.array([0, 8])
        points[first : first + 9] = np.concatenate([upper, lower[::-1]])
    points[51:55] = np.stack([np.full(4, 160), np.linspace(130, 180, 4)], axis=1)
    points[55:60] = np.stack([np.linspace(142, 178, 5), [188, 193, 195, 193, 188]], axis=1)
    for first, x in ((60, 120), (68, 200)):
        points[first : first + 8] = _arc((x, 135), (18, 8), np.pi - np.linspace(0, 2 * np.pi, 9)[:8] * -1)
    points[76:88] = _arc((160, 222), (32, 14), np.pi + np.linspace(0, 2 * np.pi, 13)[:12])
    points[88:96] = _arc((160, 222), (24, 6), np.pi + np.linspace(0, 2 * np.pi, 9)[:8])
    points[96], points[97] = (120, 135), (200, 135)
    return points if topology is WFLW98 else points[: topology.points]


def _arc(centre, radii, angles) -> np.ndarray:
    return np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], axis=1)


def draw(points: np.ndarray, side: int = 320) -> np.ndarray:
    """A picture uint8 (side, side, 3) of a face with these 98 points."""
    image = np.full((side, side, 3), 70, np.uint8)
    outline = np.concatenate([points[:33], points[[46, 42, 37, 33]] - (0, 45)])
    cv2.fillPoly(image, [np.int32(outline)], (150, 180, 220), cv2.LINE_AA)
    for part, colour in (
        (points[33:42], (40, 50, 60)),
        (points[42:51], (40, 50, 60)),
        (points[60:68], (250, 250, 250)),
        (points[68:76], (250, 250, 250)),
        (points[76:88], (80, 80, 200)),
        (points[88:96], (20, 10, 60)),
    ):
        cv2.fillPoly(image, [np.int32(part * 16)], colour, cv2.LINE_AA, shift=4)
    for line in (points[51:55], points[55:60]):
        cv2.polylines(image, [np.int32(line * 16)], False, (90, 110, 150), 2, cv2.LINE_AA, shift=4)
    for pupil in points[96:98]:
        cv2.circle(image, [round(float(v) * 16) for v in pupil], 5 * 16, (60, 40, 20), -1, cv2.LINE_AA, shift=4)
    return image


@dataclass(frozen=True, eq=False)
class Pictures:
    """Reads picture i from memory."""

    images: np.ndarray

    def __call__(self, i: int) -> np.ndarray:
        return self.images[i]


def drawn_faces(count: int = 8, name: str = "drawn") -> FaceSet:
    """Drawn faces of different sizes, places and turns."""
    rng = np.random.default_rng(7)
    points = []
    for _ in range(count):
        crop = Crop(
            (160 + rng.uniform(-15, 15), 160 + rng.uniform(-15, 15)), rng.uniform(280, 400), rng.uniform(-0.3, 0.3)
        )
        points.append(crop.to_crop(drawn_points()) * 1.25)
    names = np.array([f"face{i}" for i in range(count)])
    images = np.stack([draw(p) for p in points])
    return FaceSet(name, WFLW98, names, np.array(points, np.float32), Pictures(images))


def real_faces(tmp_path: Path, count: int = 8) -> FaceSet:
    """Human-labelled faces of the shared folder; skips the test without it."""
    if not (SHARED / "human.zip").is_file():
        pytest.skip("the labelled faces of ../shared are not here")
    import io
    import zipfile

    with zipfile.ZipFile(SHARED / "human.zip") as archive:
        labels = np.load(io.BytesIO(archive.read("labels.npz")))
        small = tmp_path / "few.zip"
        with zipfile.ZipFile(small, "w") as out:
            memory = io.BytesIO()
            np.savez(memory, **{key: labels[key][:count] for key in labels.files})
            out.writestr("labels.npz", memory.getvalue())
            for face in labels["image"][:count]:
                out.writestr(f"images/{face}", archive.read(f"images/{face}"))
    return load_zip(small, tmp_path)[0]
