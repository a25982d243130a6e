"""Films out: every frame with its own time, the sound untouched, a few pictures in memory at most."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter

from tabrt.errors import TabrtError
from tabrt.files import REPLACED, inode_of, make_room
from tabrt.film.decoding import LEAST_STEP, Film, sane_rate
from tabrt.film.opening import reason
from tabrt.film.pictures import ITU709
from tabrt.film.sound import Soundtrack, Tracks, describe

MAX_CLOCK = 1_000_000  # ticks a second
# Without these swscale rounds brightness and colours down, by half a step on average: darker, and grey is tinged.
_ROUNDED = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
_ENCODER_OPTIONS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "veryfast", "x265-params": "log-level=error"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "6", "row-mt": "1", "b:v": "0"},
    "libsvtav1": {"preset": "10"},
}
_FRAGMENTED = {"movflags": "delay_moov+default_base_moof", "frag_duration": "1000000", "flush_packets": "1"}
_CLUSTERED = {"cluster_time_limit": "1000", "flush_packets": "1"}  # of Matroska: what a fragment is to mp4
_HYBRID = _FRAGMENTED | {"movflags": "delay_moov+hybrid_fragmented"}
_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


class FilmWriter:
    """A film being written: H.264 in yuv420p, each picture at its own time, the sound of `film` copied beside it.

    The suffix of `path` chooses the container: .mp4 .m4v .mov .mkv .webm (VP9). It is written in pieces of a second, so
    that a killed run leaves a film that opens; `close` rewrites an mp4 or mov with its index in front (faststart), or
    with `index_first` off makes it a plain one at once, whatever its size, with its index behind. An odd side gets one
    more row or column, a copy of the edge, as yuv420p needs. Sound that players of the container do not take becomes
    AAC (Opus in .webm); subtitles, chapters and what the film says of itself are copied where the container has a
    place for them, unless `anonymous`. `notes` says what was changed or lost, one line a track, and is whole after
    `close`.

    soundtrack: the sound of a source that is no film, on the clock of its pictures.
    Times are kept as they are with a `film`, which is to be read only after the writer is made; without one, and of a
    part of a film, the first picture is at 0. Colours are written as BT.709, limited range, and say so.
    A film that is there already is not written into but makes room, so that two writers of one path leave one whole
    film: that of the later one.
    Raises TabrtError: a folder that cannot be written, a container or codec that does not fit, a full disk, a file that
    was replaced or removed meanwhile.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        rate: Fraction | float,
        codec: str | None = None,
        crf: int = 20,
        film: Film | None = None,
        index_first: bool = True,
        anonymous: bool = False,
        soundtrack: Soundtrack | None = None,
    ):
        self.path = Path(path)
        self.notes: list[str] = []
        self.frames = 0
        self._film = film
        self._soundtrack = soundtrack if film is None else film.soundtrack()
        self._size = width, height
        self._rate = sane_rate(Fraction(rate).limit_denominator(100_000))
        self._clock = _clock(film)
        self._last: int | None = None  # ticks
        self._kept = film is not None and film.part.start <= 0  # times, as they are in the film
        self._offset = Fraction(0)  # seconds of the film that are 0 in what is written
        self._failed = self._closed = False
        self._container: av.container.OutputContainer | None = None
        check_film(self.path, film)
        self._fragmented = self.path.suffix.lower() in (".mp4", ".m4v", ".mov")
        self._faststart = self._fragmented and index_first
        try:
            self._open(codec or _default_codec(self.path), crf, anonymous)
        except (FFmpegError, OSError, ValueError, LookupError) as problem:
            self._abandon()
            raise TabrtError(self._cannot_write(problem)) from None
        except BaseException:
            self._abandon()
            raise

    def _open(self, codec: str, crf: int, anonymous: bool) -> None:
        fragments = _FRAGMENTED if self._faststart else _HYBRID
        options = fragments | _timescale(self._clock) if self._fragmented else _CLUSTERED
        self._container = container = _create(self.path, options)
        aspect = None if self._film is None else self._film.pixel_aspect
        self._picture = _Picture(container, codec, crf, self._size, self._rate, self._clock, aspect)
        self._tracks: Tracks | None = None
        if self._soundtrack is not None:
            self._soundtrack.wanted = True
            with self._soundtrack.held:
                self._tracks = Tracks(container, self._soundtrack, self.path.suffix.lower(), not anonymous)
            self.notes = self._tracks.notes
        if self._film is not None and not anonymous:
            container.metadata.update(self._film.metadata())
            container.set_chapters(_chapters(self._film))
        make_room(self.path)
        container.start_encoding()
        self._file = inode_of(self.path)

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def write(self, image: np.ndarray, time: float) -> None:
        """Add image uint8 (H, W, 3) BGR, shown from `time` in seconds; later than the one before."""
        wanted = self._size[1], self._size[0], 3
        if image.shape != wanted or image.dtype != np.uint8:
            raise ValueError(f"the film takes uint8 {wanted}, not {image.dtype} {image.shape}")
        if self._last is None and not self._kept:
            self._offset = Fraction(time)
        ticks = round((Fraction(time) - self._offset) / self._clock)
        self._last = ticks if self._last is None else max(ticks, self._last + 1)
        with self._stated():
            self._mux(self._picture.encode(image, self._last))
            self._copy_beside(time)
        self.frames += 1

    def close(self) -> None:
        """Finish the film. Sound beyond the last picture is kept when the film was read to its end.

        Raises TabrtError when the rest cannot be written; what was written before stays playable.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if not self._failed:
                with self._stated():
                    self._finish()
        finally:
            self._abandon()
        if self._failed:
            return
        self._check_ours()
        if self.frames == 0:
            self.path.unlink(missing_ok=True)  # a film without a picture opens nowhere
        elif self._faststart:
            _move_index(self.path, self._clock, self._check_ours)

    def _check_ours(self) -> None:
        """Raise TabrtError where the file at the path is no longer the one being written."""
        if inode_of(self.path) != self._file:
            raise TabrtError(f"{self.path} {REPLACED}")

    def _finish(self) -> None:
        if self._last is None:
            return
        end = None if self._soundtrack is None else self._soundtrack.end
        shown = float(self._last * self._clock + self._offset)
        step = 1 / self._rate if end is None else max(Fraction(end - shown), LEAST_STEP)
        self._mux(self._picture.flush(self._last, max(1, round(step / self._clock))))
        if self._tracks is not None:
            self._copy_beside(math.inf if end is not None else shown + float(1 / self._rate))
            self._mux(self._tracks.flush())

    def _copy_beside(self, until: float) -> None:
        """Hand on the sound that starts before `until` seconds, so that it lies beside its pictures in the file."""
        if self._tracks is not None and self._soundtrack is not None:
            for packet in self._soundtrack.take(until):
                self._mux(self._tracks.packets(packet, self._offset))

    def _mux(self, packets: Iterable[av.Packet]) -> None:
        assert self._container is not None
        for packet in packets:
            self._container.mux_one(packet)

    @contextlib.contextmanager
    def _stated(self) -> Iterator[None]:
        try:
            yield
        except (FFmpegError, OSError) as problem:
            self._failed = True
            raise TabrtError(self._cannot_write(problem)) from None

    def _cannot_write(self, problem: Exception) -> str:
        if getattr(problem, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            return f"no room left for {self.path} ({reason(problem)}); free some space: what was written plays"
        return f"cannot write {self.path} ({reason(problem)}); try another folder, suffix, --codec or --crf"

    def _abandon(self) -> None:
        """Close the file, whatever state it is in."""
        if self._soundtrack is not None:
            self._soundtrack.wanted = False
        try:
            if self._container is not None:
                self._container.close()
        except (FFmpegError, OSError) as problem:
            if not self._failed:
                self._failed = True
                raise TabrtError(self._cannot_write(problem)) from None


class _Picture:
    """The stream of pictures of a film being written."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        codec: str,
        crf: int,
        size: tuple[int, int],
        rate: Fraction,
        clock: Fraction,
        aspect: Fraction | None,
    ):
        self._clock = clock
        self._reformatter = VideoReformatter()
        known = _encoder(codec)
        options = {"crf": str(crf)} | _ENCODER_OPTIONS.get(codec, {})
        try:
            stream: Any = container.add_stream(codec, rate=rate, options=options)
        except ValueError:
            suffix = container.format.name
            raise TabrtError(f"a {suffix} film cannot hold {codec}; leave --codec out, or write an .mkv") from None
        self._stream = stream
        formats = [each.name for each in known.video_formats or ()]
        stream.pix_fmt = "yuv420p" if "yuv420p" in formats or not formats else formats[0]
        stream.width, stream.height = (side + side % 2 for side in size)
        stream.codec_context.time_base = clock
        stream.thread_type = "FRAME" if codec == "libx264" else "AUTO"
        if stream.pix_fmt.startswith("yuv") and not stream.pix_fmt.startswith("yuvj"):
            stream.color_range, stream.colorspace, stream.color_primaries, stream.color_trc = 1, 1, 1, 1  # BT.709
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if codec in ("libx265", "hevc") and container.format.name in ("mp4", "mov"):
            stream.codec_context.codec_tag = "hvc1"  # the only tag that QuickTime plays

    def encode(self, image: np.ndarray, ticks: int) -> list[av.Packet]:
        height, width = image.shape[:2]
        if width % 2 or height % 2:
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
        pixels = self._stream.pix_fmt
        picture = self._reformatter.reformat(picture, format=pixels, dst_colorspace=ITU709, interpolation=_ROUNDED)
        picture.pts, picture.time_base = ticks, self._clock
        return self._stream.encode(picture)

    def flush(self, last: int, step: int) -> list[av.Packet]:
        """What is left; the picture at tick `last` lasts `step` ticks."""
        packets = self._stream.encode(None)
        for packet in packets:
            if packet is packets[-1] or packet.pts == last:
                packet.duration = step
        return packets


