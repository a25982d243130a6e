"""OpenVINO, on the CPU. Needs the extra `openvino`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np

from tabrt.engines.engine import CPU, MapsByName
from tabrt.engines.onnxruntime.session import checked
from tabrt.errors import EngineUnavailable, TabrtError, first_line, install_extra
from tabrt.files import read_bounded
from tabrt.hardware import available_threads

# Importing openvino reports that to its maker and to Google Analytics, unasked, through a package of its own. While
# that one is said not to be there, openvino uses its own stub instead, and nothing is sent.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
try:
    import openvino
except ImportError as error:
    raise EngineUnavailable(f"engine openvino is not installed; {install_extra('openvino')}") from error
finally:
    if sys.modules["openvino_telemetry"] is None:
        del sys.modules["openvino_telemetry"]


def load(path: Path, threads: int | None = None, device: str = "cpu") -> OpenVinoEngine:
    """Load an ONNX file of tabrt's. Raises TabrtError for any other file."""
    if path.suffix.lower() != ".onnx":
        raise TabrtError(f"engine openvino reads .onnx files, not {path.name}; tabrt export makes one")
    return OpenVinoEngine(path, threads)


class OpenVinoEngine(MapsByName):
    """See `tabrt.engines.engine.Engine`. Calls from several threads wait for each other."""

    name = "openvino"
    device = CPU

    def __init__(self, path: Path, threads: int | None = None):
        model = read_bounded(path)
        self.card = checked(path, model)
        self._lock = threading.Lock()
        settings = {
            "INFERENCE_NUM_THREADS": available_threads(threads),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Left to itself it takes bfloat16 where the CPU has it: in that, or float16, points move by up to a pixel.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            core = openvino.Core()
            self._compiled = core.compile_model(core.read_model(model), "CPU", settings)
        except Exception as error:
            raise EngineUnavailable(
                f"OpenVINO cannot run {path}: {first_line(error)}; use --engine onnxruntime"
            ) from error

    def _run(self, crops: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        with self._lock:
            if self._compiled is None:
                raise TabrtError("the engine is closed; load it again with load_engine")
            results = self._compiled({"crops": crops}, share_inputs=True)
            # Copied, for the next run writes into the same memory.
            return tuple(results[name].copy() for name in outputs)

    def close(self) -> None:
        with self._lock:
            self._compiled = None
