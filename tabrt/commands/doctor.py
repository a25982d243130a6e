"""What is installed here, what can run, and why the rest cannot."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from tabrt import __version__
from tabrt.card import ModelCard
from tabrt.detection import RUNTIMES, Detector
from tabrt.engines import CPU, ENGINES, MODELS, fp16_file, gpu, int8_file, load_engine
from tabrt.errors import TabrtError, first_line, missing_library
from tabrt.geometry import CROP_SIZE
from tabrt.hardware import available_threads, cache_folder, cpu_name, int8_instructions, look_for_gpu
from tabrt.live.devices import cameras, refusal
from tabrt.variants import DEFAULT_MODEL, WHY_DEFAULT

RUNTIME = ("numpy", "opencv-contrib-python", "onnxruntime", "filterpy", "av", "rich", "typer")
OPTIONAL = (
    *("torch", "torch-tensorrt", "torch-tensorrt-rtx", "tensorrt", "tensorrt-rtx"),
    *("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
    *("openvino", "onnx", "onnxscript", "safetensors", "lightning-fabric", "h5py"),
    *("mediapipe", "starlette", "uvicorn", "websockets", "python-osc", "pyvirtualcam"),
    *("distributed", "matplotlib", "pyarrow"),
)
# What films, their sound and their colours are read and written with.
ENCODERS = ("libx264", "libx265", "libvpx-vp9", "aac", "libopus")
DECODERS = ("h264", "hevc", "vp8", "vp9", "libdav1d", "prores", "mjpeg", "aac", "mp3", "opus")
FILTERS = ("bwdif", "scale", "haldclut", "format")


def report() -> Iterator[str]:
    """The lines of `tabrt doctor`, as they are found."""
    yield f"tabrt {__version__}, Python {platform.python_version()}, {platform.platform()}"
    int8 = int8_instructions() or "no faster here, so models run in float32"
    yield f"{cpu_name()}, cores {available_threads(None)}, int8: {int8}"
    yield ""
    yield from _gpu()
    yield ""
    yield from _packages()
    yield f"\nDefault\n  {default_choice()}"
    yield "\nEngines"
    yield from (f"  {name:<12} {engine_state(name)}" for name in ENGINES)
    yield "\nDetector"
    yield from (f"  {name:<12} {detector_state(name)}" for name in RUNTIMES)
    yield "\nModels"
    yield from _models()
    yield "\nFilms"
    yield from _films()
    yield "\nFolders"
    yield from _folders()
    yield "\nCameras"
    yield from _cameras()


def _gpu() -> Iterator[str]:
    """The card, its driver, and each library that fits it. Imports and compiles nothing."""
    yield "GPU"
    card = look_for_gpu()
    if isinstance(card, str):
        yield f"  none: {card}"
    else:
        cuda = ".".join(map(str, card.cuda))
        memory = f"{card.memory / 2**30:.0f} GiB"
        yield f"  {card.name}, compute capability {card.capability_name}, {memory}, driver {card.driver} (CUDA {cuda})"
        for library in gpu.LIBRARIES:
            yield f"  {library.title}: {_library_state(library, card)}"
        yield f"  torch: {_torch_state()}"
    yield from _of_the_system()
    yield from (f"  {line}" for line in gpu.conflicts())


def _of_the_system() -> Iterator[str]:
    """CoreML or DirectML, where ONNX Runtime has it."""
    from tabrt.engines.onnxruntime.systems import system_here

    system = system_here()
    if system is not None:
        yield f"  {system.title} in ONNX Runtime: installed; --device gpu runs on it (not yet tried on such a machine)"
    elif sys.platform == "win32":
        yield "  DirectML in ONNX Runtime: pip uninstall onnxruntime; pip install 'onnxruntime-directml>=1.22,<1.25'"


def _library_state(library: gpu.Library, card: gpu.Gpu) -> str:
    refusal = library.refusal(card)
    if refusal:
        return f"no: {refusal}"
    if library.version:
        return f"installed ({library.version}), and it serves this card"
    return f"it would serve this card; {library.install}"


def _torch_state() -> str:
    """What torch was made for, read from its files: importing it takes seconds."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return "not installed (optional)"
    try:
        text = Path(found.origin).with_name("version.py").read_text("utf-8")
    except OSError:
        return "its version cannot be read"
    cuda = re.search(r"^cuda[^=]*= ['\"]([\d.]+)", text, re.MULTILINE)
    return f"made for CUDA {cuda[1]}" if cuda else f"made without CUDA; {gpu.TENSORRT.install}"


def _packages() -> Iterator[str]:
    yield "Packages"
    for name in (*RUNTIME, *OPTIONAL):
        version = _version(name)
        if version is None and (bare := _version(f"{name}-headless")):
            version = f"{bare}, headless: no windows"
        missing = "MISSING: install tabrt again" if name in RUNTIME else "not installed (optional)"
        yield f"  {name:<35} {version or missing}"
    if _version("opencv-python") or _version("opencv-python-headless"):
        yield "  two OpenCVs own the same cv2: pip uninstall opencv-python opencv-python-headless; install tabrt again"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def default_choice() -> str:
    """What runs here where no option says otherwise, and why, in a line: it is loaded."""
    try:
        engine = load_engine()
    except Exception as problem:  # a broken install must not end the report
        return f"none: {first_line(problem)}"
    engine.close()
    where = "the CPU" if engine.device == CPU else f"the {engine.device}"
    why = _why_the_cpu() if engine.device == CPU else "it can be used and starts at once"
    return f"{DEFAULT_MODEL} ({WHY_DEFAULT}) in {engine.card.precision} by {engine.name} on {where}: {why}"


