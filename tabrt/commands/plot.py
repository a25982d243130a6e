"""What `tabrt plot` does: the tracks of a landmark file over time, as one figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tabrt.drawing import PALETTE
from tabrt.errors import TabrtError, missing_package
from tabrt.files import check_outputs
from tabrt.sinks import Landmarks, read_landmarks

MOST_IDS = 12  # rows of their own; of more, those seen for longest
SMOOTHED = 0.1  # seconds over which a speed is the mean
GAP = 1.5  # usual steps between frames, beyond which a line is broken
SUFFIXES = (".png", ".pdf", ".svg")
INK, FAINT, BACK = "#1d2733", "#8a97a5", "#ffffff"
POSE = {"yaw": "#d1495b", "pitch": "#2e8b57", "roll": "#2f6fbb"}


def plot(path: str | Path, out: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write a figure of who is seen when, how surely, how fast, and, where the file has them, eyes and pose.

    Returns its path. Raises TabrtError: no landmark file, nobody in it, a place that cannot be written.
    """
    if out is not None and Path(out).suffix.lower() not in SUFFIXES:
        raise TabrtError(f"{out}: figures are written as {', '.join(SUFFIXES)}; use one of these suffixes")
    seen = read_landmarks(path)  # first: a figure beside what is no landmark file matters to nobody
    target = Path(path).with_suffix(".png") if out is None else Path(out)
    check_outputs([path], target, overwrite=overwrite)
    if not len(seen.ids):
        raise TabrtError(f"{path} has no face in it; there is nothing to plot")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as problem:
        raise missing_package(problem, "plot") from problem
    figure = Figure(figsize=(11, 1), dpi=130, layout="constrained", facecolor=BACK)
    FigureCanvasAgg(figure)
    _fill(figure, seen, Path(path).name)
    try:
        figure.savefig(target)
    except OSError as problem:
        raise TabrtError(f"cannot write {target} ({problem.strerror}); choose another --out") from None
    return target


