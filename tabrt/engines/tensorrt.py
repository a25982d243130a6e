"""TensorRT on an NVIDIA GPU, through Torch-TensorRT (extra `cuda`) or Torch-TensorRT-RTX (extra `rtx`).

A checkpoint is compiled once for the GPU at hand and kept in a cache. Whatever touches the GPU is in `CudaRuntime`;
the rest is decided here, and can be tested on any machine with a stand-in for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import hmac
import importlib
import json
import logging
import os
import re
import secrets
import tempfile
import threading
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tabrt.card import CARD_KEY, MAX_BATCH, ModelCard
from tabrt.engines.engine import ENGINE_SUFFIX, Engine, checkpoint_file, in_batches
from tabrt.errors import EngineUnavailable, TabrtError
from tabrt.files import read_bounded
from tabrt.geometry import CROP_SIZE
from tabrt.hardware import has_cuda

try:
    import torch

    from tabrt.engines.parity import BOUNDS, HALF_PARTS, Shift, sample_crops
    from tabrt.engines.torch import TorchEngine
    from tabrt.files import write_atomically
    from tabrt.network.checkpoint import MAX_BYTES, load_checkpoint
    from tabrt.network.deployed import Deployed
    from tabrt.network.tab import Tab
except ModuleNotFoundError as error:
    if (error.name or "").startswith("tabrt"):
        raise
    raise EngineUnavailable(f"engine tensorrt needs {error.name}; run: pip install 'tabrt[cuda]'") from error

SEAL_SUFFIX = ".seal"
FORMAT = "1"  # of what is cached: a new one makes every older engine stale
PRECISION = "fp16"  # of engines that are compiled without being asked for by precision
BUILT_FOR = "built for"
REMEDY = "make it here with: tabrt export --to tensorrt"

log = logging.getLogger("tabrt")


class Runtime(Protocol):
    """What is done on the GPU."""

    def describe(self) -> dict[str, str]:
        """Versions, driver and GPU: an engine runs only where all of these are the same."""
        ...

    def compile(self, network: Tab, precision: str, float_parts: tuple[str, ...]) -> Any: ...

    def save(self, program: Any, path: Path, extra: dict[str, str]) -> None: ...

    def load(self, path: Path) -> Any: ...

    def start(self, program: Any) -> Any:
        """Make a program ready for many runs: CUDA graphs, and a first run."""
        ...

    def run(self, program: Any, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def reference(self, network: Tab, crops: np.ndarray) -> np.ndarray:
        """Landmark maps in torch float32."""
        ...


@dataclass(frozen=True)
class Built:
    """A compiled program that was accepted, and how far its points are from float32's."""

    program: Any
    shift: Shift
    crops: int
    float_parts: tuple[str, ...]  # that had to stay in float32


def load(path: Path, threads: int | None = None) -> Engine:
    """Load an engine file, or compile a checkpoint (once: the engine is cached). `threads` plays no part here.

    Raises EngineUnavailable without driver, GPU or packages, TabrtError for a file that cannot be used.
    """
    return open_engine(path, CudaRuntime(), cache_folder())


def open_engine(path: Path, runtime: Runtime, cache: Path) -> Engine:
    """`load`, with the runtime and the cache given. Falls back to torch on the GPU if nothing can be compiled."""
    if path.suffix == ENGINE_SUFFIX:
        program, card = open_sealed(path, runtime, cache)
        return TensorRTEngine(runtime.start(program), card, runtime)
    checkpoint = checkpoint_file(path)
    if checkpoint.suffix.lower() == ".onnx":
        raise TabrtError(f"engine tensorrt compiles checkpoints, not {path.name}; give a .safetensors or .pth file")
    try:
        program, card = _cached_or_built(checkpoint, runtime, cache)
        return TensorRTEngine(runtime.start(program), card, runtime)
    except EngineUnavailable as problem:
        log.warning("TensorRT cannot be used (%s); running in torch", problem)
        return TorchEngine(checkpoint)


