"""How a camera was held: EXIF, of which PyAV 18 tells the turn but not the mirror."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

import numpy as np

MAX_EXIF = 2**16  # bytes, as JPEG can hold
MAX_TAGS = 4096
MAX_PARTS = 4096  # of a file, that are looked through for EXIF
ORIENTATION, WIDTH, HEIGHT, COMPRESSION, TILE_WIDTH = 0x112, 0x100, 0x101, 0x103, 0x142
JPEGS = (6, 7)  # kinds of compression
BITS, SAMPLES = 0x102, 0x115  # of a sample, and of a pixel
SHORT, LONG = 3, 4
# (2, 2) for each orientation: where x and y go on the screen, as in a display matrix.
MATRICES = {
    1: ((1, 0), (0, 1)),
    2: ((-1, 0), (0, 1)),
    3: ((-1, 0), (0, -1)),
    4: ((1, 0), (0, -1)),
    5: ((0, 1), (1, 0)),
    6: ((0, 1), (-1, 0)),
    7: ((0, -1), (-1, 0)),
    8: ((0, -1), (1, 0)),
}


def orientation_of(name: str) -> np.ndarray | None:
    """The display matrix (2, 2) that EXIF asks for in a JPEG, PNG, WebP or TIFF; None where it says nothing."""
    if not os.path.isfile(name):
        return None
    try:
        with open(name, "rb") as file:
            value = tags(_exif(file)).get(ORIENTATION)
    except (OSError, struct.error, ValueError):
        return None
    return np.array(MATRICES[value], float) if value in MATRICES else None


def tags(data: bytes | BinaryIO) -> dict[int, int]:
    """The first numbers of the tags of a TIFF's first picture, those that are whole and short. Raises struct.error."""

    def read(at: int, size: int) -> bytes:
        if isinstance(data, bytes):
            return data[at : at + size]
        data.seek(at)
        return data.read(size)

    order = "<" if read(0, 1) == b"I" else ">"
    (offset,) = struct.unpack(order + "I", read(4, 4))
    (count,) = struct.unpack(order + "H", read(offset, 2))
    found = {}
    for index in range(min(count, MAX_TAGS)):
        tag, kind, numbers, value = struct.unpack(order + "HHI4s", read(offset + 2 + 12 * index, 12))
        if kind not in (SHORT, LONG):
            continue
        form, size = ("H", 2) if kind == SHORT else ("I", 4)
        if numbers * size > len(value):  # they lie elsewhere
            value = read(struct.unpack(order + "I", value)[0], size)
        if len(value) >= size:
            (found[tag],) = struct.unpack(order + form, value[:size])
    return found


def _exif(file: BinaryIO) -> bytes | BinaryIO:
    """What of a picture is EXIF: TIFF, in bytes or as the file itself. Raises ValueError where there is none."""
    head = file.read(12)
    if head[:4] in (b"II*\0", b"MM\0*"):
        return file
    if head[:2] == b"\xff\xd8":
        return _in_jpeg(file)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return _in_chunks(file, 8, ">", b"eXIf")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _in_chunks(file, 12, "<", b"EXIF")
    raise ValueError("of another kind")


def _in_jpeg(file: BinaryIO) -> bytes:
    at = 2
    for _ in range(MAX_PARTS):
        file.seek(at)
        marker, length = struct.unpack(">HH", file.read(4))
        if marker == 0xFFE1 and file.read(6) == b"Exif\0\0":
            return file.read(max(length - 8, 0))
        if not 0xFFC0 <= marker <= 0xFFFE or marker == 0xFFDA:
            break
        at += 2 + length
    raise ValueError("no EXIF before the picture")


def _in_chunks(file: BinaryIO, at: int, order: str, wanted: bytes) -> bytes:
    """The chunk of this name: in PNG its length stands first and a checksum last, in WebP its name and maybe a pad."""
    for _ in range(MAX_PARTS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        png = order == ">"
        length, name = (int.from_bytes(head[:4]), head[4:]) if png else (int.from_bytes(head[4:], "little"), head[:4])
        if name == wanted:
            data = file.read(min(length, MAX_EXIF))
            return data.removeprefix(b"Exif\0\0")
        at += 8 + length + (4 if png else length % 2)
    raise ValueError("no EXIF")
