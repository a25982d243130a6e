"""ONNX Runtime on an NVIDIA card, by NVIDIA's TensorRT-RTX plug-in or by ONNX Runtime's own CUDA provider.

Every batch size has buffers that stay where they are, a binding to them, and with it a CUDA graph of its own, captured
when the model is loaded. What differs between the two providers is in `Provider`; the rest can be tried without a card.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tabrt.card import MAX_BATCH, ModelCard
from tabrt.engines.engine import BATCH_SIZES, MapsByName, padded_size
from tabrt.engines.gpu import CUDA_PROVIDER, require_library
from tabrt.engines.onnxruntime.session import SILENT, checked, open_session, options_for
from tabrt.errors import EngineUnavailable, TabrtError, first_line
from tabrt.files import read_bounded
from tabrt.hardware import cache_folder
from tabrt.topology import BOUNDARY_CHANNELS

# By this a run names the graph it replays: in ONNX Runtime's own providers, and in the plug-in.
GRAPH_KEYS = ("gpu_graph_id", "cuda_graph_annotation_id")
CAPTURES = 3  # runs of each size when a model is loaded: to allocate, to choose kernels, and one that is captured

_registered: dict[str, str] = {}  # libraries of plug-ins that this process knows, by name

log = logging.getLogger("tabrt")


class Buffer:
    """An array on the card, and its place in memory that both can reach."""

    def __init__(self, on_card: Any, on_host: Any, copy: Callable[[Any, Any], None]):
        self.on_card = on_card
        self._on_host = on_host
        self._copy = copy
        self.array: np.ndarray = on_host.numpy()  # the memory itself, not a copy

    def send(self) -> None:
        self._copy(self._on_host, self.on_card)

    def fetch(self) -> None:
        self._copy(self.on_card, self._on_host)


@dataclass(frozen=True)
class Provider:
    """What runs a session on the card."""

    name: str  # as ONNX Runtime knows it
    device: str
    # Given the options and the model's card, gives the session's providers.
    configure: Callable[[onnxruntime.SessionOptions, ModelCard], list[Any] | None]
    buffer: Callable[[tuple[int, ...], type], Buffer]


def open_on_gpu(path: Path) -> GpuEngine:
    """Load a model on the card, by the library installed for it. Raises EngineUnavailable where that cannot be."""
    gpu, library = require_library("onnxruntime")
    try:
        provider = _cuda(gpu.name) if library is CUDA_PROVIDER else _plugin(gpu.name)
        return GpuEngine(path, provider)
    except EngineUnavailable:
        raise
    except Exception as error:  # whatever a driver, a library or a provider raises
        raise EngineUnavailable(f"{library.title} does not run here: {first_line(error)}") from error


class GpuEngine(MapsByName):
    """See `tabrt.engines.engine.Engine`. Calls from several threads wait for each other."""

    name = "onnxruntime"

    def __init__(self, path: Path, provider: Provider):
        self.device = provider.device
        options = options_for(threads=1)
        model = read_bounded(path)
        providers = provider.configure(options, checked(path, model))
        self._session: onnxruntime.InferenceSession | None
        self._session, self.card = open_session(path, model, options, providers)
        if provider.name not in self._session.get_providers():  # ONNX Runtime goes on without one that fails
            raise EngineUnavailable(f"ONNX Runtime left {provider.name} for the CPU")
        self._lock = threading.Lock()
        self._batches = {size: _Batch(self._session, size, self.card, provider) for size in BATCH_SIZES}
        for size in BATCH_SIZES:
            for _ in range(CAPTURES):
                self._batches[size].run()

    def _run(self, crops: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        with self._lock:
            if self._session is None:
                raise TabrtError("the engine is closed; load it again with load_engine")
            try:
                return self._batches[padded_size(len(crops))](crops, outputs)
            except Exception as error:
                raise TabrtError(f"the GPU failed while running: {first_line(error)}; use --device cpu") from error

    def close(self) -> None:
        with self._lock:
            self._batches = {}
            self._session = None


class _Batch:
    """One batch size of a session."""

    def __init__(self, session: onnxruntime.InferenceSession, size: int, card: ModelCard, provider: Provider):
        maps = (card.map_size, card.map_size)
        self._crops = provider.buffer((size, card.crop_size, card.crop_size, 3), np.uint8)
        self._outputs = {
            "landmarks": provider.buffer((size, card.points, *maps), np.float32),
            "boundaries": provider.buffer((size, BOUNDARY_CHANNELS, *maps), np.float32),
        }
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("crops", self._crops.on_card)
        for name, buffer in self._outputs.items():
            self._binding.bind_ortvalue_output(name, buffer.on_card)
        self._options = onnxruntime.RunOptions()
        for key in GRAPH_KEYS:
            self._options.add_run_config_entry(key, str(size))
        self._session = session

    def run(self) -> None:
        """Run on whatever crops lie there."""
        self._session.run_with_iobinding(self._binding, self._options)

    def __call__(self, crops: np.ndarray, outputs: tuple[str, ...]) -> tuple[np.ndarray, ...]:
        count = len(crops)
        self._crops.array[:count] = crops  # what lies after them is computed too, and given to nobody
        self._crops.send()
        self.run()
        for name in outputs:
            self._outputs[name].fetch()
        return tuple(self._outputs[name].array[:count].copy() for name in outputs)


# ------------------------------------------------------------------------------------------------------- the providers


def _profile(crop_size: int) -> dict[str, str]:
    """The one optimisation profile of the plug-in: any batch, tuned for a single face."""
    batches = {"min": 1, "opt": 1, "max": MAX_BATCH}
    return {f"nv_profile_{kind}_shapes": f"crops:{n}x{crop_size}x{crop_size}x3" for kind, n in batches.items()}


def _plugin(device: str) -> Provider:
    """NVIDIA's plug-in. Importing it writes links beside it and changes LD_LIBRARY_PATH, so only who asks does."""
    package = importlib.import_module("onnxruntime_ep_nv_tensorrt_rtx")
    name, library = package.get_ep_name(), package.get_library_path()
    if name not in _registered:
        onnxruntime.register_execution_provider_library(name, library)
        _registered[name] = library
    devices = [found for found in onnxruntime.get_ep_devices() if found.ep_name == name]
    if not devices:
        raise EngineUnavailable(f"the TensorRT-RTX plug-in finds no card that it serves; the {device} is here")
    kinds = onnxruntime.OrtDeviceMemoryType
    on_card, on_host = (devices[0].memory_info(kind) for kind in (kinds.DEFAULT, kinds.HOST_ACCESSIBLE))
    kernels = cache_folder() / "tensorrt-rtx"
    kernels.mkdir(parents=True, exist_ok=True, mode=0o700)

    def configure(options: onnxruntime.SessionOptions, card: ModelCard) -> None:
        settings = {"enable_cuda_graph": "1", "nv_runtime_cache_path": str(kernels), **_profile(card.crop_size)}
        options.add_provider_for_devices(devices[:1], settings)

    def buffer(shape: tuple[int, ...], kind: type) -> Buffer:
        there, here = (
            onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, memory_info=memory)
            for memory in (on_card, on_host)
        )
        return Buffer(there, here, lambda source, target: onnxruntime.copy_tensors([source], [target]))

    return Provider(name, device, configure, buffer)


