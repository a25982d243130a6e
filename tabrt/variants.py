"""Which networks there are. Variants are data, here alone: hourglasses × a width; a model is named after both."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Sizes(TypedDict):
    """What a width says of a network, by the names of `TabConfig`."""

    stem: str
    channels: int
    balt_channels: int
    crop_size: NotRequired[int]
    top: NotRequired[bool]
    skips: NotRequired[int]
    stem_channels: NotRequired[int]


WIDTHS: dict[str, Sizes] = {
    "full": {"stem": "vgg", "channels": 256, "balt_channels": 48},  # the paper's
    # the teacher of the narrower ones
    "base": {"stem": "slim", "channels": 128, "balt_channels": 32, "stem_channels": 32},
    "lite": {"stem": "slim", "channels": 64, "balt_channels": 16, "stem_channels": 16},
    # for CPUs that have little: a quarter of lite's work
    "nano": {
        "stem": "short",
        "channels": 64,
        "balt_channels": 16,
        "crop_size": 192,
        "top": False,
        "skips": 0,
        "stem_channels": 8,
    },
}
DEFAULT_WIDTH = "lite"
DEFAULT_MODEL = "tab1-lite"
WHY_DEFAULT = "as exact as tab2-lite, in two thirds of its time"
SHIPPED = ("tab1-nano", "tab1-lite", "tab2-lite", "tab2-base")  # models that are in the package, the cheapest first


def variant_name(hourglasses: int, width: str) -> str:
    """`tab1-lite` of one hourglass and width lite; the paper's full width goes without saying: `tab2`."""
    return f"tab{hourglasses}" + ("" if width == "full" else f"-{width}")


def usual_hourglasses(width: str) -> int:
    """Those of the first model of a width that ships; 1 where none does."""
    return next((count for count in (1, 2) if variant_name(count, width) in SHIPPED), 1)
