"""What a run says of itself: lines or a progress bar on the screen, log.csv, curves.png, and pictures of samples."""

from __future__ import annotations

import csv
import io
import sys
import time
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from tabrt.files import write_atomically
from training.validation import Validation

_EVERY = 50  # steps between lines
_COLUMNS = ("phase", "step", "faces", "learning_rate", "landmarks", "boundaries", "validation")


class Journal:
    """Running means of the losses, and a row for each validation. `shown`: only one of the processes speaks."""

    def __init__(self, out: Path, shown: bool):
        self.out, self.shown = out, shown
        self.means: dict[str, float] = {}
        self.rows: list[dict] = []
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(), TextColumn("{task.fields[told]}"),
            disable=not (shown and sys.stdout.isatty()), redirect_stdout=False,
        )  # fmt: skip
        self._task: TaskID | None = None

    def say(self, text: str) -> None:
        if self.shown:
            self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, phase: int, step: int, steps: int) -> None:
        self.phase, self.steps = phase, steps
        self._first, self._began = step, time.perf_counter()
        self._task = self.bar.add_task(f"phase {phase + 1}", total=steps, completed=step, told="")

    def add(self, step: int, losses: dict[str, Tensor], rate: float, batch: int) -> None:
        """Take in the losses of a step."""
        for name, value in losses.items():
            self.means[name] = 0.98 * self.means.get(name, float(value)) + 0.02 * float(value)
        speed = (step - self._first) * batch / (time.perf_counter() - self._began)
        told = "  ".join(f"{name} {value:.4f}" for name, value in self.means.items()) + f"  {speed:.1f} faces/s"
        assert self._task is not None  # begun
        self.bar.update(self._task, completed=step, told=told)
        if self.bar.disable and step % _EVERY == 0:
            self.say(f"step {step}/{self.steps}  {told}  rate {rate:.2e}")

    def validated(self, step: int, batch: int, rate: float, told: Validation) -> None:
        """A row of the log, and the curves. Both are written whole, so a resumed run's are those of one run."""
        row = {"phase": self.phase + 1, "step": step, "faces": step * batch, "learning_rate": rate}
        each = {f"validation_{name}": error for name, error in told.errors.items()} if len(told.errors) > 1 else {}
        self.rows.append({**row, **self.means, "validation": told.mean, **each})
        self.say(f"step {step}: validation {told}")
        if self.shown:
            self._write()

    def _write(self) -> None:
        text = io.StringIO()
        each = dict.fromkeys(key for row in self.rows for key in row if key not in _COLUMNS)
        writer = csv.DictWriter(text, [*_COLUMNS, *each], restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.out / "log.csv", text.getvalue().encode())
        write_atomically(self.out / "curves.png", curves(self.rows))


def curves(rows: list[dict]) -> bytes:
    """A PNG of the losses and the validation error over the faces seen, phase after phase."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    for axes, name in zip(panels, ("landmarks", "boundaries", "validation"), strict=True):
        before = 0
        for phase in sorted({row["phase"] for row in rows}):
            part = [row for row in rows if row["phase"] == phase]
            faces = np.array([row["faces"] for row in part]) + before
            values = np.array([row.get(name, np.nan) for row in part])
            if (values > 0).any():  # a loss that the phase does not train is 0
                axes.semilogy(faces, values, ".-", label=f"phase {phase}")
            if name == "validation":
                _each_trial(axes, part, faces)
            before = faces[-1]
        axes.set(ylabel=name)
        axes.grid(alpha=0.3, which="both")
    panels[-1].legend(fontsize="small", ncols=2)
    panels[-1].set_xlabel("faces seen")
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=100)
    return memory.getvalue()


def _each_trial(axes, rows: list[dict], faces: np.ndarray) -> None:
    """A thin line for each weakness beside that of their mean."""
    for key in dict.fromkeys(key for row in rows for key in row if key.startswith("validation_")):
        values = np.array([row.get(key, np.nan) for row in rows])
        axes.semilogy(faces, values, ".-", linewidth=0.8, label=key.removeprefix("validation_"))
