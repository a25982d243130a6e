"""What smoothing does to a face that talks and to the pose of a head that turns.

Movement is made, noise is not: that which the network's points of a face at rest, before a plain camera, have. Errors
of the lips are told over those of the raw points, as squares: below 1 is better than no smoothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import scenes, signals
from tabrt.film import open_film
from tabrt.measures import Lens, head_pose, rotation_of
from tabrt.measures.head import EYE_DISTANCE, marked
from tabrt.tracking import Tracker

if TYPE_CHECKING:
    from benchmarks.stability import Track

    Filter = Callable[[Track], np.ndarray]

LOWER = (83, 84, 85, 86, 87, 93, 94, 95)  # points of the lower lip, which opens the mouth …
UPPER = (78, 79, 80, 89, 90, 91)  # … while the upper lip goes up by a quarter of that, …
CHIN = tuple(range(11, 22))  # … and the chin down by a half
LIPS = (*LOWER, *UPPER)
OPENINGS = (0.02, 0.05, 0.1)  # eye distances between closed and open
HERTZ = (1, 2, 3, 4, 5)
TALK = 3  # Hz, of syllables
TURNS = {"yaw": 20.0, "pitch": 12.0, "roll": 15.0}  # degrees to each side
TURN_HERTZ = (0.5, 1.0, 2.0)
SPOKEN = 1.5, 6.0  # Hz, between which lips move in talk
SHOWN = 50  # px between the eyes, from which a film's lips are looked at
SETTLED = 0.5  # s


def whole(track: Track) -> Track:
    """A track whose filters give all of its points."""
    return replace(track, to_68=lambda points: points)


def talking(still: Track, opening: float, hertz: float) -> tuple[Track, np.ndarray]:
    """A track of the face at rest that opens its mouth by `opening` eye distances, and where its points truly are."""
    mean = still.points.mean(axis=0)
    down = opening * scenes.EYE_DISTANCE * (1 - np.cos(2 * np.pi * hertz * still.times))[:, None] / 2
    truth = np.repeat(mean[None], len(still.times), axis=0)
    truth[:, LOWER, 1] += down
    truth[:, UPPER, 1] -= down / 4
    truth[:, CHIN, 1] += down / 2
    return replace(whole(still), points=truth + still.points - mean), truth


def gap(points: np.ndarray) -> np.ndarray:
    """(T,) px between the lips of points (T, 98, 2)."""
    return (points[:, [93, 94, 95], 1] - points[:, [89, 90, 91], 1]).mean(axis=1)


def talk_figures(still: Track, smooth: Filter) -> list[dict[str, float]]:
    """Of each rate: squared error of lips and chin over that of the raw points, and the gap's lag; of the openings, the
    worst of each."""
    rows = []
    settled = still.times >= SETTLED
    for hertz in HERTZ:
        ratios, lags = [], []
        for opening in OPENINGS:
            track, truth = talking(still, opening, hertz)
            out = smooth(track)
            errors = [((points - truth)[settled] ** 2).sum(axis=-1).mean(axis=0) for points in (out, track.points)]
            ratios.append([float(errors[0][list(part)].mean() / errors[1][list(part)].mean()) for part in (LIPS, CHIN)])
            opened = lambda at, hertz=hertz: -np.cos(2 * np.pi * hertz * at)  # noqa: E731
            lags.append(
                1e3 * signals.lag(still.times[settled], gap(out)[settled], opened, limit=min(0.12, 0.4 / hertz))
            )
        lips, chin = np.max(ratios, axis=0).tolist()
        rows.append({"hertz": hertz, "lips": lips, "chin": chin, "lag": max(lags, key=abs)})
    return rows


def _opened(hertz: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda times: -np.cos(2 * np.pi * hertz * times)


@dataclass(frozen=True, eq=False)
class Spoken:
    """A public clip in which a face talks."""

    name: str
    track: Track


def spoken(folder: Path, tracker: Tracker, track_of: Callable[..., Track]) -> Iterator[Spoken]:
    """The faces of a folder's films that are always seen, and large enough."""
    for path in sorted(folder.iterdir()):
        tracker.reset()
        with open_film(path) as film:
            seen = [tracker(frame) for frame in film]
        if all(scene.faces for scene in seen) and len({scene.faces[0].id for scene in seen}) == 1:
            faces = [scene.faces[0] for scene in seen]
            track = track_of(
                np.array([scene.frame.time for scene in seen]),
                np.stack([face.raw for face in faces]).astype(float),
                np.stack([face.confidence for face in faces]),
            )
            if np.linalg.norm(track.points[:, 60] - track.points[:, 72], axis=1).mean() >= SHOWN:
                yield Spoken(path.name, whole(track))


