"""What earlier runs have done, judged by the landmark files that they left."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from tabrt.commands.doctor import read_card
from tabrt.commands.jobs import Job
from tabrt.commands.remote import is_remote, is_there, opener
from tabrt.commands.summary import model_called, weights_of
from tabrt.engines import MODELS
from tabrt.files import fingerprint
from tabrt.sinks import landmark_state


def is_finished(job: Job) -> bool:
    """Whether an earlier run has done all of a job: its landmark file is closed and of this film with these options,
    and its film out and crops are there. Raises TabrtError for a model that cannot be read."""
    if job.landmarks is None:
        return False
    header, closed = landmark_state(job.landmarks, opener(job.landmarks))
    made = (job.out is None or _holds_something(job.out)) and (job.crops is None or _holds_crops(job.crops, header))
    return made and closed and _is_of(header, job)


def was_begun(job: Job) -> bool:
    """Whether an earlier run has begun the very same job, so that doing it again loses nothing."""
    return job.landmarks is not None and _is_of(landmark_state(job.landmarks, opener(job.landmarks))[0], job)


def _is_of(header: dict[str, Any] | None, job: Job) -> bool:
    """Whether a landmark file is of this film, with these options and this network."""
    if header is None or header.get("fingerprint") is None:
        return False
    return (
        header.get("options") == json.loads(json.dumps(job.differing))
        and header.get("model") == model_called(job.model_name)
        and header["fingerprint"] == fingerprint(job.source, opener(job.source) if is_remote(job.source) else None)
        and header.get("weights") == _weights(job.model_name)
    )


@functools.cache
def _weights(model: str) -> dict[str, Any]:
    return weights_of(read_card(Path(MODELS.get(model, model))))


def _holds_crops(folder: str, header: dict[str, Any] | None) -> bool:
    return os.path.isdir(folder) and header is not None and header.get("crops") is not None


def _holds_something(path: str) -> bool:
    if is_remote(path):
        return is_there(path)
    return os.path.isfile(path) and os.path.getsize(path) > 0
