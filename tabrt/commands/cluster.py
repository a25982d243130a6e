"""The runner of a cluster: a Dask scheduler that is there hands the jobs to its workers, on whatever machines."""

from __future__ import annotations

import logging
import os
import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tabrt import __version__
from tabrt.commands.jobs import Job, Outcome, Runner, Watcher, do
from tabrt.commands.progress import Standing
from tabrt.errors import TabrtError, first_line, missing_package
from tabrt.hardware import available_threads

PATIENCE = 10.0  # seconds for a scheduler to answer, and for workers to close their files
SECONDS_BETWEEN_WORDS = 1.0  # of a worker on its job
PATHS = ("source", "out", "landmarks", "crops")  # among a job's options
PERHAPS_PATHS = ("model", "fov")  # a model's name or file, degrees or a file
ENDING = ("closing", "closed", "failed")  # states of a worker


@contextmanager
def cluster_runner(address: str) -> Iterator[Runner]:
    """What does jobs on the workers of the scheduler at `address`, while that is connected.

    A job whose worker is lost is done again by another one. Closing the outcomes breaks off the jobs that are being
    done, their files closed. Raises TabrtError where nothing answers, before any job.
    """
    with _client(address) as client:
        yield lambda jobs, watch: iter(_Run(client, jobs, watch))


def _client(address: str) -> Any:
    try:
        import distributed
    except ModuleNotFoundError as problem:
        raise missing_package(problem, "cluster") from problem
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what is to be said is said here
    try:
        return distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as problem:
        why = first_line(problem)
        raise TabrtError(f"no Dask scheduler answers at {address} ({why}); start one with: dask scheduler") from None


class _Run:
    """Jobs on their way through a cluster: what comes of them is heard in one queue."""

    def __init__(self, client: Any, jobs: Sequence[Job], watch: Watcher):
        self._client, self._jobs, self._watch = client, jobs, watch
        self._topic = f"tabrt-{uuid.uuid4().hex}"
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._since: dict[int, float] = {}  # when each job was begun
        self._busy: set[int] = set()

    def __iter__(self) -> Iterator[Outcome]:
        self._client.subscribe_topic(self._topic, lambda event: self._heard.put(event[1]))
        futures = {}
        for number, job in enumerate(self._jobs):
            name = f"{self._topic}-{number}"
            future = self._client.submit(_do, number, anywhere(job), self._topic, __version__, key=name, pure=False)
            future.add_done_callback(self._heard.put)
            futures[future.key] = number, future
        try:
            while futures:
                heard = self._heard.get()
                if isinstance(heard, dict):
                    self._told(heard)
                elif heard.key in futures:
                    yield self._outcome(*futures.pop(heard.key))
        finally:
            self._break_off([future for _, future in futures.values()])

    def _told(self, said: dict[str, Any]) -> None:
        number = said["number"]
        if said["state"] == "begun":
            self._since[number] = time.monotonic()
            self._busy.add(number)
            self._watch(number, None)
        elif said["state"] == "ended":
            self._busy.discard(number)
        else:
            self._watch(number, Standing(*said["standing"]))

    def _outcome(self, number: int, future: Any) -> Outcome:
        self._busy.discard(number)
        try:
            outcome: Outcome = future.result()
            return outcome
        except Exception as problem:
            now = time.monotonic()
            seconds = now - self._since.get(number, now)
            return Outcome(number, seconds, problem=_lost(problem))

    def _break_off(self, futures: Sequence[Any]) -> None:
        if not futures:
            return
        self._client.cancel(futures)
        until = time.monotonic() + PATIENCE
        while self._busy and time.monotonic() < until:
            try:
                heard = self._heard.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(heard, dict) and heard["state"] == "ended":
                self._busy.discard(heard["number"])


def _lost(problem: BaseException) -> str:
    if type(problem).__name__ == "KilledWorker":
        return "all workers that had it were lost, one after the other; do they have the memory for it?"
    if type(problem).__name__ == "FutureCancelledError":
        return "the scheduler was lost; start it again, and call again with --skip-finished"
    if isinstance(problem, ModuleNotFoundError):
        return f"a worker cannot import {problem.name}; install the same tabrt on all machines"
    return f"the cluster could not do it ({type(problem).__name__}: {first_line(problem)})"


def anywhere(job: Job) -> Job:
    """The job with whole paths, as another machine with the same files needs them."""
    names = {name: getattr(job, name) for name in (*PATHS, *PERHAPS_PATHS)}
    paths = {
        name: os.path.abspath(value)
        for name, value in names.items()
        if value is not None and "://" not in value and (name in PATHS or os.path.exists(value))
    }
    return replace(job, **paths)


# ----------------------------------------------------------------------------------------------------- on the worker


def _do(number: int, job: Job, topic: str, version: str) -> Outcome:
    """Do a job on this worker, and tell whoever gave it how far it is."""
    from distributed import Reschedule, get_worker

    worker = get_worker()
    key = f"{topic}-{number}"
    spoken, wanted = 0.0, True

    def say(state: str, standing: tuple[Any, ...] = ()) -> None:
        worker.log_event(topic, {"number": number, "state": state, "standing": standing})

    def tell(now: Standing) -> None:
        nonlocal spoken, wanted
        if time.monotonic() - spoken > SECONDS_BETWEEN_WORDS:
            spoken = time.monotonic()
            task = worker.state.tasks.get(key)
            wanted = task is not None and task.state != "cancelled" and worker.status.name not in ENDING
            if not wanted:
                raise TabrtError("broken off")
            say("doing", (now.frames, now.total, now.faces, now.speed))

    if version != __version__:
        there = f"the worker {worker.address} has tabrt {__version__}"
        return Outcome(number, 0.0, problem=f"{there}, and {version} gives the jobs; install the same everywhere")
    say("begun")
    try:
        threads = job.threads or max(1, available_threads(None) // worker.state.nthreads)
        outcome = do(number, replace(job, threads=threads), tell)
    finally:
        say("ended")
    if not wanted:
        raise Reschedule  # should it be this worker that ends, another one does it
    return outcome
