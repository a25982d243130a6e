"""What spoils a face in the wild, on crops uint8 (256, 256, 3) RGB: light, noise, distance, motion, what covers it."""

from __future__ import annotations

import cv2
import numpy as np

from tabrt.geometry import CROP_SIZE
from tabrt.topology import Topology

_SIZE = (CROP_SIZE, CROP_SIZE)
_SKIN = np.array([[240, 200, 175], [224, 172, 140], [198, 134, 100], [141, 85, 60], [90, 56, 42]], float)  # RGB


# Light


def hard_light(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of: a lamp of a single hue, a posterised print, two stage lights, hardly any light."""
    return (_single_hue, _posterised, _stage, _dim)[int(rng.integers(4))](pixels, rng)


def _hue(rng: np.random.Generator, saturation: float) -> np.ndarray:
    """A colour (3,) 0…1, its largest part 1."""
    colour = cv2.cvtColor(np.array([[[rng.uniform(0, 360), saturation, 1]]], np.float32), cv2.COLOR_HSV2RGB)[0, 0]
    return colour.astype(np.float64)


def _grey(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def _single_hue(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ramp = (np.arange(256) / 255) ** rng.uniform(0.6, 1.6)
    tinted = (255 * ramp[:, None] * _hue(rng, rng.uniform(0.6, 1))).astype(np.uint8)[_grey(pixels)]
    return cv2.addWeighted(tinted, share := rng.uniform(0.7, 1), pixels, 1 - share, 0)


def _posterised(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Few levels, of grey values between two colours, or of each channel."""
    levels = int(rng.integers(4, 8))
    steps = np.round(np.arange(256) / 255 * (levels - 1)) / (levels - 1)
    smooth = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.8, 2))
    if rng.random() < 0.4:
        return (255 * steps).astype(np.uint8)[smooth]
    dark, light = 0.35 * _hue(rng, rng.uniform(0, 1)), _hue(rng, rng.uniform(0, 0.8))
    return (255 * (dark + steps[:, None] * (light - dark))).astype(np.uint8)[_grey(smooth)]


