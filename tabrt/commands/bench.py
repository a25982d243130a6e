"""How fast the network runs on a user's own machine, beside the figures of the paper."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

from tabrt.engines import CPU, Engine, load_engine
from tabrt.hardware import available_threads
from tabrt.variants import DEFAULT_MODEL
from tabrt.words import counted

PAPER_MS = {1: 17, 2: 27}  # by hourglasses: full width, one crop, on a TITAN X
BATCHES = (1, 2, 4, 8)
WARMUP, RUNS = 5, 50
GPU_WARMUP = 1.0  # s


def bench(
    model: str | Path = DEFAULT_MODEL,
    engine: str = "auto",
    threads: int | None = None,
    device: str = "auto",
    runs: int = RUNS,
) -> Iterator[str]:
    """The lines of a small table: milliseconds of a call of the engine, by the number of faces in it.

    Times hold the transfer to the GPU and back, after a warm-up. Raises TabrtError for a model or an engine that cannot
    run.
    """
    loaded = load_engine(model, engine, threads, device)
    try:
        card = loaded.card
        where = f"on the {loaded.device}"
        if loaded.device == CPU:
            where = counted(available_threads(threads), "thread") + " of the CPU"
        yield f"{card.name}, {loaded.name}, {card.precision}, {where}: median of {runs} runs, quartiles in brackets"
        yield ""
        yield f"{'faces':>5}  {'ms':>8}  {'':15}  {'ms a face':>9}"
        for faces in BATCHES:
            lower, median, upper = milliseconds(loaded, faces, runs)
            yield f"{faces:>5}  {median:8.2f}  {f'({lower:.2f}–{upper:.2f})':15}  {median / faces:9.2f}"
        paper = PAPER_MS.get(card.hourglasses)
        if paper is not None:
            yield ""
            network = counted(card.hourglasses, "hourglass", "hourglasses")
            yield f"paper: {paper} ms for 1 face with {network}, full width, on a TITAN X GPU"
    finally:
        loaded.close()


def milliseconds(engine: Engine, faces: int, runs: int = RUNS) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of an engine's call on this many crops, after a warm-up."""
    size = engine.card.crop_size
    crops = np.random.default_rng(0).integers(0, 256, (faces, size, size, 3), np.uint8)
    began = perf_counter()
    # An idle GPU takes seconds to raise its clock, so there the warm-up is by time.
    while perf_counter() - began < (0 if engine.device == CPU else GPU_WARMUP):
        engine(crops)
    seconds = []
    for run in range(WARMUP + runs):
        start = perf_counter()
        engine(crops)  # its maps lie in the host's memory: a device has finished
        if run >= WARMUP:
            seconds.append(perf_counter() - start)
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive") if runs > 1 else seconds * 3
    return 1e3 * lower, 1e3 * median, 1e3 * upper