CUDA_SETTINGS = {
    "device_id": "0",
    "enable_cuda_graph": "1",
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "prefer_nhwc": "1",
    "use_tf32": "0",  # ten bits of mantissa would move points
}


def _cuda(device: str) -> Provider:
    """ONNX Runtime's own provider, of the package onnxruntime-gpu."""
    name = "CUDAExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        raise EngineUnavailable(
            "onnxruntime-gpu is installed, but onnxruntime took its place: pip uninstall both, then install the one "
            "you want"
        )
    onnxruntime.preload_dlls()
    # It tells of each kernel that cuDNN has not, before it takes another: by its default log, not the session's.
    onnxruntime.set_default_logger_severity(SILENT)

    def configure(_options: onnxruntime.SessionOptions, _card: ModelCard) -> list[Any]:
        return [(name, CUDA_SETTINGS), "CPUExecutionProvider"]

    def buffer(shape: tuple[int, ...], kind: type) -> Buffer:
        on_card = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cuda", 0)
        on_host = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", 0)

        def copy(source: Any, target: Any) -> None:
            if target is on_card:
                target.update_inplace(source.numpy())
            else:
                target.numpy()[:] = source.numpy()

        return Buffer(on_card, on_host, copy)

    return Provider(name, device, configure, buffer)
