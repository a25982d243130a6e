"""The set `empty`: pictures without a face, from which a network learns to be unsure there.

From pictures without people, random squares and those that a face detector mistakes for faces; from the face crops of
the other sets what lies beside the face, small parts of it, and faces whose parts are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from tabrt.detection import Detector
from tabrt.errors import TabrtError
from tabrt.geometry import Crop
from training.sets import CROP_SIDE, EMPTY, SHARED_SETS, FaceSet, coded, held_out, load_zip, write_zip

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_LARGEST = 800  # px: longer pictures are made smaller first
_FROM_FACES = 0.5  # share of the set
_MOST_OF_ONE = 6  # squares of one picture


def make_empty(
    root: Path, cache: Path, folders: list[Path], count: int, seed: int = 0, say: Callable[[str], None] = print
) -> Path:
    """Make about `count` pictures of 352 px without a face into cache/empty.zip.

    folders: of pictures that show no people; drawn and toy faces are welcome. Raises TabrtError where one has none.
    """
    rng = np.random.default_rng(seed)
    files = [path for folder in folders for path in pictures_of(folder)]
    made = list(_pieces(root, cache, round(count * _FROM_FACES) if files else count, rng))
    say(f"empty: {len(made)} beside faces and of them")
    detector = Detector()
    for path in rng.permutation(np.array(files, object)).tolist():
        if len(made) >= count:
            break
        made += [(path.stem, square) for square in _squares(path, detector, rng)]
    detector.close()
    say(f"empty: {len(made)} with those of pictures without people")
    write_zip(cache / EMPTY, _named(made))
    return cache / EMPTY


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder and of those in it, in order. Raises TabrtError where it has none."""
    if not folder.is_dir():
        raise TabrtError(f"{folder} is no folder; give folders of pictures that show no people")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not paths:
        raise TabrtError(f"{folder}: no picture in it; give folders of pictures that show no people")
    return paths


def _pieces(root: Path, cache: Path, count: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """(name, picture) of what lies beside faces, of parts of them, and of shuffled ones. No held-out face is used."""
    sets = [load_zip(root / f"{name}.zip", cache)[0] for name in SHARED_SETS]
    for number in range(count):
        faces = sets[int(rng.integers(len(sets)))]
        index = int(rng.integers(len(faces)))
        while held_out(faces.names[index : index + 1])[0]:
            index = int(rng.integers(len(faces)))
        piece = _PIECES[number % len(_PIECES)](faces, index, rng)
        if piece.std() > 8:  # else black beyond the photo, or a wall
            yield str(faces.names[index]), piece


def _beside(faces: FaceSet, index: int, rng: np.random.Generator) -> np.ndarray:
    """A corner or an edge of the picture that leaves out the face: hair, clothes, walls, hands."""
    image, points = faces.read(index), faces.points[index]
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    gaps = {"left": left, "right": CROP_SIDE - right, "top": top * 0.7, "bottom": CROP_SIDE - bottom}
    where = max(gaps, key=lambda name: gaps[name] * rng.uniform(0.7, 1.3))
    side = int(np.clip(gaps[where], 40, 150) * rng.uniform(0.8, 1.05))
    along = int(rng.integers(0, CROP_SIDE - side))
    x, y = {
        "left": (0, along), "right": (CROP_SIDE - side, along), "top": (along, 0), "bottom": (along, CROP_SIDE - side)
    }[where]  # fmt: skip
    return _resized(image[y : y + side, x : x + side])


def _part(faces: FaceSet, index: int, rng: np.random.Generator) -> np.ndarray:
    """A part of the face alone, far too near: an eye, a cheek, a mouth."""
    image, points = faces.read(index), faces.points[index]
    longer = float(np.ptp(points, axis=0).max())
    side = int(longer * rng.uniform(0.18, 0.38))
    x, y = (points[rng.integers(len(points))] - side / 2 + rng.normal(0, side / 6, 2)).astype(int)
    x, y = np.clip([x, y], 0, CROP_SIDE - side)
    return _resized(image[y : y + side, x : x + side])


def _shuffled(faces: FaceSet, index: int, rng: np.random.Generator) -> np.ndarray:
    """The picture cut into tiles that change places."""
    image, tiles = faces.read(index), int(rng.integers(3, 7))
    side = CROP_SIDE // tiles
    order = rng.permutation(tiles * tiles)
    out = np.empty((side * tiles, side * tiles, 3), np.uint8)
    for place, of in enumerate(order.tolist()):
        (y, x), (v, u) = divmod(place, tiles), divmod(of, tiles)
        tile = image[v * side : (v + 1) * side, u * side : (u + 1) * side]
        out[y * side : (y + 1) * side, x * side : (x + 1) * side] = np.rot90(tile, int(rng.integers(4)))
    return _resized(out)


_PIECES = (_beside, _beside, _part, _shuffled)


def _squares(path: Path, detector: Detector, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Squares of a picture: what a detector takes for faces first, then any."""
    image = _opened(path, rng)
    if image is None:
        return
    height, width = image.shape[:2]
    squares = [
        (box.centre, 1.25 * max(box.width, box.height)) for box in detector(image, _MOST_OF_ONE // 2, thorough=False)
    ]
    for _ in range(max(1, min(_MOST_OF_ONE, height * width // 100_000))):
        shorter = min(height, width)
        side = min(shorter, float(np.exp(rng.uniform(np.log(min(48, shorter)), np.log(shorter)))))
        squares.append(((rng.uniform(side / 2, width - side / 2), rng.uniform(side / 2, height - side / 2)), side))
    for centre, side in squares[:_MOST_OF_ONE]:
        yield Crop(centre, side, 0.0, size=CROP_SIDE).cut(image)[..., ::-1]


def _opened(path: Path, rng: np.random.Generator) -> np.ndarray | None:
    """A picture uint8 (H, W, 3) BGR, cut-outs on some colour; None for one that cannot be read, or is tiny."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or min(image.shape[:2]) < 32:
        return None
    factor = _LARGEST / max(image.shape[:2])
    if factor < 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    if image.dtype != np.uint8:  # of 16 bits
        image = (image / 257).astype(np.uint8)
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float32) / 255
        image = (image[..., :3] * alpha + rng.integers(0, 256, 3) * (1 - alpha)).astype(np.uint8)
    return image


def _resized(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_LINEAR)


def _named(made: list[tuple[str, np.ndarray]]) -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Those of one picture share a number, so that they stay on one side of training and validation."""
    sources = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in made))}
    none = np.full((98, 2), np.nan, np.float32)
    for number, (name, image) in enumerate(made):
        yield f"empty_{sources[name]:05}_{number}.webp", coded(image), none
