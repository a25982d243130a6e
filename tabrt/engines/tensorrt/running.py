"""A TensorRT engine on the GPU: buffers that stay, one execution context and one CUDA graph for each batch size.

A graph holds the whole way: pixels to the GPU, the network, the maps read to points, the points back. Maps come back
only when they are asked for. Torch gives memory, streams and graphs; TensorRT runs the network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tabrt.card import MAX_BATCH, ModelCard
from tabrt.engines import decoding
from tabrt.engines.engine import BATCH_SIZES, padded_size
from tabrt.errors import EngineUnavailable
from tabrt.topology import BOUNDARY_CHANNELS

cuda: Any = torch.cuda
DEVICE = "cuda"
KINDS = {"UINT8": torch.uint8, "HALF": torch.float16, "FLOAT": torch.float32}  # TensorRT's names


class Kernels:
    """Where TensorRT-RTX's compiled kernels are kept between starts: here, nowhere."""

    def read(self) -> bytes:
        return b""

    def write(self, data: bytes) -> None:
        pass


class GpuProgram:
    """An engine, ready for every size of BATCH_SIZES. One call at a time. See `runtime.Program`."""

    def __init__(
        self,
        plan: bytes,
        card: ModelCard,
        tensorrt: ModuleType,
        kernels: Kernels | None = None,
        graphs: bool = True,
    ):
        """kernels: those of TensorRT-RTX, which also captures its graphs by itself; None for TensorRT."""
        self._card = card
        self._logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        self._runtime = tensorrt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineUnavailable("TensorRT does not read the engine: it was made for another card or version")
        self._there: dict[str, Tensor] = {}
        self._host: dict[str, Tensor] = {}
        self._workspace: Tensor | None = None
        self._kernel_cache: Any = None
        self.stream = cuda.Stream()
        self._done = cuda.Event()
        self._names = _names(self._engine, tensorrt, card)
        self._allocate()
        self._contexts = self._prepared(tensorrt, kernels, graphs)
        self._graphs: list[Any] = []
        self.launches: dict[int, Callable[[], None]] = {}
        with torch.inference_mode():
            for size in BATCH_SIZES:  # without a graph: what a first run chooses or allocates cannot be captured
                with cuda.stream(self.stream):
                    self._enqueue(size)
                self.stream.synchronize()
            for size in BATCH_SIZES:
                captured = graphs and kernels is None
                self.launches[size] = self._captured(size) if captured else partial(self._enqueue, size)
        if kernels is not None:
            kernel_cache: Any = self._kernel_cache
            kernels.write(bytes(kernel_cache.serialize()))

    def __call__(self, crops: np.ndarray, outputs: tuple[str, ...]) -> tuple[np.ndarray, ...]:
        count = len(crops)
        self._host["crops"].numpy()[:count] = crops  # what lies after them is computed too, and given to nobody
        with torch.inference_mode(), cuda.stream(self.stream):
            self.launches[padded_size(count)]()
            for name in outputs:
                if name != "points":  # which are back already
                    self._host[name][:count].copy_(self._there[name][:count], non_blocking=True)
            self._done.record(self.stream)
        self._done.synchronize()
        return tuple(np.array(self._host[name].numpy()[:count], np.float32) for name in outputs)

    def close(self) -> None:
        """Give all memory back."""
        self.stream.synchronize()
        for graph in self._graphs:
            graph.reset()
        self.launches, self._graphs, self._contexts = {}, [], {}
        self._there, self._host, self._workspace = {}, {}, None
        self._kernel_cache, self._engine, self._runtime = None, None, None
        cuda.empty_cache()

    # Preparing

    def _allocate(self) -> None:
        """Buffers for MAX_BATCH crops, of which smaller batches take the front; on the GPU, and pinned on the host."""
        maps, pixels = (self._card.map_size,) * 2, self._card.crop_size
        kinds = {kind: KINDS[self._engine.get_tensor_dtype(name).name] for kind, name in self._names.items()}
        shapes = {
            "crops": (MAX_BATCH, pixels, pixels, 3),
            "landmarks": (MAX_BATCH, self._card.points, *maps),
            "boundaries": (MAX_BATCH, BOUNDARY_CHANNELS, *maps),
            "points": (MAX_BATCH, self._card.points, 3),
        }
        kinds["points"] = torch.float32
        self._there = {name: torch.zeros(shape, dtype=kinds[name], device=DEVICE) for name, shape in shapes.items()}
        self._host = {
            name: torch.zeros(shape, dtype=kinds[name], pin_memory=DEVICE == "cuda") for name, shape in shapes.items()
        }
        # One workspace for all contexts: they never run at the same time.
        size = max(self._engine.device_memory_size_v2, 1)
        self._workspace = torch.zeros(size, dtype=torch.uint8, device=DEVICE)

    def _prepared(self, tensorrt: ModuleType, kernels: Kernels | None, graphs: bool) -> dict[int, Any]:
        """A context for each size: a graph holds on to the shapes and addresses of the one it was captured from."""
        how: Any = tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        if kernels is not None:
            settings = self._engine.create_runtime_config()
            settings.set_execution_context_allocation_strategy(how)
            # Chosen at the start for each shape, not replaced while running.
            settings.dynamic_shapes_kernel_specialization_strategy = (
                tensorrt.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            strategy = tensorrt.CudaGraphStrategy
            settings.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if graphs else strategy.DISABLED
            self._kernel_cache = settings.create_runtime_cache()
            stored = kernels.read()
            if stored:
                self._kernel_cache.deserialize(stored)
            settings.set_runtime_cache(self._kernel_cache)
            how = settings
        return {size: self._context(size, how) for size in BATCH_SIZES}

    def _context(self, size: int, how: Any) -> Any:
        context = self._engine.create_execution_context(how)
        if context is None or self._workspace is None:
            raise EngineUnavailable("TensorRT gives no execution context: the GPU may be out of memory")
        context.set_device_memory(self._workspace.data_ptr(), self._workspace.numel())
        shape = (size, self._card.crop_size, self._card.crop_size, 3)
        if not context.set_input_shape(self._names["crops"], shape):
            raise EngineUnavailable(f"the engine does not take {size} crops")
        for kind, name in self._names.items():
            context.set_tensor_address(name, self._there[kind].data_ptr())
        return context

    def _captured(self, size: int) -> Callable[[], None]:
        graph = cuda.CUDAGraph()
        # Other threads may go on using the GPU meanwhile.
        with cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self._enqueue(size)
        self._graphs.append(graph)
        return graph.replay

    def _enqueue(self, size: int) -> None:
        """The whole way of a batch, on the current stream."""
        there, host = self._there, self._host
        there["crops"][:size].copy_(host["crops"][:size], non_blocking=True)
        if not self._contexts[size].execute_async_v3(self.stream.cuda_stream):
            raise RuntimeError("TensorRT could not start the network")
        there["points"][:size] = decoding.decode(there["landmarks"][:size], self._card.decoding, self._card.offset)
        host["points"][:size].copy_(there["points"][:size], non_blocking=True)


def _names(engine: Any, tensorrt: ModuleType, card: ModelCard) -> dict[str, str]:
    """What the engine calls its crops, landmarks and boundaries: told apart by what they are."""
    found: dict[str, str] = {}
    channels = {card.points: "landmarks", BOUNDARY_CHANNELS: "boundaries"}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
        kind = "crops" if is_input else channels.get(engine.get_tensor_shape(name)[1])
        if kind is not None:
            found[kind] = name
    if found.keys() != {"crops", "landmarks", "boundaries"}:
        raise EngineUnavailable(f"the engine has other inputs and outputs than tabrt's: {', '.join(found)}")
    return found
