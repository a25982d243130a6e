"""One frozen description of a network. Variants are data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from tabrt.errors import TabrtError
from tabrt.geometry import CROP_SIZE, CROP_SIZES
from tabrt.topology import BOUNDARY_CHANNELS, topology_named
from tabrt.variants import WIDTHS

STEMS = ("vgg", "fan", "resnet", "slim", "short")
FEATURES = ("multi", "single")
HOURGLASS_DEPTH = 4


@dataclass(frozen=True)
class TabConfig:
    """What a TAB network is made of.

    topology: landmark scheme. hourglasses: stacked hourglasses of the boundary estimator (paper: 2; any N ≥ 1).
    stem: the layers from 256×256 to 64×64 (paper Table 8; `slim` and `short` are tabrt's own, for CPUs). channels:
    width of the hourglasses. balt_channels: width W of the landmark transform. features: boundary-aware features taken
    at every scale of the last hourglass or only at the last (Table 9). fusion: 0–3, how many levels are fused (Table
    10).
    crop_size: side of the picture it is trained on, px; its maps have a quarter of that.
    top: whether a block stands between an hourglass and its maps, at the finest level, where work is dear.
    skips: in how many of an hourglass's levels, from the finest, a block stands where features pass the coarser ones by
    (paper: in all four); in the others they pass as they are.
    stem_channels: of the first convolution of `slim` and `short`, which sees the whole picture; 0: half of `channels`.
    """

    topology: str = "wflw98"
    hourglasses: int = 2
    stem: str = "vgg"
    channels: int = 256
    balt_channels: int = 48
    features: str = "multi"
    fusion: int = 2
    crop_size: int = CROP_SIZE
    top: bool = True
    skips: int = HOURGLASS_DEPTH
    stem_channels: int = 0

    def __post_init__(self) -> None:
        topology_named(self.topology)
        _require(self.stem in STEMS, f"stem is {self.stem!r}; it must be one of {', '.join(STEMS)}")
        _require(self.features in FEATURES, f"features is {self.features!r}; it must be one of {', '.join(FEATURES)}")
        for name, low, high in (
            ("hourglasses", 1, 8),
            ("channels", 8, 1024),
            ("balt_channels", 1, 256),
            ("fusion", 0, 3),
            ("skips", 0, HOURGLASS_DEPTH),
            ("stem_channels", 0, 512),
        ):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            _require(whole and low <= value <= high, f"{name} is {value!r}; it must be a whole number {low}…{high}")
        whole = isinstance(self.crop_size, int) and self.crop_size in CROP_SIZES
        sizes = ", ".join(map(str, CROP_SIZES))
        _require(whole, f"crop_size is {self.crop_size!r}; it must be one of {sizes}")
        _require(isinstance(self.top, bool), f"top is {self.top!r}; it must be true or false")
        _require(self.channels % 4 == 0, f"channels is {self.channels}; it must be a multiple of 4")

    @classmethod
    def of_width(cls, width: str = "full", **changes) -> TabConfig:
        """The config of a width of WIDTHS, with other fields changed. Raises TabrtError for another name."""
        if width not in WIDTHS:
            raise TabrtError(f"no width is called {width!r}; there are: {', '.join(WIDTHS)}")
        return replace(cls(**WIDTHS[width]), **changes)

    @classmethod
    def from_dict(cls, values: dict) -> TabConfig:
        """The config written by `to_dict`, by this or an older tabrt: fields that it did not know have their defaults.

        Raises TabrtError for an unknown or wrong field.
        """
        known = cls.__dataclass_fields__.keys()
        if not isinstance(values, dict) or values.keys() - known:
            found = ", ".join(map(str, values)) if isinstance(values, dict) else type(values).__name__
            raise TabrtError(
                f"a network's config must have the fields {', '.join(known)}, and no others; found: {found[:200]}. "
                "A checkpoint of a newer tabrt needs a newer tabrt"
            )
        return cls(**values)

    def to_dict(self) -> dict:
        return asdict(self)

    @property
    def width(self) -> str:
        """The name in WIDTHS that these sizes have, whatever is left out of them, or `custom`."""
        left_out = ("top", "skips", "stem_channels")
        rest = {name: getattr(self, name) for name in ("topology", "hourglasses", "features", "fusion", *left_out)}
        return next((name for name in WIDTHS if self == TabConfig.of_width(name, **rest)), "custom")

    @property
    def first_channels(self) -> int:
        """Channels of the first convolution of a `slim` or `short` stem."""
        return self.stem_channels or self.channels // 2

    @property
    def points(self) -> int:
        return topology_named(self.topology).points

    @property
    def boundary_channels(self) -> int:
        return BOUNDARY_CHANNELS


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise TabrtError(f"network config: {problem}")
