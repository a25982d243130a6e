"""From a file to an engine: out of the cache, or compiled, judged and cached."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np

from tabrt.card import ModelCard
from tabrt.engines.engine import ENGINE_SUFFIX, MapsByName, check_crops, checkpoint_file
from tabrt.engines.tensorrt.building import Refused, settings_in_words
from tabrt.engines.tensorrt.cache import Cache, identity_of
from tabrt.engines.tensorrt.judging import Built, build, guarded
from tabrt.engines.tensorrt.runtime import Program, Runtime
from tabrt.errors import EngineUnavailable, TabrtError, first_line

PRECISION = "fp16"  # of engines that are compiled without being asked for by precision

log = logging.getLogger("tabrt")


def open_engine(path: Path, runtime: Runtime, cache: Cache, compiling: bool = True) -> TensorRTEngine:
    """An engine file, or a checkpoint's engine. compiling: whether one that is not cached is compiled.

    Raises EngineUnavailable for whatever the GPU has against it, TabrtError for a file that cannot be used.
    """
    with guarded("asking for the GPU"):
        here = runtime.describe()
    if path.suffix == ENGINE_SUFFIX:
        plan, card = cache.open(path, here)
        with guarded("starting the engine"):
            return TensorRTEngine(runtime.start(plan, card), card, runtime.device)
    checkpoint = checkpoint_file(path)
    if checkpoint.suffix.lower() == ".onnx":
        raise TabrtError(f"engine tensorrt compiles checkpoints, not {path.name}; give a .safetensors or .pth file")
    identity = identity_of(checkpoint, PRECISION, settings_in_words(PRECISION), here)
    file = cache.file(identity)
    if file.exists():
        try:
            plan, card = cache.open(file, here)
            with guarded("starting the engine"):
                return TensorRTEngine(runtime.start(plan, card), card, runtime.device)
        except TabrtError as problem:
            if not compiling:
                raise EngineUnavailable(str(problem)) from problem
            log.warning("%s; compiling it again", problem)
    if not compiling:
        raise EngineUnavailable(
            f"{checkpoint.name} is not compiled for what is here now; --engine tensorrt compiles it"
        )
    return _compiled(checkpoint, identity, runtime, cache)


def _compiled(checkpoint: Path, identity: dict[str, str], runtime: Runtime, cache: Cache) -> TensorRTEngine:
    file = cache.file(identity)
    before = cache.refusal(identity)
    if before:
        raise EngineUnavailable(f"{before} (found before; tabrt export --to tensorrt tries again)")
    log.warning("compiling %s for the %s: this takes a few minutes, once", checkpoint.name, runtime.device)
    try:
        built = build(checkpoint, PRECISION, runtime)
    except Refused as problem:
        cache.refuse(identity, str(problem))
        raise
    try:
        cache.save(built.plan, built.card, identity, file)
    except Exception as problem:  # a full disk costs time at the next start, no more
        log.warning("the engine is not cached: %s", first_line(problem))
    return TensorRTEngine(built.program, built.card, runtime.device)


def export_engine(checkpoint: Path, out: Path, precision: str, runtime: Runtime, cache: Cache) -> Built:
    """Compile a checkpoint and write the engine to a file for this machine. Raises TabrtError."""
    with guarded("asking for the GPU"):
        here = runtime.describe()
    identity = identity_of(checkpoint, precision, settings_in_words(precision), here)
    built = build(checkpoint, precision, runtime)
    built.program.close()
    cache.save(built.plan, built.card, identity, out)
    cache.forget(identity)
    return built


class TensorRTEngine(MapsByName):
    """See `tabrt.engines.engine.Engine`. Calls from several threads wait for each other."""

    name = "tensorrt"

    def __init__(self, program: Program, card: ModelCard, device: str):
        self.card = card
        self.device = device
        self._program: Program | None = program
        self._lock = threading.Lock()

    def read(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, L, 2) in crop px and confidences (N, L), read on the GPU: the maps stay there."""
        check_crops(crops, self.card)
        if len(crops) == 0:
            return np.zeros((0, self.card.points, 2), np.float32), np.zeros((0, self.card.points), np.float32)
        values = self._in_batches(crops, "points")[0]
        return values[..., :2], values[..., 2]

    def _run(self, batch: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        with self._lock:
            if self._program is None:
                raise TabrtError("the engine is closed; load it again with load_engine")
            try:
                return self._program(batch, outputs)
            except Exception as error:
                raise TabrtError(f"the GPU failed while running: {first_line(error)}; use --device cpu") from error

    def close(self) -> None:
        with self._lock:
            if self._program is not None:
                self._program.close()
            self._program = None
