"""What was measured of one variant in one engine, and which of them is the best."""

from __future__ import annotations

from dataclasses import dataclass

FASTEST = "2×1"  # threads×faces: what variants are compared by
TOLERATED = 1.01  # times the NME of float32: what a faster variant may cost in accuracy


@dataclass(frozen=True)
class Row:
    """One variant in one engine. Milliseconds by "threads×batch"; NME a fraction, None where it was not measured."""

    name: str
    engine: str
    precision: str
    megabytes: float
    worst: float  # crop px from torch float32
    most: float  # of 95 of 100 points
    median: float
    nme: float | None
    milliseconds: dict[str, float]
    note: str = ""


def winner(rows: list[Row], name: str) -> Row | None:
    """The fastest row of a model, by FASTEST, whose NME is within TOLERATED of float32's."""
    own = [row for row in rows if row.name == name]
    base = next((row for row in own if row.precision == "fp32" and row.engine == "onnxruntime"), None)
    if base is None:
        return None
    good = [row for row in own if row.nme is None or base.nme is None or row.nme <= TOLERATED * base.nme]
    sure = [row for row in good if row.nme is not None or row.precision == "fp32"]
    return min(sure, key=lambda row: row.milliseconds[FASTEST], default=None)


def accurate_in_int8(rows: list[Row]) -> set[str]:
    """Names of the models that are within TOLERATED of float32 in int8, and faster, in ONNX Runtime."""
    runtime = [row for row in rows if row.engine == "onnxruntime" and row.precision in ("fp32", "int8")]
    best = {name: winner(runtime, name) for name in {row.name for row in runtime}}
    return {name for name, row in best.items() if row is not None and row.precision == "int8"}
