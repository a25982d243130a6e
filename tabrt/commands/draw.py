"""What `tabrt draw` does: the film that tracking would draw, from its landmark file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import typer

from tabrt.ahead import ahead
from tabrt.commands.options import HIDES, WIDEST_MARGIN, DrawOptions, VideoOptions
from tabrt.commands.progress import Progress, Stopwatch, Timed
from tabrt.commands.recorded import Recording
from tabrt.commands.summary import STAGES, Summary, drawing_of, summary
from tabrt.commands.video import DEPTH
from tabrt.errors import TabrtError
from tabrt.faces import Scene
from tabrt.files import check_outputs, fingerprint
from tabrt.film import FilmWriter, open_film
from tabrt.sinks import FilmSink

OF_TRACKING = ("start", "end", "every", "track", "fov", "hide", "hide_all_but", "margin", "overlay")  # what is drawn


def draw(options: DrawOptions) -> Summary:
    """Draw the faces of a film as its landmark file has them, for the part of it that was tracked.

    What tracking was told of hiding and measures holds here too, but for what the options say. Raises TabrtError.
    """
    check_outputs([options.source, options.landmarks], options.out, overwrite=options.overwrite)
    recording = Recording(options.landmarks)
    _check(recording.header, options)
    as_then = _as_then(recording, options)
    recording.fov = as_then.field_of_view
    watch = Stopwatch()
    with ExitStack() as stack:
        film = stack.enter_context(open_film(options.source, as_then.start, as_then.end, as_then.every, as_then.track))
        size = film.width, film.height
        if (recording.header.get("width"), recording.header.get("height")) != size:
            raise _of_another(options, recording.header)
        hidden = as_then.hide is not None
        writer = FilmWriter(options.out, *size, film.rate, options.codec, options.crf, film, anonymous=hidden)
        sink = stack.enter_context(Timed(watch, "encode", FilmSink(writer)))
        progress = stack.enter_context(Progress(film.frames))
        frames = stack.enter_context(closing(ahead(watch.each("decode", film), depth=DEPTH)))
        scenes: Iterator[Scene] = map(recording, frames)
        hiding = as_then.hiding(recording.topology)
        if hiding is not None:
            scenes = stack.enter_context(hiding).film(scenes)
        layers = drawing_of(as_then, recording.topology, watch)
        with progress.stated():
            for scene in stack.enter_context(closing(ahead(map(layers, scenes), depth=DEPTH))):
                for each in (sink, progress):
                    each(scene)
            sink.finish()
    notes = [*sink.notes, *recording.notes, *_notes(recording, as_then), *film.notes]
    if hiding is not None:
        watch.seconds["hide"] = hiding.seconds
        notes += hiding.notes
    seconds = {name: watch.seconds[name] for name in STAGES if name in watch.seconds}
    return summary(progress, seconds, notes)


def _check(header: dict[str, Any], options: DrawOptions) -> None:
    """Raise TabrtError for a landmark file of another film, or of none."""
    mark = fingerprint(options.source)
    if header.get("clock", "film") != "film":
        raise TabrtError(f"{options.landmarks} is of no film; name the landmark file of {options.source}")
    if header.get("width") is None:
        raise TabrtError(f"{options.landmarks} does not say how large the film is; was anything written to it?")
    if None not in (mark, header.get("fingerprint")) and mark != header["fingerprint"]:
        raise _of_another(options, header)


def _of_another(options: DrawOptions, header: dict[str, Any]) -> TabrtError:
    called = f" ({header['source']})" if header.get("source") else ""  # CSV does not say
    return TabrtError(
        f"{options.landmarks} is of another film{called}, not of {options.source}; name the two that belong together"
    )


def _as_then(recording: Recording, options: DrawOptions) -> VideoOptions:
    """The options with which the landmark file was made, changed by those given now. Raises TabrtError."""
    said = recording.header.get("options")
    then = {name: value for name, value in (said if isinstance(said, dict) else {}).items() if name in OF_TRACKING}
    then["measures"] = bool(recording.header.get("measures"))
    if not then["measures"]:
        then.pop("fov", None)  # which changed nothing
    try:
        _check_kinds(then)
        as_then = VideoOptions(source=options.source, out=options.out, landmarks=options.landmarks, **then)
    except (TypeError, typer.BadParameter):
        raise TabrtError(f"{recording.path} names options that cannot be; was it edited?") from None
    now = {name: getattr(options, name) for name in ("hide", "hide_all_but", "overlay")}
    changed = {name: value for name, value in now.items() if value is not None}
    return replace(as_then, **changed)


def _check_kinds(then: dict[str, Any]) -> None:
    """Raise TypeError for an option of a header that the command line would not have taken."""
    words = [then.get(name) for name in ("start", "end", "fov", "hide_all_but")]
    margin, every, track = then.get("margin", 0.0), then.get("every", 1), then.get("track", 1)
    sound = (
        all(word is None or isinstance(word, str) for word in words)
        and then.get("hide") in (None, *HIDES)
        and then.get("overlay") in (None, True, False)
        and isinstance(margin, float | int)
        and 0 <= margin <= WIDEST_MARGIN
        and all(isinstance(count, int) and count > 0 for count in (every, track))
    )
    if not sound:
        raise TypeError


def _notes(recording: Recording, as_then: VideoOptions) -> Iterator[str]:
    said = recording.header.get("options")
    if said is None:
        yield (
            f"{recording.path} does not say how it was made: the whole film was drawn"
            + (", and nobody hidden; --hide hides faces" if as_then.hide is None else "")
        )
    if isinstance(said, dict) and said.get("draw") == "boundaries" and as_then.drawn:
        yield "boundary maps are not in landmark files: points and curves were drawn"
