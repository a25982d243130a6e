"""Files of a store elsewhere, such as s3://bucket/film.mp4: by fsspec, fetched before a job, brought back after it."""

from __future__ import annotations

import contextlib
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabrt.commands.options import VideoOptions
from tabrt.errors import TabrtError, first_line, missing_package
from tabrt.files import without_password

# What FFmpeg reads as it comes.
STREAMS = {
    *("http", "https", "ftp", "rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "rtp", "srtp", "srt", "udp", "tcp", "tls"),
    *("mms", "mmsh", "mmst", "hls", "data", "concat", "unix", "gopher", "crypto", "cache", "async", "subfile", "pipe"),
}


def is_remote(name: str) -> bool:
    """Whether a name is one of a store that fsspec opens."""
    scheme, found, _ = name.partition("://")
    return bool(found) and scheme.lower() not in STREAMS and not os.path.exists(name)


def listed(name: str, recursive: bool) -> list[str]:
    """The files of a remote folder (its name ends in a slash), or those that fit a pattern, in order.

    A name that is neither stands for itself.
    """
    if not name.endswith("/") and not any(sign in name for sign in "*?["):
        return [name]
    with _stated(name):
        store, path = _store(name)
        found = store.glob(path) if not name.endswith("/") else store.find(path, maxdepth=None if recursive else 1)
    whole = name.rstrip("/")
    inner = path.strip("/")
    before = whole[: -len(inner)] if whole.endswith(inner) else whole.partition("://")[0] + "://"
    return sorted(before + each.lstrip("/") for each in found)


def is_there(name: str) -> bool:
    """Whether a remote file holds something."""
    with _stated(name):
        store, path = _store(name)
        return bool(store.isfile(path)) and store.size(path) > 0


def opener(name: str) -> Callable[..., Any]:
    """What opens a file for reading, be it here or elsewhere."""
    if not is_remote(name):
        return open
    with _stated(name):
        store, path = _store(name)
        return lambda _name, mode: store.open(path, mode)


@contextlib.contextmanager
def brought_here(job: VideoOptions) -> Iterator[VideoOptions]:
    """The job with files of this machine in place of remote ones; what was written is put there at its end, however it
    ends. Raises TabrtError."""
    outputs = {name: value for name in ("out", "landmarks") if (value := getattr(job, name)) and is_remote(value)}
    if not outputs and not is_remote(job.source):
        yield job
        return
    with tempfile.TemporaryDirectory(prefix="tabrt-") as folder:
        places: dict[str, Any] = {
            name: os.path.join(folder, f"{name}{_suffix(value)}") for name, value in outputs.items()
        }
        if is_remote(job.source):
            places["source"] = os.path.join(folder, f"film{_suffix(job.source)}")
            with _stated(job.source):
                store, path = _store(job.source)
                store.get_file(path, places["source"])
        try:
            yield replace(job, **places, called=job.source)
        finally:
            for name, value in outputs.items():
                if os.path.exists(places[name]):
                    _put(places[name], value)


def _put(place: str, name: str) -> None:
    with _stated(name):
        store, path = _store(name)
        store.makedirs(posixpath.dirname(path), exist_ok=True)
        store.put_file(place, path)


def _suffix(name: str) -> str:
    return Path(posixpath.basename(name)).suffix


def _store(name: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ModuleNotFoundError as problem:
        raise missing_package(problem, "cluster") from problem
    store, path = fsspec.core.url_to_fs(name)
    return store, path


@contextlib.contextmanager
def _stated(name: str) -> Iterator[None]:
    """Say of any problem with a store, whose libraries raise what they like, what it was about."""
    try:
        yield
    except TabrtError:
        raise
    except Exception as problem:
        why = "it is not there" if isinstance(problem, FileNotFoundError) else first_line(problem)
        raise TabrtError(f"cannot reach {without_password(name)} ({why}); check the address and your rights") from None
