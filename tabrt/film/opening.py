"""Opening what may hold pictures: files, addresses and standard input, none of them trusted."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from av.error import FFmpegError
from av.stream import Disposition

from tabrt.errors import TabrtError
from tabrt.files import without_password

MAX_SIDE = 16384  # px
MAX_PIXELS = 2**27  # 134 million
MOST_STRETCH = 10  # of a pixel's sides; a film that says more is mistaken
NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent


def is_url(source: str) -> bool:
    return "://" in source and not os.path.exists(source)


def name_of(source: str) -> str:
    return "standard input" if source == "-" else without_password(source)


def open_container(source: str, patience: float) -> av.container.InputContainer:
    """Open a film for reading. patience: seconds without a byte before a network source is given up.

    Raises TabrtError.
    """
    options = {"max_pixels": str(MAX_PIXELS)}
    try:
        if source == "-":
            return av.open(_standard_input(), "r", options=options, metadata_errors="replace")
        if is_url(source):
            return av.open(source, options=options, timeout=patience, metadata_errors="replace")
        check_file(Path(source))
        # A playlist inside a file may name other files, never the network.
        options["protocol_whitelist"] = "file"
        return av.open(f"file:{source}", options=options, metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as problem:
        raise TabrtError(cannot_open(source, problem)) from None


def _standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise TabrtError("standard input is a terminal; pipe a film into it, or name a file")
    return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # no lock that a daemon thread could hold


def check_file(path: Path) -> None:
    """Raise TabrtError for what is no file that can be read."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise TabrtError(f"there is no file {path}; check the path") from None
    except (OSError, ValueError) as problem:
        raise TabrtError(f"cannot read {path} ({reason(problem)}); check the path and its rights") from None
    if os.path.isfile(path) and status.st_size == 0:
        raise TabrtError(f"{path} is empty; copy or record it again")
    if os.path.isdir(path):
        raise TabrtError(f"{path} is a folder; name a file")
    if not os.access(path, os.R_OK):
        raise TabrtError(f"{path} may not be read; change its rights")


def cannot_open(source: str, problem: Exception | None = None) -> str:
    if source == "-":
        return "standard input is no film that can be read as it comes; name a file, or pipe mkv, ts or fragmented mp4"
    why = "" if problem is None else f" ({reason(problem)})"
    if is_url(source):
        return f"cannot open {without_password(source)}{why}; check the address and the network"
    return f"{source} is no film, or damaged beyond reading{why}; check it, or convert it with ffmpeg"


def reason(problem: Exception) -> str:
    text = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return text.splitlines()[0][:200]


def picture_stream(
    container: av.container.InputContainer, name: str, track: int | None
) -> tuple[av.VideoStream, int, int]:
    """The pictures to show, the number of their track from 1, and how many tracks there are.

    Covers, thumbnails and parts of a picture are no tracks. Without `track`, FFmpeg's choice: the one that is marked
    as default, then the longest and largest. Raises TabrtError.
    """
    if container.format.name in ("tty", "bintext", "xbin", "adf", "idf"):  # text, which ffmpeg would paint
        raise TabrtError(f"{name} is text, not a film; name a film")
    tracks = [stream for stream in container.streams.video if not stream.disposition & NO_FILM]
    if not tracks:
        what = "sound only" if container.streams.audio else "no pictures"
        raise TabrtError(f"{name} holds {what}; name a film")
    if track is not None:
        if isinstance(track, bool) or not isinstance(track, int) or not 1 <= track <= len(tracks):
            raise TabrtError(f"{name} has no picture track {track}; it has {_listed(tracks)}")
        stream = tracks[track - 1]
    else:
        known = [stream for stream in tracks if stream.codec_context is not None]
        best = container.streams.best("video")
        stream = best if best in known else (known or tracks)[0]
    if stream.codec_context is None:
        raise TabrtError(f"{name} uses a picture codec that is not known here; convert it with ffmpeg")
    return stream, tracks.index(stream) + 1, len(tracks)


def pixel_aspect_of(stream: av.VideoStream) -> Fraction | None:
    """Width of a pixel over its height as pictures are coded at present; None where they are equal."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    sane = aspect and Fraction(1, MOST_STRETCH) <= aspect <= MOST_STRETCH
    return aspect if sane and aspect != 1 else None


def _listed(tracks: list[av.VideoStream]) -> str:
    return ", ".join(f"{number} ({each.width}x{each.height})" for number, each in enumerate(tracks, start=1))


def check_size(width: int, height: int, name: str) -> None:
    """Raise TabrtError for pictures of no stated size, and those above the limits."""
    if width > 0 and height > 0 and max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS:
        return
    limit = f"above the limit of {MAX_SIDE} px a side and {MAX_PIXELS // 10**6} million px"
    if width <= 0 or height <= 0:
        unknown = f"{name} has pictures that cannot be decoded: cut short, of a kind that is not known here, or {limit}"
        raise TabrtError(f"{unknown}; copy it again, convert it, or scale it down")
    raise TabrtError(f"{name} is {width}x{height}, {limit}; scale it down or convert it first")
