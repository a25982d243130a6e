"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from tabrt.engines.engine import CPU, MapsByName
from tabrt.engines.onnxruntime.session import open_session, options_for
from tabrt.errors import TabrtError, first_line
from tabrt.files import read_bounded
from tabrt.hardware import available_threads


class CpuEngine(MapsByName):
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

    def _run(self, crops: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        session = self._session
        if session is None:
            raise TabrtError("the engine is closed; load it again with load_engine")
        try:
            return tuple(session.run(list(outputs), {"crops": crops}))  # the others are not even written
        except Exception as error:
            raise TabrtError(f"the model failed while running: {first_line(error)}; export it again") from error

    def close(self) -> None:
        self._session = None
