"""Films out: every frame with its own time, the sound untouched, a few pictures in memory at most."""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.bitstream
import cv2
import numpy as np
from av.error import FFmpegError

from tabrt.errors import TabrtError
from tabrt.film.reading import LEAST_STEP, Film, decoded, reason, sane_rate, starts

MAX_CLOCK = 1_000_000  # ticks a second
_COPIED = {  # sound that players of a container take as it is; None: whatever the container can hold
    ".mp4": {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"},
    ".m4v": {"aac", "mp3", "ac3", "eac3", "alac"},
    ".mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_f32le"},
    ".mkv": None,
    ".webm": {"opus", "vorbis"},
}
_ENCODER_OPTIONS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "veryfast", "x265-params": "log-level=error"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "6", "row-mt": "1", "b:v": "0"},
    "libsvtav1": {"preset": "10"},
}
_FRAGMENTED = {"movflags": "delay_moov+default_base_moof", "frag_duration": "1000000", "flush_packets": "1"}
_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


class FilmWriter:
    """A film being written: H.264 in yuv420p, each picture at its own time, the sound of `film` copied beside it.

    The suffix of `path` chooses the container: .mp4 .m4v .mov .mkv .webm (VP9). An mp4 or mov is written in fragments
    of a second, so that a killed run leaves a film that opens; `close` rewrites it with its index in front
    (faststart), unless it has more than `most_rewritten` bytes. An odd side gets one more row or column, a copy of
    the edge, as yuv420p needs. Sound that players of the container do not take becomes AAC (Opus in .webm); `notes`
    says so, one line a track.

    Times are kept as they are with a `film`, which is to be read only after the writer is made; without one the
    first picture is at 0. Colours are written as BT.709, limited range, and say so.
    Raises TabrtError: a folder that cannot be written, a container or codec that does not fit, a full disk.
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
        most_rewritten: float = math.inf,
    ):
        self.path = Path(path)
        self.notes: list[str] = []
        self.frames = 0
        self._film = film
        self._size = width, height
        self._rate = sane_rate(Fraction(rate).limit_denominator(100_000))
        self._clock = _clock(film)
        self._last: int | None = None  # ticks
        self._offset = 0.0
        self._failed = self._closed = False
        self._most_rewritten = most_rewritten
        self._container: av.container.OutputContainer | None = None
        check_film(self.path, film)
        try:
            self._open(codec or _default_codec(self.path), crf)
        except (FFmpegError, OSError, ValueError, LookupError) as problem:
            self._abandon()
            raise TabrtError(self._cannot_write(problem)) from None
        except BaseException:
            self._abandon()
            raise

    def _open(self, codec: str, crf: int) -> None:
        self._remux = self.path.suffix.lower() in (".mp4", ".m4v", ".mov")
        options = _FRAGMENTED | _timescale(self._clock) if self._remux else {}
        self._container = container = _create(self.path, options)
        self._picture = self._add_picture_stream(container, codec, crf)
        self._tracks: dict[int, _Copy | _Transcode] = {}
        if self._film is not None:
            self._film.keep_sound = True
            for number, stream in enumerate(self._film.sound_streams, start=1):
                self._add_track(container, stream, number)
        container.start_encoding()

    def _add_picture_stream(self, container: av.container.OutputContainer, codec: str, crf: int) -> av.VideoStream:
        known = _encoder(codec)
        options = {"crf": str(crf)} | _ENCODER_OPTIONS.get(codec, {})
        try:
            stream = container.add_stream(codec, rate=self._rate, options=options)
        except ValueError:
            raise TabrtError(
                f"a {self.path.suffix} film cannot hold {codec}; leave --codec out, or write an .mkv"
            ) from None
        formats = [each.name for each in known.video_formats or ()]
        stream.pix_fmt = "yuv420p" if "yuv420p" in formats or not formats else formats[0]
        stream.width, stream.height = (side + side % 2 for side in self._size)
        stream.codec_context.time_base = self._clock
        stream.thread_type = "FRAME" if codec == "libx264" else "AUTO"
        if stream.pix_fmt.startswith("yuv") and not stream.pix_fmt.startswith("yuvj"):
            stream.color_range, stream.colorspace, stream.color_primaries, stream.color_trc = 1, 1, 1, 1  # BT.709
        if self._film is not None and self._film.pixel_aspect:
            stream.codec_context.sample_aspect_ratio = self._film.pixel_aspect
        if codec in ("libx265", "hevc") and self._remux:
            stream.codec_context.codec_tag = "hvc1"  # the only tag that QuickTime plays
        return stream

    def _add_track(self, container: av.container.OutputContainer, stream: av.AudioStream, number: int) -> None:
        if stream.codec_context is None or not stream.rate or not stream.channels:
            self.notes.append(f"sound track {number} is left out: it is damaged, or of an unknown codec")
            return
        suffix = self.path.suffix.lower()
        codec = stream.codec_context.codec.canonical_name
        copied = _COPIED[suffix]
        if copied is None or codec in copied:
            try:
                self._tracks[stream.index] = _Copy(container, stream)
                return
            except ValueError:
                pass
        new = "libopus" if suffix == ".webm" else "aac"
        try:
            self._tracks[stream.index] = _Transcode(container, stream, new)
            self.notes.append(f"sound track {number} becomes {new}: {codec} is not for {suffix}")
        except (FFmpegError, ValueError):
            self.notes.append(f"sound track {number} is left out: {codec} cannot be decoded")

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def write(self, image: np.ndarray, time: float) -> None:
        """Add image uint8 (H, W, 3) BGR, shown from `time` in seconds; later than the one before."""
        wanted = self._size[1], self._size[0], 3
        if image.shape != wanted or image.dtype != np.uint8:
            raise ValueError(f"the film takes uint8 {wanted}, not {image.dtype} {image.shape}")
        if self._last is None and self._film is None:
            self._offset = time
        ticks = round((time - self._offset) / self._clock)
        self._last = ticks if self._last is None else max(ticks, self._last + 1)
        picture = self._to_picture(image)
        with self._stated():
            self._mux(self._picture.encode(picture))
            self._copy_sound(time)
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
        if self.frames == 0:
            self.path.unlink(missing_ok=True)  # a film without a picture opens nowhere
        elif self._remux and not self._failed and self.path.stat().st_size <= self._most_rewritten:
            _faststart(self.path, self._clock)

    def _finish(self) -> None:
        if self._last is None:
            return
        step = self._last_step()
        packets = self._picture.encode(None)
        for packet in packets:
            if packet is packets[-1] or packet.pts == self._last:
                packet.duration = step
        self._mux(packets)
        film = self._film
        if film is not None:
            self._copy_sound(math.inf if film.finished else float(self._last * self._clock) + float(1 / self._rate))
            for track in self._tracks.values():
                self._mux(track.flush())

    def _last_step(self) -> int:
        """Ticks for which the last picture is shown."""
        film, step = self._film, 1 / self._rate
        if film is not None and film.finished:
            step = max(film.end - float(self._last * self._clock), float(LEAST_STEP))
        return max(1, round(step / self._clock))

    def _to_picture(self, image: np.ndarray) -> av.VideoFrame:
        height, width = image.shape[:2]
        if width % 2 or height % 2:
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
        picture = picture.reformat(format=self._picture.pix_fmt, dst_colorspace="ITU709")
        picture.pts, picture.time_base = self._last, self._clock
        return picture

    def _copy_sound(self, until: float) -> None:
        """Hand on the sound that starts before `until` seconds, so that it lies beside its pictures in the file."""
        film = self._film
        while film is not None and film.sound and starts(film.sound[0], film.start) <= until:
            packet = film.sound.popleft()
            track = self._tracks.get(packet.stream_index)
            if track is not None:
                self._mux(track.packets(packet, film.start))

    def _mux(self, packets) -> None:
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
        if self._film is not None:
            self._film.keep_sound = False
        try:
            if self._container is not None:
                self._container.close()
        except (FFmpegError, OSError) as problem:
            if not self._failed:
                self._failed = True
                raise TabrtError(self._cannot_write(problem)) from None


class _Forwards:
    """Lets packets through whose times run forwards; a damaged film has others, which no container holds."""

    def __init__(self) -> None:
        self._last: Fraction | None = None

    def __call__(self, packets: list[av.Packet]) -> list[av.Packet]:
        return [packet for packet in packets if self._later(packet)]

    def _later(self, packet: av.Packet) -> bool:
        if packet.dts is None or packet.pts is None or packet.pts < packet.dts:
            return False
        time = packet.dts * packet.time_base
        if self._last is not None and time <= self._last:
            return False
        self._last = time
        return True


class _Copy:
    """A track of sound whose packets go into the film untouched."""

    def __init__(self, container: av.container.OutputContainer, stream: av.AudioStream):
        self._stream = container.add_stream_from_template(stream, opaque=True)
        _describe(self._stream, stream)
        self._forwards = _Forwards()
        # Broadcast AAC says in each packet what files say once.
        loose = stream.codec_context.name == "aac" and not stream.codec_context.extradata
        self._filter = av.bitstream.BitStreamFilterContext("aac_adtstoasc", stream) if loose else None

    def packets(self, packet: av.Packet, start: Fraction) -> list[av.Packet]:
        """The packet, moved by `start` seconds."""
        shift = round(start / packet.time_base)
        packet.dts = packet.pts if packet.dts is None else packet.dts
        packet.pts = packet.dts if packet.pts is None else packet.pts
        if packet.dts is None:
            return []
        packet.dts, packet.pts = packet.dts - shift, packet.pts - shift
        packets = [packet] if self._filter is None else _filtered(self._filter, packet)
        for each in packets:
            each.stream = self._stream
        return self._forwards(packets)

    def flush(self) -> list[av.Packet]:
        return []


def _filtered(bitstream_filter: av.bitstream.BitStreamFilterContext, packet: av.Packet) -> list[av.Packet]:
    """What a filter makes of a packet; nothing of a damaged one."""
    try:
        return bitstream_filter.filter(packet)
    except FFmpegError:
        bitstream_filter.flush()
        return []


class _Transcode:
    """A track of sound decoded, and encoded as something that players of the container take."""

    def __init__(self, container: av.container.OutputContainer, stream: av.AudioStream, codec: str):
        self._decoder = stream.codec_context
        rates = av.codec.Codec(codec, "w").audio_rates or [48000]
        rate = stream.rate if stream.rate in rates else 48000
        layout, bit_rate = ("mono", 96_000) if stream.channels == 1 else ("stereo", 192_000)
        self._encoder = container.add_stream(codec, rate=rate, layout=layout, bit_rate=bit_rate)
        _describe(self._encoder, stream)
        self._forwards = _Forwards()

    def packets(self, packet: av.Packet, start: Fraction) -> list[av.Packet]:
        """What the encoder gives for the packet, moved by `start` seconds; nothing for a damaged one."""
        out = []
        for sound in decoded(packet) or ():
            if sound.pts is not None:
                sound.pts -= round(start / sound.time_base)
            with contextlib.suppress(FFmpegError, ValueError):  # a damaged packet may change the layout
                out += self._encoder.encode(sound)
        return self._forwards(out)

    def flush(self) -> list[av.Packet]:
        return self._forwards(self._encoder.encode(None))


def _describe(new: av.AudioStream, old: av.AudioStream) -> None:
    """Keep the language and title of a track, and which one plays first."""
    new.metadata.update({key: old.metadata[key] for key in ("language", "title") if key in old.metadata})
    new.disposition = old.disposition


def check_film(path: Path, film: Film | None = None) -> None:
    """Raise TabrtError for a path that no film can be written to, or that is the film being read."""
    if path.suffix.lower() not in _MUXERS:
        raise TabrtError(f"{path}: films are written as {', '.join(_MUXERS)}; use one of these suffixes")
    if path.is_dir():
        raise TabrtError(f"{path} is a folder; name a film")
    if not path.parent.is_dir():
        raise TabrtError(f"there is no folder {path.parent}; make it first")
    if film is not None and path.exists() and os.path.exists(film.source) and os.path.samefile(path, film.source):
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


def _faststart(path: Path, clock: Fraction) -> None:
    """Rewrite a fragmented film with its index in front. Where that fails, the fragmented film plays as it is."""
    path = path.resolve()
    part = path.with_name(f".{path.name}.part")
    options = {"movflags": "faststart"} | _timescale(clock)
    try:
        with (
            av.open(f"file:{path}") as source,
            av.open(f"file:{part}", "w", format=_MUXERS[path.suffix.lower()], container_options=options) as target,
        ):
            streams = [_same_stream(target, stream) for stream in source.streams]
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream_index]
                    target.mux_one(packet)
        os.replace(part, path)
    except (FFmpegError, OSError, ValueError):
        pass
    finally:
        part.unlink(missing_ok=True)


def _same_stream(target: av.container.OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    new = target.add_stream_from_template(stream, opaque=True)
    if stream.codec_context.codec.canonical_name == "hevc":
        new.codec_context.codec_tag = "hvc1"
    _describe(new, stream)
    return new
