"""Is a compiled network still the network? Its points are compared with float32's before anybody relies on them."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tabrt.card import ModelCard
from tabrt.engines.engine import in_batches
from tabrt.engines.parity import HALF_PARTS, Shift, sample_crops
from tabrt.engines.tensorrt.building import Refused
from tabrt.engines.tensorrt.runtime import Program, Runtime
from tabrt.errors import EngineUnavailable, TabrtError, first_line
from tabrt.network.checkpoint import load_checkpoint

log = logging.getLogger("tabrt")


@dataclass(frozen=True)
class Built:
    """A compiled network that was accepted, started; and how far its points are from float32's."""

    plan: bytes
    program: Program
    card: ModelCard
    shift: Shift
    crops: int
    float_parts: tuple[str, ...]  # that had to stay in float32


def build(checkpoint: Path, precision: str, runtime: Runtime) -> Built:
    """Compile, and compare points with float32 on real crops; parts of the network stay in float32 if they must.

    Raises Refused if its points move too far whatever is tried, EngineUnavailable for whatever else the GPU has
    against it.
    """
    if precision not in ("fp32", "fp16"):
        raise TabrtError(f"TensorRT engines are made in fp32 or fp16, not {precision}; use --to onnx")
    network, card = load_checkpoint(checkpoint)
    card = replace(card, precision=precision)
    crops = sample_crops(size=card.crop_size)
    with guarded("comparing with float32"):
        truth = runtime.reference(network, crops)
    objection = None
    for parts in HALF_PARTS if precision == "fp16" else HALF_PARTS[:1]:
        with guarded("compiling"):
            plan = runtime.compile(network, precision, parts)
        with guarded("starting the engine"):
            program = runtime.start(plan, card)
        with guarded("running the engine"):
            maps = in_batches(functools.partial(program, outputs=("landmarks",)), crops, card)[0]
        shift = Shift.between(truth, maps, card)
        objection = shift.objection(precision)
        if objection is None:
            if parts:
                log.warning("%s stay in float32 for accuracy", " and ".join(parts))
            return Built(plan, program, card, shift, len(crops), parts)
        program.close()
    raise Refused(objection)


@contextlib.contextmanager
def guarded(what: str) -> Iterator[None]:
    """Whatever a driver, a card or a library raises within means that the engine cannot be had here."""
    try:
        yield
    except TabrtError:
        raise
    except Exception as error:
        raise EngineUnavailable(f"{what} failed: {type(error).__name__}: {first_line(error)}") from error
