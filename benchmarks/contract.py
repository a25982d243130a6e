"""What every benchmark keeps to: warm-up, synchronised timing, medians with quartiles, and a full account in JSON."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tabrt.card import ModelCard
from tabrt.hardware import available_threads, has_cuda

Value = TypeVar("Value")

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
LABELLED = ROOT.parent / "shared" / "faces"  # labelled faces, where no other folder is given
EFFORTS = ("full", "quick", "smoke")
PACKAGES = (
    *("tabrt", "numpy", "opencv-contrib-python", "mediapipe", "av", "filterpy"),
    *("onnxruntime", "openvino", "torch", "torch-tensorrt", "torch-tensorrt-rtx"),
)
BUSY = 0.15  # share of the machine that others take before the start, above which times are worth little
LOOK = 1.0  # seconds that are looked at for it


def pick(effort: str, full: Value, quick: Value, smoke: Value) -> Value:
    """The amount of work for an effort of EFFORTS."""
    return {"full": full, "quick": quick, "smoke": smoke}[effort]


@dataclass(frozen=True)
class Timing:
    """Milliseconds over many runs."""

    median: float
    lower: float  # first quartile
    upper: float  # third quartile
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        lower, median, upper = np.percentile(np.asarray(seconds) * 1e3, (25, 50, 75))
        return cls(float(median), float(lower), float(upper), len(seconds))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lower:.2f}–{self.upper:.2f})"


def timed(
    call: Callable[[], object], runs: int, warmup: int = 5, synchronise: Callable[[], object] | None = None
) -> Timing:
    """Time a call. `synchronise` waits for a device and is inside the timing; warm-up runs are not counted."""
    for _ in range(warmup):
        call()
    if synchronise:
        synchronise()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        if synchronise:
            synchronise()
        seconds.append(time.perf_counter() - start)
    return Timing.of(seconds)


@dataclass
class Report:
    """One benchmark's account. `results` is plain data; `losses` says in words where others are better."""

    benchmark: str
    effort: str
    model: ModelCard | None
    results: dict
    threads: list[int]
    wins: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # promises missed: the command exits with 1
    behind: Any = None  # what plots are drawn from and the JSON leaves out
    folder: Path = RESULTS  # where it is left, and where the accounts of the others lie

    def to_dict(self) -> dict:
        return {
            "format": "tabrt-benchmark",
            "version": 1,
            "benchmark": self.benchmark,
            "effort": self.effort,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": ["python", "-m", "benchmarks", *map(as_seen_from_here, sys.argv[1:])],
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
            "threads": self.threads,
            "model": None if self.model is None else asdict(self.model),
            "results": _plain(self.results),
            **{name: getattr(self, name) for name in ("wins", "losses", "notes", "failed")},
        }

    def write(self, table: str) -> None:
        """Leave <benchmark>.json and <benchmark>.md in the folder."""
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        account = self.to_dict()
        text = json.dumps(account, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / f"{self.benchmark}.json").write_text(text + "\n", "utf-8")
        (folder / f"{self.benchmark}.md").write_text(page(account, table), "utf-8")


def as_seen_from_here(argument: str) -> str:
    """An argument of a command, its path told as seen from the project where it lies in it or beside it.

    Of any other whole path the end alone is told: an account is for everybody, and nobody else has that folder.
    """
    option, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
    path = Path(os.path.abspath(value))
    if not os.path.isabs(value):
        return argument
    seen = Path(os.path.relpath(path, ROOT)) if path.is_relative_to(ROOT.parent) else Path("…", path.name)
    return f"{option}{equals}{seen.as_posix()}"


def page(account: dict, table: str) -> str:
    """The markdown page of one account: where and how it was measured, the table, what was won and lost."""
    machine_ = account["machine"]
    where = f"{machine_['cpu']}, {machine_['cores']} cores, {machine_['memory_gib']} GiB, {machine_['gpu'] or 'no GPU'}"
    lines = [
        f"# {account['benchmark']}",
        f"{where}. {account['time']}, commit {account['commit']}, `{' '.join(account['command'])}`; other work "
        f"took {100 * machine_['taken']:.0f} % of the machine before the start.",
    ]
    if machine_["busy"]:
        lines.append("**The machine was busy with other work: times here are worth nothing.**")
    lines.append(table)
    for title, key in (("Won", "wins"), ("Lost", "losses"), ("Failed", "failed"), ("Notes", "notes")):
        if account[key]:
            lines.append("\n".join([f"{title}:", "", *(f"- {line}" for line in account[key])]))
    return "\n\n".join(lines) + "\n"


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; the first column is left-aligned, the others right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _plain(value: object) -> object:
    """Numpy and dataclasses to what JSON knows; NaN and infinity to None."""
    if isinstance(value, Timing):
        return {"median_ms": value.median, "q1_ms": value.lower, "q3_ms": value.upper, "runs": value.runs}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


@functools.cache
def taken() -> float:
    """The share of all cores that was in use, by anybody, while this process slept: the first time it was asked for.

    A load average would count what the benchmark before has left there.
    """
    try:
        before = _processor_times()
        time.sleep(LOOK)
        spent = _processor_times() - before
    except OSError:
        return 0.0
    idle = spent[3:5].sum()  # idle, and waiting for a disk
    return float(1 - idle / spent.sum()) if spent.any() else 0.0


def _processor_times() -> np.ndarray:
    """user, nice, system, idle, iowait, irq, softirq, steal of all cores together, in ticks (man 5 proc)."""
    return np.array(Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9], float)


def machine() -> dict:
    """What this was measured on."""
    cores = available_threads(None)
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": round(pages / 2**30, 1),
        "gpu": _gpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "taken": taken(),
        "busy": taken() > BUSY,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _gpu() -> str | None:
    if not has_cuda():
        return None
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip() or "NVIDIA GPU"
    except (OSError, subprocess.TimeoutExpired):
        return "NVIDIA GPU"


def versions() -> dict[str, str]:
    """Installed versions of what can change a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The checkout's commit, with `+` after it when files differ from it."""
    try:
        git = ["git", "-C", str(ROOT)]
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=20)
        if head.returncode:
            return None
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=20)
        return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return None


def memory_peak_mib() -> float:
    """The most memory this process has held. From /proc: getrusage would count the parent's, too."""
    return _status("VmHWM")


def memory_mib(pid: int | str = "self") -> float:
    """The memory a process holds now; 0 when it has ended."""
    return _status("VmRSS", pid)


def _status(name: str, pid: int | str = "self") -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":")), 0.0)
