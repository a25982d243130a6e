"""Augmentation: one warp, then light, blur, noise and cover. All randomness comes from the generator passed in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from tabrt.geometry import CROP_SIZE, Box, Crop
from tabrt.topology import Topology
from training import effects


@dataclass(frozen=True)
class Augmentation:
    """How far a training crop may stray. Probabilities in 0…1; angles in degrees; shifts as shares of the crop."""

    flip: float = 0.5
    rotate: float = 0.6
    rotation: float = 60.0
    scale: float = 0.25
    shift: float = 0.0
    cover: float = 0.5  # paper: coarse dropout, 20 % of the cells of a grid of 2 % of the pixels
    patches: float = 0.0  # one large patch: flat, noisy, or from another place in the picture
    brightness: float = 0.5  # ×0.5–1.5 and ±25
    tone: float = 0.0  # contrast, gamma, colour cast, grey
    blur: float = 0.0  # soft focus, motion, lost resolution
    compression: float = 0.0  # JPEG and sensor noise
    all_round: float = 0.0  # turned by any angle: a hanging camera shows heads upside down
    light: float = 0.0  # a single hue, posterised, stage lights, hardly any light
    grain: float = 0.0  # strong noise
    distance: float = 0.0  # a face of 25 to 50 px
    motion: float = 0.0  # a long blur along a line
    sheets: float = 0.0  # half of it behind a straight edge
    hands: float = 0.0  # a hand or a microphone over it
    strangers: float = 0.0  # a part of another face over it
    glasses: float = 0.0  # sunglasses


PAPER = Augmentation()
STRONG = Augmentation(
    rotation=50.0, scale=0.2, shift=0.07, cover=0.1, patches=0.35, brightness=0.3, tone=0.5, blur=0.25, compression=0.25
)
MILD = Augmentation(
    rotate=0.5, rotation=45.0, scale=0.15, shift=0.06, cover=0.05, patches=0.25, brightness=0.25, tone=0.4, blur=0.2,
    compression=0.2,
)  # fmt: skip
# What tab1-lite's hard faces have: coloured and hardly any light, blur, noise, few pixels, covers, any turn.
HARD = Augmentation(
    rotation=50.0, scale=0.2, shift=0.07, cover=0.05, patches=0.2, brightness=0.25, tone=0.4, blur=0.15,
    compression=0.2, all_round=0.12, light=0.15, grain=0.07, distance=0.10, motion=0.06, sheets=0.06, hands=0.10,
    strangers=0.05, glasses=0.05,
)  # fmt: skip

# Between both: portraits as they mostly are, and still some of what is hard.
FIRM = replace(
    HARD, rotate=0.5, rotation=45.0, scale=0.15, shift=0.06, compression=0.15, all_round=0.06, light=0.08, grain=0.04,
    distance=0.05, motion=0.03, sheets=0.05, hands=0.06, strangers=0.03, glasses=0.03,
)  # fmt: skip


def training_crop(
    image: np.ndarray,
    points: np.ndarray,
    topology: Topology,
    how: Augmentation,
    rng: np.random.Generator,
    margin: float = 1.25,
    box: np.ndarray | None = None,
    other: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A crop uint8 (256, 256, 3) RGB and its points (L, 2) in crop px, of image (H, W, 3) BGR and points in its px.

    other: another picture, a part of which is to cover the face.
    """
    crop = _stray(truth_crop(points, margin, box), how, rng)
    pixels, moved = crop.cut(image), crop.to_crop(points)
    if rng.random() < how.flip:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        moved = moved[topology.mirror] * (-1, 1) + (CROP_SIZE - 1, 0)
    pixels = _spoil(pixels, how, rng)
    return _harden(pixels, moved, topology, how, rng, other), moved.astype(np.float32)


def truth_crop(points: np.ndarray, margin: float = 1.25, box: np.ndarray | None = None) -> Crop:
    """The crop of the labelled points' box, or of the list's own box (4,)."""
    labelled = points[np.isfinite(points).all(axis=1)]
    return Crop.around(Box.of(labelled) if box is None else Box(*map(float, box)), margin)


def _stray(crop: Crop, how: Augmentation, rng: np.random.Generator) -> Crop:
    side = crop.side * (1 + rng.uniform(-how.scale, how.scale))
    x, y = np.asarray(crop.centre) + rng.uniform(-how.shift, how.shift, 2) * side
    turned = rng.random() < how.rotate
    roll = np.deg2rad(rng.uniform(-how.rotation, how.rotation)) if turned else 0.0
    if how.all_round and rng.random() < how.all_round:
        roll = rng.uniform(-np.pi, np.pi)
    return Crop((float(x), float(y)), float(side), crop.roll + float(roll))


