"""What earlier runs have done, judged by the landmark files that they left."""

from __future__ import annotations

import functools
import json
import os
import shlex
from pathlib import Path
from typing import Any

from tabrt.commands.doctor import read_card
from tabrt.commands.options import VideoOptions as Job
from tabrt.commands.remote import is_remote, is_there, opener
from tabrt.commands.summary import model_called, weights_of
from tabrt.engines import MODELS
from tabrt.errors import TabrtError
from tabrt.files import fingerprint, printable
from tabrt.film.reading import open_film
from tabrt.sinks import crops_in, landmark_ends
from tabrt.sinks.records import FORMAT, MAX_LINE

WHOLE = 0.95  # of the frames: some containers tell their number by the length alone
HEAD = f'{{"format":"{FORMAT}",'.encode()  # of every landmark file


def is_finished(job: Job) -> bool:
    """Whether an earlier run has done all of a job: its landmark file is closed and of this film with these options,
    its film out is there, and whole, and its crops are as many as it made. Raises TabrtError for a model that cannot be
    read."""
    if job.landmarks is None:
        return False
    header, end = landmark_ends(job.landmarks, opener(job.landmarks))
    if end is None or not _is_of(header, job):
        return False
    return (job.out is None or _holds_film(job.out, end)) and (job.crops is None or _holds_crops(job, end))


def was_begun(job: Job) -> bool:
    """Whether an earlier run has begun the very same job, so that doing it again loses nothing."""
    if job.landmarks is None:
        return False
    header, _ = landmark_ends(job.landmarks, opener(job.landmarks))
    return _is_of(header, job) or (header is None and _stopped_at_once(job.landmarks))


def _stopped_at_once(path: str) -> bool:
    """Whether a landmark file was broken off within its first line."""
    if is_remote(path) or not os.path.isfile(path):
        return False
    beginning = _beginning(path)
    return b"\n" not in beginning and beginning[: len(HEAD)] == HEAD[: len(beginning)]


def broken_off(job: Job) -> bool:
    """Whether there is a landmark file for `--resume` to go on with; without one a job begins at its start.

    Raises TabrtError where what is there is not this job's, or came to its end.
    """
    path = job.landmarks
    if path is None or not os.path.isfile(path) or b"\n" not in _beginning(path):
        return False
    header, end = landmark_ends(path)
    if header is None:
        raise TabrtError(f"{path} is no landmark file to go on with; name another, or leave --resume out")
    if (other := _other_than(header, job)) is not None:
        raise TabrtError(f"{path} is {other}; name the same film and settings as then, or leave --resume out")
    if end is not None and job.out is not None and not _holds_film(job.out, end):
        there = os.path.exists(job.out)
        call = [job.source, path, "--out", job.out, *(["--overwrite"] if there else [])]
        words = " ".join(shlex.quote(printable(each)) for each in call)
        state = "was broken off" if there else "is missing"
        raise TabrtError(f"{path} came to its end, and {job.out} {state}; draw it: tabrt draw {words}")
    if end is not None:
        raise TabrtError(f"{path} came to its end, there is nothing to go on with; leave --resume out")
    if (header.get("crops") is None) != (job.crops is None):
        remedy = "give --crops as then" if job.crops is None else "leave --crops out"
        raise TabrtError(f"{path} is of a run {'with' if job.crops is None else 'without'} crops; {remedy}")
    return True


def _beginning(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_LINE)


def _is_of(header: dict[str, Any] | None, job: Job) -> bool:
    """Whether a landmark file is of this film, with these options and this network."""
    return header is not None and _other_than(header, job) is None


def _other_than(header: dict[str, Any], job: Job) -> str | None:
    """What a landmark file is of that is not this film, these options and this network; None if all are the same."""
    mark = fingerprint(job.source, opener(job.source) if is_remote(job.source) else None)
    if header.get("fingerprint") is None or header["fingerprint"] != mark:
        return f"of another film ({header.get('source')})"
    then, now = header.get("options"), json.loads(json.dumps(job.differing))
    if then != now:
        names = sorted(name for name in {*_named(then), *now} if _named(then).get(name) != now.get(name))
        return f"of a run with other settings ({', '.join(names)})"
    if header.get("model") != model_called(job.model_name) or header.get("weights") != _weights(job.model_name):
        return f"of another network ({header.get('model')})"
    return None


def _named(options: Any) -> dict[str, Any]:
    return options if isinstance(options, dict) else {}


@functools.cache
def _weights(model: str) -> dict[str, Any]:
    return weights_of(read_card(Path(MODELS.get(model, model))))


def _holds_crops(job: Job, end: dict[str, Any]) -> bool:
    """Whether the crops of a job are there, by the count in its closing record."""
    return os.path.isdir(str(job.crops)) and crops_in(str(job.crops), job.crop_films) == end.get("crops")


def _holds_film(path: str, end: dict[str, Any]) -> bool:
    """Whether a film out is there, and no shorter than the closing record says where that can be told."""
    if is_remote(path):
        return is_there(path)
    if not os.path.isfile(path):
        return False
    try:
        with open_film(path) as film:
            frames, wanted = film.frames, end.get("frames")
    except TabrtError:
        return False
    return not isinstance(wanted, int) or frames is None or frames > WHOLE * wanted
