"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from tabrt.engines.engine import CPU, in_batches
from tabrt.engines.onnxruntime.session import open_session, options_for
from tabrt.errors import TabrtError, first_line
from tabrt.files import read_bounded
from tabrt.hardware import available_threads


class CpuEngine:
    """See `tabrt.engines.engine.Engine`. It may be called from several threads at once."""

    name = "onnxruntime"
    device = CPU

    def __init__(self, path: Path, threads: int | None = None):
        options = options_for(available_threads(threads))
        # Threads that spin while a model runs make it a sixth faster; between frames they would take the cores from
        # the decoder and the detector.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session: onnxruntime.InferenceSession | None
        self._session, self.card = open_session(path, read_bounded(path), options)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return self._maps(crops, "landmarks")[0]  # the others are not even written

    def boundaries(self, crops: np.ndarray) -> np.ndarray:
        return self.both(crops)[1]

    def both(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        landmarks, boundaries = self._maps(crops, "landmarks", "boundaries")
        return landmarks, boundaries

    def _maps(self, crops: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        session = self._session
        if session is None:
            raise TabrtError("the engine is closed; load it again with load_engine")
        return in_batches(lambda batch: tuple(_run(session, batch, outputs)), crops, self.card)

    def close(self) -> None:
        self._session = None


def _run(session: onnxruntime.InferenceSession, batch: np.ndarray, outputs: tuple[str, ...]) -> list[np.ndarray]:
    try:
        return session.run(list(outputs), {"crops": batch})
    except Exception as error:
        raise TabrtError(f"the model failed while running: {first_line(error)}; export it again") from error
