"""`python -m export …`: rebuild the shipped models and compare them, or write a Triton model repository."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.contract import EFFORTS
from export.parity import compare
from export.rebuild import checkpoints, rebuild, ship
from export.rows import accurate_in_int8
from export.triton import write_repository
from tabrt.errors import TabrtError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Target(enum.StrEnum):
    onnx = "onnx"
    triton = "triton"


@app.command()
def main(
    what: Annotated[str, typer.Argument(metavar="all|NAME|FILE", help="Every shipped model, one, or a checkpoint.")],
    to: Annotated[
        Target, typer.Option(help="onnx: rebuild and compare. triton: write a model repository.")
    ] = Target.onnx,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where models go. [runs/export or triton]")] = None,
    faces: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Zips of labelled faces, to calibrate int8 and to judge."),
    ] = None,
    tensorrt: Annotated[bool, typer.Option("--tensorrt", help="Triton runs the model by TensorRT in FP16.")] = False,
    effort: Annotated[str, typer.Option(help=f"How long to measure: {', '.join(EFFORTS)}.")] = "full",
    replace: Annotated[
        bool, typer.Option("--ship", help="Put them into tabrt/models; int8 only where NME stays.")
    ] = False,
) -> None:
    """Rebuild models from their checkpoints in every precision, and write export/PARITY.md with its plot."""
    if effort not in EFFORTS:
        raise typer.BadParameter(f"one of {', '.join(EFFORTS)}", param_hint="--effort")
    if replace and faces is None:
        raise typer.BadParameter("needs --faces, which say whether int8 is as accurate", param_hint="--ship")
    if to is Target.triton:
        for path in checkpoints(what):
            print(write_repository(path, out or Path("triton"), tensorrt))
        return
    variants = rebuild(checkpoints(what), out or Path("runs/export"), faces)
    rows = compare(variants, faces, effort)
    if replace:
        ship(variants, accurate_in_int8(rows))


def run() -> None:
    try:
        app(prog_name="python -m export")
    except TabrtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
