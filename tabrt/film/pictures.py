"""From what a decoder gives to the pictures that tabrt looks at: uint8 (H, W, 3) BGR, upright, of one size."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, cast

import av
import cv2
import numpy as np
from av.filter import Graph
from av.video.reformatter import VideoReformatter

from tabrt.film.colours import LINEAR, Range, ToneMap, is_hdr, on_paper, srgb

ITU709, UNSAID = 1, 2  # colour spaces: of swscale, and none said (ITU-T H.273)
LARGE = 640 * 480  # px: above it, several threads are worth their waking
HD = 720  # px: pictures of this height that say nothing of their colours are in BT.709, as players take them
EVEN_LIGHT = 255 * srgb(np.arange(4096) / 4095)  # of linear light in 12 bits


class Converter:
    """Makes uint8 (H, W, 3) BGR in sRGB of decoded pictures, as they lie in the film.

    HDR is tone-mapped; grey and RGB deeper than 8 bits are stretched where they use a small part of their range, over
    a film as if by a slow hand; transparency is laid on white. `notes` says what was done. rate: pictures a second.
    """

    def __init__(self, rate: float = 25.0):
        self.notes: list[str] = []
        self._reformatter = VideoReformatter()
        self._tone_map: ToneMap | None = None
        self._range = Range(rate)
        self._formats: dict[str, tuple[bool, bool, bool]] = {}

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        if is_hdr(picture):
            return self._tone_mapped(picture)
        deep, grey, transparent = self._kind(picture.format)
        if not deep and not transparent:
            return self._as(picture, "bgr24")
        read = self._deep_grey if grey else self._deep_colour
        if not transparent:
            return read(picture)
        layered = self._as(picture, "bgra")
        if deep:
            layered = np.dstack([read(picture), layered[:, :, 3]])
        return on_paper(layered)

    def _kind(self, pixels: av.VideoFormat) -> tuple[bool, bool, bool]:
        """Whether a pixel format may leave much of its range unused, is grey, may be transparent."""
        kind = self._formats.get(pixels.name)
        if kind is None:
            colours = [part for part in pixels.components if not part.is_alpha]
            grey = len(colours) == 1 and not pixels.has_palette
            deep = (grey or pixels.is_rgb) and max(part.bits for part in colours) > 8
            transparent = pixels.has_palette or len(colours) < len(pixels.components)
            kind = self._formats[pixels.name] = deep, grey, transparent
        return kind

    def _as(self, picture: av.VideoFrame, pixels: str) -> np.ndarray:
        matrix = ITU709 if picture.colorspace == UNSAID and picture.height >= HD else None
        # swscale's fast way cuts down: a step of 255 too dark where there is colour, half of one in grey. Its exact way
        # (ACCURATE_RND | FULL_CHR_H_INT) takes 6 ms of a core for a 1080p picture in place of 0.6, by way of gbrp 4.
        threads = 0 if picture.width * picture.height > LARGE else 1  # 0: as many as there are cores
        return self._reformatter.reformat(picture, format=pixels, src_colorspace=matrix, threads=threads).to_ndarray()

    def _tone_mapped(self, picture: av.VideoFrame) -> np.ndarray:
        if self._tone_map is None or not self._tone_map.fits(picture):
            self._tone_map = ToneMap(picture)
        self._note("HDR is tone-mapped: 203 cd/m² becomes white, in BT.709")
        return self._tone_map(picture)

    def _deep_grey(self, picture: av.VideoFrame) -> np.ndarray:
        if picture.format.name.startswith("grayf"):
            values, full = self._as(picture, "grayf32le"), 1.0
        else:
            values, full = self._as(picture, "gray16le"), 65535.0
        return cv2.cvtColor(self._range.grey(values, full), cv2.COLOR_GRAY2BGR)

    def _deep_colour(self, picture: av.VideoFrame) -> np.ndarray:
        values, full = self._as(picture, "bgr48le"), 65535.0
        image = self._range.colour(values, full)
        if picture.color_trc != LINEAR:
            return image
        return EVEN_LIGHT[np.minimum(values >> 4, 4095)].astype(np.uint8)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def deinterlaced(pictures: Iterable[av.VideoFrame], notes: list[str]) -> Iterator[av.VideoFrame]:
    """The pictures one by one, those that say they are two half pictures made whole (FFmpeg's bwdif)."""
    weaver: _Weaver | None = None
    for picture in pictures:
        if weaver is None and not picture.interlaced_frame:
            yield picture
            continue
        if weaver is not None and not weaver.fits(picture):
            yield from weaver.flush()
            weaver = None
        if weaver is None:
            weaver = _Weaver(picture)
            note = "interlaced pictures are deinterlaced"
            if note not in notes:
                notes.append(note)
        yield from weaver(picture)
    if weaver is not None:
        yield from weaver.flush()


class _Weaver:
    """bwdif: one picture out for one in, a picture later, with its own time."""

    def __init__(self, picture: av.VideoFrame):
        self._shape = picture.width, picture.height, picture.format.name
        self._times: deque[tuple[int | None, Any, int]] = deque()
        self._count = 0
        graph = Graph()
        graph.threads = 1
        clock = Fraction(1, 1000)
        self._source = graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=clock
        )
        weave = graph.add("bwdif", "mode=send_frame:deint=interlaced")
        self._sink = graph.add("buffersink")
        self._source.link_to(weave)
        weave.link_to(self._sink)
        graph.configure()
        self._graph = graph

    def fits(self, picture: av.VideoFrame) -> bool:
        return self._shape == (picture.width, picture.height, picture.format.name)

    def __call__(self, picture: av.VideoFrame) -> Iterator[av.VideoFrame]:
        self._times.append((picture.pts, picture.time_base, picture.duration))
        picture.pts, picture.time_base = self._count, Fraction(1, 1000)
        self._count += 1
        self._source.push(picture)
        yield from self._come()

    def flush(self) -> Iterator[av.VideoFrame]:
        self._source.push(None)
        yield from self._come()

    def _come(self) -> Iterator[av.VideoFrame]:
        while self._times:
            try:
                picture = cast(av.VideoFrame, self._sink.pull())
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            picture.pts, picture.time_base, picture.duration = self._times.popleft()
            yield picture


