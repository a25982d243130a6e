"""Whether a JPEG is whole: decoders fill up one that breaks off, without a word."""

from __future__ import annotations

import os
import re

START, END = b"\xff\xd8", b"\xff\xd9"
# In coded pixels a byte of 255 is followed by 0, or by the number of a restart: no marker (ITU-T T.81, B.1.1).
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
MAX_SEGMENTS = 4096
MAX_SIZE = 2**28  # bytes that are looked through


def is_cut_short(name: str) -> bool:
    """Whether a file is a JPEG without the end of its picture. What phones put behind that end does not matter."""
    if not os.path.isfile(name):
        return False
    with open(name, "rb") as file:
        if file.read(len(START)) != START:
            return False
        data = file.read(MAX_SIZE)
    if data.endswith(END):  # of nearly all, and found at once
        return False
    at = 0
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, at)
        if found is None:
            return len(data) < MAX_SIZE
        if found[0] == END:
            return False
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    return False
