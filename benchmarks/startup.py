"""From the command to the first frame, imports included; and memory while a film runs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.contract import ROOT, Report, Timing, markdown, memory_mib, pick
from benchmarks.films import SIZES, make
from benchmarks.plots import figure, save
from tabrt.commands.demo import DEMO_FILM
from tabrt.engines import load_engine
from tabrt.hardware import available_threads

TARGET = 1.5  # s to the first frame, for the lite models
PATIENCE = 300.0  # s
LEAST = 3.0  # s of a warm run from which its growth can be told
GROWTH = 5.0  # MiB a minute above which memory counts as growing


def run(effort: str, model: str, faces: Path | None) -> Report:
    engine = load_engine(model)
    card = engine.card
    engine.close()
    runs = pick(effort, 10, 5, 1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        first = [first_frame(model, out) for _ in range(runs + 1)][min(1, runs) :]  # the first warms the disk's cache
        version = [_seconds(["--version"]) for _ in range(runs)]
        film = make(out / "long.mp4", SIZES["360p"], 1, pick(effort, 3000, 750, 25))
        memory = memory_over_time(model, film, out)
    median = Timing.of(first).median
    results = {
        "first_frame": Timing.of(first),
        "version": Timing.of(version),
        "target_ms": 1e3 * TARGET,
        "memory": memory,
    }
    report = Report("startup", effort, card, results, [available_threads(None)])
    report.notes.append(
        "First frame: `tabrt video FILM --landmarks FILE`, from the start of the process to its first line."
    )
    line = f"first frame after {median:.0f} ms; wanted {1e3 * TARGET:.0f} ms"
    (report.wins if median <= 1e3 * TARGET else report.losses).append(line)
    if memory["slope_mib_a_minute"] is not None:
        line = f"memory grows by {memory['slope_mib_a_minute']:.1f} MiB a minute once it is warm"
        (report.wins if memory["slope_mib_a_minute"] <= GROWTH else report.losses).append(line)
    return report


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "tabrt", *arguments]


def _seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(_command(arguments), cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def first_frame(model: str, folder: Path) -> float:
    """Seconds from the start of `tabrt video` until the first frame's line lies on disk."""
    landmarks = folder / "first.jsonl"
    landmarks.unlink(missing_ok=True)
    start = time.perf_counter()
    process = _video(model, DEMO_FILM, landmarks)
    assert process.stderr is not None
    try:
        while _lines(landmarks) < 2:
            if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                raise RuntimeError(f"tabrt video gave no frame: {process.stderr.read().decode()[-500:]}")
            time.sleep(0.002)
        return time.perf_counter() - start
    finally:
        process.kill()
        process.communicate()


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _video(model: str, film: Path, landmarks: Path) -> subprocess.Popen:
    arguments = [
        "video",
        str(film),
        "--landmarks",
        str(landmarks),
        "--model",
        str(Path(model).resolve() if "/" in model else model),
    ]
    return subprocess.Popen(_command(arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def memory_over_time(model: str, film: Path, folder: Path) -> dict:
    """Resident memory while a film runs, and its slope over the second half."""
    seconds, mib = [], []
    start = time.perf_counter()
    process = _video(model, film, folder / "long.jsonl")
    while process.poll() is None:
        held = memory_mib(process.pid)
        if held:
            seconds.append(time.perf_counter() - start)
            mib.append(held)
        time.sleep(0.1)
    process.communicate()
    half = len(mib) // 2
    long_enough = half and seconds[-1] - seconds[half] >= LEAST
    slope = 60 * float(np.polyfit(seconds[half:], mib[half:], 1)[0]) if long_enough else None
    return {"seconds": seconds, "mib": mib, "peak_mib": max(mib, default=None), "slope_mib_a_minute": slope}


def table(report: Report) -> str:
    results = report.results
    memory = results["memory"]
    rows = [
        ["first frame, ms", str(results["first_frame"])],
        ["`tabrt --version`, ms", str(results["version"])],
        ["peak memory, MiB", memory["peak_mib"]],
        ["growth, MiB a minute", memory["slope_mib_a_minute"]],
    ]
    return markdown(["", "median (quartiles)"], rows)


def plots(report: Report) -> None:
    memory = report.results["memory"]
    fig, (ax,) = figure(1, width=6.0, height=3.2)
    ax.plot(memory["seconds"], memory["mib"], color="#0a7a5c")
    ax.set_xlabel("seconds since the command")
    ax.set_ylabel("resident memory, MiB")
    ax.set_ylim(bottom=0)
    ax.axvline(report.results["first_frame"].median / 1e3, color="black", lw=0.8, ls="--", label="first frame, median")
    ax.legend(fontsize=8, frameon=False)
    save(fig, report.folder / "startup.png")