def _chapters(film: Film) -> list[Any]:
    """The film's chapters as far as they lie in the part that is read, from 0 on."""
    part = film.part
    chapters: list[Any] = []
    for start, end, said in film.chapters():
        start, end = max(start, part.start, 0.0), min(end, part.end)
        if end > start:
            first = max(0.0, part.start)
            times = {"start": round((start - first) * 1000), "end": round((end - first) * 1000)}
            chapters.append({"id": len(chapters) + 1, "time_base": Fraction(1, 1000), "metadata": said} | times)
    return chapters


def check_film(path: Path, film: Film | None = None) -> None:
    """Raise TabrtError for a path that no film can be written to, or that is the film being read."""
    if path.suffix.lower() not in _MUXERS:
        raise TabrtError(f"{path}: films are written as {', '.join(_MUXERS)}; use one of these suffixes")
    if os.path.isdir(path):
        raise TabrtError(f"{path} is a folder; name a film")
    if not os.path.isdir(path.parent):
        raise TabrtError(f"there is no folder {path.parent}; make it first")
    if (
        film is not None
        and os.path.exists(path)
        and os.path.exists(film.source)
        and os.path.samefile(path, film.source)
    ):
        raise TabrtError(f"{path} is the film being read; write to another file")


def _create(path: Path, options: dict[str, str]) -> av.container.OutputContainer:
    return av.open(f"file:{path}", "w", format=_MUXERS[path.suffix.lower()], container_options=options)


