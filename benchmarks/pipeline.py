"""What a film costs, stage by stage, as pictures grow and faces become more; and the command's speed and memory."""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

from benchmarks.contract import Report, markdown, pick
from benchmarks.films import SIZES, make, whole_command
from benchmarks.plots import figure, save
from tabrt.commands.progress import Stopwatch
from tabrt.drawing.overlay import draw
from tabrt.engines import load_engine
from tabrt.film import FilmWriter, open_film
from tabrt.hardware import available_threads
from tabrt.topology import topology_named
from tabrt.tracking import Tracker

STAGES = ("decode", "detect", "crop", "network", "maps", "smooth", "draw", "encode")
TRACKER = STAGES[1:6]  # what the tracker itself does
STAGED = 50  # frames that are timed stage by stage: all are held in memory


def run(effort: str, model: str, faces: Path | None) -> Report:
    """Each case in a process of its own, so that its peak memory is its own."""
    sizes = pick(effort, ("360p", "720p", "1080p"), ("360p", "720p", "1080p"), ("360p",))
    counts = pick(effort, (0, 1, 4, 8), (0, 1, 4, 8), (1,))
    frames = pick(effort, 200, 50, 6)
    engine = load_engine(model)
    card, threads = engine.card, available_threads(None)
    engine.close()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            for count in counts:
                film = make(Path(folder) / f"{size}-{count}.mp4", SIZES[size], count, frames)
                rows.append({"size": size, "faces": count, "frames": frames, **measure(film, count, model)})
                film.unlink()
    notes = [
        "Each stage is timed for all frames before the next one starts; `frames a second` is the whole of `tabrt "
        "video`, whose stages share the cores. Films are put together from the demo film's face.",
        "`faces seen` is the mean number found a frame: where it is lower than the faces shown, they were too small.",
    ]
    report = Report("pipeline", effort, card, {"rows": rows}, [threads], notes=notes)
    judge(report)
    return report


def judge(report: Report) -> None:
    """Whether many faces cost less than as many times one."""
    costs = {(row["size"], row["faces"]): tracker_ms(row) for row in report.results["rows"]}
    for (size, faces), cost in costs.items():
        if faces > 1 and (size, 1) in costs:
            ratio = cost / costs[size, 1]
            line = f"{size}: {faces} faces cost the tracker {ratio:.2f} times what one costs"
            (report.wins if ratio < faces else report.losses).append(line)


def tracker_ms(row: dict) -> float:
    """Milliseconds a frame of detection, crops, network, decoding of the maps and smoothing."""
    return sum(row["milliseconds"][stage] for stage in TRACKER)


def _apart(function, *arguments):
    """Call a function in a fresh process, which imports no more than the function's own module."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def measure(film: Path, faces: int, model: str) -> dict:
    """One film: milliseconds a frame by stage, then the whole command."""
    stages, seen = _apart(by_stage, film, max(faces, 1), model)
    return {"milliseconds": stages, "faces_seen": seen, **_apart(whole_command, film, max(faces, 1), model)}


def by_stage(source: Path, faces: int, model: str) -> tuple[dict[str, float], float]:
    """Mean milliseconds a frame of each stage, and the mean number of faces.

    One stage after the other for all frames, for codecs go on in threads of their own, which would slow the next stage.
    What decoding and drawing make is let go while they are timed, as in use: memory that is new each time is slow.
    """
    watch, out = Stopwatch(), source.with_name("stages.mp4")
    with open_film(source) as film:
        for _frame in watch.each("decode", islice(film, STAGED)):
            pass
    with open_film(source) as film, Tracker(model=model, faces=faces) as tracker:
        topology = topology_named(tracker.engine.card.topology)
        frames = list(islice(film, STAGED))
        for frame in frames[: len(frames) // 4]:  # warms up; what was seen is forgotten
            tracker(frame)
        tracker.reset()
        tracker.seconds.update(dict.fromkeys(tracker.seconds, 0.0))
        scenes = [tracker(frame) for frame in frames]
        for scene in scenes:
            with watch.stage("draw"):
                draw(scene, topology)
        pictures = [draw(scene, topology) for scene in scenes]
        with watch.stage("encode"), FilmWriter(out, film.width, film.height, film.rate) as writer:
            for picture, frame in zip(pictures, frames, strict=True):
                writer.write(picture, frame.time)
    out.unlink()
    seconds = tracker.seconds | watch.seconds
    seen = sum(len(scene.faces) for scene in scenes) / len(scenes)
    return {stage: 1e3 * seconds.get(stage, 0.0) / len(frames) for stage in STAGES}, seen


def table(report: Report) -> str:
    header = [
        "",
        "faces",
        *(f"{stage}" for stage in STAGES),
        "tracker, ms",
        "sum, ms",
        "frames a second",
        "faces seen",
        "peak MiB",
    ]
    rows = [
        [row["size"], row["faces"], *row["milliseconds"].values(), tracker_ms(row), sum(row["milliseconds"].values()),
         f"{row['frames_a_second']:.0f}", f"{row['faces_seen']:.1f}", f"{row['peak_memory_mib']:.0f}"]
        for row in report.results["rows"]
    ]  # fmt: skip
    return markdown(header, rows)


def plots(report: Report) -> None:
    rows = report.results["rows"]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    fig, axes = figure(len(sizes) + 1, width=4.0, height=3.8)
    highest = max(sum(row["milliseconds"].values()) for row in rows)
    for ax, size in zip(axes, sizes, strict=False):
        mine = [row for row in rows if row["size"] == size]
        base = [0.0] * len(mine)
        for stage in STAGES:
            heights = [row["milliseconds"][stage] for row in mine]
            ax.bar([str(row["faces"]) for row in mine], heights, bottom=base, label=stage)
            base = [a + b for a, b in zip(base, heights, strict=True)]
        ax.set_title(size, fontsize=10)
        ax.set_xlabel("faces")
        ax.set_ylim(0, 1.05 * highest)
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("milliseconds a frame, one stage after the other")
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].legend(handles[::-1], labels[::-1], fontsize=7.5, frameon=False)
    for size in sizes:
        mine = [row for row in rows if row["size"] == size]
        axes[-1].plot([row["faces"] for row in mine], [row["frames_a_second"] for row in mine], "o-", label=size)
    axes[-1].set_title("whole command", fontsize=10)
    axes[-1].set_xlabel("faces")
    axes[-1].set_ylabel("frames a second")
    axes[-1].set_ylim(bottom=0)
    axes[-1].legend(fontsize=7.5, frameon=False)
    save(fig, report.folder / "pipeline.png")
