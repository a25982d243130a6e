"""What is installed here, what can run, and why the rest cannot."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

from tabrt import __version__
from tabrt.card import ModelCard
from tabrt.detection import RUNTIMES, Detector
from tabrt.engines.engine import ENGINES, MODELS, int8_file, load_engine
from tabrt.errors import TabrtError, missing_library
from tabrt.geometry import CROP_SIZE
from tabrt.hardware import available_threads, has_cuda, int8_instructions
from tabrt.live.devices import cameras

PACKAGES = (
    *("numpy", "opencv-contrib-python", "onnxruntime", "filterpy", "av", "typer"),
    *("torch", "torch-tensorrt", "torch-tensorrt-rtx", "openvino", "onnx", "onnxscript", "lightning-fabric"),
    *("mediapipe", "starlette", "uvicorn", "python-osc", "pyvirtualcam"),
)
RUNTIME = PACKAGES[:6]


def report() -> Iterator[str]:
    """The lines of `tabrt doctor`, as they are found."""
    yield f"tabrt {__version__}, Python {platform.python_version()}, {platform.platform()}"
    int8 = int8_instructions() or "no faster here, so models run in float32"
    yield f"cores {available_threads(None)}, int8: {int8}, NVIDIA GPU {'found' if has_cuda() else 'none found'}"
    yield ""
    yield from _packages()
    yield "\nEngines"
    yield from (f"  {name:<12} {engine_state(name)}" for name in ENGINES)
    yield "\nDetector"
    yield from (f"  {name:<12} {detector_state(name)}" for name in RUNTIMES)
    yield "\nModels"
    yield from _models()
    yield "\nCameras"
    yield from _cameras()


def _packages() -> Iterator[str]:
    yield "Packages"
    for name in PACKAGES:
        version = _version(name)
        if version is None and (bare := _version(f"{name}-headless")):
            version = f"{bare}, headless: no windows"
        missing = "MISSING: pip install tabrt" if name in RUNTIME else "not installed (optional)"
        yield f"  {name:<22} {version or missing}"
    if _version("opencv-python") or _version("opencv-python-headless"):
        yield "  two OpenCVs own the same cv2: pip uninstall opencv-python opencv-python-headless; install tabrt again"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def engine_state(name: str) -> str:
    """Whether an engine runs the default model here: it is loaded and given one crop."""
    try:
        engine = load_engine("tab1-lite", name)
        try:
            engine(np.zeros((1, CROP_SIZE, CROP_SIZE, 3), np.uint8))
        finally:
            engine.close()
    except TabrtError as problem:
        return f"no: {problem}"
    except Exception as problem:  # a broken install must not end the report
        return f"no: {type(problem).__name__}: {_first_line(problem)}"
    return "runs"


def detector_state(runtime: str) -> str:
    """Whether the face detector runs here."""
    try:
        detector = Detector(runtime)
        try:
            detector(np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8), 1)
        finally:
            detector.close()
    except TabrtError as problem:
        return f"no: {problem}"
    except Exception as problem:  # a broken install must not end the report
        return f"no: {missing_library(problem) or _first_line(problem)}"
    return "runs"


def _first_line(problem: Exception) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0]


def read_card(path: Path) -> ModelCard:
    """The card of a model file. Raises TabrtError for a file that is none."""
    engine = load_engine(path, "onnxruntime", threads=1)
    try:
        return engine.card
    finally:
        engine.close()


def _models() -> Iterator[str]:
    for name, path in MODELS.items():
        try:
            card = read_card(path)
        except TabrtError as problem:
            yield f"  {name:<10} {problem}"
            continue
        megabytes = path.stat().st_size / 1e6
        precisions = f"{card.precision} and int8" if int8_file(path).is_file() else card.precision
        yield f"  {name:<10} {card.topology}, {precisions}, {megabytes:.1f} MB, {card.date or 'no date'}: {path}"


def cards() -> Iterator[str]:
    """The lines of `tabrt models`: each shipped model with what its card says."""
    for name, path in MODELS.items():
        card = read_card(path)
        yield f"{name}  ({path.stat().st_size / 1e6:.1f} MB, {path})"
        yield f"  {card.topology}, hourglasses {card.hourglasses}, {card.width}, {card.precision}, {card.date}"
        small = int8_file(path)
        if small.is_file():
            yield f"  also in int8 ({small.stat().st_size / 1e6:.1f} MB): {small}"
        yield f"  licence: {card.licence}"
        yield f"  trained on: {card.training_data}"
        yield from (f"  {figure}: {value:g}" for figure, value in card.figures.items())
        yield ""
    yield "Give one with --model NAME, or a file of your own with --model FILE."


def _cameras() -> Iterator[str]:
    found = cameras()
    for camera in found:
        yield f"  {camera.path}  {camera.name}" + (f"  ({camera.stable_path})" if camera.stable_path else "")
    if not found:
        where = "" if sys.platform == "linux" else " (they are listed on Linux only)"
        yield f"  none found{where}"
