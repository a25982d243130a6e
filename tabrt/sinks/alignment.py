"""Faces upright and of one size, as other programs take them, and back into their pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np

from tabrt.errors import TabrtError
from tabrt.faces import Face, Frame
from tabrt.geometry import Crop
from tabrt.topology import IBUG68, WFLW98, Topology, to_68

Alignment = Literal["plain", "ffhq", "arcface"]
ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)
SIZES = {"plain": 256, "ffhq": 512, "arcface": 112}  # px, unless told
LEAST, MOST = 16, 4096  # px
MARGIN = 0.25  # face sides around the points, of plain crops

# Where eyes, nose tip and corners of the mouth lie in a picture of 112×112 px, in its left to right: the template of
# ArcFace (Deng et al. 2019) as InsightFace publishes it, after SphereFace.
ARCFACE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])
EDGE = 0.06  # of a crop's side, over which it is blended when it is put back


def align(
    points: np.ndarray,
    alignment: Alignment = "plain",
    size: int | None = None,
    margin: float = MARGIN,
    topology: Topology = WFLW98,
    pixel_aspect: float = 1.0,
) -> Crop:
    """The square of a picture that shows a face with points (L, 2), frame px, upright in `size` px.

    plain: upright by eyes and mouth, `margin` sides of the points' box around it. ffhq: as the faces of FFHQ are cut
    (Karras et al. 2019, by eyes and mouth). arcface: the similarity that brings five points nearest to ArcFace's
    template, as InsightFace does it; sizes are multiples of 112 or 128. `crop.cut(image)` gives the picture, RGB.

    Raises TabrtError for a size that cannot be, a scheme without the points it takes, points that are not finite.
    """
    size = checked_size(alignment, size)
    if not np.isfinite(points).all():
        raise TabrtError("the points of a face to be cut out are not all finite; leave it out")
    square = np.asarray(points, np.float64) * (pixel_aspect, 1.0)
    if alignment == "plain":
        crop = Crop.following(square, topology.roll(square), 1 + 2 * margin, size)
    elif alignment == "ffhq":
        crop = _ffhq(square, topology, size)
    else:
        crop = _arcface(square, topology, size)
    x, y = crop.centre
    return Crop((x / pixel_aspect, y), crop.side, crop.roll, pixel_aspect, size)


def checked_size(alignment: Alignment, size: int | None) -> int:
    """The size of crops, px. Raises TabrtError for one that they cannot have, and for an alignment that is none."""
    if alignment not in ALIGNMENTS:
        raise TabrtError(f"there is no alignment {alignment!r}; choose {', '.join(ALIGNMENTS)}")
    if size is None:
        return SIZES[alignment]
    if alignment == "arcface" and size % 112 and size % 128:
        raise TabrtError(f"ArcFace's crops have a side that is a multiple of 112 or 128 px, not {size}")
    if not LEAST <= size <= MOST:
        raise TabrtError(f"a crop's side is {size} px; it can be {LEAST} to {MOST}")
    return size


def check_topology(topology: Topology) -> None:
    """Raise TabrtError for a scheme of points that tells no nose tip and no corners of the mouth."""
    if not {"nose bridge", "outer lip upper"} <= topology.boundaries.keys():
        raise TabrtError(f"crops need points of the nose and the mouth's corners, which {topology.name} lacks")


def put_back(image: np.ndarray, cut: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A picture, uint8 (H, W, 3), with a crop of it laid where it was, changed or not, and a soft edge inside of it.

    cut: uint8 (S, S, 3), its colours in the order of the picture's. matrix: (2, 3), frame px to crop px, as landmark
    files have it and `Crop.matrix` gives it.
    """
    height, width = image.shape[:2]
    size = cut.shape[0]
    inside = np.minimum(np.arange(size), np.arange(size)[::-1]) / max(1.0, EDGE * size)
    mask = np.clip(np.minimum.outer(inside, inside), 0, 1).astype(np.float32)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = np.asarray(matrix, np.float64)
    laid = cv2.warpAffine(cut, matrix, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(mask, matrix, (width, height), flags=how)[..., None]
    whole: np.ndarray = np.round(image * (1 - alpha) + laid * alpha).astype(np.uint8)
    return whole


@dataclass(frozen=True)
class Aligning:
    """How the faces of a run are cut out: `aligning(face, frame)` gives the Crop."""

    topology: Topology
    alignment: Alignment = "plain"
    size: int | None = None
    margin: float = MARGIN

    def __post_init__(self) -> None:
        checked_size(self.alignment, self.size)
        check_topology(self.topology)

    def __call__(self, face: Face, frame: Frame) -> Crop:
        return align(face.points, self.alignment, self.size, self.margin, self.topology, frame.pixel_aspect)

    def cut(self, face: Face, frame: Frame) -> np.ndarray:
        """The face, uint8 (size, size, 3) BGR."""
        beyond = cv2.BORDER_REFLECT_101 if self.alignment == "ffhq" else cv2.BORDER_CONSTANT
        return cv2.cvtColor(self(face, frame).cut(frame.image, border=beyond), cv2.COLOR_RGB2BGR)

    @property
    def told(self) -> dict[str, Any]:
        """What the header of a landmark file says of crops."""
        return {"alignment": self.alignment, "size": checked_size(self.alignment, self.size)}


def _ffhq(points: np.ndarray, topology: Topology, size: int) -> Crop:
    """The square of FFHQ's preparation: https://github.com/NVlabs/ffhq-dataset, `recreate_aligned_images`."""
    if topology is WFLW98:
        points, topology = to_68(points), IBUG68
    left, right = points[list(topology.left_eye)].mean(axis=0), points[list(topology.right_eye)].mean(axis=0)
    lip = topology.boundaries["outer lip upper"]
    eyes, mouth = (left + right) / 2, (points[lip[0]] + points[lip[-1]]) / 2
    across, down = right - left, mouth - eyes
    roll = math.atan2(across[1] - down[0], across[0] + down[1])
    half = max(2.0 * float(np.hypot(*across)), 1.8 * float(np.hypot(*down)), 1e-6)
    x, y = (eyes + 0.1 * down).tolist()
    return Crop((x, y), 2 * half, roll, size=size)


def _arcface(points: np.ndarray, topology: Topology, size: int) -> Crop:
    """The similarity of least squares (Umeyama 1991) from five points to the template, as a crop."""
    lip = topology.boundaries["outer lip upper"]
    eyes = [points[list(eye)].mean(axis=0) for eye in (topology.left_eye, topology.right_eye)]
    source = np.stack([*eyes, points[topology.boundaries["nose bridge"][-1]], points[lip[0]], points[lip[-1]]])
    # As InsightFace scales it: the wider picture of 128 px has 8 px more on either side.
    wide = size % 112 != 0
    target = ARCFACE * (size / (128 if wide else 112)) + ((8 * size / 128, 0) if wide else (0, 0))
    one, other = (each @ np.array([1, 1j]) for each in (source, target))
    arms, goals = one - one.mean(), other - other.mean()
    turn = (arms.conj() @ goals) / max(float((np.abs(arms) ** 2).sum()), 1e-12)
    turn = turn or 1e-6
    middle = one.mean() + ((size - 1) / 2 * (1 + 1j) - other.mean()) / turn
    return Crop((middle.real, middle.imag), size / abs(turn), -float(np.angle(turn)), size=size)
