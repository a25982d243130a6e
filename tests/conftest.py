"""Films, pictures and the command, for every test."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "tabrt" / "demo" / "pexels_face.mp4"
SHARED = ROOT.parent / "shared"
# The truth that tests hold things to is the CPU's, on machines with a GPU too: `python -m benchmarks gpu` is for those.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # torch takes all cores for itself unless it is told
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
TIMES = (0, 40, 80, 125, 160, 240, 280, 300, 360, 400, 440, 520, 560, 600, 640, 700)  # ms: no steady rate


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that is marked `vnni` is about this very machine's int8 instructions."""
    from tabrt.hardware import int8_instructions

    if item.get_closest_marker("vnni") and int8_instructions() != "VNNI":
        pytest.skip("this CPU has no VNNI")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite runs in a process a core, up to four, each of which imports torch; a part of it in this one."""
    from tabrt.hardware import available_threads

    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    return min(4, available_threads(None)) if whole and not config.option.collectonly else 0


# What Windows has not: SIGHUP and its kin, forks, named pipes, limits of a process, /proc and /dev.
posix = pytest.mark.skipif(sys.platform == "win32", reason="is about what Windows has not")


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Within it a write beyond this many bytes of a file fails, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="limits what a process may write; Windows cannot")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def command() -> list[str]:
    """The installed command of this environment, or the package of this checkout where it is not installed."""
    script = Path(sys.executable).with_name("tabrt")
    return [str(script)] if script.exists() else [sys.executable, "-m", "tabrt"]


def environment(**changes: str) -> dict[str, str]:
    """This process' environment, changed, in which this checkout is the package whatever else is installed."""
    path = os.pathsep.join(filter(None, [changes.get("PYTHONPATH"), str(ROOT)]))
    return {**os.environ, **changes, "PYTHONPATH": path}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run `tabrt` in an empty folder to its end: run("video", "in.mp4", …).

    In this process, for starting one takes longer than most of what is asked of it; with options of subprocess.run (an
    environment, an input, a limit of its own) or alone=True in one of its own.
    """

    def run(*arguments: object, alone: bool = False, **options) -> subprocess.CompletedProcess:
        words = list(map(str, arguments))
        if not alone and not options:
            return _run_here(words, tmp_path)
        options = {"env": environment(), "stdin": subprocess.DEVNULL, "timeout": 300, **options}
        return subprocess.run([*command(), *words], cwd=tmp_path, capture_output=True, text=True, **options)

    return run


def _run_here(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    """What the command does in this process, which is afterwards as it was before."""
    from tabrt import cli

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        for number in cli.ending_signals():
            stack.callback(signal.signal, number, signal.getsignal(number))
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(sys, "argv", ["tabrt", *words])
        stack.enter_context(_fresh_logging())
        told = [stack.enter_context(_caught(number)) for number in (1, 2)]
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        output, error = (read() for read in told)
    return subprocess.CompletedProcess(words, code, output, error)


@contextlib.contextmanager
def _caught(number: int) -> Iterator[Callable[[], str]]:
    """What is written to a standard stream, by Python and by C, in place of showing it."""
    name = {1: "stdout", 2: "stderr"}[number]
    old, kept = getattr(sys, name), os.dup(number)
    with tempfile.TemporaryFile() as file:
        old.flush()
        os.dup2(file.fileno(), number)
        stream = os.fdopen(number, "w", encoding="utf-8", closefd=False)
        setattr(sys, name, stream)

        def read() -> str:
            stream.flush()
            file.seek(0)
            return file.read().decode("utf-8", "backslashreplace").replace(os.linesep, "\n")

        try:
            yield read
        finally:
            setattr(sys, name, old)
            stream.flush()
            os.dup2(kept, number)
            os.close(kept)


@contextlib.contextmanager
def _fresh_logging() -> Iterator[None]:
    """A logging that nobody has set up yet."""
    loggers = [logging.getLogger(), logging.getLogger("tabrt")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    for logger in loggers:
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET if logger.name == "tabrt" else logging.WARNING)
    yield
    for logger, level, handlers in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def each_network_is_traced_once() -> Iterator[None]:
    """torch takes ten seconds to trace a network for ONNX, and many tests are about one and the same."""
    graph = sys.modules.get("tabrt.exporting.graph")
    if graph is None:  # no test that was asked for exports anything
        yield
        return
    traced, known = graph._traced, {}

    def remembered(network):
        weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
        key = str(network.config), hashlib.sha256(weights).digest()
        if key not in known:
            known[key] = traced(network)
        return copy.deepcopy(known[key])

    graph._traced = remembered
    yield
    graph._traced = traced


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 frames of a real face at uneven times, 320×180, with sound."""
    path = tmp_path_factory.mktemp("films") / "clip.mp4"
    write_clip(path, CLIP)
    return path


def write_clip(path: Path, source: Path) -> None:
    """A short film of every third frame of another, at TIMES, with a tone."""
    with av.open(str(source)) as film, av.open(str(path), "w") as out:
        picture = out.add_stream("libx264", rate=25, options={"crf": "18", "preset": "veryfast"})
        picture.width, picture.height, picture.pix_fmt = 320, 180, "yuv420p"
        picture.codec_context.time_base = Fraction(1, 1000)
        sound = out.add_stream("aac", rate=44100, layout="mono")
        for packet in _tone(sound, TIMES[-1] / 1000):
            out.mux(packet)
        frames = (frame for index, frame in enumerate(film.decode(video=0)) if index % 3 == 0)
        for time, frame in zip(TIMES, frames, strict=False):
            small = frame.reformat(320, 180, "yuv420p")
            small.pts, small.time_base = time, Fraction(1, 1000)
            out.mux(picture.encode(small))
        out.mux(picture.encode(None))


def _tone(stream: av.AudioStream, seconds: float):
    phase = np.arange(int(44100 * seconds)) * (2 * math.pi * 440 / 44100)
    frame = av.AudioFrame.from_ndarray(0.2 * np.sin(phase, dtype=np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
    yield from stream.encode(frame)
    yield from stream.encode(None)


@pytest.fixture
def hangups_end() -> Iterator[None]:
    """Programs that a test starts end with their terminal, even where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