def _encoder(codec: str) -> av.codec.Codec:
    try:
        known = av.codec.Codec(codec, "w")
    except (ValueError, LookupError):
        known = None
    if known is None or known.type != "video":
        raise TabrtError(f"no picture encoder is called {codec!r}; libx264, libx265 and libvpx-vp9 are there")
    return known


def _default_codec(path: Path) -> str:
    return "libvpx-vp9" if path.suffix.lower() == ".webm" else "libx264"


def _clock(film: Film | None) -> Fraction:
    """Seconds a tick: the film's own, so that its times stay exact, unless mp4 cannot hold it."""
    if film is None or not 0 < film.time_base.denominator <= MAX_CLOCK or film.time_base <= 0:
        return LEAST_STEP
    return film.time_base


def _timescale(clock: Fraction) -> dict[str, str]:
    """The mov muxer counts a film's late start in these ticks: its default of 1 ms would move every frame."""
    return {"movie_timescale": str(clock.denominator * math.ceil(1000 / clock.denominator))}


def _move_index(path: Path, clock: Fraction, check: Callable[[], None]) -> None:
    """Rewrite a fragmented film with its index in front. Where that fails, the fragmented film plays as it is.

    check: called before the film is replaced; what it raises leaves the film at the path as it is.
    """
    path = path.resolve()
    part = path.with_name(f".tabrt-{secrets.token_hex(4)}.part")  # a name that is not too long where the film's is not
    options = {"movflags": "faststart"} | _timescale(clock)
    try:
        with (
            av.open(f"file:{path}") as source,
            av.open(f"file:{part}", "w", format=_MUXERS[path.suffix.lower()], container_options=options) as target,
        ):
            kept = [stream for stream in source.streams if stream.codec_context is not None]  # not the chapters
            streams = {stream.index: _same_stream(target, stream) for stream in kept}
            target.metadata.update(source.metadata)
            target.set_chapters(source.chapters())
            for packet in source.demux(kept):
                if packet.dts is not None:
                    packet.stream = streams[packet.stream_index]
                    target.mux_one(packet)
        check()
        os.replace(part, path)
    except (FFmpegError, OSError, ValueError):
        pass
    finally:
        part.unlink(missing_ok=True)


def _same_stream(target: av.container.OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    new = target.add_stream_from_template(stream, opaque=True)
    if stream.codec_context.codec.canonical_name == "hevc":
        new.codec_context.codec_tag = "hvc1"
    describe(new, stream)
    return new