def _stage(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two lamps of their own colours from two sides, with an edge of shadow between."""
    angle = rng.uniform(0, 2 * np.pi)
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width) - 0.5
    across = np.cos(angle) * x + np.sin(angle) * y - rng.uniform(-0.15, 0.15)
    share = (1 / (1 + np.exp(-across * rng.uniform(6, 30))))[..., None]
    lamps = [_hue(rng, rng.uniform(0.2, 0.95)) * rng.uniform(0.15, 1.5) for _ in range(2)]
    light = share * lamps[0] + (1 - share) * lamps[1]
    return np.clip(pixels * light, 0, 255).astype(np.uint8)


def _dim(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    dark = np.clip((pixels / 255.0) ** rng.uniform(1, 1.4) * rng.uniform(40, 110), 0, 255).astype(np.uint8)
    return noisy(dark, rng, rng.uniform(2, 6))


# The camera


def noisy(pixels: np.ndarray, rng: np.random.Generator, strength: float | None = None) -> np.ndarray:
    """Noise of 12 to 40 grey levels, or of `strength`: as fine as the pixels or coarser, coloured or grey."""
    strength = rng.uniform(12, 40) if strength is None else strength
    height, width = pixels.shape[:2]
    grain = int(rng.choice((1, 1, 2, 3)))
    channels = 3 if rng.random() < 0.7 else 1
    noise: np.ndarray = np.empty((height // grain, width // grain, channels), np.int16)
    cv2.setRNGSeed(int(rng.integers(1 << 30)))
    cv2.randn(noise, np.zeros(channels), np.full(channels, float(strength)))
    noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.add(pixels, noise if noise.ndim == 3 else cv2.merge([noise] * 3), dtype=cv2.CV_8U)


def far_away(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As if the face had 25 to 50 px: a crop has 1.25 times as many. Half of them come from JPEGs."""
    side = round(1.25 * rng.uniform(25, 50))
    small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        small = jpeg(small, int(rng.integers(30, 85)))
    how = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[int(rng.choice(3, p=(0.6, 0.3, 0.1)))]
    return cv2.resize(small, _SIZE, interpolation=how)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    _, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def moving(pixels: np.ndarray, rng: np.random.Generator, length: int | None = None) -> np.ndarray:
    """Blurred along a line of 8 to 26 px, or of `length`."""
    length = int(rng.integers(8, 27)) if length is None else length
    kernel: np.ndarray = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D(((length - 1) / 2,) * 2, rng.uniform(0, 180), 1)
    kernel = cv2.warpAffine(kernel, turn, (length, length))
    return cv2.filter2D(pixels, -1, np.asarray(kernel / max(float(kernel.sum()), 1e-6)))


# What covers it


def hand(pixels: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A palm with fingers over some point of the face, of one of the skins there are, or a dark bar with a ball."""
    place = _somewhere(points, rng)
    heading = rng.uniform(0, 2 * np.pi)
    mask = np.zeros(_SIZE, np.uint8)
    if microphone := rng.random() < 0.25:
        reach = place + 200 * np.array([np.cos(heading), np.sin(heading)])
        cv2.line(mask, _whole(place), _whole(reach), 255, int(rng.integers(8, 20)), cv2.LINE_AA)
        cv2.circle(mask, _whole(place), int(rng.integers(10, 24)), 255, -1, cv2.LINE_AA)
    else:
        _draw_hand(mask, place, heading, rng)
    colour = rng.uniform(0, 70) * np.ones(3) if microphone else _SKIN[rng.integers(len(_SKIN))] * rng.uniform(0.5, 1.1)
    return _laid_over(pixels, mask, _shaded(mask, colour, rng))


def _draw_hand(mask: np.ndarray, place: np.ndarray, heading: float, rng: np.random.Generator) -> None:
    size = rng.uniform(18, 34)  # px, half a palm's width
    wrist = place + 120 * np.array([np.cos(heading), np.sin(heading)])
    cv2.line(mask, _whole(place), _whole(wrist), 255, int(1.5 * size), cv2.LINE_AA)
    cv2.ellipse(mask, _whole(place), (int(1.2 * size), int(size)), np.degrees(heading), 0, 360, 255, -1, cv2.LINE_AA)
    spread = rng.uniform(0.12, 0.4)
    for finger in range(int(rng.integers(2, 6))):
        angle = heading + np.pi + spread * (finger - 1.5)
        away = np.array([np.cos(angle), np.sin(angle)])
        root = place + 0.7 * size * away
        cv2.line(
            mask, _whole(root), _whole(root + away * size * rng.uniform(1, 2.2)), 255, int(0.5 * size), cv2.LINE_AA
        )


def sheet(pixels: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """About half of the face behind a straight edge: a door, a wall, a phone, or the end of the picture."""
    known = points[np.isfinite(points).all(axis=1)]
    low, high = (known.min(axis=0), known.max(axis=0)) if len(known) else (np.zeros(2), np.full(2, CROP_SIZE))
    place = low + rng.uniform(0.3, 0.7, 2) * (high - low)
    heading = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.3)
    along, across = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    reach, width = rng.uniform(0.6, 2.5) * (high - low).max(), rng.uniform(0.6, 2) * (high - low).max()
    corners = [place + side * width * across + far * along for side, far in ((-1, 0), (1, 0), (1, reach), (-1, reach))]
    mask = np.zeros(_SIZE, np.uint8)
    cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 255, cv2.LINE_AA)
    kind = rng.random()
    if kind < 0.5:
        cover = np.full_like(pixels, rng.integers(0, 256) if rng.random() < 0.5 else rng.integers(0, 256, 3))
    elif kind < 0.75:
        cover = _shaded(mask, rng.uniform(0, 255, 3), rng)
    else:
        cover = cv2.GaussianBlur(np.roll(pixels, rng.integers(80, 176, 2).tolist(), axis=(0, 1)), (0, 0), 20)
    return _laid_over(pixels, mask, cover)


def stranger(pixels: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part of another picture, uint8 BGR of any size, laid over an edge or the middle: a head in front."""
    turn = cv2.getRotationMatrix2D(
        (other.shape[1] / 2, other.shape[0] / 2), rng.uniform(-60, 60), rng.uniform(0.5, 1.3)
    )
    shift = rng.uniform(-110, 110, 2)
    turn[:, 2] = turn[:, 2] + CROP_SIZE / 2 - np.array(other.shape[1::-1]) / 2 + shift
    moved = cv2.warpAffine(other, turn, _SIZE)[..., ::-1]
    mask = np.zeros(_SIZE, np.uint8)
    axes = rng.uniform(35, 75, 2)
    middle = CROP_SIZE / 2 + shift
    cv2.ellipse(mask, _whole(middle), _whole(axes), rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    return _laid_over(pixels, mask, moved)


def sunglasses(pixels: np.ndarray, points: np.ndarray, topology: Topology, rng: np.random.Generator) -> np.ndarray:
    """Dark glasses over the eyes, where those of the points (L, 2), in crop px, are known."""
    eyes = [points[list(eye)] for eye in (topology.left_eye, topology.right_eye)]
    if not all(np.isfinite(eye).all() for eye in eyes):
        return pixels
    centres = [eye.mean(axis=0) for eye in eyes]
    across = centres[1] - centres[0]
    roll = topology.roll(points) if np.isfinite(points[list(topology.mouth)]).all() else np.arctan2(*across[::-1])
    height = rng.uniform(0.35, 0.6) * max(float(np.linalg.norm(across)), 40.0)
    mask = np.zeros(_SIZE, np.uint8)
    oval = rng.random() < 0.5
    for centre, eye in zip(centres, eyes, strict=True):
        width = np.clip(rng.uniform(1.7, 2.1) * np.ptp(eye @ [np.cos(roll), np.sin(roll)]), 6, 1.5 * height)
        lens = centre.tolist(), (float(width), float(height)), float(np.degrees(roll))
        if oval:
            cv2.ellipse(mask, lens, 255, -1)
        else:
            cv2.fillConvexPoly(mask, cv2.boxPoints(lens).astype(np.int32), 255, cv2.LINE_AA)
    cv2.line(mask, _whole(centres[0]), _whole(centres[1]), 255, int(rng.integers(2, 7)), cv2.LINE_AA)
    tint = rng.uniform(0, 60, 3) if rng.random() < 0.8 else rng.uniform(0, 200, 3)
    lenses = _shaded(mask, tint, rng)
    return _laid_over(pixels, (mask * rng.uniform(0.75, 1)).astype(np.uint8), lenses)


def _somewhere(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A place near one of the points that are known; anywhere where none is."""
    known = points[np.isfinite(points).all(axis=1)]
    if not len(known):
        return rng.uniform(0, CROP_SIZE, 2)
    return known[rng.integers(len(known))] + rng.normal(0, 12, 2)


def _shaded(mask: np.ndarray, colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A surface of a colour, darker at the mask's edges and along one direction, with a little texture."""
    slope = np.linspace(rng.uniform(0.6, 1.1), rng.uniform(0.6, 1.1), CROP_SIZE)
    round_ = 0.55 + 0.45 * cv2.GaussianBlur(mask, (0, 0), 5).astype(np.float32) / 255
    coarse = cv2.resize(rng.normal(1, 0.06, (24, 24)).astype(np.float32), _SIZE)
    light = round_ * coarse * (slope[None] if rng.random() < 0.5 else slope[:, None])
    return np.clip(light[..., None] * colour, 0, 255).astype(np.uint8)


def _laid_over(pixels: np.ndarray, mask: np.ndarray, cover: np.ndarray) -> np.ndarray:
    share = (cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32) / 255)[..., None]
    return (pixels * (1 - share) + cover * share).astype(np.uint8)


def _whole(values: np.ndarray) -> tuple[int, int]:
    x, y = np.clip(np.round(values), -4096, 4096).astype(int).tolist()
    return x, y