def _why_the_cpu() -> str:
    card, int8 = look_for_gpu(), int8_instructions()
    no_gpu = card if isinstance(card, str) else f"nothing that is installed starts on the {card.name} at once"
    return f"{no_gpu}, and this CPU is {f'faster in int8 ({int8})' if int8 else 'no faster in int8'}"


def engine_state(name: str) -> str:
    """Whether an engine runs the default model here: it is loaded, on the CPU, and given one crop.

    TensorRT is asked for what is compiled already: compiling takes minutes.
    """
    if name == "tensorrt":
        return _tensorrt_state()
    try:
        engine = load_engine(DEFAULT_MODEL, name, device="cpu")
        try:
            engine(np.zeros((1, engine.card.crop_size, engine.card.crop_size, 3), np.uint8))
        finally:
            engine.close()
    except TabrtError as problem:
        return f"no: {problem}"
    except Exception as problem:  # a broken install must not end the report
        return f"no: {type(problem).__name__}: {first_line(problem)}"
    return "runs"


def _tensorrt_state() -> str:
    from tabrt.engines import tensorrt

    try:
        gpu.require_library("tensorrt")
        if not tensorrt.is_cached(MODELS[DEFAULT_MODEL]):
            return "installed; nothing is compiled yet: --engine tensorrt compiles at first use, tabrt export to a file"
        engine = tensorrt.load_cached(MODELS[DEFAULT_MODEL])
        engine(np.zeros((1, CROP_SIZE, CROP_SIZE, 3), np.uint8))
        engine.close()
    except TabrtError as problem:
        return f"no: {problem}"
    return "runs"


def detector_state(runtime: str) -> str:
    """Whether the face detector runs here."""
    try:
        with _libraries_silent():
            detector = Detector(runtime)
            try:
                detector(np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8), 1)
            finally:
                detector.close()
    except TabrtError as problem:
        return f"no: {problem}"
    except Exception as problem:  # a broken install must not end the report
        return f"no: {missing_library(problem) or first_line(problem)}"
    return "runs"


@contextmanager
def _libraries_silent() -> Iterator[None]:
    """Keep what libraries write to standard error, past Python, out of the report."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def read_card(path: Path) -> ModelCard:
    """The card of a model file. Raises TabrtError for a file that is none."""
    engine = load_engine(path, "onnxruntime", threads=1, device="cpu")
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
        others = {"int8": int8_file(path), "fp16": fp16_file(path)}
        precisions = " and ".join([card.precision, *(kind for kind, file in others.items() if file.is_file())])
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
        half = fp16_file(path)
        if half.is_file():
            yield f"  also in float16 ({half.stat().st_size / 1e6:.1f} MB), for GPUs: {half}"
        yield f"  licence: {card.licence}"
        yield f"  trained on: {card.training_data}"
        yield from (f"  {figure}: {value:g}" for figure, value in card.figures.items())
        yield ""
    yield "Give one with --model NAME, or a file of your own with --model FILE."


def _films() -> Iterator[str]:
    """What this FFmpeg lacks."""
    import av
    from av.filter import filters_available

    yield f"  PyAV {av.__version__}, FFmpeg's libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    lacking = {
        "encoders": [name for name in ENCODERS if not _has_codec(name, "w")],
        "decoders": [name for name in DECODERS if not _has_codec(name, "r")],
        "filters": [name for name in FILTERS if name not in filters_available],
    }
    for kind, names in lacking.items():
        if names:
            yield f"  {kind} missing: {', '.join(names)}; pip install --force-reinstall --only-binary av 'av>=18,<19'"
    if not any(lacking.values()):
        yield "  every encoder, decoder and filter that tabrt uses is there"


def _has_codec(name: str, mode: Literal["r", "w"]) -> bool:
    import av

    try:
        av.Codec(name, mode)
    except Exception:  # of PyAV's own
        return False
    return True


def _folders() -> Iterator[str]:
    """Where files are made besides those that are asked for."""
    yield f"  temporary files: {_writable(tempfile.gettempdir, 'set TMPDIR to a folder of your own')}"
    remedy = "set XDG_CACHE_HOME; engines are compiled at every start"
    yield f"  cache (compiled engines): {_writable(cache_folder, remedy)}"


def _writable(folder: Callable[[], str | Path], remedy: str) -> str:
    """A folder, and whether a file can be made in it or, where it is not there yet, beside it."""
    try:
        path = Path(folder())
        there = next(parent for parent in (path, *path.parents) if parent.is_dir())
        with tempfile.TemporaryFile(dir=there):
            return str(path)
    except (OSError, TabrtError) as problem:
        return f"NOT WRITABLE ({first_line(problem)}); {remedy}"


def _cameras() -> Iterator[str]:
    refused = refusal()
    if refused:
        yield f"  {refused}"
    found = cameras()
    for camera in found:
        yield f"  {camera.path}  {camera.name}" + (f"  ({camera.stable_path})" if camera.stable_path else "")
    if not found:
        yield "  none found"
