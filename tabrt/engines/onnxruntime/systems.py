"""ONNX Runtime on the chip that the system itself drives: CoreML on Apple's machines, DirectML on Windows.

Only who asks for it (`--device gpu`) gets it: it computes in float16, and has been run by stand-in alone. So its points
are compared with those of the CPU whenever a model is loaded.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

from tabrt.engines.engine import MapsByName
from tabrt.engines.onnxruntime.session import open_session, options_for
from tabrt.engines.parity import Shift, sample_crops
from tabrt.errors import EngineUnavailable, TabrtError, first_line
from tabrt.files import read_bounded
from tabrt.hardware import available_threads

SAMPLES = 8  # crops on which it is judged


@dataclass(frozen=True)
class System:
    """A provider that comes with a build of ONNX Runtime. distribution: the build, as pip knows it."""

    title: str
    provider: str
    distribution: str
    settings: dict[str, str] = field(default_factory=dict)


SYSTEMS = (
    System(
        "CoreML",
        "CoreMLExecutionProvider",
        "onnxruntime",
        {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL", "RequireStaticInputShapes": "1"},
    ),
    System("DirectML", "DmlExecutionProvider", "onnxruntime-directml"),
)


def system_here() -> System | None:
    """The one that this build of ONNX Runtime has; None where it has none."""
    there = onnxruntime.get_available_providers()
    return next((system for system in SYSTEMS if system.provider in there), None)


def open_on_system(path: Path, system: System) -> SystemEngine:
    """Load a model there. Raises EngineUnavailable where it does not run, or moves points too far."""
    try:
        return SystemEngine(path, system)
    except TabrtError:
        raise
    except Exception as error:  # whatever a framework of the system raises
        raise EngineUnavailable(f"{system.title} does not run here: {first_line(error)}") from error


class SystemEngine(MapsByName):
    """See `tabrt.engines.engine.Engine`. One face at a time: both want sizes that are fixed when a model is loaded."""

    name = "onnxruntime"

    def __init__(self, path: Path, system: System):
        self.device = system.title
        model = read_bounded(path)
        cpu, self.card = open_session(path, model, options_for(threads=available_threads(None)))
        options = options_for(threads=available_threads(None))
        options.add_free_dimension_override_by_name(cpu.get_inputs()[0].shape[0], 1)
        options.enable_mem_pattern = False  # DirectML asks for it
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        providers = [(system.provider, system.settings), "CPUExecutionProvider"]
        self._lock = threading.Lock()
        self._session: onnxruntime.InferenceSession | None
        self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        if system.provider not in self._session.get_providers():  # ONNX Runtime goes on without one that fails
            raise EngineUnavailable(f"ONNX Runtime left {system.title} for the CPU")
        self._judge(cpu)

    def _judge(self, cpu: onnxruntime.InferenceSession) -> None:
        crops = sample_crops(SAMPLES, self.card.crop_size)
        truth = cpu.run(["landmarks"], {"crops": crops})[0]
        objection = Shift.between(truth, self(crops), self.card).objection("fp16")
        if objection:
            raise EngineUnavailable(f"{self.device} is not used: {objection}")

    def _run(self, crops: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        with self._lock:
            if self._session is None:
                raise TabrtError("the engine is closed; load it again with load_engine")
            try:
                runs = [self._session.run(list(outputs), {"crops": crop[None]}) for crop in crops]
            except Exception as error:
                raise TabrtError(
                    f"{self.device} failed while running: {first_line(error)}; use --device cpu"
                ) from error
        return tuple(np.concatenate(maps) for maps in zip(*runs, strict=True))

    def close(self) -> None:
        with self._lock:
            self._session = None
