"""Films and pictures in and out, with sound and true times."""

from tabrt.film.opening import picture_stream, pixel_aspect_of
from tabrt.film.pictures import Converter, deinterlaced, fit
from tabrt.film.reading import (
    MAX_PIXELS,
    MAX_SIDE,
    PICTURE_SUFFIXES,
    Film,
    left_out,
    open_film,
    pictures_in,
    read_image,
)
from tabrt.film.sound import Soundtrack
from tabrt.film.stills import quiet_opencv
from tabrt.film.times import seconds
from tabrt.film.writing import FilmWriter, check_film

__all__ = [
    "MAX_PIXELS",
    "MAX_SIDE",
    "PICTURE_SUFFIXES",
    "Converter",
    "Film",
    "FilmWriter",
    "Soundtrack",
    "check_film",
    "deinterlaced",
    "fit",
    "left_out",
    "open_film",
    "picture_stream",
    "pictures_in",
    "pixel_aspect_of",
    "quiet_opencv",
    "read_image",
    "seconds",
]
