"""The command line. It reads options, calls functions, and turns problems into one line and an exit code.

Exit codes: 0 done · 1 a stated problem · 2 wrong usage · 130 interrupted · 143 terminated · 129 hung up,
the last three with files closed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperCommand

from tabrt import __version__
from tabrt.commands.options import (
    DemoOptions,
    DrawOptions,
    ImageOptions,
    LiveOptions,
    NetworkOptions,
    PlotOptions,
    VideosOptions,
    Width,
    parameters,
)
from tabrt.errors import TabrtError, missing_package, stated
from tabrt.signals import Ending, ending_signals
from tabrt.variants import DEFAULT_WIDTH

if TYPE_CHECKING:
    from tabrt.commands.summary import Summary

STOPPED = {128 + number for number in ending_signals()}
PATIENCE = 3.0  # seconds for closing files before a second signal ends the program at once

Options = TypeVar("Options")


class _Command(TyperCommand):
    """A command that says so when an option is given twice, where the last one would win without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = [each for each in self.make_parser(ctx).parse_args(args=list(args))[2] if _is_single(each)]
        twice = next((each for each in given if given.count(each) > 1), None)
        if twice is not None:
            raise typer.BadParameter(f"{twice.opts[0]} is given twice; give it once", ctx=ctx)
        return super().parse_args(ctx, args)


def _is_single(parameter: Any) -> bool:
    return parameter.param_type_name == "option" and not parameter.multiple and not parameter.is_flag


app = typer.Typer(
    name="tabrt",
    help="98 steady landmarks on every face of a film, a picture or a camera, in real time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def taking(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Make a function of one options object a command with those options."""

    def decorate(function: Callable[[Options], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**values: Any) -> None:
            function(options(**values))

        found = parameters(options)
        command.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in found}
        return command

    return decorate


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


@app.command(cls=_Command)
@taking(VideosOptions)
def video(options: VideosOptions) -> None:
    """Track the faces of films: each film with 98 points drawn on each face, and the numbers in a file."""
    from tabrt.commands.films import films as work

    lines, problem = work(options)
    for line in lines:
        print(line, file=sys.stderr)
    if problem is not None:
        raise TabrtError(problem)


@app.command(cls=_Command)
@taking(DrawOptions)
def draw(options: DrawOptions) -> None:
    """Draw a film from its landmark file, without tracking its faces again."""
    from tabrt.commands.draw import draw as work

    _tell(work(options), options.out)


@app.command(cls=_Command)
@taking(PlotOptions)
def plot(options: PlotOptions) -> None:
    """Plot the tracks of a landmark file over time: who is seen when, how surely, how fast."""
    from tabrt.commands.plot import plot as work

    print(f"wrote {work(options.landmarks, options.out, options.overwrite)}", file=sys.stderr)


@app.command(cls=_Command)
@taking(ImageOptions)
def image(options: ImageOptions) -> None:
    """Find the faces of pictures, each picture on its own."""
    from tabrt.commands.image import image as work

    summary, problem = work(options)
    if problem is not None:
        for note in summary.notes:
            print(note, file=sys.stderr)
        raise TabrtError(problem)
    _tell(summary, options.out, options.landmarks)


@app.command(cls=_Command)
@taking(DemoOptions)
def demo(options: DemoOptions) -> None:
    """Track the film that ships with tabrt: leaves a film, a landmark file and a contact sheet."""
    from tabrt.commands.demo import demo as work

    summary, files = work(options)
    _tell(summary)
    for what, file in zip(("film", "landmarks", "contact sheet"), files, strict=True):
        print(f"{what + ':':<15}{file.resolve()}")


@app.command(cls=_Command)
@taking(LiveOptions)
def live(options: LiveOptions) -> None:
    """Follow the faces in front of a camera.

    Keys: q or Esc quit, space pause, s snapshot, r record, b boundaries, n faces at rest, i numbers, h help.
    """
    # Days of states and reasons: each line with its time.
    logging.basicConfig(format="tabrt: %(asctime)s %(message)s", level=logging.WARNING, force=True)
    logging.getLogger("tabrt").setLevel(logging.INFO)
    from tabrt.commands.live import live as work

    summary = work(options)
    for line in summary.lines:
        print(line, file=sys.stderr)
    if summary.signal:
        raise SystemExit(128 + summary.signal)


@app.command(cls=_Command)
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
    out: Annotated[Path | None, typer.Option(metavar="FILE.onnx|.ep", help="Write the model here.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "-y", help="Replace the model if it is there already.")
    ] = False,
) -> None:
    """Turn a checkpoint into a model that runs fast here, and check that it computes the same."""
    print(_exporter()(hourglasses, width, checkpoint, to, precision, out, overwrite))


def _exporter() -> Callable[..., object]:
    """The exporter, or TabrtError where its packages are missing."""
    try:
        from tabrt.exporting.export import export as run
    except ModuleNotFoundError as problem:
        raise missing_package(problem, "export") from problem
    return run


@app.command(cls=_Command)
@taking(NetworkOptions)
def bench(options: NetworkOptions) -> None:
    """Measure how fast the network runs here."""
    from tabrt.commands.bench import bench as work

    for line in work(options.model_name, options.engine, options.threads, options.device):
        print(line, flush=True)


@app.command(cls=_Command)
def models() -> None:
    """List the models that ship with tabrt, their figures and licences."""
    from tabrt.commands.doctor import cards

    for line in cards():
        print(line)


@app.command(cls=_Command)
def doctor() -> None:
    """Say what is installed, which engines can run and why not the others, and which cameras are there."""
    from tabrt.commands.doctor import report

    for line in report():
        print(line, flush=True)


def _tell(summary: Summary, *outputs: object) -> None:
    for line in summary.lines:
        print(line, file=sys.stderr)
    for output in outputs:
        if output not in (None, "-"):
            print(f"wrote {output}", file=sys.stderr)


# ----------------------------------------------------------------------------------------------------- the one door


def main() -> None:
    """Run the command line; the only place where problems become exit codes."""
    _fill_standard_streams()
    logging.basicConfig(format="tabrt: %(message)s", level=logging.WARNING)
    # Media Foundation otherwise takes up to twenty seconds to open a camera. OpenCV reads it when it is imported.
    os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")
    ending = Ending(PATIENCE)
    for number in ending_signals():
        signal.signal(number, ending)
    try:
        app(prog_name="tabrt")
    except TabrtError as problem:
        _fail(str(problem))
    except SystemExit as end:
        if end.code in STOPPED:
            _leave(end.code, getattr(end, "__notes__", ()))
        raise
    except Exception as problem:
        if os.environ.get("TABRT_DEBUG"):
            raise
        _fail(stated(problem))


def _fill_standard_streams() -> None:
    """Put nothing where a standard stream was closed, so that no file that is opened later takes its number.

    A closed standard output stays None, for what is asked to write there; names of any bytes can be printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(problem: str) -> None:
    print(f"tabrt: {' '.join(problem.split())}", file=sys.stderr)
    raise SystemExit(1)


def _leave(code: int, notes: Sequence[str]) -> None:
    """Exit without waiting for threads that are stuck in a read. notes: what is left of the work."""
    sys.stderr.write(f"tabrt: stopped; {'; '.join(notes) or 'the files are closed'}\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
