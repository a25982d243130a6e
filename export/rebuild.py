"""Every shipped model in every precision, from its checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tabrt.card import PRECISIONS
from tabrt.engines import MODELS, fp16_file, int8_file
from tabrt.engines.parity import sample_crops
from tabrt.errors import TabrtError
from tabrt.exporting.converting import convert
from tabrt.files import MODEL_FOLDER, write_atomically
from tabrt.network.checkpoint import load_checkpoint
from training.checkpointing import pack
from training.spread import calibration_crops

CACHE = Path(".cache/faces")  # of decoded pictures


@dataclass(frozen=True)
class Variant:
    """One model in one precision. `path` is None where it could not be made; `note` says what is to be known."""

    name: str
    checkpoint: Path
    precision: str
    path: Path | None
    note: str = ""


def checkpoints(what: str) -> list[Path]:
    """The checkpoints meant by `all`, a model's name, or a file. Raises TabrtError where there is none."""
    names = list(MODELS) if what == "all" else [what]
    paths = [MODEL_FOLDER / f"{name}.safetensors" if name in MODELS else Path(name) for name in names]
    found = [path for path in paths if path.is_file()]
    if not found or (what != "all" and len(found) < len(paths)):
        raise TabrtError(f"there is no checkpoint {paths[0]}; give all, one of {', '.join(MODELS)}, or a file")
    return found


def rebuild(paths: list[Path], out: Path, faces: Path | None) -> list[Variant]:
    """Convert checkpoints to every precision. int8 is calibrated on `faces`, or on the demo film without them."""
    variants = []
    for path in [rounded(path, out) for path in paths]:
        size = load_checkpoint(path)[1].crop_size
        crops = sample_crops(size=size)
        calibration = crops if faces is None else calibration_crops(faces, CACHE, size)
        variants += [_variant(path, precision, out, crops, calibration) for precision in PRECISIONS]
    return variants


def rounded(checkpoint: Path, out: Path) -> Path:
    """A checkpoint as it ships, named after its card in `out`: its kernels are rounded to float16, and kept in it.

    So the files are smaller, and the ONNX file still computes just what the checkpoint does.
    """
    path = out / f"{load_checkpoint(checkpoint)[1].name}.safetensors"
    pack(checkpoint, path)
    return path


def _variant(checkpoint: Path, precision: str, out: Path, crops: np.ndarray, calibration: np.ndarray) -> Variant:
    name = checkpoint.stem
    path = out / (f"{name}.onnx" if precision == "fp32" else f"{name}-{precision}.onnx")
    try:
        converted = convert(checkpoint, precision, crops, calibration)
    except TabrtError as problem:
        print(f"{path}: {problem}", flush=True)
        return Variant(name, checkpoint, precision, None, str(problem))
    write_atomically(path, converted.data)
    notes = [f"{len(converted.float_layers)} layers in float32"] if converted.float_layers else []
    shift = converted.shift
    moved = f"worst {shift.worst:.4f} px, 95 % {shift.percentile_95:.4f} px, median {shift.median:.4f} px"
    print(f"{path}: {moved} {'; '.join(notes)}", flush=True)
    return Variant(name, checkpoint, precision, path, "; ".join(notes))


def ship(variants: list[Variant], accurate: Collection[str]) -> None:
    """Put the float32 models where the package keeps them, with their checkpoints; beside them in float16, which was
    judged as it was made, and in int8 those that are named `accurate`.

    A file of older weights does not stay.
    """
    for variant in variants:
        if variant.name not in MODELS:
            continue
        single = MODELS[variant.name]
        target = {"fp32": single, "fp16": fp16_file(single), "int8": int8_file(single)}[variant.precision]
        if variant.path is None or (variant.precision == "int8" and variant.name not in accurate):
            if target != single:
                target.unlink(missing_ok=True)
            print(f"{target} does not ship: it is not known to be as accurate as float32, and faster")
            continue
        if target == single:
            shutil.copyfile(variant.checkpoint, single.with_suffix(".safetensors"))
        shutil.copyfile(variant.path, target)
        print(f"{target} written")
