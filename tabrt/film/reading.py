"""Films in: every frame with its own time, a few of them in memory at most, however long the film is."""

from __future__ import annotations

import os
from pathlib import Path

from tabrt.errors import TabrtError
from tabrt.film.cut import lacks_index
from tabrt.film.decoding import Film
from tabrt.film.opening import MAX_PIXELS, MAX_SIDE, is_url
from tabrt.film.stills import (
    PICTURE_SUFFIXES,
    PictureFilm,
    left_out,
    pictures_in,
    read_image,
    sequence_of,
    still_of,
)

__all__ = ["MAX_PIXELS", "MAX_SIDE", "PICTURE_SUFFIXES", "Film", "left_out", "open_film", "pictures_in", "read_image"]


def open_film(
    source: str | Path,
    start: float | str | None = None,
    end: float | str | None = None,
    every: int = 1,
    track: int | None = None,
) -> Film:
    """Open a film file, a folder of pictures, a printf pattern (`shot_%04d.png`), a URL, or `-` for standard input.

    start, end: the part from start on and before end, in seconds or as text (90, 1:30; -10 is from the film's end).
    It is sought, not decoded from the film's start; its frames keep the film's times. every: every so many pictures of
    the part. track: which picture track, from 1, of a film that has several.
    Raises TabrtError when there is nothing to show: no such file, no film, no picture in it, too large.
    """
    text = os.fspath(source)
    if not text:
        raise TabrtError("the name of the film is empty; name a film")
    if not is_url(text) and text != "-":
        pictures = sequence_of(text) or still_of(text)
        if pictures is not None:
            return PictureFilm(text, pictures, start, end, every)
    try:
        return Film(text, start, end, every, track)
    except TabrtError:
        if lacks_index(text):
            raise TabrtError(
                f"{text} lacks its index or a part of it: it was not finished, or not copied whole; "
                "copy it again, or record it again"
            ) from None
        raise
