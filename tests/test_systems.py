"""CoreML and DirectML in ONNX Runtime, with the CPU in their place: real sessions with a fixed batch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from conftest import environment
from small_network import face_crops

from tabrt.commands import doctor
from tabrt.engines import gpu
from tabrt.engines.engine import MODELS, load_engine
from tabrt.engines.onnxruntime import systems
from tabrt.engines.onnxruntime.cpu import CpuEngine
from tabrt.engines.onnxruntime.systems import SYSTEMS, System, SystemEngine, open_on_system, system_here
from tabrt.errors import EngineUnavailable, TabrtError

STAND_IN = System("CoreML", "CPUExecutionProvider", "onnxruntime")
MODEL = MODELS["tab1-lite"]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """On few crops: those of the demo film take seconds."""
    monkeypatch.setattr(systems, "sample_crops", lambda count, size: face_crops(2))


def test_one_face_at_a_time_gives_what_a_batch_gives(judged):
    engine, truth = open_on_system(MODEL, STAND_IN), CpuEngine(MODEL)
    assert (engine.device, engine.name) == ("CoreML", "onnxruntime")
    assert engine._session.get_inputs()[0].shape == [1, 256, 256, 3]  # nothing is left open: CoreML wants it so
    for count in (3, 1, 0):
        crops = face_crops(3)[:count]
        for found, expected in zip(engine.both(crops), truth.both(crops), strict=True):
            assert found.shape == expected.shape
            assert np.allclose(found, expected, atol=1e-3)
    engine.close()
    with pytest.raises(TabrtError, match="closed"):
        engine(face_crops(1))


def test_points_that_move_too_far_are_refused(monkeypatch: pytest.MonkeyPatch):
    """As a chip would whose float16 does not suffice."""
    run = SystemEngine._run
    monkeypatch.setattr(SystemEngine, "_run", lambda *given: tuple(np.roll(maps, 1, axis=3) for maps in run(*given)))
    with pytest.raises(EngineUnavailable, match=r"CoreML is not used: fp16 moves points by \d"):
        open_on_system(MODEL, STAND_IN)


@pytest.mark.filterwarnings("ignore")
def test_a_provider_that_was_left_is_not_called_by_its_name():
    assert SYSTEMS[0].provider not in onnxruntime.get_available_providers()
    with pytest.raises(EngineUnavailable, match="CoreML"):
        open_on_system(MODEL, SYSTEMS[0])


def test_it_is_taken_by_who_asks_for_the_gpu_and_by_no_other(judged, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(systems, "system_here", lambda: STAND_IN)
    asked = load_engine("tab1-lite", "onnxruntime", device="gpu")
    assert (asked.device, asked.card.precision) == ("CoreML", "fp16")
    assert load_engine("tab1-lite").device == "CPU"


def test_each_systems_provider_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch):
    assert system_here() is None
    for system in SYSTEMS:
        there = ["AzureExecutionProvider", system.provider, "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda there=there: there)
        assert system_here() is system
        assert f"{system.title} in ONNX Runtime: installed; --device gpu runs on it" in "\n".join(doctor._gpu())


def test_windows_is_told_what_brings_directml(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert "pip install 'onnxruntime-directml" in "\n".join(doctor._gpu())
    monkeypatch.setattr(gpu.metadata, "version", lambda name: "1.24.4")
    assert any("onnxruntime-directml own the same module" in line for line in gpu.conflicts())


@pytest.mark.parametrize("module", ["tabrt.detection.onnx", "tabrt.engines.onnxruntime.cpu"])
def test_what_onnx_runtime_would_tell_windows_is_switched_off(module: str):
    program = (
        "import onnxruntime; calls = []\n"
        "onnxruntime.disable_telemetry_events = lambda: calls.append(1)\n"
        f"import {module}; print(len(calls) > 0)"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=60)
    assert done.stdout.strip() == "True", done.stderr
