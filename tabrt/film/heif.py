"""HEIC and AVIF: pictures as phones write them, often a grid of small ones, with turns and transparency apart.

FFmpeg gives each item of such a file as a stream of its own, by the item's number; how they make one picture is said
in the file's boxes (ISO/IEC 23008-12), which are read here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import av
import cv2
import numpy as np

from tabrt.errors import TabrtError
from tabrt.film.colours import on_paper
from tabrt.film.opening import MAX_PIXELS, check_size, open_container
from tabrt.film.pictures import Converter
from tabrt.film.sound import decoded

MAX_META = 2**22  # bytes of boxes that describe a picture
MAX_TILES = 1024
MAX_BOXES = 1024  # beside each other in the file
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif", b"MA1A", b"MA1B")  # of stills, not of sequences
CODED = (b"hvc1", b"av01")
ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")


@dataclass(frozen=True)
class Plane:
    """A picture of one or more coded items, row by row."""

    items: tuple[int, ...]
    columns: int = 1
    rows: int = 1
    size: tuple[int, int] | None = None  # width and height, px; what the tiles have beyond it is cut off


@dataclass(frozen=True)
class Still:
    """What is shown: its colours, its transparency, and what is done to both, in order."""

    colours: Plane
    alpha: Plane | None
    turns: tuple[tuple[bytes, int], ...]  # irot with quarter turns against the clock, imir with its axis


def is_tiled(name: str) -> bool:
    """Whether a file is a still picture in tiles, each of which FFmpeg would take for a film."""
    still = _still_of(name)
    return still is not None and len(still.colours.items) > 1


def read_heif(name: str, notes: list[str]) -> np.ndarray | None:
    """The picture of a HEIC or AVIF file, whole and upright, on white: uint8 (H, W, 3) BGR. None for any other file.

    notes: takes what was done to it, one line each. Raises TabrtError for one that is damaged or above the limits.
    """
    still = _still_of(name)
    if still is None:
        return None
    planes = [still.colours] if still.alpha is None else [still.colours, still.alpha]
    for plane in planes:
        if plane.size is not None:
            check_size(*plane.size, name)
    pictures = _decode(name, {item for plane in planes for item in plane.items})
    convert = Converter()
    image = _put_together(still.colours, {item: convert(picture) for item, picture in pictures.items()}, name)
    notes += convert.notes
    if still.alpha is not None:
        grey = {item: picture.reformat(format="gray").to_ndarray() for item, picture in pictures.items()}
        alpha = _put_together(still.alpha, grey, name)
        if alpha.shape != image.shape[:2]:
            alpha = cv2.resize(alpha, image.shape[1::-1])
        image = on_paper(np.dstack([image, alpha]))
    return _turned(image, still.turns)


def _decode(name: str, items: set[int]) -> dict[int, av.VideoFrame]:
    pictures: dict[int, av.VideoFrame] = {}
    with open_container(name, 0.0) as container:
        streams = [stream for stream in container.streams.video if stream.id in items and stream.codec_context]
        for stream in streams:
            check_size(stream.width, stream.height, name)
        if sum(stream.width * stream.height for stream in streams) > 2 * MAX_PIXELS:  # colours, alpha
            raise TabrtError(f"{name} has tiles of more than {MAX_PIXELS // 10**6} million px; scale it down first")
        for packet in container.demux(streams) if streams else ():
            for picture in decoded(packet) or ():
                pictures.setdefault(packet.stream.id, picture)
    return pictures


def _put_together(plane: Plane, tiles: dict[int, np.ndarray], name: str) -> np.ndarray:
    missing = sum(item not in tiles for item in plane.items)
    if missing:
        what = f"{missing} of the {len(plane.items)} tiles of this picture cannot be decoded"
        raise TabrtError(f"{name} is damaged, {what}; copy it again")
    height, width = tiles[plane.items[0]].shape[:2]
    if any(tiles[item].shape[:2] != (height, width) for item in plane.items):
        raise TabrtError(f"{name} is damaged, its tiles are of several sizes; copy it again")
    if len(plane.items) == 1:
        return tiles[plane.items[0]]
    check_size(plane.columns * width, plane.rows * height, name)
    lines = [plane.items[row * plane.columns : (row + 1) * plane.columns] for row in range(plane.rows)]
    whole = np.concatenate([np.concatenate([tiles[item] for item in line], axis=1) for line in lines])
    return np.ascontiguousarray(whole[: plane.size[1], : plane.size[0]]) if plane.size else whole


def _turned(image: np.ndarray, turns: tuple[tuple[bytes, int], ...]) -> np.ndarray:
    quarters = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
    for kind, value in turns:
        if kind == b"imir":
            image = cv2.flip(image, value)  # 0: top and bottom are exchanged, 1: left and right
        elif value:
            image = cv2.rotate(image, quarters[value])
    return image


def _still_of(name: str) -> Still | None:
    try:
        with open(name, "rb") as file:
            head = file.read(16)
            if head[4:8] != b"ftyp" or head[8:12] not in BRANDS:
                return None
            meta = _meta(file, os.fstat(file.fileno()).st_size)
            return None if meta is None else _parsed(meta, file)
    except (OSError, struct.error, ValueError, IndexError, KeyError):
        return None


def _meta(file: BinaryIO, size: int) -> bytes | None:
    """What the outermost `meta` box holds, after its version."""
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > size:
            break
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"meta":
            return file.read(length - 8)[4:] if 12 <= length <= MAX_META else None
        if length < 8:
            return None
        at += length
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and contents of the boxes that lie one after the other."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if length < 8:
            return
        yield kind, data[at + 8 : at + length]
        at += length


def _parsed(meta: bytes, file: BinaryIO) -> Still | None:
    boxes = dict(_boxes(meta))
    primary = _number(boxes[b"pitm"], 4, 2 if boxes[b"pitm"][0] == 0 else 4)
    kinds, references = _kinds(boxes[b"iinf"]), _references(boxes.get(b"iref", b"\0\0\0\0"))
    properties = _properties(boxes[b"iprp"])

    def plane(item: int) -> Plane | None:
        if kinds.get(item) in CODED:
            return Plane((item,))
        if kinds.get(item) != b"grid":
            return None
        payload = _payload(boxes[b"iloc"], item, boxes.get(b"idat", b""), file)
        rows, columns = payload[2] + 1, payload[3] + 1
        size = struct.unpack_from(">II" if payload[1] & 1 else ">HH", payload, 4)
        items = next((to for kind, start, to in references if kind == b"dimg" and start == item), ())
        fits = len(items) == rows * columns <= MAX_TILES
        return Plane(items, columns, rows, (int(size[0]), int(size[1]))) if fits else None

    colours = plane(primary)
    if colours is None:
        return None
    alphas = [start for kind, start, to in references if kind == b"auxl" and primary in to]
    alpha = next((item for item in alphas if _is_alpha(properties.get(item, ()))), None)
    turns = tuple(
        (kind, data[0] & (3 if kind == b"irot" else 1))
        for kind, data in properties.get(primary, ())
        if kind in (b"irot", b"imir") and data
    )
    return Still(colours, None if alpha is None else plane(alpha), turns)


def _is_alpha(properties: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(kind == b"auxC" and data[4:].split(b"\0")[0] in ALPHA for kind, data in properties)


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise ValueError("cut off")
    return int.from_bytes(data[at : at + size])


def _kinds(iinf: bytes) -> dict[int, bytes]:
    """The kind of each item by its number."""
    kinds = {}
    for kind, data in _boxes(iinf[6 if iinf[0] == 0 else 8 :]):
        if kind == b"infe" and data[0] >= 2:
            wide = 2 if data[0] == 2 else 4
            kinds[_number(data, 4, wide)] = data[6 + wide : 10 + wide]
    return kinds


def _references(iref: bytes) -> list[tuple[bytes, int, tuple[int, ...]]]:
    """Kind, from which item, to which."""
    wide = 2 if iref[0] == 0 else 4
    found = []
    for kind, data in _boxes(iref[4:]):
        count = _number(data, wide, 2)
        to = tuple(_number(data, 2 + wide * (index + 1), wide) for index in range(count))
        found.append((kind, _number(data, 0, wide), to))
    return found


def _properties(iprp: bytes) -> dict[int, list[tuple[bytes, bytes]]]:
    """Kind and contents of what is said of each item, in its order."""
    boxes = dict(_boxes(iprp))
    every, ipma = list(_boxes(boxes[b"ipco"])), boxes[b"ipma"]
    wide, long = (2 if ipma[0] < 1 else 4), ipma[3] & 1
    at = 8
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    for _ in range(_number(ipma, 4, 4)):
        item, count = _number(ipma, at, wide), _number(ipma, at + wide, 1)
        at += wide + 1
        for _ in range(count):
            index = _number(ipma, at, 1 + long) & (0x7FFF if long else 0x7F)
            at += 1 + long
            if 0 < index <= len(every):
                found.setdefault(item, []).append(every[index - 1])
    return found


def _payload(iloc: bytes, primary: int, idat: bytes, file: BinaryIO) -> bytes:
    """The bytes of an item that lies in one piece, in the file or among the boxes."""
    version = iloc[0]
    offset_size, length_size = iloc[4] >> 4, iloc[4] & 15
    base_size, index_size = iloc[5] >> 4, iloc[5] & 15 if version else 0
    wide = 2 if version < 2 else 4
    count, at = _number(iloc, 6, wide), 6 + wide
    for _ in range(count):
        item, at = _number(iloc, at, wide), at + wide
        method, at = (_number(iloc, at, 2) & 15, at + 2) if version else (0, at)
        at += 2  # which file: this one
        base, at = _number(iloc, at, base_size), at + base_size
        extents, at = _number(iloc, at, 2), at + 2
        for extent in range(extents):
            at += index_size
            offset = base + _number(iloc, at, offset_size)
            length = _number(iloc, at + offset_size, length_size)
            at += offset_size + length_size
            if item == primary and extent == 0:
                if method == 1:
                    return idat[offset : offset + min(length, 64)]
                file.seek(offset)
                return file.read(min(length, 64))
    raise ValueError("nowhere")
