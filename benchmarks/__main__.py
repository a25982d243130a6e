"""python -m benchmarks latency|gpu|pipeline|peers|accuracy|stability|measures|startup|all [--quick] [--smoke]"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.contract import LABELLED, RESULTS, machine
from tabrt.errors import TabrtError

# Peers come last: their table takes accuracy and steadiness from the accounts before it.
ALL = ("latency", "pipeline", "startup", "accuracy", "stability", "measures", "peers")
PLOTS = {"stability": "benchmarks.stability_plots"}  # elsewhere than in the benchmark itself

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Quick = Annotated[bool, typer.Option("--quick", help="Fewer runs: all of it in under 10 minutes on 2 cores.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Only show that it runs; writes nothing unless --out is given.")]
Model = Annotated[str, typer.Option(help="A model's name or file.")]
Faces = Annotated[Path | None, typer.Option(help="accuracy: a folder of 300-W, or one with human.zip.")]
Out = Annotated[Path | None, typer.Option(help="Folder for JSON, tables and plots.", show_default=str(RESULTS.name))]


def measure(name: str, effort: str, model: str, faces: Path | None, folder: Path) -> bool:
    """Run one benchmark and leave its account. False where a promise was missed."""
    start = time.perf_counter()
    benchmark = importlib.import_module(f"benchmarks.{name}")
    report = benchmark.run(effort, model, faces)
    report.folder = folder
    table = benchmark.table(report)
    importlib.import_module(PLOTS.get(name, f"benchmarks.{name}")).plots(report)
    report.write(table)
    print(f"\n# {name} ({time.perf_counter() - start:.0f} s)\n\n{table}\n")
    for title, lines in (
        ("won", report.wins),
        ("lost", report.losses),
        ("failed", report.failed),
        ("note", report.notes),
    ):
        for line in lines:
            print(f"{title}: {line}")
    return not report.failed


def _run(names: tuple[str, ...], quick: bool, smoke: bool, model: str, faces: Path | None, out: Path | None) -> None:
    effort = "smoke" if smoke else "quick" if quick else "full"
    if len(names) > 1 and faces is None and not LABELLED.is_dir():
        print(f"accuracy is passed over: there is no {LABELLED}; give a folder with --faces", file=sys.stderr)
        names = tuple(name for name in names if name != "accuracy")
    before = machine()
    if before["busy"] and not smoke:
        share = f"{100 * before['taken']:.0f} %"
        print(f"warning: other work takes {share} of this machine; times will be worth nothing", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = out or (Path(scratch) if smoke else RESULTS)
            kept = [measure(name, effort, model, faces, folder) for name in names]
    except TabrtError as problem:
        print(f"benchmarks: {problem}", file=sys.stderr)
        raise typer.Exit(1) from None
    if not all(kept):
        raise typer.Exit(1)


def _add(name: str, names: tuple[str, ...], about: str) -> None:
    @app.command(name, help=about)
    def command(
        quick: Quick = False,
        smoke: Smoke = False,
        model: Model = "tab1-lite",
        faces: Faces = None,
        out: Out = None,
    ) -> None:
        _run(names, quick, smoke, model, faces, out)


_add("latency", ("latency",), "Milliseconds of the network for every engine, precision and build.")
_add("gpu", ("gpu",), "The paper's table on an NVIDIA card; on a CPU in small, to show that it runs.")
_add("pipeline", ("pipeline",), "Milliseconds a frame by stage, as pictures grow and faces become more.")
_add("peers", ("peers",), "MediaPipe and dlib on the same frames and cores.")
_add("accuracy", ("accuracy",), "Errors on labelled faces, with the peers'.")
_add("stability", ("stability",), "Jitter, lag, steps, blinks and frame rates, with One-Euro and the peers.")
_add("measures", ("measures",), "Head pose, blinks and expression: turned heads, known poses, marked blinks.")
_add("startup", ("startup",), "From the command to the first frame, and memory over time.")
_add("soak", ("soak",), "The live loop for a long time: latency, drops, memory, threads, files.")
_add("all", ALL, "Everything.")

if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    app()