def _cached_or_built(checkpoint: Path, runtime: Runtime, cache: Path) -> tuple[Any, ModelCard]:
    identity = identity_of(checkpoint, PRECISION, runtime)
    cached = cache / f"{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]}{ENGINE_SUFFIX}"
    if cached.exists():
        try:
            return open_sealed(cached, runtime, cache)
        except TabrtError as problem:
            log.warning("%s; compiling it again", problem)
    log.warning("compiling %s for %s: this takes a minute, once", checkpoint.name, identity["gpu"])
    built, card = build(checkpoint, PRECISION, runtime)
    try:
        save_sealed(built.program, card, identity, cached, runtime, cache)
    except TabrtError as problem:  # a full disk costs time at the next start, no more
        log.warning("the engine is not cached: %s", problem)
    return built.program, card


def export_engine(checkpoint: Path, out: Path, precision: str) -> Built:
    """Compile a checkpoint and write the engine to a file for this machine. Raises TabrtError."""
    runtime, cache = CudaRuntime(), cache_folder()
    built, card = build(checkpoint, precision, runtime)
    save_sealed(built.program, card, identity_of(checkpoint, precision, runtime), out, runtime, cache)
    return built


def build(checkpoint: Path, precision: str, runtime: Runtime) -> tuple[Built, ModelCard]:
    """Compile, and compare points with float32 on real crops; parts of the network stay in float32 if they must.

    Raises EngineUnavailable if it does not compile, or if its points move further than BOUNDS whatever is tried.
    """
    if precision not in ("fp32", "fp16"):
        raise TabrtError(f"TensorRT engines are made in fp32 or fp16, not {precision}; use --to onnx")
    network, card = load_checkpoint(checkpoint)
    crops = sample_crops()
    truth = runtime.reference(network, crops)
    for parts in HALF_PARTS if precision == "fp16" else HALF_PARTS[:1]:
        program = runtime.compile(network, precision, parts)
        maps = in_batches(functools.partial(_padded_run, runtime, program), crops, card)[0]
        shift = Shift.between(truth, maps, card)
        if shift.worst <= BOUNDS[precision]:
            if parts:
                log.warning("%s stay in float32 for accuracy", " and ".join(parts))
            return Built(program, shift, len(crops), parts), replace(card, precision=precision)
    raise EngineUnavailable(f"{precision} moves points by {shift.worst:.2f} px; at most {BOUNDS[precision]} is allowed")


def identity_of(checkpoint: Path, precision: str, runtime: Runtime) -> dict[str, str]:
    """Everything an engine depends on. Engines whose identities differ in anything are different engines."""
    return {
        "format": FORMAT,
        "model": hashlib.sha256(read_bounded(checkpoint, MAX_BYTES)).hexdigest(),
        "precision": precision,
        "batch": f"1…{MAX_BATCH}",
        **runtime.describe(),
    }


def save_sealed(
    program: Any, card: ModelCard, identity: dict[str, str], path: Path, runtime: Runtime, cache: Path
) -> None:
    """Write an engine with its card and identity inside, and its seal beside it. Raises TabrtError."""
    extra = {CARD_KEY: json.dumps({"card": card.to_json(), BUILT_FOR: identity})}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"engine{ENGINE_SUFFIX}")
        try:
            runtime.save(program, file, extra)
            data = file.read_bytes()
        except OSError as error:
            raise TabrtError(f"cannot write {path}: {error.strerror}; free some space") from error
    write_atomically(path, data)
    write_atomically(_seal_file(path), _seal(data, cache).encode())


def open_sealed(path: Path, runtime: Runtime, cache: Path) -> tuple[Any, ModelCard]:
    """Load an engine that this machine made, unchanged, for what is here now. Raises TabrtError for any other.

    Loading one can run code that lies in it: that is why the seal is checked before anything else.
    """
    data = read_bounded(path, MAX_BYTES)
    seal = read_bounded(_seal_file(path), 1024).decode(errors="replace") if _seal_file(path).is_file() else ""
    if not hmac.compare_digest(seal.encode(), _seal(data, cache).encode()):
        raise TabrtError(f"{path} was not made on this machine, or was changed since; {REMEDY}")
    card, built_for = _described(path)
    for name, here in runtime.describe().items():
        if built_for.get(name) != here:
            raise TabrtError(f"{path} was made for {name} {built_for.get(name)}, and this is {here}; {REMEDY}")
    if built_for.get("format") != FORMAT:
        raise TabrtError(f"{path} was made by another version of tabrt; {REMEDY}")
    try:
        return runtime.load(path), card
    except Exception as error:  # whatever TensorRT raises
        raise TabrtError(f"{path} does not load ({str(error).strip()[:200]}); {REMEDY}") from error


