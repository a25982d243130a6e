"""The command line. It reads options, calls functions, and turns problems into one line and an exit code.

Exit codes: 0 done · 1 a stated problem · 2 wrong usage · 130 interrupted · 143 terminated, both with files closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tabrt import __version__
from tabrt.errors import TabrtError, missing_library, missing_package
from tabrt.variants import DEFAULT_MODEL, DEFAULT_WIDTH, WIDTHS, variant_name

if TYPE_CHECKING:
    from tabrt.commands.app import Summary

    Width = str
else:
    Width = Literal[tuple(WIDTHS)]

STOPPED = {128 + signal.SIGINT, 128 + signal.SIGTERM}
DEFAULT_SMOOTHING = 0.7  # that of tabrt.tracking.smoothing, which would be slow to import
PATIENCE = 3.0  # seconds for closing files before a second signal ends the program at once

app = typer.Typer(
    name="tabrt",
    help="98 steady landmarks on every face of a film, a picture or a camera, in real time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "torch"]
Drawing = Literal["points", "boundaries"]

Model = Annotated[str | None, typer.Option(help="Model name (see `tabrt models`) or file.", show_default=DEFAULT_MODEL)]
Hourglasses = Annotated[int | None, typer.Option(min=1, max=8, help="Choose the model by its hourglasses.")]
ModelWidth = Annotated[Width | None, typer.Option(help="Choose the model by its width.")]
EngineOption = Annotated[EngineName, typer.Option(help="What runs the network.")]
Faces = Annotated[int, typer.Option(min=1, help="Faces to follow at most.")]
Smoothing = Annotated[float, typer.Option(min=0.0, max=1.0, help="0 for none, 1 for the calmest.")]
Threads = Annotated[int | None, typer.Option(min=1, max=256, help="CPU threads of the network.", show_default="all")]
Landmarks = Annotated[
    str | None, typer.Option(metavar="FILE.jsonl|.csv|-", help="Write the points here; - is standard output, as JSON.")
]
Draw = Annotated[Drawing, typer.Option(help="What to draw: points, or the network's boundary maps too.")]
Overlay = Annotated[bool, typer.Option("--overlay/--no-overlay", help="Draw the faces on the pictures, or do not.")]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"tabrt {__version__}")
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def video(
    source: Annotated[str, typer.Argument(metavar="IN", help="A film, a folder of pictures, or - for standard input.")],
    out: Annotated[
        str | None, typer.Option(metavar="OUT.mp4", help="Write the film with the faces drawn here.")
    ] = None,
    landmarks: Landmarks = None,
    overlay: Overlay = True,
    draw: Draw = "points",
    codec: Annotated[
        str | None, typer.Option(help="Encoder of the film, as ffmpeg calls it.", show_default="libx264")
    ] = None,
    crf: Annotated[int, typer.Option(min=0, max=63, help="Quality of the film: lower is better and larger.")] = 20,
    model: Model = None,
    hourglasses: Hourglasses = None,
    width: ModelWidth = None,
    engine: EngineOption = "auto",
    faces: Faces = 4,
    smoothing: Smoothing = DEFAULT_SMOOTHING,
    threads: Threads = None,
) -> None:
    """Track the faces of a film: the film with 98 points drawn on each, and the numbers in a file."""
    _require_output(out, landmarks)
    name = model_name(model, hourglasses, width)
    from tabrt.commands import app as work

    summary = work.video(
        source,
        out,
        landmarks,
        overlay=overlay,
        draw=draw,
        codec=codec,
        crf=crf,
        model=name,
        engine=engine,
        faces=faces,
        smoothing=smoothing,
        threads=threads,
    )
    _tell(summary, out, landmarks)


@app.command()
def image(
    sources: Annotated[list[str], typer.Argument(metavar="IN…", help="Pictures, or folders of them.")],
    out: Annotated[
        str | None, typer.Option(metavar="DIR|FILE", help="Write the pictures with the faces drawn here.")
    ] = None,
    landmarks: Landmarks = None,
    overlay: Overlay = True,
    draw: Draw = "points",
    model: Model = None,
    hourglasses: Hourglasses = None,
    width: ModelWidth = None,
    engine: EngineOption = "auto",
    faces: Faces = 50,
    threads: Threads = None,
) -> None:
    """Find the faces of pictures, each picture on its own."""
    _require_output(out, landmarks)
    name = model_name(model, hourglasses, width)
    from tabrt.commands import app as work

    summary = work.image(
        sources,
        out,
        landmarks,
        overlay=overlay,
        draw=draw,
        model=name,
        engine=engine,
        faces=faces,
        smoothing=0.0,
        threads=threads,
    )
    _tell(summary, out, landmarks)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to leave the files.")] = Path("tabrt-demo"),
    model: Model = None,
    hourglasses: Hourglasses = None,
    width: ModelWidth = None,
    engine: EngineOption = "auto",
    threads: Threads = None,
) -> None:
    """Track the film that ships with tabrt: leaves a film, a landmark file and a contact sheet."""
    name = model_name(model, hourglasses, width)
    from tabrt.commands import app as work

    summary, files = work.demo(out, model=name, engine=engine, threads=threads)
    _tell(summary)
    for what, file in zip(("film", "landmarks", "contact sheet"), files, strict=True):
        print(f"{what + ':':<15}{file.resolve()}")


@app.command()
def live(
    camera: Annotated[
        str, typer.Option(metavar="INDEX|NAME|PATH|URL|FILE", help="A camera, a stream, or a film played in real time.")
    ] = "0",
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Picture size to ask the camera for.")] = None,
    fps: Annotated[float | None, typer.Option(min=1, max=1000, help="Rate to ask the camera for.")] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Show the picture as a mirror would.")] = False,
    window: Annotated[bool, typer.Option("--window/--no-window", help="Show the picture in a window.")] = True,
    serve: Annotated[
        int | None, typer.Option(metavar="PORT", min=0, max=65535, help="Show it as a web page; 0 for any free port.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to serve; any but this machine asks for a token.")] = "127.0.0.1",
    out: Annotated[
        str | None, typer.Option(metavar="OUT.mp4", help="Record the film with the faces drawn here.")
    ] = None,
    landmarks: Landmarks = None,
    osc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Send the points as OSC messages.")] = None,
    virtual_camera: Annotated[
        bool, typer.Option("--virtual-camera", help="Be a camera for other programs (needs pyvirtualcam).")
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", min=0, max=65535, help="Numbers for Prometheus, on this machine.")
    ] = None,
    stop_after: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Quit by itself.")] = None,
    exit_when_lost: Annotated[
        bool, typer.Option("--exit-when-lost", help="Exit with 1 when the source is lost, in place of waiting for it.")
    ] = False,
    model: Model = None,
    hourglasses: Hourglasses = None,
    width: ModelWidth = None,
    engine: EngineOption = "auto",
    faces: Faces = 4,
    smoothing: Smoothing = DEFAULT_SMOOTHING,
    threads: Threads = None,
) -> None:
    """Follow the faces in front of a camera. Keys: q quit, space pause, s snapshot, r record, b boundaries, h help."""
    name, picture_size = model_name(model, hourglasses, width), _size(size)
    # Days of states and reasons: each line with its time.
    logging.basicConfig(format="tabrt: %(asctime)s %(message)s", level=logging.WARNING, force=True)
    logging.getLogger("tabrt").setLevel(logging.INFO)
    from tabrt.live import loop as work

    summary = work.live(
        camera,
        size=picture_size,
        fps=fps,
        mirror=mirror,
        window=window,
        serve=serve,
        host=host,
        out=out,
        landmarks=landmarks,
        osc=osc,
        virtual_camera=virtual_camera,
        metrics_port=metrics_port,
        stop_after=stop_after,
        exit_when_lost=exit_when_lost,
        model=name,
        engine=engine,
        faces=faces,
        smoothing=smoothing,
        threads=threads,
    )
    for line in summary.lines:
        print(line, file=sys.stderr)
    if summary.signal:
        raise SystemExit(128 + summary.signal)


@app.command()
def export(
    hourglasses: Annotated[int, typer.Option(min=1, max=8, help="Hourglasses of the network.")],
    width: Annotated[Width | None, typer.Option(help="Width of the network.", show_default=DEFAULT_WIDTH)] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The trained network.", show_default="the shipped weights")
    ] = None,
    to: Annotated[
        Literal["onnx", "tensorrt"] | None,
        typer.Option(help="Form of the model.", show_default="tensorrt with CUDA, else onnx"),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="Precision of the weights.", show_default="fp16 for tensorrt, else fp32"),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the model here.")] = None,
) -> None:
    """Turn a checkpoint into a model that runs fast here, and check that it computes the same."""
    print(_exporter()(hourglasses, width, checkpoint, to, precision, out))


def _exporter() -> Callable[..., object]:
    """The exporter, or TabrtError where its packages are missing."""
    try:
        from tabrt.exporting.export import export as run
    except ModuleNotFoundError as problem:
        raise missing_package(problem, "export") from problem
    return run


@app.command()
def bench(
    model: Model = None,
    hourglasses: Hourglasses = None,
    width: ModelWidth = None,
    engine: EngineOption = "auto",
    threads: Threads = None,
) -> None:
    """Measure how fast the network runs here."""
    name = model_name(model, hourglasses, width)
    from tabrt.commands import bench as work

    for line in work.bench(name, engine, threads):
        print(line, flush=True)


@app.command()
def models() -> None:
    """List the models that ship with tabrt, their figures and licences."""
    from tabrt.commands.doctor import cards

    for line in cards():
        print(line)


@app.command()
def doctor() -> None:
    """Say what is installed, which engines can run and why not the others, and which cameras are there."""
    from tabrt.commands.doctor import report

    for line in report():
        print(line, flush=True)


def model_name(model: str | None, hourglasses: int | None, width: Width | None) -> str:
    """The model asked for, by name or by its build. `tab1-lite` when nothing is asked for."""
    if model is None:
        return variant_name(hourglasses or 1, width or DEFAULT_WIDTH)
    if hourglasses is not None or width is not None:
        raise typer.BadParameter("--model names the whole network; leave --hourglasses and --width out")
    return model


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= 16384 and 0 < int(height) <= 16384):
        raise typer.BadParameter(f"--size {text}: write it like 640x480")
    return int(width), int(height)


def _require_output(out: str | None, landmarks: str | None) -> None:
    if out is None and landmarks is None:
        raise typer.BadParameter("nothing to write: give --out, --landmarks or both")


def _tell(summary: Summary, *outputs: str | None) -> None:
    for line in summary.lines:
        print(line, file=sys.stderr)
    for output in outputs:
        if output not in (None, "-"):
            print(f"wrote {output}", file=sys.stderr)


# ----------------------------------------------------------------------------------------------------- the one door


def main() -> None:
    """Run the command line; the only place where problems become exit codes."""
    logging.basicConfig(format="tabrt: %(message)s", level=logging.WARNING)
    stop = _Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        app(prog_name="tabrt")
    except TabrtError as problem:
        _fail(str(problem))
    except SystemExit as end:
        if end.code in STOPPED:
            _leave(end.code)
        raise
    except Exception as problem:
        if os.environ.get("TABRT_DEBUG"):
            raise
        _fail(
            missing_library(problem)
            or f"unexpected {type(problem).__name__}: {problem}; please report it, with what TABRT_DEBUG=1 shows"
        )


class _Stop:
    """Ends the program through its `with` blocks at the first signal, so that files are closed."""

    def __init__(self) -> None:
        self.since: float | None = None

    def __call__(self, number: int, _frame: object) -> None:
        if self.since is None:
            self.since = time.monotonic()
            raise SystemExit(128 + number)
        if time.monotonic() - self.since > PATIENCE:
            os._exit(128 + number)


def _fail(problem: str) -> None:
    print(f"tabrt: {' '.join(problem.split())}", file=sys.stderr)
    raise SystemExit(1)


def _leave(code: int) -> None:
    """Exit without waiting for threads that are stuck in a read."""
    sys.stderr.write("tabrt: stopped; the files are closed\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
