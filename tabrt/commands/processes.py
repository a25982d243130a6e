"""The runner of several processes: jobs side by side on this machine, each with its share of the cores."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

import cv2

from tabrt.commands.jobs import Job, Outcome, Watcher, do
from tabrt.hardware import available_threads
from tabrt.signals import Ending

SPAWNED = multiprocessing.get_context("spawn")  # a fork would copy threads in the middle of what they do


def side_by_side(jobs: Sequence[Job], watch: Watcher, at_once: int) -> Iterator[Outcome]:
    """Do jobs in so many processes. One that dies fails its job alone; closing this ends all, their files closed."""
    at_once = min(at_once, len(jobs))
    share = max(1, available_threads(None) // at_once)
    waiting = deque(enumerate(jobs))
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < at_once:
                workers.append(_Worker(share))
                workers[-1].give(*waiting.popleft(), watch)
            ready = wait([worker.pipe for worker in workers])
            for worker in [each for each in workers if each.pipe in ready]:
                outcome = worker.heard(watch)
                if outcome is None:
                    continue
                yield outcome
                if waiting and worker.alive:
                    worker.give(*waiting.popleft(), watch)
                else:
                    workers.remove(worker)
                    worker.stop()
                    worker.join()
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()


class _Worker:
    """A process that does one job after the other, and the end of the pipe to it."""

    def __init__(self, share: int):
        self.pipe, theirs = SPAWNED.Pipe()
        self._process = SPAWNED.Process(target=_work, args=(theirs, share), daemon=True)
        with _deaf():
            self._process.start()
        theirs.close()
        self._number, self._since = -1, 0.0
        self.alive = True

    def give(self, number: int, job: Job, watch: Watcher) -> None:
        self._number, self._since = number, time.monotonic()
        watch(number, None)
        with contextlib.suppress(OSError):  # a process that has died is heard of next
            self.pipe.send((number, job))

    def heard(self, watch: Watcher) -> Outcome | None:
        """What the process says, handed on; its job's outcome if that is at its end."""
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            self.alive = False
            self._process.join()
            why = f"the process that did it ended with {_ending(self._process.exitcode)}; give fewer --jobs"
            return Outcome(self._number, time.monotonic() - self._since, problem=why)
        if isinstance(said, Outcome):
            return said
        watch(self._number, said)
        return None

    def stop(self) -> None:
        self.pipe.close()

    def join(self) -> None:
        """Wait until its files are closed."""
        self._process.join()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """What is started here does not hear Ctrl-C and hang-ups, which reach all processes of a terminal: it is told."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would undo this if it were started within
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


# ------------------------------------------------------------------------------------------------ in the other process


def _work(pipe: Connection, share: int) -> None:
    """Do the jobs that come, until the pipe is closed: then the one that is being done is broken off."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, Ending(math.inf))
    cv2.setNumThreads(share)
    jobs: queue.SimpleQueue[tuple[int, Job] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, jobs), daemon=True).start()
    try:
        while (given := jobs.get()) is not None:
            number, job = given
            pipe.send(do(number, replace(job, threads=job.threads or share), pipe.send))
    except BrokenPipeError:
        pass
    except SystemExit as end:
        os._exit(int(end.code or 0))  # threads may be stuck in a read


def _listen(pipe: Connection, jobs: queue.SimpleQueue[tuple[int, Job] | None]) -> None:
    try:
        while True:
            jobs.put(pipe.recv())
    except (EOFError, OSError):  # whoever gave the jobs wants no more, or is gone
        jobs.put(None)
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        else:
            signal.raise_signal(signal.SIGTERM)
