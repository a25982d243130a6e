"""Words for what is told to people."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, one: str, more: str | None = None) -> str:
    """Like "1 face" and "2 faces". more: the word for several, where it is not `one` with an s."""
    return f"{number} {one if number == 1 else more or one + 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """The first of the names in a line, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