def _spoil(pixels: np.ndarray, how: Augmentation, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < how.patches:
        pixels = _patch(pixels, rng)
    if rng.random() < how.cover:
        pixels = _coarse_dropout(pixels, rng)
    if rng.random() < how.tone:
        pixels = _tone(pixels, rng)
    if rng.random() < how.brightness:
        pixels = cv2.convertScaleAbs(pixels, alpha=rng.uniform(0.5, 1.5), beta=rng.uniform(-25, 25))
    if rng.random() < how.blur:
        pixels = _blur(pixels, rng)
    if rng.random() < how.compression:
        pixels = _compress(pixels, rng)
    return pixels


def _harden(
    pixels: np.ndarray,
    points: np.ndarray,
    topology: Topology,
    how: Augmentation,
    rng: np.random.Generator,
    other: np.ndarray | None,
) -> np.ndarray:
    """What covers the face, then the light on both, then what the camera makes of it."""
    if rng.random() < how.glasses:
        pixels = effects.sunglasses(pixels, points, topology, rng)
    if how.sheets and rng.random() < how.sheets:
        pixels = effects.sheet(pixels, points, rng)
    if rng.random() < how.hands:
        pixels = effects.hand(pixels, points, rng)
    if other is not None:
        pixels = effects.stranger(pixels, other, rng)
    if rng.random() < how.light:
        pixels = effects.hard_light(pixels, rng)
    if rng.random() < how.motion:
        pixels = effects.moving(pixels, rng)
    if rng.random() < how.grain:
        pixels = effects.noisy(pixels, rng)
    if rng.random() < how.distance:
        pixels = effects.far_away(pixels, rng)
    return pixels


def _coarse_dropout(pixels: np.ndarray, rng: np.random.Generator, share: float = 0.2, size: float = 0.02) -> np.ndarray:
    cells = max(2, round(CROP_SIZE * size))
    kept = (rng.random((cells, cells)) >= share).astype(np.uint8)
    return pixels * cv2.resize(kept, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_NEAREST)[..., None]


def _patch(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cover a part as a hand, hair or a mug would: a filled ellipse or bar of a flat, noisy or borrowed texture."""
    mask = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
    centre = rng.integers(20, CROP_SIZE - 20, 2).tolist()
    axes = (CROP_SIZE * rng.uniform(0.06, 0.28, 2)).astype(int).tolist()
    angle = float(rng.uniform(0, 180))
    if rng.random() < 0.5:
        cv2.ellipse(mask, centre, axes, angle, 0, 360, 255, -1)
    else:
        corners = cv2.boxPoints((tuple(map(float, centre)), tuple(2.0 * a for a in axes), angle))
        cv2.fillConvexPoly(mask, corners.astype(np.int32), 255)
    kind = rng.random()
    if kind < 0.35:
        fill = np.full_like(pixels, rng.integers(0, 256, 3))
    elif kind < 0.5:
        coarse = rng.integers(0, 256, (rng.integers(2, 24), rng.integers(2, 24), 3), dtype=np.uint8)
        fill = cv2.resize(coarse, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
    else:
        fill = np.roll(pixels, rng.integers(40, 216, 2).tolist(), axis=(0, 1))
    return np.where(mask[..., None] > 0, fill, pixels)


def _tone(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ramp = np.linspace(0, 1, 256)[:, None] ** rng.uniform(0.6, 1.7)
    ramp = (ramp - 0.5) * rng.uniform(0.5, 1.3) + 0.5 + rng.uniform(-0.1, 0.1)
    table = np.clip(ramp * rng.uniform(0.85, 1.15, 3) * 255, 0, 255).astype(np.uint8)
    toned = cv2.LUT(pixels, table[:, None, :])
    if rng.random() < 0.2:
        toned = cv2.cvtColor(cv2.cvtColor(toned, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return toned


def _blur(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kind = rng.random()
    if kind < 0.35:
        return cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.6, 3.0))
    if kind < 0.6:
        return effects.moving(pixels, rng, int(rng.integers(3, 14)))
    small = int(rng.integers(40, 160))
    shrunk = cv2.resize(pixels, (small, small), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)


def _compress(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        noise = np.empty(pixels.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(1 << 30)))
        cv2.randn(noise, np.zeros(3), np.full(3, rng.uniform(2, 16)))
        pixels = cv2.add(pixels, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.6:
        pixels = effects.jpeg(pixels, int(rng.integers(15, 80)))
    return pixels
