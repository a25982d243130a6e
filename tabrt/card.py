"""The card of a model: what it is and how its maps are read. It travels inside the model file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field

from tabrt.errors import TabrtError
from tabrt.geometry import CROP_SIZE, CROP_SIZES, STRIDE
from tabrt.heatmaps import DECODINGS
from tabrt.topology import topology_named

PRECISIONS = ("fp32", "fp16", "int8")
CARD_KEY = "tabrt"  # of the metadata in an ONNX file
MAX_BATCH = 16  # crops in one run: bounds the memory, and is the range TensorRT is built for
MAX_CARD_CHARACTERS = 65_536
MAX_TEXT_CHARACTERS = 4_096


@dataclass(frozen=True)
class ModelCard:
    """What a model is; it travels inside the model file, so a file is enough to run.

    topology: landmark scheme. crop_margin: side of the crop over the longer side of the points' box. crop_size: side of
    the picture that the network takes, px. decoding and offset: how its maps become points, `tabrt.heatmaps.decode`.
    figures: what was measured, by name.
    Raises TabrtError for a value that is not allowed.
    """

    name: str
    topology: str = "wflw98"
    hourglasses: int = 1
    width: str = "lite"
    crop_margin: float = 1.25
    precision: str = "fp32"
    decoding: str = "softmax"
    offset: float = 1.5  # crop px of the middle of cell 0
    training_data: str = "not stated"
    licence: str = "not stated"
    version: str = "1"
    date: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    crop_size: int = CROP_SIZE

    def __post_init__(self) -> None:
        for name in ("name", "topology", "width", "training_data", "licence", "version", "date"):
            value = getattr(self, name)
            _require(isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS, name, "a text of bounded length")
        topology_named(self.topology)
        _require(_is_whole(self.hourglasses) and 1 <= self.hourglasses <= 8, "hourglasses", "a whole number 1…8")
        _require(_is_number(self.crop_margin) and 1 <= self.crop_margin <= 4, "crop_margin", "a number 1…4")
        _require(_is_number(self.offset) and abs(self.offset) <= STRIDE, "offset", f"a number within ±{STRIDE}")
        sized = _is_whole(self.crop_size) and self.crop_size in CROP_SIZES
        _require(sized, "crop_size", f"one of {', '.join(map(str, CROP_SIZES))}")
        _require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")
        _require(self.decoding in DECODINGS, "decoding", f"one of {', '.join(DECODINGS)}")
        named = isinstance(self.figures, dict) and all(isinstance(key, str) for key in self.figures)
        _require(named and all(map(_is_number, self.figures.values())), "figures", "names with finite numbers")

    @property
    def points(self) -> int:
        return topology_named(self.topology).points

    @property
    def map_size(self) -> int:
        """The side of its maps, in cells."""
        return self.crop_size // STRIDE

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """The card written by `to_json`. Raises TabrtError for text that is not a card."""
        if len(text) > MAX_CARD_CHARACTERS:
            raise TabrtError(f"the model card has {len(text)} characters; at most {MAX_CARD_CHARACTERS} are read")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TabrtError("the model card is not JSON; export the model again with tabrt export") from error
        if not isinstance(values, dict) or "name" not in values:
            raise TabrtError("the model card has no name; export the model again with tabrt export")
        unknown = values.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            found = ", ".join(sorted(unknown))[:200]
            raise TabrtError(f"the model card has unknown fields ({found}); it needs a newer tabrt")
        return cls(**values)


def _require(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise TabrtError(f"model card: {name} must be {expected}; export the model again with tabrt export")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
