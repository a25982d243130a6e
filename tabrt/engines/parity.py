"""How far an engine's points may lie from those of torch float32, and on which crops that is judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime

from tabrt.card import MAX_BATCH, ModelCard
from tabrt.detection import Detector
from tabrt.errors import TabrtError
from tabrt.film import open_film
from tabrt.geometry import CROP_SIZE, Crop
from tabrt.heatmaps import decode

# Crop px: how far SHARES (%) of the points may move from torch float32's. Where a map has two level peaks, the last bit
# decides between its points, which says nothing of an engine: so not all of them, but none beyond FARTHEST. In int8,
# where a map is wide and level, as along the jaw, 256 levels cannot tell where its middle is; what that costs, the NME
# says.
BOUNDS = {"fp32": 0.02, "fp16": 0.25, "int8": 1.0}
SHARES = {"fp32": 99.8, "fp16": 99.8, "int8": 95.0}
FARTHEST = {"fp32": 2.0, "fp16": 2.0, "int8": np.inf}
SAME_MAPS = 1e-4  # of the largest value: float32 maps that differ by less are the same, whatever their points do
# Parts that stay in float32, one more at each try, when the network in float16 moves points too far.
HALF_PARTS = ((), ("balt.out",), ("balt.out", "balt.decoders"), ("balt",), ("balt", "scbe.stem"))
DEMO_FILM = Path(__file__).parents[1] / "demo" / "pexels_face.mp4"
SAMPLE = 32  # crops
STEP = 14  # frames of the demo film between two crops


@dataclass(frozen=True)
class Shift:
    """How far points moved between two engines, in crop px, and the largest difference between their maps."""

    worst: float
    percentile_95: float  # what 95 of 100 points do not exceed
    median: float
    maps: float
    nearly: float = np.inf  # what 998 of 1,000 points do not exceed
    relative: float = np.inf  # `maps` over the largest value of the true ones

    @classmethod
    def between(cls, truth: np.ndarray, maps: np.ndarray, card: ModelCard) -> Shift:
        """Compare landmark maps (N, L, 64, 64). Infinite where a map is not finite."""
        if not np.isfinite(maps).all():
            return cls(np.inf, np.inf, np.inf, np.inf)
        here, there = (decode(values, card.decoding, card.offset)[0] for values in (truth, maps))
        moved = np.linalg.norm(here - there, axis=-1)
        median, most, nearly, worst = np.percentile(moved, (50, 95, 99.8, 100)).tolist()
        difference = float(np.abs(truth - maps).max())
        return cls(worst, most, median, difference, nearly, difference / max(float(np.abs(truth).max()), 1e-12))

    def bounded(self, precision: str) -> float:
        """The shift that BOUNDS limits: that of SHARES."""
        return self.percentile_95 if precision == "int8" else self.nearly

    def objection(self, precision: str) -> str | None:
        """Why points moved too far for a precision; None where they did not."""
        if precision == "fp32" and self.relative <= SAME_MAPS:
            return None
        if not self.bounded(precision) <= BOUNDS[precision]:
            return (
                f"{precision} moves points by {self.bounded(precision):.2f} px of 256 ({SHARES[precision]:g} % of them "
                f"by no more); at most {BOUNDS[precision]} is allowed"
            )
        if not self.worst <= FARTHEST[precision]:
            return (
                f"{precision} moves a point by {self.worst:.2f} px of 256; at most {FARTHEST[precision]:g} is allowed"
            )
        return None


def quiet_session(model: bytes) -> onnxruntime.InferenceSession:
    """A serialised model in ONNX Runtime, which then warns of nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_maps(model: bytes, crops: np.ndarray) -> np.ndarray:
    """Landmark maps of a serialised model in ONNX Runtime."""
    session = quiet_session(model)
    batches = (crops[i : i + MAX_BATCH] for i in range(0, len(crops), MAX_BATCH))
    return np.concatenate([session.run(["landmarks"], {"crops": batch})[0] for batch in batches])


def sample_crops(count: int = SAMPLE, size: int = CROP_SIZE) -> np.ndarray:
    """Real crops uint8 (count, size, size, 3) RGB of the demo film's face, rolled, scaled and shifted a little."""
    spread = np.random.default_rng(0)
    crops: list[np.ndarray] = []
    detector = Detector()
    try:
        with open_film(DEMO_FILM) as film:
            for frame in film:
                if len(crops) >= count:
                    break
                if frame.index % STEP == 0:
                    boxes = detector(frame.image, 1)
                    crops += [_varied(Crop.around(box, size=size), spread).cut(frame.image) for box in boxes]
    finally:
        detector.close()
    if not crops:
        raise TabrtError(f"no face was found in {DEMO_FILM}; install tabrt again")
    return np.stack([crops[i % len(crops)] for i in range(count)])


def _varied(crop: Crop, spread: np.random.Generator) -> Crop:
    x, y = np.asarray(crop.centre) + spread.normal(0, 0.03, 2) * crop.side
    side, roll = crop.side * spread.uniform(0.9, 1.15), crop.roll + spread.normal(0, 0.2)
    return replace(crop, centre=(float(x), float(y)), side=side, roll=roll)
