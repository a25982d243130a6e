"""Films as jobs: each is a plain value, done by whoever is given it, and ends in an outcome."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tabrt.commands.options import VideoOptions
from tabrt.commands.progress import Standing, Tell
from tabrt.commands.remote import brought_here
from tabrt.commands.summary import Summary
from tabrt.commands.video import video
from tabrt.errors import TabrtError, stated

Job = VideoOptions


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a summary, or with a problem in one line."""

    number: int  # of the job, in the order they were given
    seconds: float
    summary: Summary | None = None
    problem: str | None = None


class Watcher(Protocol):
    """Who is told how jobs fare."""

    def __call__(self, number: int, now: Standing | None) -> None:
        """A job begins (None), or has come so far."""


Runner = Callable[[Sequence[Job], Watcher], Iterator[Outcome]]


def do(number: int, job: Job, tell: Tell) -> Outcome:
    """Do a job. Whatever goes wrong with it is an outcome, too, so that the others go on."""
    start = time.monotonic()
    try:
        with brought_here(job) as local:
            summary, problem = video(local, tell=tell), None
    except TabrtError as error:
        summary, problem = None, str(error)
    except Exception as error:
        if os.environ.get("TABRT_DEBUG"):
            raise
        summary, problem = None, stated(error)
    return Outcome(number, time.monotonic() - start, summary, problem)


def one_after_the_other(jobs: Sequence[Job], watch: Watcher) -> Iterator[Outcome]:
    """The runner of this process."""
    for number, job in enumerate(jobs):
        watch(number, None)
        yield do(number, job, lambda now, number=number: watch(number, now))  # type: ignore[misc]