def turned(picture: av.VideoFrame, codec: str) -> tuple[np.ndarray, bool]:
    """(2, 2): where the picture wants x and y to go on the screen, in rows (x to x', y'), (y to x', y').

    And whether that is all it says: EXIF may stand beside it, which PyAV 18 has no name for.
    """
    if codec in ("png", "apng"):  # PyAV 18 and 19 free what lies beside a colour profile twice
        return _turn(picture.rotation), False
    try:
        data = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:
        return _turn(picture.rotation), False
    if data is None:
        return _turn(0), True
    return np.frombuffer(cast(Any, data), np.int32).reshape(3, 3)[:2, :2] / 65536, True


def _turn(degrees: float) -> np.ndarray:
    """The display matrix of a turn against the clock."""
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def is_sideways(matrix: np.ndarray) -> bool:
    return bool(abs(matrix[0, 1]) > abs(matrix[0, 0]))


def upright(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and mirror by quarter turns, the nearest that the display matrix asks for."""
    (a, b), (c, d) = matrix
    if abs(b) > abs(a):
        image, a, d = cv2.transpose(image), c, b
    if a < 0 and d < 0:
        return cv2.flip(image, -1)
    if a < 0:
        return cv2.flip(image, 1)
    return cv2.flip(image, 0) if d < 0 else image


def fit(image: np.ndarray, width: int, height: int, stretch: float = 1.0) -> np.ndarray:
    """Image uint8 (H, W, 3) scaled to (height, width, 3), its shape kept, with black bars.

    stretch: how much wider a pixel of the result is shown than one of the image, each by its own height.
    """
    shape = image.shape[1] / stretch, float(image.shape[0])
    scale = min(width / shape[0], height / shape[1])
    inner = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    shrinks = inner[0] < image.shape[1] and inner[1] < image.shape[0]
    small = cv2.resize(image, inner, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    fitted = np.zeros((height, width, 3), np.uint8)
    fitted[top : top + inner[1], left : left + inner[0]] = small
    return fitted
