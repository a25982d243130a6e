"""Every variant in every engine: how fast, how large, how accurate, and how far its points are from torch float32."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.contract import machine, markdown, pick, timed, versions
from export.plot import draw
from export.rebuild import CACHE, Variant
from export.rows import Row, winner
from tabrt.engines import Engine, load_engine
from tabrt.engines.parity import BOUNDS, Shift, sample_crops
from tabrt.errors import EngineUnavailable, TabrtError
from training.evaluate import judge
from training.sets import shared_validation

FOLDER = Path(__file__).parent
CPU_ENGINES = ("onnxruntime", "openvino")
GPU_ENGINES = ("tensorrt", "torch")  # read the checkpoint itself
THREADS, BATCHES = (1, 2), (1, 4)


def compare(variants: list[Variant], faces: Path | None, effort: str = "full") -> list[Row]:
    """Measure all, and write PARITY.md, parity.json and parity.png beside this file."""
    before = machine()  # asks what other work takes of it, which must not be our own
    judged = None if faces is None else shared_validation(faces, CACHE)
    rows = []
    for variant in variants:
        truth = load_engine(variant.checkpoint, "torch", device="cpu")
        crops = sample_crops(size=truth.card.crop_size)
        engines = [*CPU_ENGINES, *(GPU_ENGINES if variant.precision == "fp32" else ())]
        for name in engines if variant.path is not None else []:
            row = measure(variant, name, truth, crops, judged, effort)
            if row is not None:
                rows.append(row)
                print(f"{row.name} {row.precision} {row.engine}: {row.milliseconds}", flush=True)
        truth.close()
    account = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "machine": before, "versions": versions()}
    text = json.dumps({**account, "rows": [asdict(row) for row in rows]}, indent=1, ensure_ascii=False)
    (FOLDER / "parity.json").write_text(text + "\n", "utf-8")
    (FOLDER / "PARITY.md").write_text(page(rows, variants, account), "utf-8")
    draw(rows, FOLDER / "parity.png")
    return rows


def measure(variant: Variant, name: str, truth: Engine, crops: np.ndarray, judged, effort: str) -> Row | None:
    """One row; None where the engine cannot run here."""
    path = variant.checkpoint if name in GPU_ENGINES else variant.path
    assert path is not None  # rows are asked for only of files that are there
    try:
        engine = load_engine(path, name, max(THREADS))
    except (EngineUnavailable, TabrtError) as problem:
        print(f"{variant.name} {variant.precision} {name}: {problem}", flush=True)
        return None
    shift = Shift.between(truth(crops), engine(crops), truth.card)
    nme = None if judged is None else float(judge(judged, engine).errors.mean())
    precision = engine.card.precision
    ran = engine.name  # an engine that fell back says so by its name
    engine.close()
    megabytes = path.stat().st_size / 1e6
    times = _times(path, name, crops, effort)
    moved, bound = shift.bounded(precision), BOUNDS[precision]
    note = f"moves points by {moved:.2f} px, beyond {bound}" if moved > bound else ""
    return Row(
        variant.name, ran, precision, megabytes, shift.worst, shift.percentile_95, shift.median, nme, times, note
    )


def _times(path: Path, name: str, crops: np.ndarray, effort: str) -> dict[str, float]:
    times = {}
    for threads in THREADS:
        engine = load_engine(path, name, threads)
        for batch in BATCHES:
            timing = timed(functools.partial(engine, crops[:batch]), runs=pick(effort, 100, 20, 2))
            times[f"{threads}×{batch}"] = round(timing.median, 2)
        engine.close()
    return times


def page(rows: list[Row], variants: list[Variant], account: dict) -> str:
    """PARITY.md: the table, what wins, and what could not be made."""
    here = account["machine"]
    lines = [
        "# Every model, precision and engine",
        "",
        f"Made by `python -m export all` on {account['time'][:10]}: {here['cpu']}, {here['cores']} cores. Milliseconds "
        "are medians of a run of the network alone, by threads×faces. Shifts are those of single points against torch "
        "float32 on 32 real crops of 256 px; allowed are "
        + ", ".join(f"{bound} px for {name}" for name, bound in BOUNDS.items())
        + " (for int8: of 95 of 100 points). NME is that of the validation faces in true boxes, 68 points, "
        "inter-ocular. The int8 files are written for ONNX Runtime; OpenVINO runs them too, less well.",
        "",
        markdown(
            [
                "model",
                "precision",
                "engine",
                "MB",
                *(f"ms {key}" for key in _keys()),
                "worst px",
                "95 % px",
                "median px",
                "NME %",
            ],
            [_cells(row) for row in rows],
        ),
        "",
        "![Speed against accuracy](parity.png)",
        "",
    ]
    for name in dict.fromkeys(row.name for row in rows):
        best = winner(rows, name)
        if best is not None:
            lines.append(f"- {name}: fastest within 1 % of float32's NME is {best.engine} {best.precision}.")
    lines += [f"- {row.name} {row.precision} in {row.engine} {row.note}." for row in rows if row.note]
    notes = {f"- {v.name} {v.precision}: {v.note}." for v in variants if v.note}
    return "\n".join([*lines, *sorted(notes)]) + "\n"


def _keys() -> list[str]:
    return [f"{threads}×{batch}" for threads in THREADS for batch in BATCHES]


def _cells(row: Row) -> list[object]:
    nme = "–" if row.nme is None else f"{100 * row.nme:.3f}"
    times = [f"{row.milliseconds[key]:.1f}" for key in _keys()]
    return [row.name, row.precision, row.engine, f"{row.megabytes:.1f}", *times,
            f"{row.worst:.3f}", f"{row.most:.3f}", f"{row.median:.4f}", nme]  # fmt: skip
