"""The paper's table on an NVIDIA card: 17 and 27 ms for one face, and every way to run the network beside them.

Network: what the card needs, measured there by events. Call: crops in the host's memory to maps there, by wall clock.
Without a card the same steps run on the CPU, in small, and nothing is promised.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gpu_state
from benchmarks.contract import Report, markdown, pick, timed
from benchmarks.gpu_runners import RUNNERS, Device, Runner, find_device, open_runner
from benchmarks.latency import PAPER_MS, RANDOM, crops, random_checkpoint
from benchmarks.plots import figure, save
from tabrt.engines import CPU, in_batches
from tabrt.engines.parity import Shift, sample_crops
from tabrt.errors import TabrtError, first_line
from tabrt.files import MODEL_FOLDER
from tabrt.network.checkpoint import load_checkpoint
from tabrt.network.deployed import torch_maps
from tabrt.variants import variant_name

WARM_UP = 1.0  # s at least: an idle card takes most of that to raise its clock
PATIENCE = 10.0  # s at most
AGREEING = 10  # medians in a row
AGREEMENT = 0.03  # of each other
GROUP = 5  # runs that a median is taken of


def warm_up(call: Callable[[], object], at_least: float, clock: Callable[[], float] = time.perf_counter) -> bool:
    """Call until AGREEING medians agree, for some time at least. False where they never did within PATIENCE."""
    start, medians = clock(), list[float]()
    while True:
        seconds = []
        for _ in range(GROUP):
            before = clock()
            call()
            seconds.append(clock() - before)
        medians = [*medians, float(np.median(seconds))][-AGREEING:]
        spent = clock() - start
        agreed = len(medians) == AGREEING and max(medians) <= (1 + AGREEMENT) * min(medians)
        if spent >= at_least and (agreed or at_least == 0):
            return agreed
        if spent >= max(PATIENCE, at_least):
            return False


def run(effort: str, model: str, faces: Path | None) -> Report:
    """Every way × precision × hourglasses × width × batch, as far as they are here."""
    device, reason = find_device()
    notes = [
        "Network: between two events on the card; of TensorRT it holds the crops' way there and the points' way back. "
        "Call: crops in the host's memory to landmark maps there, by wall clock, synchronised.",
        "The paper's figures are of eager float32 on a TITAN X of 2015; a card of today wins by its age alone.",
    ]
    if reason:
        notes.append(f"No GPU was measured ({reason}): these are times of the CPU, in small, to show that it runs.")
    with tempfile.TemporaryDirectory() as folder:
        rows = list(_rows(effort, device, Path(folder), notes))
    report = Report("gpu", effort, None, {"device": device.name, "rows": rows, "paper_ms": PAPER_MS}, [], notes=notes)
    judge(report)
    return report


def _rows(effort: str, device: Device, folder: Path, notes: list[str]) -> Iterator[dict]:
    on_card = device.where == "cuda"
    widths = pick(effort, ("full", "lite"), ("full", "lite"), ("lite",)) if on_card else ("lite",)
    for width in widths:
        for hourglasses in pick(effort, (1, 2), (1, 2), (1,)):
            name = variant_name(hourglasses, width)
            shipped = MODEL_FOLDER / f"{name}.safetensors"
            trained = shipped.is_file()
            checkpoint = shipped if trained else random_checkpoint(folder / f"{name}.safetensors", hourglasses, width)
            for precision in ("fp32", "fp16"):
                for title, make in RUNNERS.items():
                    try:
                        runner, seconds = open_runner(make, checkpoint, device, precision)
                    except TabrtError as problem:
                        notes.append(f"{name}, {title}, {precision}: left out ({problem})")
                        continue
                    try:
                        shift = _shift(checkpoint, runner) if trained and precision == "fp16" else None
                        build = {
                            "device": device.name, "engine": title, "precision": precision, "build": name,
                            "weights": name if trained else RANDOM, "hourglasses": hourglasses, "width": width,
                            "ready_s": seconds, "shift": shift,
                        }  # fmt: skip
                        yield from (
                            {**build, **row} for row in _batches(effort, device, runner, title, precision, notes, name)
                        )
                    except Exception as problem:  # one way that fails must not cost the page
                        notes.append(f"{name}, {title}, {precision}: failed ({first_line(problem)})")
                    finally:
                        runner.close()


def _sizes(effort: str, on_card: bool, title: str, precision: str) -> tuple[int, ...]:
    """Faces in a call. In a hurry, many of them only for the fastest: float16, and not layer by layer."""
    if not on_card:
        return (1, 2)
    if effort != "full" and (title in ("torch", "torch.compile") or precision == "fp32"):
        return (1,)
    return pick(effort, (1, 2, 4, 8, 16, 32, 64), (1, 4, 16, 64), (1, 2))


def _batches(
    effort: str, device: Device, runner: Runner, title: str, precision: str, notes: list[str], name: str
) -> Iterator[dict]:
    on_card = device.where == "cuda"
    for batch in _sizes(effort, on_card, title, precision):
        runs = pick(effort, 200, 200 if batch == 1 else 50, 3) if on_card else pick(effort, 20, 5, 3)
        pictures = np.repeat(crops(1), batch, axis=0)
        at_least = 0.0 if effort == "smoke" or not on_card else WARM_UP if batch == 1 else 0.5
        steady = warm_up(functools.partial(runner.call, pictures), at_least)
        before = gpu_state.look()
        network = None
        if runner.launch is not None and batch <= runner.most:
            network = device.network(runner.launch(batch), runs, runner.stream)
        call = timed(functools.partial(runner.call, pictures), runs, 1, device.synchronise)
        after = gpu_state.look()
        if after is not None and after.throttled:
            notes.append(f"{name}, batch {batch}: the card was held back ({after})")
        if at_least and not steady:
            notes.append(f"{name}, batch {batch}: times did not settle within {PATIENCE:.0f} s")
        yield {
            "batch": batch, "network": network, "milliseconds": call, "faces_per_second": 1e3 * batch / call.median,
            "memory_mib": device.memory_mib(), "before": _told(before), "after": _told(after),
        }  # fmt: skip


def _told(state: gpu_state.State | None) -> str | None:
    return None if state is None else str(state)


def _shift(checkpoint: Path, runner: Runner) -> dict[str, Any]:
    """How far its points are from float32's on the CPU, on real crops."""
    network, card = load_checkpoint(checkpoint)
    pictures = sample_crops()
    maps = in_batches(lambda batch: (runner.call(batch),), pictures, card)[0]
    shift = Shift.between(torch_maps(network, pictures)[0], maps, card)
    return {"worst": shift.worst, "nearly": shift.nearly, "median": shift.median, "objection": shift.objection("fp16")}