def _fill(figure: Any, seen: Landmarks, name: str) -> None:
    tracks = [_Track(seen, number) for number in _longest(seen)]
    tracks.sort(key=lambda track: track.times[0])
    parts = [(_presence, 0.4 + 0.3 * len(tracks)), (_confidence, 1.5), (_speed, 1.5)]
    if any(track.eyes is not None for track in tracks):
        parts.append((_eyes, 1.5))
    posed = [track for track in tracks if track.pose is not None]
    heights = [height for _, height in parts] + [1.3] * len(posed)
    figure.set_figheight(sum(heights) + 1.1)
    axes = np.atleast_1d(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    for axis in axes:
        _bare(axis)
    for (draw, _), axis in zip(parts, axes, strict=False):
        draw(axis, tracks)
    for axis, track in zip(axes[len(parts) :], posed, strict=True):
        _pose(axis, track)
    start, end = _span(seen)
    axes[-1].set_xlim(start, end)
    axes[-1].set_xlabel("time in the film (s)", color=INK)
    axes[-1].tick_params(bottom=True, labelbottom=True)
    left_out = len(seen.ids) - len(tracks)
    more = f", the {len(tracks)} seen for longest" if left_out else ""
    ids = f"{len(seen.ids)} ids" if len(seen.ids) > 1 else "1 id"
    axes[0].set_title(
        f"{name}  ·  {len(seen.frames)} frames, {end - start:.1f} s, {ids}{more}",
        **{"loc": "left", "color": INK, "fontsize": 12, "fontweight": "bold", "pad": 12},
    )


def _longest(seen: Landmarks) -> list[int]:
    counts = {int(number): int((seen.rows.ids == number).sum()) for number in seen.ids}
    return sorted(counts, key=lambda number: -counts[number])[:MOST_IDS]


def _span(seen: Landmarks) -> tuple[float, float]:
    times = seen.times if np.isfinite(seen.times).any() else seen.frames.astype(float)
    start, end = float(np.nanmin(times)), float(np.nanmax(times))
    return start, max(end, start + 1e-3)


class _Track:
    """One id: times (T,) at which it was seen, with a NaN in every series where it was gone."""

    def __init__(self, seen: Landmarks, number: int):
        self.id = number
        blue, green, red = PALETTE[(number - 1) % len(PALETTE)]
        shade = 0.72 if number % len(PALETTE) else 0.5  # the palette is for pictures; on paper it must be darker
        self.colour = tuple(shade * value / 255 for value in (red, green, blue))
        rows = np.flatnonzero(seen.rows.ids == number)
        times = seen.times if np.isfinite(seen.times).any() else seen.frames.astype(float)
        self.times = times[seen.rows.at[rows]]
        step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
        self.breaks = np.flatnonzero(np.diff(self.times) > GAP * max(step, 1e-6)) + 1
        self.step = step
        points, boxes = seen.rows.points[rows], seen.rows.boxes[rows]
        self.confidence = seen.rows.scores[rows]
        size = np.sqrt(np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1.0))
        self.speed = _speed_of(np.nanmean(points, axis=1), size, self.times, self.breaks)
        pose = seen.rows.pose[rows]
        self.pose = pose if np.isfinite(pose).any() else None
        self.eyes = seen.rows.eyes[rows].mean(axis=1) if self.pose is not None else None

    def pieces(self) -> list[tuple[float, float]]:
        """(start, length) in seconds of each stretch in which it was seen."""
        return [(piece[0], piece[-1] - piece[0] + self.step) for piece in np.split(self.times, self.breaks)]

    def line(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times and values with a NaN in each gap, so that no line is drawn across it."""
        return np.insert(self.times, self.breaks, np.nan), np.insert(values.astype(float), self.breaks, np.nan)


def _speed_of(centres: np.ndarray, sizes: np.ndarray, times: np.ndarray, breaks: np.ndarray) -> np.ndarray:
    """(T,): face sizes a second, of the mean of the points, over about SMOOTHED seconds."""
    speed = np.full(len(times), np.nan)
    for piece in np.split(np.arange(len(times)), breaks):
        if len(piece) < 2:
            continue
        step = np.maximum(np.diff(times[piece]), 1e-3)
        each = np.linalg.norm(np.diff(centres[piece], axis=0), axis=1) / sizes[piece[1:]] / step
        width = max(1, min(len(each), round(SMOOTHED / float(np.median(step)))))
        mean = np.convolve(each, np.ones(width), "same") / np.convolve(np.ones(len(each)), np.ones(width), "same")
        speed[piece] = np.concatenate([mean[:1], mean])
    return speed


# ------------------------------------------------------------------------------------------------------------- panels


def _bare(axis: Any) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color("#d5dbe1")
    axis.tick_params(colors=FAINT, length=0, labelsize=8.5)
    axis.grid(axis="both", color="#eceff2", linewidth=0.8)
    axis.set_axisbelow(True)


def _headed(axis: Any, title: str, unit: str) -> None:
    axis.set_title(title, loc="left", color=INK, fontsize=10, pad=5)
    axis.set_title(unit, loc="right", color=FAINT, fontsize=8.5, pad=5)


def _presence(axis: Any, tracks: list[_Track]) -> None:
    for row, track in enumerate(tracks):
        axis.broken_barh(track.pieces(), (row - 0.34, 0.68), facecolors=[track.colour], linewidth=0)
    axis.set_yticks(range(len(tracks)), [f"id {track.id}" for track in tracks])
    axis.set_ylim(len(tracks) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    for label, track in zip(axis.get_yticklabels(), tracks, strict=True):
        label.set_color(track.colour)
        label.set_fontweight("bold")


def _confidence(axis: Any, tracks: list[_Track]) -> None:
    _lines(axis, tracks, [track.confidence for track in tracks])
    axis.set_ylim(0, 1.02)
    _headed(axis, "Confidence", "mean over the points, 0…1")


def _speed(axis: Any, tracks: list[_Track]) -> None:
    _lines(axis, tracks, [track.speed for track in tracks])
    axis.set_ylim(bottom=0)
    _headed(axis, "Speed", "face sizes a second")


def _eyes(axis: Any, tracks: list[_Track]) -> None:
    told = [track for track in tracks if track.eyes is not None]
    _lines(axis, told, [track.eyes for track in told if track.eyes is not None])
    axis.set_ylim(0, 1.02)
    _headed(axis, "Eyes", "0 shut … 1 open, mean of both")


def _pose(axis: Any, track: _Track) -> None:
    assert track.pose is not None
    for column, (name, colour) in enumerate(POSE.items()):
        axis.plot(*track.line(track.pose[:, column]), color=colour, linewidth=1.2, label=name)
    axis.axhline(0, color="#c5ccd3", linewidth=0.8)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.98), "borderaxespad": 0}
    axis.legend(ncols=3, frameon=False, fontsize=8.5, labelcolor="linecolor", handlelength=1.2, **place)
    _headed(axis, f"Head of id {track.id}", "degrees")


def _lines(axis: Any, tracks: list[_Track], series: list[np.ndarray]) -> None:
    for track, values in zip(tracks, series, strict=True):
        axis.plot(*track.line(values), color=track.colour, linewidth=1.3, solid_joinstyle="round")
