"""Films made by an encoder, and what tests ask of films."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tabrt.film.reading import open_film
from tabrt.film.writing import FilmWriter

SIZE = 96, 64  # px, width and height


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A ramp with a white square at the top left, a red one at the top right and a bar that moves."""
    width, height = size
    image = np.full((height, width, 3), 60, np.uint8)
    image[:, :, 1] = np.linspace(20, 120, width).astype(np.uint8)
    image[: height // 4, : width // 4] = 255
    image[: height // 4, width - width // 4 :] = 0, 0, 255
    image[height // 2 :, (number * 3) % width] = 255, 200, 0
    return image


def make_film(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    frames: int = 12,
    ticks: list[int] | None = None,
    clock: Fraction = Fraction(1, 30),
    size: tuple[int, int] = SIZE,
    sound: tuple[str, ...] = (),
    rotation: float | None = None,
    options: dict[str, str] | None = None,
    **flips: bool,
) -> Path:
    """A film made by an encoder, at `ticks` of `clock`, with a tone of half a second in each track of sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = clock
        if rotation is not None:
            stream.set_display_rotation(rotation, **flips)
        tracks = [container.add_stream(name, rate=48000, layout="mono") for name in sound]
        for number, tick in enumerate(ticks or range(frames)):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="bgr24").reformat(format=pixels)
            frame.pts, frame.time_base = tick, clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for track in tracks:
            tone = (np.sin(np.arange(24000) / 9) * 9000).astype(np.int16)[None]
            samples = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 48000, 0, Fraction(1, 48000)
            container.mux(track.encode(samples))
            container.mux(track.encode(None))
    return path


def times_of(path: Path) -> list[float]:
    with open_film(path) as film:
        return [frame.time for frame in film]


def packets_of(path: Path) -> list[list[bytes]]:
    """The bytes of each packet of each track of sound."""
    with av.open(str(path)) as container:
        tracks = {stream.index: [] for stream in container.streams.audio}
        for packet in container.demux():
            if packet.size and packet.stream_index in tracks:
                tracks[packet.stream_index].append(bytes(packet))
        return list(tracks.values())


def rewrite(source: Path, out: Path, part: dict | None = None, **options) -> FilmWriter:
    with (
        open_film(source, **part or {}) as film,
        FilmWriter(out, film.width, film.height, film.rate, film=film, **options) as writer,
    ):
        for frame in film:
            writer.write(frame.image, frame.time)
    return writer


def close_to(image: np.ndarray, x: float, y: float, colour: tuple[int, int, int]) -> bool:
    """Whether the pixel at this share of width and height is about of this colour."""
    height, width = image.shape[:2]
    return bool(np.abs(image[int(y * (height - 1)), int(x * (width - 1))].astype(int) - colour).max() < 60)
