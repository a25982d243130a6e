"""What goes beside the pictures of a film: sound and subtitles, from the thread that reads to the one that writes."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, cast

import av
import av.bitstream
from av.error import FFmpegError
from av.subtitles.stream import SubtitleStream

from tabrt.film.times import Part

COPIED_SOUND = {  # what players of a container take as it is; None: whatever the container can hold
    ".mp4": {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"},
    ".m4v": {"aac", "mp3", "ac3", "eac3", "alac"},
    ".mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_f32le"},
    ".mkv": None,
    ".webm": {"opus", "vorbis"},
}
COPIED_SUBTITLES = {
    ".mp4": {"mov_text"},
    ".m4v": {"mov_text"},
    ".mov": {"mov_text"},
    ".mkv": {"subrip", "ass", "ssa", "webvtt", "text", "dvd_subtitle", "hdmv_pgs_subtitle", "dvb_subtitle"},
    ".webm": {"webvtt"},
}
NEW_SUBTITLES = {".mkv": "subrip", ".webm": "webvtt"}  # mov_text elsewhere
EARLY = 1e-6  # seconds: times this near are the same
TOLD = 0.1  # seconds of sound that may be lost without a word
MOST_WAITING = 2**28  # bytes of sound that lies before its pictures in a file


class Soundtrack:
    """Packets of sound and subtitles on their way from a Film, in the order of the file, on the film's clock.

    `streams` are those of the file. `end`: seconds when the last picture stops being shown; None until all pictures
    were given. One thread puts, another takes. `held`: by who looks at the streams, or is about to close their file,
    for to look at one of a closed file ends the process.
    """

    def __init__(self, streams: Sequence[av.stream.Stream], part: Part | None):
        self.streams = list(streams)
        self.wanted = False
        self.start = -math.inf  # seconds: of a part, when its first picture is shown
        self.end: float | None = None
        self.lost: dict[int, Fraction] = {}  # seconds, by stream, at times that no film of this length has
        self.waiting: deque[av.Packet] = deque()
        self.held = threading.Lock()
        self._changing, self._bytes = threading.Lock(), 0  # of what waits
        self._part = part or Part()

    def put(self, packet: av.Packet, horizon: float = math.inf) -> None:
        """Add a packet that lies in the part that is wanted, and not beyond what a film can have."""
        time = starts(packet)
        wanted = time < self._part.end and (self._part.start <= 0 or time >= self._part.start - EARLY)
        with self._changing:
            if time > horizon or (wanted and self._bytes + packet.size > MOST_WAITING):
                self.lost[packet.stream_index] = self.lost.get(packet.stream_index, Fraction(0)) + length(packet)
            elif wanted:
                self.waiting.append(packet)
                self._bytes += packet.size

    def take(self, until: float) -> Iterator[av.Packet]:
        """The packets that start by `until` seconds, each once."""
        while (packet := self._first(until)) is not None:
            if starts(packet) >= self.start:
                yield packet

    def _first(self, until: float) -> av.Packet | None:
        with self._changing:
            if not self.waiting or starts(self.waiting[0]) > until:
                return None
            packet = self.waiting.popleft()
            self._bytes -= packet.size
            return packet

    def clear(self) -> None:
        with self._changing:
            self.waiting.clear()
            self._bytes = 0


def starts(packet: av.Packet) -> float:
    """Seconds at which a packet of a Film starts; -inf where it does not say."""
    ticks = packet.dts if packet.pts is None else packet.pts
    return -math.inf if ticks is None else float(ticks * packet.time_base)


def length(packet: av.Packet) -> Fraction:
    """Seconds for which a packet lasts; 0 where it does not say."""
    return (packet.duration or 0) * packet.time_base if packet.time_base else Fraction(0)


def decoded(packet: av.Packet | None, decoder: Any = None) -> list | None:
    """The pictures or sounds a packet completes; None when it is damaged. decoder: one to use, not the stream's own."""
    if packet is None:
        return None
    try:
        return packet.decode() if decoder is None else decoder.decode(packet if packet.size else None)
    except av.error.EOFError:
        return []
    except FFmpegError:
        return None