def _described(path: Path) -> tuple[ModelCard, dict[str, str]]:
    """The card and the identity inside an engine file, read without loading it."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith(f"/extra/{CARD_KEY}"))
            values = json.loads(archive.read(name))
        return ModelCard.from_json(values["card"]), dict(values[BUILT_FOR])
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, KeyError, TypeError) as error:
        raise TabrtError(f"{path} is damaged or no engine of tabrt's; {REMEDY}") from error


def _seal_file(path: Path) -> Path:
    return path.with_name(path.name + SEAL_SUFFIX)


def _seal(data: bytes, cache: Path) -> str:
    return hmac.new(_secret(cache), data, hashlib.sha256).hexdigest()


def _secret(cache: Path) -> bytes:
    """The user's own random key, made at first use and readable by that user alone."""
    path = cache / "key"
    with contextlib.suppress(OSError):  # it is there already, or reading it below says what is wrong
        cache.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    return read_bounded(path, 1024)


def cache_folder() -> Path:
    """Where compiled engines are kept: `$XDG_CACHE_HOME/tabrt` or `~/.cache/tabrt`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tabrt"


def padded_size(count: int) -> int:
    """Batches are filled up to 1, 2, 4, 8 or 16 crops, for a CUDA graph is captured for each size anew."""
    return 1 << (count - 1).bit_length()


def _padded_run(runtime: Runtime, program: Any, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = len(batch)
    filled = np.zeros((padded_size(count), *batch.shape[1:]), np.uint8)
    filled[:count] = batch
    landmarks, boundaries = runtime.run(program, filled)
    return landmarks[:count], boundaries[:count]


class TensorRTEngine:
    """See `tabrt.engines.engine.Engine`. Calls from several threads wait for each other."""

    name = "tensorrt"

    def __init__(self, program: Any, card: ModelCard, runtime: Runtime):
        self.card = card
        self._program = program
        self._runtime = runtime
        self._lock = threading.Lock()

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return self.both(crops)[0]

    def boundaries(self, crops: np.ndarray) -> np.ndarray:
        return self.both(crops)[1]

    def both(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        landmarks, boundaries = in_batches(self._run, crops, self.card)
        return landmarks, boundaries

    def _run(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            if self._program is None:
                raise TabrtError("the engine is closed; load it again with load_engine")
            return _padded_run(self._runtime, self._program, batch)

    def close(self) -> None:
        with self._lock:
            self._program = None


def compile_settings(precision: str, float_parts: tuple[str, ...]) -> dict[str, Any]:
    """Torch-TensorRT's settings: the whole network in one engine, float16 but for the normalisation and float_parts.

    Precision is set by autocast, for TensorRT's own choice of it is ignored on this path.
    """
    settings: dict[str, Any] = {"min_block_size": 1, "require_full_compilation": True, "disable_tf32": True}
    if precision == "fp16":
        kept = [rf"{re.escape(f'network.{part}')}(\.|$)" for part in float_parts]
        settings |= {
            "enable_autocast": True,
            "autocast_low_precision_type": torch.float16,
            "autocast_excluded_nodes": ["^$", *kept],  # patterns of module names; the normalisation's is empty
        }
    return settings


def exported_program(network: Tab, device: str) -> torch.export.ExportedProgram:
    """The deployed network as Torch-TensorRT takes it: 1…MAX_BATCH crops."""
    example = torch.zeros(2, CROP_SIZE, CROP_SIZE, 3, dtype=torch.uint8, device=device)
    faces = torch.export.Dim("faces", min=1, max=MAX_BATCH)
    return torch.export.export(Deployed(network).eval().to(device), (example,), dynamic_shapes=({0: faces},))


def profile() -> dict[str, tuple[int, ...]]:
    """The one optimisation profile: any batch up to MAX_BATCH, tuned for a single face."""
    shape = (CROP_SIZE, CROP_SIZE, 3)
    return {"min_shape": (1, *shape), "opt_shape": (1, *shape), "max_shape": (MAX_BATCH, *shape)}


class CudaRuntime:
    """The real runtime. Raises EngineUnavailable where it cannot be."""

    def __init__(self) -> None:
        if not has_cuda():
            raise EngineUnavailable(
                "no NVIDIA driver or GPU is here; install it, or use --engine onnxruntime or --to onnx"
            )
        if not torch.cuda.is_available():
            raise EngineUnavailable("this torch has no CUDA; run: pip install --force-reinstall 'tabrt[cuda]'")
        try:
            self._library = importlib.import_module("torch_tensorrt")
        except ImportError as error:
            raise EngineUnavailable("Torch-TensorRT is not installed; run: pip install 'tabrt[cuda]'") from error
        except Exception as error:  # it checks its libraries by assertions and its own errors
            problem = str(error).strip().split("\n")[0][:200]
            raise EngineUnavailable(f"Torch-TensorRT does not load: {problem}; install 'tabrt[cuda]' again") from error
        self._crops = torch.empty(MAX_BATCH, CROP_SIZE, CROP_SIZE, 3, dtype=torch.uint8, pin_memory=True)
        self._graphs: Any = None

    def describe(self) -> dict[str, str]:
        tensorrt = importlib.import_module("tensorrt")  # Torch-TensorRT puts RTX in its place where that is used
        major, minor = torch.cuda.get_device_capability()
        return {
            "tensorrt": f"{getattr(tensorrt, '_package_name', '') or 'tensorrt'} {tensorrt.__version__}",
            "torch_tensorrt": self._library.__version__,
            "torch": torch.__version__,
            "driver": _driver_version(),
            "gpu": torch.cuda.get_device_name(),
            "capability": f"{major}.{minor}",
        }

    def compile(self, network: Tab, precision: str, float_parts: tuple[str, ...]) -> Any:
        crops = self._library.Input(**profile(), dtype=torch.uint8)
        try:
            return self._library.dynamo.compile(
                exported_program(network, "cuda"), arg_inputs=[crops], **compile_settings(precision, float_parts)
            )
        except Exception as error:  # whatever TensorRT raises
            problem = str(error).strip().split("\n")[0][:200]
            raise EngineUnavailable(f"TensorRT does not compile the model: {problem}") from error

    def save(self, program: Any, path: Path, extra: dict[str, str]) -> None:
        crops = self._library.Input(**profile(), dtype=torch.uint8)
        self._library.save(
            program, str(path), output_format="exported_program", arg_inputs=[crops], retrace=False, extra_files=extra
        )

    def load(self, path: Path) -> Any:
        return self._library.load(str(path)).module()

    def start(self, program: Any) -> Any:
        first = np.zeros((1, CROP_SIZE, CROP_SIZE, 3), np.uint8)
        try:
            self._graphs = self._library.runtime.enable_cudagraphs(program)
            captured = self._graphs.__enter__()  # left when the process ends: the mode is the library's, not ours
            self.run(captured, first)
            return captured
        except Exception as error:
            log.warning("CUDA graphs cannot be captured (%s); running without", str(error).strip().split("\n")[0][:200])
            self._library.runtime.set_cudagraphs_mode(False)
        try:
            self.run(program, first)
        except Exception as error:
            raise EngineUnavailable(f"the engine does not run: {str(error).strip()[:200]}") from error
        return program

    def run(self, program: Any, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pinned = self._crops[: len(crops)]
        pinned.copy_(torch.from_numpy(crops))
        with torch.inference_mode():
            maps = program(pinned.to("cuda", non_blocking=True))
            landmarks, boundaries = (values.float().cpu().numpy() for values in maps)
        return landmarks, boundaries

    def reference(self, network: Tab, crops: np.ndarray) -> np.ndarray:
        deployed = Deployed(network).eval().to("cuda")
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [deployed(torch.from_numpy(crop[None]).to("cuda"))[0].cpu() for crop in crops]
        return torch.cat(parts).numpy()


def _driver_version() -> str:
    """The NVIDIA driver's version, from its management library."""
    try:
        library = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
        version = ctypes.create_string_buffer(80)
        library.nvmlInit_v2()
        library.nvmlSystemGetDriverVersion(version, len(version))
        return version.value.decode()
    except (OSError, AttributeError):
        return "unknown"