def spoken_figures(clips: list[Spoken], smooth: Filter) -> list[dict]:
    """Of each clip: how much the lips' gap moves as in talk (rms, % of the eye distance), how late the smoothed gap is
    behind the raw one, ms, and the share of that movement which is left."""
    rows = []
    for clip in clips:
        track = clip.track
        eyes = np.linalg.norm(track.points[:, 60] - track.points[:, 72], axis=1).mean()
        raw, out = (_band(track.times, gap(points) / eyes) for points in (track.points, smooth(track)))
        at = partial(_at, track.times, raw)
        inner = slice(10, -10)
        late = signals.lag(track.times[inner], out[inner], at, limit=0.08)
        left = float(np.polyfit(at(track.times - late)[inner], out[inner], 1)[0])
        rows.append({"clip": clip.name, "moves": 100 * float(raw.std()), "lag": 1e3 * late, "left": left})
    return rows


def _at(times: np.ndarray, signal: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return np.interp(asked, times, signal)


def _band(times: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """The part of a signal that lies in SPOKEN."""
    rate = 1 / np.median(np.diff(times))
    parts = np.fft.rfft(signal - np.linspace(signal[0], signal[-1], len(signal)))
    hertz = np.fft.rfftfreq(len(signal), 1 / rate)
    parts[(hertz < SPOKEN[0]) | (hertz > SPOKEN[1])] = 0
    return np.fft.irfft(parts, len(signal))


def turning(still: Track, angle: str, hertz: float) -> tuple[Track, Callable[[np.ndarray], np.ndarray]]:
    """A track of the mean head that turns before the camera, with the noise of the face at rest; and its angle."""
    peak = TURNS[angle]

    def value(times: np.ndarray) -> np.ndarray:
        return peak * np.sin(2 * np.pi * hertz * times)

    lens, noise = _lens(), still.points - still.points.mean(axis=0)
    distance = EYE_DISTANCE * lens.focal / scenes.EYE_DISTANCE
    points = []
    for now in value(still.times):
        rotation = rotation_of(**{**dict.fromkeys(TURNS, 0.0), angle: now})
        placed = marked(rotation[2]) @ rotation.T + (0, 0, distance)
        points.append(placed[:, :2] / placed[:, 2:] * lens.focal + lens.centre)
    return replace(whole(still), points=np.stack(points) + noise), value


def _lens() -> Lens:
    return Lens.usual(*scenes.SIZE)


def angles(track: Track, points: np.ndarray) -> np.ndarray:
    """(T, 3) yaw, pitch and roll in degrees, each pose sought near the one before."""
    told, pose = [], None
    assert track.confidence is not None
    for now, confidence in zip(points, track.confidence, strict=True):
        pose = head_pose(now, confidence, _lens(), pose)
        told.append(pose.angles if pose is not None else (np.nan,) * 3)
    return np.array(told)


def pose_figures(still: Track, smooth: Filter) -> dict[str, dict[str, float]]:
    """Of yaw, pitch and roll: jitter of a head at rest, degrees; lag at each rate, ms; error while turning, degrees."""
    calm = angles(still, smooth(whole(still)))[still.times >= still.times[-1] / 4]
    settled = still.times >= SETTLED
    found = {}
    for column, angle in enumerate(TURNS):
        row = {"jitter": float(calm[:, column].std())}
        errors = []
        for hertz in TURN_HERTZ:
            track, value = turning(still, angle, hertz)
            told = angles(track, smooth(track))[settled, column]
            row[f"{hertz:g} Hz"] = 1e3 * signals.lag(track.times[settled], told, value)
            errors.append(told - value(track.times[settled]))
        row["error"] = float(np.sqrt(np.mean(np.square(errors))))
        found[angle] = row
    return found
