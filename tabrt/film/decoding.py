"""A film being decoded: its pictures in the order they are shown, what goes beside them, and its one clock."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from tabrt.errors import TabrtError
from tabrt.faces import Frame
from tabrt.film.cut import is_cut_short
from tabrt.film.opening import (
    MAX_SIDE,
    cannot_open,
    check_size,
    is_url,
    name_of,
    open_container,
    picture_stream,
    pixel_aspect_of,
    reason,
)
from tabrt.film.pictures import Converter, deinterlaced, fit, is_sideways, turned, upright
from tabrt.film.sound import Soundtrack, decoded, length, starts
from tabrt.film.times import FORWARDS, Clock, clock_of, clock_time, part_of, seconds

SOME_RATE = Fraction(25)  # pictures a second, of a film that does not say
NETWORK_PATIENCE = 10.0  # seconds without a byte before a network source is given up
LEAST_STEP = Fraction(1, 90000)  # seconds; the clock of a film whose own clock is too fine for mp4
BAD_PACKETS = 1000  # in a row, without one picture between them, before a film counts as ended
EARLIER = (0.0, 2.0, 10.0)  # seconds before a part's start at which it is sought, one after the other
MOST_KEPT = 20_000  # packets between two pictures that stand alone
TRANSPORT_PACKETS = (188, 192, 204)  # bytes: plain, with a time (m2ts), with error correction
FILLED_UP = ("image2", "jpeg_pipe", "gif")  # formats of JPEG and GIF, whose decoders fill up what is missing
SHORT = 0.05  # of a film, that may be missing at its end without a word
PRIMING = 0.2  # seconds of sound before a film's start that its decoder may need
SOUND_BEHIND = 3.0  # seconds that sound may lie behind its pictures in a file
TRANSPARENT = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
CLOSE = 1e-6  # seconds: times this near are the same


class Film:
    """A film being read: iterate over it once for its Frames, upright and in BGR, each with its presentation time.

    `width` and `height` are px after rotation; where pixels are not square, `pixel_aspect` is their width over their
    height, else None. `rate` is frames a second on average; `duration` (seconds) and `frames` are estimates, None
    where the film does not say. `damaged` counts the packets that could not be decoded; `notes` says in a line each
    what was done to the pictures, and is whole when the film was read. After a start that was sought, Frame.index is
    counted from the time and the rate.
    """

    def __init__(
        self,
        source: str,
        start: float | str | None = None,
        end: float | str | None = None,
        every: int = 1,
        track: int | None = None,
    ):
        self.source = source
        self.damaged = 0
        self._lock = threading.Lock()
        self._closed = False
        self._index = 0
        self._passed = 0  # pictures of the part, those left out too
        self._last_time: float | None = None
        self._packet_source: Iterator[av.Packet | None] = iter(())
        self._stops_at: float | None = None  # seconds: how long a film that broke off says it is
        self._torn = False  # whether a film that says no length ends where none does by itself
        self._until = 0.0  # seconds: when the last picture of the part stops being shown
        self._container = open_container(source, NETWORK_PATIENCE)
        try:
            self._open_streams(track)
            if self._clock.jumps and any(time is not None and seconds(time) < 0 for time in (start, end)):
                self.duration = self._length(track)
            self.part = part_of(start, end, every, self.duration, self.name, sure=not self._clock.jumps)
            self._open_part(track)
            self._describe_pictures()
        except BaseException:
            self._container.close()
            raise

    def _open_streams(self, track: int | None) -> None:
        container = self._container
        self._notes: list[str] = []
        self._stream, chosen, tracks = picture_stream(container, self.name, track)
        stream = self._stream
        if tracks > 1 and track is None:
            size = f"{stream.width}x{stream.height}"
            self._notes.append(f"picture track {chosen} of {tracks} is read ({size}); --track chooses another")
        check_size(stream.width, stream.height, self.name)
        if container.format.name in FILLED_UP and is_cut_short(self.source):
            self._notes.append("cut short: a part of the picture is missing; copy it again")
        network = is_url(self.source)
        stream.thread_type = "SLICE" if network else "AUTO"  # frame threads would delay a live picture
        stream.thread_count = min(4, os.cpu_count() or 1)
        self._decoder = _decoder_of(stream)
        self._full_rate = self.rate = sane_rate(stream.average_rate or stream.guessed_rate)
        self.time_base = stream.time_base or LEAST_STEP
        self._clock = clock_of(container, network, self.time_base)
        self.duration = _duration(container, stream, self._clock)
        self._began = max(0.0, (_seconds(stream.start_time, stream.time_base) or 0.0) - float(self._clock.start))
        self._horizon = math.inf if self._clock.jumps else _horizon(container, self.duration, self._clock)
        self.frames = stream.frames or (round(self.duration * self.rate) if self.duration else None)
        self._convert = Converter(float(self.rate))
        self._beside = [*container.streams.audio, *container.streams.subtitles]

    def _length(self, track: int | None) -> float | None:
        """Seconds to the end of a film whose clock may jump, by all of its packets; FFmpeg looks at the ends alone."""
        if not os.path.isfile(self.source):
            return None
        last = 0.0
        for packet in self._packets():
            if packet is not None and packet.stream.type in ("video", "audio") and packet.size:
                last = max(last, starts(packet) + float(length(packet)))
        self._reopen(track)
        return last

    def _reopen(self, track: int | None) -> None:
        """Read from the very beginning again."""
        self._container.close()
        self._container = open_container(self.source, NETWORK_PATIENCE)
        self._open_streams(track)

    def _open_part(self, track: int | None) -> None:
        """Go to the first picture that is wanted."""
        part = self.part
        self._sound = Soundtrack(self._beside, part)
        again = part.start > 0 and (is_url(self.source) or os.path.isfile(self.source))  # not so a pipe
        found = again and (self._scan() if self._clock.jumps else self._seek())
        if not found:
            if again:
                self._reopen(track)
            self._sound = Soundtrack(self._beside, part)
            self._restart(0)
            found = self._skip_to_start()
        if not found and part.start > 0:
            raise TabrtError(f"{self.name} has no picture from {clock_time(part.start)} on; choose another part")
        if not found and self.source == "-":
            raise TabrtError(cannot_open(self.source))
        if not found:
            raise TabrtError(f"no picture in {self.name} can be decoded; check the file, or convert it with ffmpeg")
        if not part.is_whole and self.duration is not None:
            self.duration = max(0.0, min(part.end, self.duration) - part.start)
            self.frames = math.ceil(self.duration * self._full_rate)
        elif not part.is_whole:
            self.frames = None
        if self.frames is not None:
            self.frames = math.ceil(self.frames / part.every)
        self.rate = self._full_rate / part.every

    def _scan(self) -> bool:
        """Go to the start of the part through all packets, without decoding them, where a clock that may jump cannot be
        sought. False where no picture stands alone for too long."""
        self._restart(0)
        kept: list[av.Packet] = []
        start, before, count = self.part.start, 0, 0
        for packet in self._packet_source:
            if packet is None:
                continue
            if packet.stream.type == "video" and packet.size:
                if packet.is_keyframe and starts(packet) <= start:
                    kept, before = [], count
                count += 1
                if packet.dts is not None and packet.time_base and packet.dts * packet.time_base > start:
                    kept.append(packet)
                    break
            kept.append(packet)
            if len(kept) > MOST_KEPT:
                return False
        self._packet_source = chain(kept, self._packet_source)
        self._index = before
        return self._skip_to_start()

    def _seek(self) -> bool:
        """Go to the start of the part without decoding all that lies before it. False where that fails."""
        start = self.part.start
        for earlier in EARLIER:
            target = Fraction(max(0.0, start - earlier)) + self._clock.start
            try:
                self._container.seek(round(target / self.time_base), stream=self._stream, backward=True)
            except (FFmpegError, OSError, ValueError, OverflowError):
                return False
            self._sound = Soundtrack(self._beside, self.part)
            self._clock.forget()
            self._restart(None)
            if self._skip_to_start():
                return True
        return False

    def _restart(self, index: int | None) -> None:
        """Decode from here on. index: of the first picture, None where its time has to tell."""
        self._packet_source = self._packets()
        if self._decoder is not None:
            self._decoder = _decoder_of(self._stream)
        self._pictures = deinterlaced(self._decode(), self._notes)
        self._last_time, self._index = None, -1 if index is None else index
        self._last_ticks: tuple[int | None, int | None] = (None, None)  # of presentation, of decoding
        # How many of each ran backwards. AVI knows only the order of decoding: what FFmpeg gives beside it is made up.
        self._faulty = [int(self._container.format.name == "avi"), 0]

    def _skip_to_start(self) -> bool:
        """Pass over the pictures before the part; False where none is left, or what is read began after its start."""
        for picture in self._pictures:
            time = self._time(picture)
            if self._index < 0:
                if time > self.part.start + CLOSE:
                    return False
                self._index = round((time - self._began) * self._full_rate)
            if time >= self.part.start - CLOSE:
                self._first: av.VideoFrame | None = picture
                if self.part.start > 0:
                    self._sound.start = time - CLOSE
                return True
            self._index, self._last_time = self._index + 1, time
        return False

    def _describe_pictures(self) -> None:
        self._fitted: float | None = None  # seconds: from when on pictures of another size came
        first = self._first
        assert first is not None  # or the film would not have opened
        self._matrix, self._plain = turned(first, self._codec)
        self._rotation, self._size = first.rotation, (first.width, first.height)
        self._measure()

    def _measure(self) -> None:
        self._sideways = is_sideways(self._matrix)
        self.width, self.height = self._size[::-1] if self._sideways else self._size
        self.pixel_aspect = _shown_aspect(pixel_aspect_of(self._stream), self._sideways)

    def orient(self, orientation_of: Callable[[str], np.ndarray | None]) -> None:
        """Ask a picture's EXIF how it is to be turned, where the decoder does not tell all of it."""
        matrix = None if self._plain else orientation_of(self.source)
        if matrix is not None:
            self._matrix = matrix
            self._measure()

    @property
    def _codec(self) -> str:
        return self._stream.codec_context.name

    @property
    def name(self) -> str:
        return name_of(self.source)

    @property
    def notes(self) -> list[str]:
        """What was done to the pictures until now, one line each."""
        notes = [*self._notes, *self._convert.notes]
        if self._fitted is not None:
            size = f"{self.width}x{self.height}"
            notes.append(f"pictures change size at {clock_time(self._fitted)}: fitted into {size}, with bars")
        if self._clock.joins:
            notes.append("times jump, as where pieces are joined: they run on here")
        if self._stops_at is not None:
            whole = clock_time(self._stops_at)
            notes.append(
                f"{self.name} stops at {clock_time(self._until)}, though it says it has {whole}: was it cut off?"
            )
        if self._torn:
            notes.append(f"{self.name} stops at {clock_time(self._until)}, inside a packet: was it cut off?")
        if self.damaged:
            notes.append(f"{self.name}: damaged packets passed over: {self.damaged}")
        return notes

    def soundtrack(self) -> Soundtrack:
        """What goes beside the pictures, kept from now on for the one who asked."""
        self._sound.wanted = True
        return self._sound

    def metadata(self) -> dict[str, str]:
        """What the film says of itself, its container's own entries left out."""
        return _told(self._container.metadata)

    def chapters(self) -> list[tuple[float, float, dict[str, str]]]:
        """Start and end in seconds of the film, and what is said of each chapter."""
        shift = float(self._clock.start)
        found: list[Any] = list(self._container.chapters())
        return [
            (
                float(each["start"] * each["time_base"]) - shift,
                float(each["end"] * each["time_base"]) - shift,
                each["metadata"],
            )
            for each in found
        ]

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

    def __iter__(self) -> Generator[Frame]:
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        with self._lock:
            if not self._sound.wanted:
                self._sound.clear()
            frame = None if self._closed else self._read()
            if self._closed:
                self._container.close()
            return frame

    def _read(self) -> Frame | None:
        """The next picture of the part that is wanted; None at its end."""
        while True:
            picture = self._first or next(self._pictures, None)
            self._first = None
            time = math.inf if picture is None else self._time(picture)
            if picture is None or time >= self.part.end - CLOSE:
                self._end(cut=picture is not None)
                return None
            index, self._index, self._last_time = self._index, self._index + 1, time
            self._until = time + (_seconds(picture.duration, picture.time_base) or float(1 / self._full_rate))
            self._passed += 1
            if (self._passed - 1) % self.part.every == 0:
                return Frame(self._image(picture, time), index, time, float(self.pixel_aspect or 1))

    def _end(self, cut: bool) -> None:
        if cut:
            self._read_sound_to(self.part.end)
        else:
            said = _said_length(self._stream, float(self._clock.start))
            if said is not None and self._until < min(said, self.part.end) - max(1.0, SHORT * said):
                self._stops_at = said
            self._torn = _ends_inside_a_packet(self._container)
        self._sound.end = min(self._until, self.part.end)

    def _time(self, picture: av.VideoFrame) -> float:
        """The picture's own time; where it has none, runs backwards or past the end, one step after the last."""
        ticks = self._guess(picture.pts, picture.dts)
        time = None if ticks is None else float(ticks * Fraction(picture.time_base or 0))
        if self._last_time is None:
            return time or 0.0
        latest = self._last_time + float(FORWARDS) if self._clock.jumps else max(self._horizon, self._last_time + 1)
        if time is None or not self._last_time + CLOSE < time <= latest:
            return self._last_time + float(1 / self._full_rate)
        return time

    def _guess(self, pts: int | None, dts: int | None) -> int | None:
        """When a picture is shown, by its own account, or by the order of decoding where more of the others run
        backwards, as in AVI with pictures out of order (FFmpeg's best effort)."""
        last_pts, last_dts = self._last_ticks
        if pts is not None and last_pts is not None:
            self._faulty[0] += pts <= last_pts
        if dts is not None and last_dts is not None:
            self._faulty[1] += dts <= last_dts
        self._last_ticks = last_pts if pts is None else pts, last_dts if dts is None else dts
        return pts if dts is None or self._faulty[0] <= self._faulty[1] else dts

    def _image(self, picture: av.VideoFrame, time: float) -> np.ndarray:
        """Upright BGR in the film's size; what comes in another is fitted into it."""
        image = self._convert(picture)
        if picture.rotation == self._rotation:
            matrix, sideways = self._matrix, self._sideways
        else:
            matrix, _ = turned(picture, self._codec)
            sideways = is_sideways(matrix)
        image = upright(image, matrix)
        if (picture.width, picture.height) == self._size and sideways == self._sideways:
            return image
        self._fitted = time if self._fitted is None else self._fitted
        aspect = _shown_aspect(pixel_aspect_of(self._stream), sideways)
        return fit(image, self.width, self.height, float((self.pixel_aspect or 1) / (aspect or 1)))

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Pictures in the order they are shown, going on after what the decoder cannot read."""
        bad = 0
        for packet in self._packet_source:
            if packet is not None and packet.stream.type != "video":
                self._put_beside(packet)
                continue
            pictures = decoded(packet, self._decoder)
            if pictures is None:
                self.damaged += 1
                bad += 1
                if bad > BAD_PACKETS:
                    return
            for picture in pictures or ():
                if 0 < picture.width <= MAX_SIDE and 0 < picture.height <= MAX_SIDE:
                    bad = 0
                    yield picture

    def _put_beside(self, packet: av.Packet) -> None:
        hidden = packet.is_discard and starts(packet) < -PRIMING  # by an edit list: cut off, and not to be heard
        if packet.size and not hidden:
            self._sound.put(packet, self._horizon)

    def _read_sound_to(self, end: float) -> None:
        """Read on, without decoding, for the sound that lies behind the pictures in the file."""
        behind = {stream.index for stream in self._container.streams.audio} if self._sound.wanted else set()
        bad = 0
        while behind and bad < BAD_PACKETS:
            try:
                packet = next(self._packet_source)
            except StopIteration:
                return
            if packet is None:
                bad += 1
                continue
            if packet.stream.type != "video":
                self._put_beside(packet)
            time = starts(packet)
            if time > end + SOUND_BEHIND:
                return
            if time >= end:
                behind.discard(packet.stream_index)

    def _packets(self) -> Iterator[av.Packet | None]:
        """Packets on the film's clock; None where the container could not be read, and reading goes on."""
        streams = [self._stream, *self._beside]
        while True:
            try:
                for packet in self._container.demux(streams):
                    self._clock.set(packet)
                    yield packet
                return
            except (FFmpegError, IndexError) as problem:  # IndexError: damage that looks like a new stream
                if is_url(self.source):
                    raise TabrtError(f"{self.name} stopped sending ({reason(problem)}); check the network") from None
                yield None


