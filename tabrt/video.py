"""Films in and films out: every frame with its own time, the sound untouched.

`Film` gives frames; `FilmWriter` takes pictures and times. Both hold a few frames at most, however long the film is.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.bitstream
import cv2
import numpy as np
from av.error import FFmpegError

from tabrt.errors import TabrtError
from tabrt.faces import Frame

MAX_SIDE = 16384  # px
MAX_PIXELS = 2**27  # 134 million
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SEQUENCE_RATE = Fraction(25)  # frames a second of a folder of pictures
NETWORK_PATIENCE = 10.0  # seconds without a byte before a network source is given up
BAD_PACKETS = 1000  # in a row, without one picture between them, before a film counts as ended
LEAST_STEP = Fraction(1, 90000)  # seconds; the clock of a film whose own clock is too fine for mp4
MAX_CLOCK = 1_000_000  # ticks a second

# ---------------------------------------------------------------------------------------------------------- reading


def open_film(source: str | Path) -> Film:
    """Open a film file, a folder of pictures, a printf pattern (`shot_%04d.png`), a URL, or `-` for standard input.

    Raises TabrtError when there is nothing to show: no such file, no film, no picture in it, too large.
    """
    text = os.fspath(source)
    if _is_url(text) or text == "-":
        return Film(text)
    pictures = _sequence(Path(text))
    return _PictureFilm(text, pictures) if pictures is not None else Film(text)


class Film:
    """A film being read: iterate over it once for its Frames, upright and in BGR, each with its presentation time.

    `width` and `height` are px after rotation; `rate` is frames a second on average; `duration` seconds and `frames`
    are estimates, None where the film does not say. `damaged` counts the packets that could not be decoded.
    """

    def __init__(self, source: str):
        self.source = source
        self.damaged = 0
        self.finished = False  # the last frame was given
        self.end = 0.0  # seconds: when the last frame given stops being shown
        self.sound: deque[av.Packet] = deque()  # waiting for a FilmWriter
        self.keep_sound = False
        self._lock = threading.Lock()
        self._closed = False
        self._index = 0
        self._last_time: float | None = None
        self._container = _open_container(source)
        try:
            self._open_streams()
        except BaseException:
            self._container.close()
            raise

    def _open_streams(self) -> None:
        self._stream = stream = _picture_stream(self._container, self.name)
        self.sound_streams = list(self._container.streams.audio)
        _check_size(stream.width, stream.height, self.name)
        stream.thread_type = "SLICE" if _is_url(self.source) else "AUTO"  # frame threads would delay a live picture
        stream.thread_count = min(4, os.cpu_count() or 1)
        self.rate = _sane_rate(stream.average_rate or stream.guessed_rate)
        self.time_base = stream.time_base or LEAST_STEP
        self.start = _clock_start(self._container, self.source, self.time_base)
        self.duration = _duration(self._container, stream)
        self._horizon = _horizon(self._container, self.duration, self.start)
        self.frames = stream.frames or (round(self.duration * self.rate) if self.duration else None)
        self._pictures = self._decode()
        self._first = self._decode_first()
        matrix = _display_matrix(self._first)
        self.plain = matrix is not None  # all that the film says of its orientation could be read
        self._matrix = _turn(self._first.rotation) if matrix is None else matrix
        turned = abs(self._matrix[0, 1]) > abs(self._matrix[0, 0])
        self._size = self._first.width, self._first.height
        self.width, self.height = self._size[::-1] if turned else self._size
        self.pixel_aspect = _pixel_aspect(stream.sample_aspect_ratio, turned)

    @property
    def name(self) -> str:
        return _name(self.source)

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. A thread that is reading it right now does so as soon as it returns."""
        self._closed = True
        if self._lock.acquire(timeout=1.0):
            try:
                self._container.close()
            finally:
                self._lock.release()

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        with self._lock:
            if not self.keep_sound:
                self.sound.clear()
            frame = None if self._closed else self._read()
            if self._closed:
                self._container.close()
            return frame

    def _read(self) -> Frame | None:
        picture, self._first = self._first, None
        picture = picture or next(self._pictures, None)
        if picture is None:
            self.finished = True
            return None
        time = self._time(picture)
        frame = Frame(_upright(_to_bgr(picture, self._size), self._matrix), self._index, time)
        self._index, self._last_time = self._index + 1, time
        self.end = time + (_seconds(picture.duration, picture.time_base) or 1 / self.rate)
        return frame

    def _time(self, picture: av.VideoFrame) -> float:
        """The picture's own time; where it has none, runs backwards or past the end, one step after the last."""
        time = None if picture.pts is None else float(picture.pts * picture.time_base - self.start)
        if self._last_time is None:
            return time or 0.0
        if time is None or not self._last_time < time <= max(self._horizon, self._last_time + 1):
            return self._last_time + float(1 / self.rate)
        return time

    def _decode_first(self) -> av.VideoFrame:
        picture = next(self._pictures, None)
        if picture is None:
            raise TabrtError(f"no picture in {self.name} can be decoded; check the file, or convert it with ffmpeg")
        return picture

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Pictures in the order they are shown, going on after what the decoder cannot read."""
        bad = 0
        for packet in self._packets():
            if packet is not None and packet.stream.type == "audio":
                if packet.size and _starts(packet, self.start) <= self._horizon:
                    self.sound.append(packet)
                continue
            pictures = _decoded(packet)
            if pictures is None:
                self.damaged += 1
                bad += 1
                if bad > BAD_PACKETS:
                    return
            for picture in pictures or ():
                if 0 < picture.width <= MAX_SIDE and 0 < picture.height <= MAX_SIDE:
                    bad = 0
                    yield picture

    def _packets(self) -> Iterator[av.Packet | None]:
        """Packets of the pictures and the sound; None where the container could not be read, and reading goes on."""
        streams = [self._stream, *self.sound_streams]
        while True:
            try:
                yield from self._container.demux(streams)
                return
            except (FFmpegError, IndexError) as problem:  # IndexError: damage that looks like a new stream
                if _is_url(self.source):
                    raise TabrtError(f"{self.name} stopped sending ({_reason(problem)}); check the network") from None
                yield None


class _PictureFilm(Film):
    """Pictures of one size, one after the other, as a film of 25 frames a second."""

    def __init__(self, source: str, paths: list[Path]):
        self.source, self._paths = source, paths
        self.damaged, self.finished, self.end = 0, False, 0.0
        self.sound, self.keep_sound, self.sound_streams = deque(), False, []
        self.rate, self.time_base, self.pixel_aspect = SEQUENCE_RATE, 1 / SEQUENCE_RATE, None
        self.start = Fraction(0)
        self.frames, self.duration = len(paths), float(len(paths) / SEQUENCE_RATE)
        self._lock, self._closed = threading.Lock(), False
        self.height, self.width = self._first_readable().shape[:2]
        self._pictures = self._load()

    def close(self) -> None:
        self._closed = True

    def _next(self) -> Frame | None:
        frame = None if self._closed else next(self._pictures, None)
        self.finished = frame is None
        if frame is not None:
            self.end = frame.time + float(1 / self.rate)
        return frame

    def _first_readable(self) -> np.ndarray:
        for path in self._paths[:BAD_PACKETS]:
            with contextlib.suppress(TabrtError):
                return read_image(path)
        raise TabrtError(f"no picture in {self.name} can be read; check that they are {', '.join(PICTURE_SUFFIXES)}")

    def _load(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            try:
                image = read_image(path)
            except TabrtError:
                self.damaged += 1
                continue
            if image.shape != (self.height, self.width, 3):
                size = f"{image.shape[1]}x{image.shape[0]}"
                raise TabrtError(
                    f"{path} is {size} in a sequence of {self.width}x{self.height}; "
                    "give pictures of one size, or use `tabrt image`"
                )
            yield Frame(image, index, float(index / SEQUENCE_RATE))


def read_image(path: str | Path) -> np.ndarray:
    """Read a picture as uint8 (H, W, 3) BGR, upright by its EXIF orientation, alpha left out.

    Raises TabrtError for what is no picture, or one above 16384 px a side or 134 million px.
    """
    name = os.fspath(path)
    with Film(name) as film:
        plain, image = film.plain, next(iter(film)).image
    if plain:
        return image
    oriented = cv2.imread(name, cv2.IMREAD_COLOR)  # knows all of EXIF, mirror images too
    return image if oriented is None else oriented


def _is_url(source: str) -> bool:
    return "://" in source and not os.path.exists(source)


def _name(source: str) -> str:
    return "standard input" if source == "-" else source


def _sequence(path: Path) -> list[Path] | None:
    """The pictures of a folder or a printf pattern, by number; None for what is neither."""
    if path.is_dir():
        found = [entry for entry in path.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES]
        remedy = f"give a film, or a folder with {', '.join(PICTURE_SUFFIXES)} in it"
    elif re.search(r"%0?\d*d", path.name) and not path.exists():
        pattern = re.compile(re.sub(r"%0?\d*d", r"\\d+", re.escape(path.name)))
        found = [entry for entry in path.parent.glob("*") if pattern.fullmatch(entry.name)]
        remedy = "check the pattern"
    else:
        return None
    if not found:
        raise TabrtError(f"{path} holds no pictures; {remedy}")
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which shot_2 comes before shot_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _open_container(source: str) -> av.container.InputContainer:
    options = {"max_pixels": str(MAX_PIXELS)}
    try:
        if source == "-":
            return av.open(_standard_input(), options=options)
        if _is_url(source):
            return av.open(source, options=options, timeout=NETWORK_PATIENCE)
        _check_file(Path(source))
        # A playlist inside a file may name other files, never the network.
        return av.open(f"file:{source}", options=options | {"protocol_whitelist": "file"})
    except (FFmpegError, OSError, ValueError) as problem:
        raise TabrtError(_cannot_open(source, problem)) from None


def _standard_input():
    if sys.stdin is None or sys.stdin.isatty():
        raise TabrtError("standard input is a terminal; pipe a film into it, or name a file")
    return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # no lock that a daemon thread could hold


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise TabrtError(f"there is no file {path}; check the path") from None
    except (OSError, ValueError) as problem:
        raise TabrtError(f"cannot read {path} ({_reason(problem)}); check the path and its rights") from None
    if path.is_file() and status.st_size == 0:
        raise TabrtError(f"{path} is empty; copy or record it again")
    if path.is_dir():
        raise TabrtError(f"{path} is a folder; name a file")
    if not os.access(path, os.R_OK):
        raise TabrtError(f"{path} may not be read; change its rights")


def _cannot_open(source: str, problem: Exception) -> str:
    if _is_url(source):
        return f"cannot open {source} ({_reason(problem)}); check the address and the network"
    if source == "-":
        return "standard input is no film that can be read as it comes; name a file, or pipe mkv, ts or fragmented mp4"
    return f"{source} is no film, or damaged beyond reading ({_reason(problem)}); check it, or convert it with ffmpeg"


def _reason(problem: Exception) -> str:
    text = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return text.splitlines()[0][:200]


def _picture_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    if container.format.name in ("tty", "bintext", "xbin", "adf", "idf"):  # text, which ffmpeg would paint
        raise TabrtError(f"{name} is text, not a film; name a film")
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is None:
                raise TabrtError(f"{name} uses a picture codec that is not known here; convert it with ffmpeg")
            return stream
    what = "sound only" if container.streams.audio else "no pictures"
    raise TabrtError(f"{name} holds {what}; name a film")


def _check_size(width: int, height: int, name: str) -> None:
    if width > 0 and height > 0 and max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS:
        return
    size = f"is {width}x{height}," if width > 0 and height > 0 else "has pictures of no stated size, or"
    limit = f"above the limit of {MAX_SIDE} px a side and {MAX_PIXELS // 10**6} million px"
    raise TabrtError(f"{name} {size} {limit}; scale it down or convert it first")


def _sane_rate(rate: Fraction | None) -> Fraction:
    return rate if rate and Fraction(1, 1000) <= rate <= 1000 else SEQUENCE_RATE


def _clock_start(container: av.container.InputContainer, source: str, tick: Fraction) -> Fraction:
    """Seconds to take off: broadcast and network streams start anywhere on their clock, files where they say."""
    anywhere = _is_url(source) or bool(container.format.flags & av.format.Flags.ts_discont.value)
    return round(Fraction(container.start_time or 0, av.time_base) / tick) * tick if anywhere else Fraction(0)


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    if container.duration and container.duration > 0:
        return container.duration / av.time_base
    return _seconds(stream.duration, stream.time_base)


def _horizon(container: av.container.InputContainer, duration: float | None, start: Fraction) -> float:
    """Seconds beyond which a time can only be a damaged one."""
    late = max(0.0, float(Fraction(container.start_time or 0, av.time_base) - start))
    return math.inf if duration is None else duration + late + 1


def _seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    return float(ticks * time_base) if ticks and ticks > 0 and time_base else None


def _pixel_aspect(aspect: Fraction | None, turned: bool) -> Fraction | None:
    if not aspect or aspect == 1:
        return None
    return 1 / aspect if turned else aspect


def _decoded(packet: av.Packet | None) -> list[av.VideoFrame] | None:
    """The pictures a packet completes; None when it is damaged."""
    if packet is None:
        return None
    try:
        return packet.decode()
    except av.error.EOFError:
        return []
    except FFmpegError:
        return None


def _display_matrix(picture: av.VideoFrame) -> np.ndarray | None:
    """(2, 2): where the film wants x and y to go on the screen, in rows (x to x', y'), (y to x', y').

    None where EXIF is beside it, which PyAV 18 has no name for.
    """
    try:
        data = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:
        return None
    return _turn(0) if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2] / 65536


def _turn(degrees: float) -> np.ndarray:
    """The display matrix of a turn against the clock."""
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _upright(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and mirror by quarter turns, the nearest that the display matrix asks for."""
    (a, b), (c, d) = matrix
    if abs(b) > abs(a):
        image, a, d = cv2.transpose(image), c, b
    if a < 0 and d < 0:
        return cv2.flip(image, -1)
    if a < 0:
        return cv2.flip(image, 1)
    return cv2.flip(image, 0) if d < 0 else image


