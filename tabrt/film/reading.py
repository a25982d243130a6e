"""Films in: every frame with its own time, a few of them in memory at most, however long the film is."""

from __future__ import annotations

import contextlib
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
LEAST_STEP = Fraction(1, 90000)  # seconds; the clock of a film whose own clock is too fine for mp4
BAD_PACKETS = 1000  # in a row, without one picture between them, before a film counts as ended


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
        self.rate = sane_rate(stream.average_rate or stream.guessed_rate)
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
        if picture is None and self.source == "-":
            raise TabrtError(_cannot_open(self.source))
        if picture is None:
            raise TabrtError(f"no picture in {self.name} can be decoded; check the file, or convert it with ffmpeg")
        return picture

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Pictures in the order they are shown, going on after what the decoder cannot read."""
        bad = 0
        for packet in self._packets():
            if packet is not None and packet.stream.type == "audio":
                if packet.size and starts(packet, self.start) <= self._horizon:
                    self.sound.append(packet)
                continue
            pictures = decoded(packet)
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
                    raise TabrtError(f"{self.name} stopped sending ({reason(problem)}); check the network") from None
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
        raise TabrtError(f"cannot read {path} ({reason(problem)}); check the path and its rights") from None
    if path.is_file() and status.st_size == 0:
        raise TabrtError(f"{path} is empty; copy or record it again")
    if path.is_dir():
        raise TabrtError(f"{path} is a folder; name a file")
    if not os.access(path, os.R_OK):
        raise TabrtError(f"{path} may not be read; change its rights")


def _cannot_open(source: str, problem: Exception | None = None) -> str:
    if source == "-":
        return "standard input is no film that can be read as it comes; name a file, or pipe mkv, ts or fragmented mp4"
    if _is_url(source):
        return f"cannot open {source} ({reason(problem)}); check the address and the network"
    return f"{source} is no film, or damaged beyond reading ({reason(problem)}); check it, or convert it with ffmpeg"


def reason(problem: Exception) -> str:
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


def sane_rate(rate: Fraction | None) -> Fraction:
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


def decoded(packet: av.Packet | None) -> list[av.VideoFrame] | None:
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


def starts(packet: av.Packet, start: Fraction) -> float:
    ticks = packet.dts if packet.pts is None else packet.pts
    return -math.inf if ticks is None else float(ticks * packet.time_base - start)
