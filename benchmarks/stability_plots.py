"""Pictures of the stability results: the curve of jitter against lag, what the signals look like, and frame rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import moving_faces, scenes, signals
from benchmarks.contract import Report
from benchmarks.plots import bars, figure, ink, save
from benchmarks.stability import (
    BLINKS,
    NONE,
    ONE_EURO,
    OURS,
    Films,
    Track,
    at_rest,
    euro,
    motion_of,
    ours,
    unfiltered,
)
from tabrt.tracking import DEFAULT_STRENGTH


def plots(report: Report) -> None:
    films = report.behind
    assert report.model is not None
    _curves(report.results, report.folder / "stability-curve.png")
    _signals(films, report.model.topology, report.folder / "stability-signals.png")
    _rates(report.results["rates"], report.folder / "stability-rates.png")
    if report.results["within"]:
        _within(films, report.results["within"], report.model.topology, report.folder / "stability-lips.png")


def _curves(results: dict, path: Path) -> None:
    fig, axes = figure(2)
    curves = results["curves"]
    sides = (("lag", "lag behind a moving face, ms"), ("error", "error while moving, % of eye distance"))
    for ax, (key, label) in zip(axes, sides, strict=True):
        ax.scatter(
            *_pairs(curves["one_euro"], key), s=12, color=ink("One-Euro"), alpha=0.45, label="One-Euro, 40 settings"
        )
        ax.plot(*_pairs(curves["tabrt"], key), "o-", ms=3.5, color=ink(OURS), label="tabrt, --smoothing 0 … 1")
        for point in curves["tabrt"]:
            if round(point["strength"] * 100) % 25 == 0:
                ax.annotate(f"{point['strength']:g}", (point[key], point["jitter"]), xytext=(5, 5),
                            textcoords="offset points", fontsize=8, color=ink(OURS))  # fmt: skip
        for name, point in curves["chosen"].items():
            ax.plot(point[key], point["jitter"], **_marker(name))
        ax.set_xlabel(label)
        ax.set_ylabel("jitter of a still face, % of eye distance")
        ax.set_yscale("log")
        ax.set_yticks(ticks := [0.05, 0.1, 0.2, 0.5, 1.0, 2.0], [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        shown = [*curves["tabrt"], *curves["chosen"].values()]
        ax.set_ylim(0.8 * min(0.05, *_pairs(shown, key)[1]), 1.3 * max(_pairs(shown, key)[1]))
        ax.set_xlim(right=1.3 * max(_pairs(shown, key)[0]))
    fig.legend(*axes[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=5)
    fig.suptitle("Steadiness against lag: below and to the left is better", fontsize=11)
    save(fig, path)


def _marker(name: str) -> dict:
    """How one choice is drawn: our default as a diamond, One-Euro as a star, peers with One-Euro hollow."""
    hollow = "+" in name
    return {
        "ls": "",
        "marker": "*" if name == ONE_EURO else "D" if name == OURS else "s",
        "ms": 12 if name == ONE_EURO else 7,
        "mfc": "none" if hollow else ink(name),
        "mec": ink(name) if hollow else "white",
        "label": f"tabrt, default {DEFAULT_STRENGTH:g}" if name == OURS else name,
    }


def _pairs(points: list[dict], key: str) -> tuple[list[float], list[float]]:
    return [point[key] for point in points], [point["jitter"] for point in points]


def _signals(films: Films, topology: str, path: Path) -> None:
    fig, axes = figure(2, rows=2, width=5.6, height=3.2)
    tracks = films.tracks[OURS]
    filters = {NONE: unfiltered, ONE_EURO: euro(), OURS: ours(DEFAULT_STRENGTH, topology)}
    rest = at_rest(tracks[films.still.name])
    still, moving, jump, film = films.still, films.motions[-1], films.steps[-1], tracks["film"]
    for name, smooth in filters.items():
        style = {"color": ink(name), "label": name, "lw": 1.1}
        points = smooth(tracks[still.name])
        axes[0].plot(still.times, 100 * (points[:, 30, 0] - rest[30, 0]) / scenes.EYE_DISTANCE, **style)
        axes[1].plot(moving.times, motion_of(smooth(tracks[moving.name]), rest, moving.kind), **style)
        axes[2].plot(jump.times, motion_of(smooth(tracks[jump.name]), rest, jump.kind), ".-", ms=4, **style)
        axes[3].plot(film.times, signals.openness(smooth(film)), **style)
    fine = np.linspace(moving.times[0], moving.times[-1], 1000)
    axes[1].plot(fine, moving.value(fine), ":", color="black", lw=1, label="truth")
    axes[1].set_xlim(max(0, moving.times[-1] - 1.0), moving.times[-1])
    middle = jump.times[len(jump.times) // 2]
    axes[2].set_xlim(middle - 0.15, middle + 0.35)
    axes[3].set_xlim(*_around_a_blink(film))
    for ax, (title, unit) in zip(axes, (
        ("Still face: nose tip, x", "% of eye distance"),
        (f"Motion: {moving.name}", {"translation": "px", "roll": "radians", "scale": "log factor"}[moving.kind]),
        (f"Step of {_height(jump):.1f} eye distances", "px"),
        ("Blinks of a real face", "lid distance / eye width"),
    ), strict=True):  # fmt: skip
        ax.set_title(title, fontsize=10)
        ax.set_ylabel(unit)
        ax.set_xlabel("time, s")
    fig.legend(*axes[1].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=4)
    save(fig, path)


def _height(clip: scenes.Clip) -> float:
    return float(clip.value(clip.times[-1:])[0] / scenes.EYE_DISTANCE)


def _around_a_blink(film: Track) -> tuple[float, float]:
    middle = BLINKS[1] if film.times[-1] > BLINKS[1] else film.times[-1] / 2
    return middle - 1.0, middle + 1.0


def _rates(rates: dict[str, dict[str, dict]], path: Path) -> None:
    fig, axes = figure(2, width=4.6, height=3.4)
    groups = [group.replace(", ", "\n") for group in next(iter(rates.values()), {})]
    labels = {"lag": "lag at 1 Hz, ms", "jitter": "jitter, % of eye distance"}
    for ax, (key, unit) in zip(axes, labels.items(), strict=True):
        bars(ax, groups, {name: [row[key] for row in figures.values()] for name, figures in rates.items()}, unit)
    fig.legend(*axes[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    fig.suptitle("The same film at other frame rates: lag should stay the same in milliseconds", fontsize=10)
    save(fig, path)


def _within(films: Films, within: dict[str, dict], topology: str, path: Path) -> None:
    """Lips that talk and a head that turns: what filters make of them."""
    fig, axes = figure(3, width=4.6, height=3.6)
    filters = {NONE: unfiltered, ONE_EURO: euro(), OURS: ours(DEFAULT_STRENGTH, topology)}
    still = films.tracks[OURS][films.still.name]
    spoken, truth = moving_faces.talking(still, 0.03, moving_faces.TALK)
    turning, value = moving_faces.turning(still, "yaw", 1.0)
    fine = np.linspace(0, still.times[-1], 4000)
    for name, smooth in filters.items():
        style = {"color": ink(name), "label": name, "lw": 1.1}
        opened = 100 * moving_faces.gap(smooth(spoken)) / scenes.EYE_DISTANCE
        axes[0].plot(spoken.times, opened, ".-", ms=4, **style)
        rows = within[name]["talk"]
        axes[1].plot([row["hertz"] for row in rows], [row["lips"] for row in rows], "o-", ms=4, **style)
        axes[2].plot(turning.times, moving_faces.angles(turning, smooth(turning))[:, 0], ".-", ms=4, **style)
    axes[0].plot(spoken.times, 100 * moving_faces.gap(truth) / scenes.EYE_DISTANCE, ":", color="black", label="truth")
    axes[2].plot(fine, value(fine), ":", color="black", lw=1, label="truth")
    axes[1].set_yscale("log")
    end = still.times[-1]
    axes[0].set_xlim(max(0, end - 1), end)
    axes[2].set_xlim(max(0, end - 1), end)
    for ax, (title, across, up) in zip(axes, (
        (f"A mouth that opens by 3 % at {moving_faces.TALK} Hz", "time, s", "gap of the lips, % of eye distance"),
        ("Lips: squared error over that of raw points", "syllables a second, Hz", "worst of openings of 2, 5, 10 %"),
        ("A head that turns at 1 Hz", "time, s", "yaw, degrees"),
    ), strict=True):  # fmt: skip
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(across)
        ax.set_ylabel(up)
    fig.legend(*axes[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=4)
    save(fig, path)
