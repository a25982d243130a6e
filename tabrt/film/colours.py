"""Colours that eight bits of sRGB cannot hold: high dynamic range, deep grey, and what lies under transparency."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import av
import cv2
import numpy as np
from av.filter import Graph

PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
LINEAR = 8
SDR_WHITE = 203.0  # cd/m², the reference white of ITU-R BT.2408
PQ_PEAK = 10_000.0  # cd/m²
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2  # cd/m² of the nominal display, and its system gamma (ITU-R BT.2100)
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593])
BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)  # linear light (ITU-R BT.2087)
HALD_LEVEL = 8  # a colour table of 64 × 64 × 64
UNUSED = 0.5  # of its range that a grey picture leaves empty before it is stretched
DIM = 0.25  # of their range, below which colours above 8 bits are brightened: 14 bits or fewer in 16
TAILS = 0.1, 99.9  # percentiles of grey that become black and white: a few dead pixels count for nothing
SETTLING = 5.0  # seconds in which the range of a film follows its pictures
PAPER = 255  # grey behind what is transparent


class ToneMap:
    """Pictures in PQ or HLG become uint8 (H, W, 3) BGR in sRGB: reference white stays white, what is above is cut."""

    def __init__(self, picture: av.VideoFrame):
        self.key = _graph_key(picture)
        clock = Fraction(1, 1000)
        self._graph = graph = Graph()
        graph.threads = 1
        self._source = graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=clock
        )
        table = _colour_table(picture.color_trc)
        side = graph.add_buffer(width=table.width, height=table.height, format=table.format, time_base=clock)
        rgb = graph.add("format", "rgb48le")  # planar formats come out of haldclut with their planes exchanged
        look_up = graph.add("haldclut", "interp=tetrahedral:clut=first")
        bgr = graph.add("format", "bgr24")
        self._sink = graph.add("buffersink")
        self._source.link_to(rgb)
        rgb.link_to(look_up, 0, 0)
        side.link_to(look_up, 0, 1)
        look_up.link_to(bgr)
        bgr.link_to(self._sink)
        graph.configure()
        side.push(table)
        side.push(None)
        self._count = 0

    def fits(self, picture: av.VideoFrame) -> bool:
        return self.key == _graph_key(picture)

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        times = picture.pts, picture.time_base
        picture.pts, picture.time_base = self._count, Fraction(1, 1000)
        self._count += 1
        self._source.push(picture)
        picture.pts, picture.time_base = times
        return cast(av.VideoFrame, self._sink.pull()).to_ndarray()


def is_hdr(picture: av.VideoFrame) -> bool:
    return picture.color_trc in (PQ, HLG)


def _graph_key(picture: av.VideoFrame) -> tuple:
    return picture.width, picture.height, picture.format.name, int(picture.color_trc), int(picture.colorspace)


def _colour_table(transfer: int) -> av.VideoFrame:
    """A Hald image: from each colour as it is coded in BT.2020 to sRGB, red fastest."""
    steps = np.linspace(0, 1, HALD_LEVEL**2)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    coded = np.stack([red, green, blue], axis=-1)
    light = (_light_of_pq(coded) if transfer == PQ else _light_of_hlg(coded)) / SDR_WHITE
    values = srgb(light @ BT2020_TO_BT709.T)
    side = HALD_LEVEL**3
    table = np.round(values.reshape(side, side, 3) * 65535).astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(table, format="rgb48le")
    frame.pts, frame.time_base = 0, Fraction(1, 1000)
    return frame


def _light_of_pq(coded: np.ndarray) -> np.ndarray:
    """cd/m² of values 0…1 coded by SMPTE ST 2084."""
    m1, m2 = 2610 / 16384, 2523 / 32
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    power = coded ** (1 / m2)
    return PQ_PEAK * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _light_of_hlg(coded: np.ndarray) -> np.ndarray:
    """cd/m² on the nominal display of values (…, 3) 0…1 coded by ARIB STD-B67."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luma = (scene @ BT2020_LUMA)[..., None]
    return HLG_PEAK * np.maximum(luma, 1e-9) ** (HLG_GAMMA - 1) * scene


def srgb(light: np.ndarray) -> np.ndarray:
    """Linear light, cut to 0…1, as sRGB codes it, 0…1 (IEC 61966-2-1)."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


class Range:
    """What becomes black and what white of values that use a part of their range. Follows a film slowly."""

    def __init__(self, rate: float):
        self._share = min(1.0, 1 / (SETTLING * rate))
        self._ends: np.ndarray | None = None

    def grey(self, values: np.ndarray, full: float) -> np.ndarray:
        """Grey (H, W) of 0…full as uint8 (H, W), stretched where it leaves half of that empty."""
        low, high = self._follow(np.percentile(_sample(values), TAILS))
        if high - low > (1 - UNUSED) * full and low >= 0 and high <= full:
            low, high = 0.0, full
        return _eight_bits(values, low, high)

    def colour(self, values: np.ndarray, full: float) -> np.ndarray:
        """Colours (H, W, 3) of 0…full as uint8, brightened where they use less than a quarter of that."""
        high = self._follow(np.percentile(_sample(values), TAILS))[1]
        if DIM * full < high <= full:
            high = full
        return _eight_bits(values, 0.0, high)

    def _follow(self, ends: np.ndarray) -> tuple[float, float]:
        before = ends if self._ends is None else self._ends
        self._ends = before + self._share * (ends - before)
        return float(self._ends[0]), float(self._ends[1])


def _sample(values: np.ndarray) -> np.ndarray:
    sample = values[::4, ::4] if min(values.shape[:2]) >= 256 else values
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    return sample if sample.size else np.zeros(1)


def _eight_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 of values between low and high, which become 0 and 255; what is no number becomes 0."""
    scale = 255 / max(high - low, 1e-9)
    scaled = values.astype(np.float32)
    scaled -= low
    scaled *= scale
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


def on_paper(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4) BGRA laid on white: (H, W, 3) BGR. What is fully transparent does not show."""
    alpha = image[:, :, 3]
    colours = np.ascontiguousarray(image[:, :, :3])
    if alpha.min() == 255:
        return colours
    weights = cv2.cvtColor(alpha, cv2.COLOR_GRAY2BGR)
    laid = cv2.multiply(colours, weights, scale=1 / 255)
    return cv2.add(laid, cv2.multiply(255 - weights, np.full_like(weights, PAPER), scale=1 / 255))
