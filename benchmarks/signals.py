"""Steadiness as numbers: jitter, lag, step response and blinks of landmark tracks. Pure functions of arrays.

A track is points (T, L, 2), one set a frame, with times (T,) in seconds. Lengths are in shares of `scale`, the eye
distance in the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_EYES_68 = (36, 42)
BLINK_NEAR = 0.12  # s between the time at which a blink was seen by eye and that at which the points show it
BLINK_LATE = 0.25  # s by which a filter may show it later
LEAST_DEPTH = 0.08  # share of an eye's usual openness by which it must close to be told from noise
_AROUND = 0.75  # s on both sides from which the usual openness is taken


def jitter(track: np.ndarray, scale: float) -> float:
    """RMS distance of the points from their mean places, over a face that does not move."""
    away = track - track.mean(axis=0)
    return float(np.sqrt((away**2).sum(axis=-1).mean()) / scale)


def shimmer(track: np.ndarray, scale: float) -> float:
    """RMS step from frame to frame over √2: for white noise the same as `jitter`, and blind to slow drift."""
    steps = np.diff(track, axis=0)
    return float(np.sqrt((steps**2).sum(axis=-1).mean() / 2) / scale)


def error(track: np.ndarray, true: np.ndarray, scale: float) -> float:
    """RMS distance from the true places (T, L, 2)."""
    return float(np.sqrt(((track - true) ** 2).sum(axis=-1).mean()) / scale)


def similarity(reference: np.ndarray, track: np.ndarray) -> dict[str, np.ndarray]:
    """The motion of a whole face: least-squares shift of the centroid, roll and scale against reference (L, 2).

    translation: (T,) along x, px. roll: (T,) radians. scale: (T,) factor.
    """
    still, moving = reference @ (1, 1j), track @ (1, 1j)  # complex numbers: a similarity is one product
    arm, arms = still - still.mean(), moving - moving.mean(axis=-1, keepdims=True)
    turn = arms @ arm.conj() / (np.abs(arm) ** 2).sum()
    return {
        "translation": (moving.mean(axis=-1) - still.mean()).real,
        "roll": np.unwrap(np.angle(turn)),
        "scale": np.abs(turn),
    }


def lag(
    times: np.ndarray,
    signal: np.ndarray,
    truth: Callable[[np.ndarray], np.ndarray],
    limit: float = 0.12,
    step: float = 1e-3,
) -> float:
    """Seconds by which signal (T,) runs behind truth(times): where their normalised cross-correlation is highest.

    truth is evaluated at the shifted times themselves, so the result is not bound to whole frames; a parabola through
    the three best shifts refines it. limit must be below half a period of the motion.
    """
    shifts = np.arange(-limit, limit + step / 2, step)
    score = np.array([_correlation(signal, truth(times - shift)) for shift in shifts])
    best = int(np.clip(score.argmax(), 1, len(shifts) - 2))
    left, middle, right = score[best - 1 : best + 2]
    bend = left - 2 * middle + right
    return float(shifts[best] + (0.5 * step * (left - right) / bend if bend < 0 else 0.0))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b) + 1e-30))


def step_response(signal: np.ndarray, start: int) -> tuple[int, float]:
    """Frames until signal (T,), which should jump from 0 to 1 at `start`, stays above 0.9; and its overshoot.

    0 frames: the frame that shows the jump is there already.
    """
    after = signal[start:]
    late = np.flatnonzero(after < 0.9)
    return int(late[-1] + 1) if len(late) else 0, float(max(0.0, after.max() - 1))


def openness(points: np.ndarray) -> np.ndarray:
    """How far the eyes are open in 300w68 points (..., 68, 2): lid distance over eye width, mean of both eyes."""
    ratios = []
    for first in _EYES_68:
        eye = [points[..., first + i, :] for i in range(6)]
        lids = np.linalg.norm(eye[1] - eye[5], axis=-1) + np.linalg.norm(eye[2] - eye[4], axis=-1)
        ratios.append(lids / 2 / np.linalg.norm(eye[0] - eye[3], axis=-1))
    return np.mean(ratios, axis=0)


def usual(opened: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(T,): the median openness of the 1.5 s around each frame: what a blink is measured against."""
    return np.array([np.median(opened[np.abs(times - now) <= _AROUND]) for now in times])


def blink_depths(
    raw: np.ndarray, smoothed: np.ndarray, times: np.ndarray, blinks: Sequence[float]
) -> list[tuple[float, float]]:
    """For each blink (s) that the raw openness (T,) shows: its depth as a share of the usual openness, and the share of
    that depth which the smoothed openness still shows.

    The eye is most closed within BLINK_NEAR of the given time; the smoothed one may close later, by up to BLINK_LATE. A
    blink of less than LEAST_DEPTH is one that the network did not see.
    """
    base = usual(raw, times)
    found = []
    for blink in blinks:
        near = np.flatnonzero(np.abs(times - blink) <= BLINK_NEAR)
        if not len(near):
            continue
        frame = near[raw[near].argmin()]
        depth = base[frame] - raw[frame]
        late = (times >= times[frame] - 1e-9) & (times <= times[frame] + BLINK_LATE)
        if depth >= LEAST_DEPTH * base[frame]:
            found.append((float(depth / base[frame]), float((base[frame] - smoothed[late].min()) / depth)))
    return found