def judge(report: Report) -> None:
    """The paper's 17 and 27 ms, full width, one face: on a GPU a promise, on a CPU nothing."""
    rows, device = report.results["rows"], report.results["device"]
    for row in rows:
        shift = row.get("shift")
        if row["batch"] == 1 and shift is not None and shift["objection"]:
            report.failed.append(f"{row['build']}, {row['engine']}: {shift['objection']}")
    if device == CPU:
        return
    for hourglasses, paper in PAPER_MS.items():
        mine = [
            row
            for row in rows
            if (row["hourglasses"], row["width"], row["batch"]) == (hourglasses, "full", 1) and row["device"] == device
        ]
        if not mine:
            report.failed.append(f"{device}: nothing of {hourglasses} hourglass(es) at full width could be timed")
            continue
        best = min(mine, key=lambda row: row["milliseconds"].median)
        line = (
            f"{device}, {hourglasses} hourglass(es), {best['engine']} {best['precision']}: {best['milliseconds']} ms a "
            f"call; paper {paper:g} ms"
        )
        (report.wins if best["milliseconds"].median <= paper else report.failed).append(line)


def table(report: Report) -> str:
    rows = report.results["rows"]
    return "\n\n".join(part for part in (_paper(report), _throughput(rows), _parity(rows), _readiness(rows)) if part)


def _paper(report: Report) -> str:
    """One face, by hourglasses: the paper's own table, with what was measured under it."""
    lines: dict[str, dict] = {"paper, TITAN X, full": dict(PAPER_MS)}
    for row in report.results["rows"]:
        if row["batch"] == 1:
            name = f"{row['device']}, {row['width']}, {row['engine']} {row['precision']}"
            for kind in ("network", "milliseconds"):
                if row[kind] is not None:
                    label = f"{name}, {'network' if kind == 'network' else 'call'}"
                    lines.setdefault(label, {})[row["hourglasses"]] = row[kind]
    cells = [[name, found.get(1), found.get(2)] for name, found in lines.items()]
    return markdown(["one face, ms (quartiles)", "1 hourglass", "2 hourglasses"], cells)


def _throughput(rows: list[dict]) -> str:
    sizes = sorted({row["batch"] for row in rows})
    lines: dict[str, dict] = {}
    for row in rows:
        name = f"{row['device']}, {row['build']}, {row['engine']} {row['precision']}"
        lines.setdefault(name, {})[row["batch"]] = f"{row['faces_per_second']:.0f}"
    header = ["faces a second, by faces in a call", *map(str, sizes)]
    return markdown(header, [[name, *(found.get(size) for size in sizes)] for name, found in lines.items()])


def _parity(rows: list[dict]) -> str:
    judged = [row for row in rows if row["batch"] == 1 and row.get("shift")]
    if not judged:
        return ""
    cells = [
        [f"{row['device']}, {row['build']}, {row['engine']}", *(f"{row['shift'][k]:.3f}" for k in SHIFTS)]
        for row in judged
    ]
    return markdown(["float16 from float32, px of 256", "median", "99.8 %", "worst"], cells)


SHIFTS = ("median", "nearly", "worst")


def _readiness(rows: list[dict]) -> str:
    cells = [
        [f"{row['device']}, {row['build']}, {row['engine']} {row['precision']}", f"{row['ready_s']:.1f}",
         None if row["memory_mib"] is None else f"{row['memory_mib']:.0f}", row["after"]]
        for row in rows if row["batch"] == 1
    ]  # fmt: skip
    return markdown(["", "s until ready", "MiB taken on the card", "state after"], cells)


def plots(report: Report) -> None:
    fig, (ax,) = figure(1, width=6.4, height=4.0)
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in report.results["rows"]:
        name = f"{row['build']}, {row['engine']} {row['precision']}"
        lines.setdefault(name, []).append((row["batch"], row["faces_per_second"]))
    for name, points in lines.items():
        ax.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1, label=name)
    ax.set(
        xlabel="faces in a call", ylabel="faces a second", title=report.results["device"], xscale="log", yscale="log"
    )
    if lines:
        ax.legend(fontsize=6)
    save(fig, report.folder / "gpu.png")