class Tracks:
    """The tracks of sound and subtitles of a film being written, filled from a Soundtrack.

    words: take the subtitles and the titles of tracks, too. `notes`: a line a track that could not be copied as it is,
    or lost something.
    """

    def __init__(self, container: av.container.OutputContainer, soundtrack: Soundtrack, suffix: str, words: bool):
        self.notes: list[str] = []
        self._soundtrack = soundtrack
        self._tracks: dict[int, Copy | Transcode | Rewritten] = {}
        self._names: dict[int, str] = {}
        numbers = {"audio": 0, "subtitle": 0}
        for stream in soundtrack.streams:
            numbers[stream.type] += 1
            kind = "sound" if stream.type == "audio" else "subtitle"
            self._names[stream.index] = name = f"{kind} track {numbers[stream.type]}"
            if kind == "subtitle" and not words:
                continue
            add: Callable[..., None] = self._add_sound if kind == "sound" else self._add_subtitles
            add(container, stream, suffix, name)
        if not words:
            for made in container.streams:
                for name in set(made.metadata) - {"language"}:  # titles may name who is seen
                    del made.metadata[name]

    def _add_sound(
        self, container: av.container.OutputContainer, stream: av.AudioStream, suffix: str, name: str
    ) -> None:
        if stream.codec_context is None or not stream.rate or not stream.channels:
            self.notes.append(f"{name} is left out: it is damaged, or of an unknown codec")
            return
        codec = stream.codec_context.codec.canonical_name
        copied = COPIED_SOUND[suffix]
        if copied is None or codec in copied:
            with contextlib.suppress(ValueError):
                self._tracks[stream.index] = Copy(container, stream)
                return
        new = "libopus" if suffix == ".webm" else "aac"
        try:
            self._tracks[stream.index] = Transcode(container, stream, new)
            self.notes.append(f"{name} becomes {new}: {codec} is not for {suffix}")
        except (FFmpegError, ValueError):
            self.notes.append(f"{name} is left out: {codec} cannot be decoded")

    def _add_subtitles(
        self,
        container: av.container.OutputContainer,
        stream: SubtitleStream,
        suffix: str,
        name: str,
    ) -> None:
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else "an unknown codec"
        if codec in COPIED_SUBTITLES[suffix]:
            with contextlib.suppress(ValueError):
                self._tracks[stream.index] = Copy(container, stream)
                return
        new = NEW_SUBTITLES.get(suffix, "mov_text")
        try:
            self._tracks[stream.index] = Rewritten(container, stream, new)
        except (FFmpegError, ValueError, LookupError):
            self.notes.append(f"{name} is left out: {codec} is not for {suffix}; write an .mkv to keep it")

    def packets(self, packet: av.Packet, offset: Fraction) -> list[av.Packet]:
        """What goes into the film for a packet of the Soundtrack, `offset` seconds earlier than it lies there."""
        track = self._tracks.get(packet.stream_index)
        return [] if track is None else track.packets(packet, offset)

    def flush(self) -> list[av.Packet]:
        """The last packets. `notes` is whole afterwards."""
        packets = [packet for track in self._tracks.values() for packet in track.flush()]
        for index, track in self._tracks.items():
            lost = float(track.lost + self._soundtrack.lost.get(index, 0))
            if lost > TOLD:
                self.notes.append(f"{self._names[index]}: {lost:.1f} s are lost, damaged or out of order")
        return packets


class _Forwards:
    """Lets packets through whose times run forwards; a damaged film has others, which no container holds."""

    def __init__(self) -> None:
        self.lost = Fraction(0)  # seconds
        self._last: Fraction | None = None

    def __call__(self, packets: list[av.Packet]) -> list[av.Packet]:
        return [packet for packet in packets if self._later(packet)]

    def _later(self, packet: av.Packet) -> bool:
        dts, pts = packet.dts, packet.pts
        time = None if dts is None or pts is None or pts < dts else dts * Fraction(packet.time_base or 0)
        if time is None or (self._last is not None and time <= self._last):
            self.lost += length(packet)
            return False
        self._last = time
        return True


class Copy:
    """A track whose packets go into the film untouched."""

    def __init__(self, container: av.container.OutputContainer, stream: av.stream.Stream):
        self._stream = container.add_stream_from_template(stream, opaque=True)
        describe(self._stream, stream)
        self._forwards = _Forwards()
        # Broadcast AAC says in each packet what files say once.
        loose = stream.codec_context.name == "aac" and not stream.codec_context.extradata
        self._filter = av.bitstream.BitStreamFilterContext("aac_adtstoasc", stream) if loose else None

    @property
    def lost(self) -> Fraction:
        return self._forwards.lost

    def packets(self, packet: av.Packet, offset: Fraction) -> list[av.Packet]:
        """The packet, `offset` seconds earlier."""
        shift = round(offset / packet.time_base)
        packet.dts = packet.pts if packet.dts is None else packet.dts
        packet.pts = packet.dts if packet.pts is None else packet.pts
        if packet.dts is None or packet.pts is None:
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


