"""Whether a JPEG or GIF is whole, for decoders fill up one that breaks off without a word, and an mp4 has its index."""

from __future__ import annotations

import os
import re

START, END = b"\xff\xd8", b"\xff\xd9"
# In coded pixels a byte of 255 is followed by 0, or by the number of a restart: no marker (ITU-T T.81, B.1.1).
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
MAX_SEGMENTS = 4096
MAX_SIZE = 2**28  # bytes that are looked through

GIFS = b"GIF87a", b"GIF89a"
EXTENSION, PICTURE = b"!,"
MAX_PARTS = 2**21  # of a GIF, of 256 bytes at most, that are looked through

FIRST_BOXES = b"ftyp", b"wide", b"free", b"skip", b"mdat", b"moov"  # of an mp4 or mov
INDEXES = b"moov", b"meta"  # of a film; of a HEIC picture
MAX_BOXES = 4096  # outermost ones, that are looked through


def is_cut_short(name: str) -> bool:
    """Whether a file is a JPEG or GIF that ends within a picture. What is behind its end does not matter."""
    if not os.path.isfile(name):
        return False
    with open(name, "rb") as file:
        head = file.read(6)
        if not head.startswith((START, *GIFS)):
            return False
        data = head + file.read(MAX_SIZE - len(head))
    return _jpeg_is_cut(data) if head.startswith(START) else _gif_is_cut(data)


def _jpeg_is_cut(data: bytes) -> bool:
    if data.endswith(END):  # of nearly all, and found at once
        return False
    at = len(START)
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, at)
        if found is None:
            return len(data) < MAX_SIZE
        if found[0] == END:
            return False
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    return False


def _gif_is_cut(data: bytes) -> bool:
    """Whether it ends inside a block (GIF89a, 12 to 26). Some that are whole have no trailer."""
    at, within = 13 + _colours(data[10:11]), False
    for _ in range(MAX_PARTS):
        if within:  # parts follow each other until an empty one
            length = int.from_bytes(data[at : at + 1])
            at, within = at + 1 + length, length > 0
        elif at >= len(data):
            return at > len(data) and len(data) < MAX_SIZE
        elif data[at] == PICTURE:
            at, within = at + 11 + _colours(data[at + 9 : at + 10]), True
        elif data[at] == EXTENSION:
            at, within = at + 2, True
        else:
            return False
    return False


def _colours(flags: bytes) -> int:
    """Bytes of the table of colours that these flags tell of."""
    told = int.from_bytes(flags)
    return 3 << (told % 8 + 1) if told & 0x80 else 0


def lacks_index(name: str) -> bool:
    """Whether a file is an mp4 or mov whose index is missing or breaks off: one not finished, or not copied whole."""
    if not os.path.isfile(name) or not os.access(name, os.R_OK):
        return False
    with open(name, "rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        for _ in range(MAX_BOXES):
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4]), head[4:8]
            if at == 0 and kind not in FIRST_BOXES:
                return False
            if length == 1:
                length = int.from_bytes(head[8:])
            elif length == 0:  # to the end of the file
                length = size - at
            at += length
            if kind in INDEXES:
                return at > size
            if at >= size:
                return True
            if length < 8:  # damaged
                return False
    return False