def _to_bgr(picture: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) BGR; a picture whose size changed in mid-film is scaled to the film's."""
    return picture.to_ndarray(format="bgr24", width=size[0], height=size[1])


# ---------------------------------------------------------------------------------------------------------- writing

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
    (faststart). An odd side gets one more row or column, a copy of the edge, as yuv420p needs. Sound that players of
    the container do not take becomes AAC (Opus in .webm); `notes` says so, one line a track.

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
    ):
        self.path = Path(path)
        self.notes: list[str] = []
        self.frames = 0
        self._film = film
        self._size = width, height
        self._rate = _sane_rate(Fraction(rate).limit_denominator(100_000))
        self._clock = _clock(film)
        self._last: int | None = None  # ticks
        self._offset = 0.0
        self._failed = self._closed = False
        self._container: av.container.OutputContainer | None = None
        _check_output(self.path, film)
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
        elif self._remux and not self._failed:
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
        while film is not None and film.sound and _starts(film.sound[0], film.start) <= until:
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
            return f"no room left for {self.path} ({_reason(problem)}); free some space. What was written so far plays"
        return f"cannot write {self.path} ({_reason(problem)}); try another folder, suffix, --codec or --crf"

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
        for sound in _decoded(packet) or ():
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


def _starts(packet: av.Packet, start: Fraction) -> float:
    ticks = packet.dts if packet.pts is None else packet.pts
    return -math.inf if ticks is None else float(ticks * packet.time_base - start)


def _check_output(path: Path, film: Film | None) -> None:
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