def _decoder_of(stream: av.VideoStream) -> av.CodecContext | None:
    """The decoder that knows of transparency in WebM, which FFmpeg's own passes over; None where its own will do."""
    said = {key.lower(): value for key, value in stream.metadata.items()}
    if said.get("alpha_mode") != "1" or stream.codec_context.name not in TRANSPARENT:
        return None
    try:
        return av.CodecContext.create(TRANSPARENT[stream.codec_context.name], "r")
    except (FFmpegError, ValueError):
        return None


def sane_rate(rate: Fraction | None) -> Fraction:
    return rate if rate and Fraction(1, 1000) <= rate <= 1000 else SOME_RATE


def _duration(container: av.container.InputContainer, stream: av.VideoStream, clock: Clock) -> float | None:
    late = 0.0 if clock.jumps else float(clock.start)  # a piece of a longer file counts from that file's start
    if container.duration and container.duration / av.time_base > late:
        return container.duration / av.time_base - late
    return _seconds(stream.duration, stream.time_base)


def _ends_inside_a_packet(container: av.container.InputContainer) -> bool:
    """Whether the last packet of an MPEG transport stream is not whole: all have one size, and it says no length."""
    size = container.size if container.format.name == "mpegts" else 0
    return size > 0 and all(size % each for each in TRANSPORT_PACKETS)


def _said_length(stream: av.VideoStream, start: float) -> float | None:
    """Seconds of pictures that a film says it has, by itself, not as FFmpeg estimates it from a part of it."""
    if stream.container.format.name in ("mpegts", "mpeg"):
        return None
    tag = next((value for key, value in stream.metadata.items() if key.upper() == "DURATION"), "")
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d*)?)", tag)
    if found:
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) - start
    return _seconds(stream.duration, stream.time_base)


def _horizon(container: av.container.InputContainer, duration: float | None, clock: Clock) -> float:
    """Seconds beyond which a time can only be a damaged one."""
    late = max(0.0, float(Fraction(container.start_time or 0, av.time_base) - clock.start))
    return math.inf if duration is None else duration + late + 1


def _seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    return float(ticks * time_base) if ticks and ticks > 0 and time_base else None


def _shown_aspect(aspect: Fraction | None, sideways: bool) -> Fraction | None:
    return 1 / aspect if aspect and sideways else aspect


def _told(metadata: dict[str, str]) -> dict[str, str]:
    own = ("major_brand", "minor_version", "compatible_brands", "encoder")
    return {key: value for key, value in metadata.items() if key.lower() not in own}
