"""From a checkpoint to a model that runs where the user is, and the proof that it still computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tabrt.card import PRECISIONS
from tabrt.engines.engine import ENGINE_SUFFIX
from tabrt.engines.gpu import is_installed, require_gpu
from tabrt.engines.parity import Shift, sample_crops
from tabrt.errors import EngineUnavailable, TabrtError, missing_package
from tabrt.files import MODEL_FOLDER, check_outputs, write_atomically
from tabrt.hardware import has_cuda
from tabrt.network.checkpoint import load_checkpoint
from tabrt.variants import DEFAULT_WIDTH, variant_name

SUFFIXES = {"onnx": ".onnx", "tensorrt": ENGINE_SUFFIX}  # by target


@dataclass(frozen=True)
class Report:
    """What was exported, and how far its points are from those of torch float32."""

    path: Path
    target: str
    precision: str
    size: int  # bytes
    shift: Shift
    crops: int
    float_layers: tuple[str, ...] = ()  # left in float32 for the sake of accuracy

    def __str__(self) -> str:
        kept = f"; {len(self.float_layers)} layers stay in float32" if self.float_layers else ""
        return (
            f"{self.path}: {self.target} {self.precision}, {self.size / 1e6:.1f} MB; points differ from torch float32 "
            f"by at most {self.shift.worst:.4f} px (95 of 100 by at most {self.shift.percentile_95:.4f}, median "
            f"{self.shift.median:.4f}) of the crop on {self.crops} crops{kept}"
        )


def export(
    hourglasses: int,
    width: str | None = None,
    checkpoint: str | Path | None = None,
    to: str | None = None,
    precision: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = True,
) -> Report:
    """What `tabrt export` does: the shipped weights, or a checkpoint, to ONNX or a TensorRT engine.

    to: None for `tensorrt` where CUDA is there, else `onnx`. precision: None for fp16 in TensorRT, else fp32.
    out: None for a name that says what it is, in the working folder. overwrite: whether a file may be replaced.
    Raises TabrtError for a checkpoint with another number of hourglasses or another width than asked, for an `out` of
    another suffix, or that is the checkpoint itself, and for a model that does not compute the same.
    """
    to = to or ("tensorrt" if has_cuda() and is_installed("tensorrt") else "onnx")
    precision = precision or ("fp16" if to == "tensorrt" else "fp32")
    _require_one_of("target", to, tuple(SUFFIXES))
    _require_one_of("precision", precision, PRECISIONS)
    path = _checkpoint_for(hourglasses, width, checkpoint)
    config = load_checkpoint(path)[0].config
    if config.hourglasses != hourglasses:
        raise TabrtError(
            f"{path} has {config.hourglasses} hourglasses, not {hourglasses}, and its landmark part was trained on "
            f"the last one; use --hourglasses {config.hourglasses}"
        )
    if width is not None and config.width != width:
        raise TabrtError(f"{path} has width {config.width}, not {width}; use --width {config.width}")
    out = out or f"{path.stem}-{precision}{SUFFIXES[to]}"
    if Path(out).suffix != SUFFIXES[to]:
        raise TabrtError(f"{out} would not be known as a model: give --out a name that ends in {SUFFIXES[to]}")
    check_outputs([path], out, overwrite=overwrite)
    return export_onnx(path, out, precision) if to == "onnx" else export_tensorrt(path, out, precision)


def _require_one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise TabrtError(f"no {what} is called {value!r}; there are: {', '.join(allowed)}")


def _checkpoint_for(hourglasses: int, width: str | None, checkpoint: str | Path | None) -> Path:
    if checkpoint is not None:
        return Path(checkpoint)
    width = width or DEFAULT_WIDTH
    path = MODEL_FOLDER / f"{variant_name(hourglasses, width)}.safetensors"
    if not path.is_file():
        raise TabrtError(f"no weights ship for {hourglasses} hourglasses of width {width}; give --checkpoint FILE")
    return path


def export_onnx(
    checkpoint: str | Path, out: str | Path, precision: str = "fp32", crops: np.ndarray | None = None
) -> Report:
    """Checkpoint to one self-contained ONNX file, checked against torch float32 before it is written.

    crops: uint8 (N, 256, 256, 3) RGB to check on, and to calibrate int8 with; None for those of `sample_crops`.
    Raises TabrtError where the points move further than BOUNDS allows.
    """
    try:
        from tabrt.exporting.converting import convert  # needs onnx, which TensorRT does not
    except ModuleNotFoundError as problem:
        raise missing_package(problem, "export") from problem
    if crops is None:
        crops = sample_crops(size=load_checkpoint(checkpoint)[1].crop_size)
    converted = convert(checkpoint, precision, crops, calibration=crops)
    if converted.objection:
        raise TabrtError(f"{converted.objection}: export with --precision fp32")
    write_atomically(out, converted.data)
    size = len(converted.data)
    return Report(Path(out), "onnx", precision, size, converted.shift, len(crops), converted.float_layers)


def export_tensorrt(checkpoint: Path, out: str | Path, precision: str) -> Report:
    """Checkpoint to a TensorRT engine for the GPU of this machine, checked against float32 before it is written."""
    from tabrt.engines import tensorrt  # its packages are an extra

    require_gpu("export with --to onnx, which runs everywhere")
    try:
        built = tensorrt.export_engine(checkpoint, Path(out), precision)
    except EngineUnavailable as problem:
        raise EngineUnavailable(f"{problem}; or export --to onnx, which runs everywhere") from problem
    size = Path(out).stat().st_size
    return Report(Path(out), "tensorrt", precision, size, built.shift, built.crops, built.float_parts)