class Transcode:
    """A track of sound decoded, and encoded as something that players of the container take."""

    def __init__(self, container: av.container.OutputContainer, stream: av.AudioStream, codec: str):
        rates = av.codec.Codec(codec, "w").audio_rates or [48000]
        rate = stream.rate if stream.rate in rates else 48000
        layout, bit_rate = ("mono", 96_000) if stream.channels == 1 else ("stereo", 192_000)
        self._encoder: Any = container.add_stream(codec, rate=rate, layout=layout, bit_rate=bit_rate)
        describe(self._encoder, stream)
        self._forwards = _Forwards()
        self._damaged = Fraction(0)  # seconds
        self._resampler: av.AudioResampler | None = None
        self._kind: tuple | None = None  # of the sound that the resampler takes; joined pieces may differ

    @property
    def lost(self) -> Fraction:
        return self._damaged + self._forwards.lost

    def packets(self, packet: av.Packet, offset: Fraction) -> list[av.Packet]:
        """What the encoder gives for the packet, `offset` seconds earlier; nothing for a damaged one."""
        out: list[av.Packet] = []
        sounds = decoded(packet)
        if sounds is None:
            self._damaged += length(packet)
        for sound in sounds or ():
            if sound.pts is not None:
                sound.pts -= round(offset / sound.time_base)
            try:
                out += self._encode(sound)
            except (FFmpegError, ValueError):  # a damaged packet may say what no sound can be
                self._damaged += Fraction(sound.samples, max(1, sound.sample_rate))
        return self._forwards(out)

    def _encode(self, sound: av.AudioFrame) -> list[av.Packet]:
        kind = sound.format.name, sound.layout.name, sound.sample_rate
        packets: list[av.Packet] = []
        if kind != self._kind:
            packets = self._rest()
            context, self._kind = self._encoder.codec_context, kind
            self._resampler = av.AudioResampler(context.format, context.layout, context.sample_rate)
        return packets + self._encoded(self._resampler.resample(sound) if self._resampler else [])

    def _rest(self) -> list[av.Packet]:
        """What the resampler still holds."""
        return self._encoded(self._resampler.resample(None)) if self._resampler else []

    def _encoded(self, sounds: Iterable[av.AudioFrame]) -> list[av.Packet]:
        return [packet for sound in sounds for packet in self._encoder.encode(sound)]

    def flush(self) -> list[av.Packet]:
        with contextlib.suppress(FFmpegError, ValueError):
            return self._forwards([*self._rest(), *self._encoder.encode(None)])
        return []


class Rewritten:
    """A track of subtitles in words, written as the container takes them."""

    lost = Fraction(0)

    def __init__(self, container: av.container.OutputContainer, stream: SubtitleStream, codec: str):
        self._decoder: Any = stream.codec_context
        if self._decoder is None or self._decoder.codec.canonical_name not in WORDS:
            raise ValueError("subtitles as pictures")
        self._decoder.open(strict=False)
        header = self._decoder.subtitle_header
        self._stream = cast(Any, container.add_stream(codec))
        self._stream.codec_context.subtitle_header = header
        self._stream.codec_context.time_base = Fraction(1, 1000)
        describe(self._stream, stream)
        self._forwards = _Forwards()

    def packets(self, packet: av.Packet, offset: Fraction) -> list[av.Packet]:
        time = starts(packet)
        try:
            words = self._decoder.decode2(packet)
            if words is None or not math.isfinite(time):
                return []
            new = self._stream.codec_context.encode_subtitle(words)
        except (FFmpegError, ValueError):
            return []
        clock = Fraction(1, 1000)
        new.pts = new.dts = round((Fraction(time) - offset) / clock)
        new.duration = round(length(packet) / clock)
        new.time_base = clock
        new.stream = self._stream
        return self._forwards([new])

    def flush(self) -> list[av.Packet]:
        return []


WORDS = {"subrip", "srt", "ass", "ssa", "webvtt", "text", "mov_text"}


def describe(new: av.stream.Stream, old: av.stream.Stream) -> None:
    """Keep the language and title of a track, and which one plays first."""
    new.metadata.update({key: old.metadata[key] for key in ("language", "title") if key in old.metadata})
    new.disposition = old.disposition
