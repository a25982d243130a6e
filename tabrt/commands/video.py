"""What `tabrt video` does.

for scene in map(tracker, frames):        # Frame -> Scene(frame, faces)
    for sink in sinks:
        sink(scene)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from tabrt.ahead import ahead
from tabrt.commands.finished import broken_off
from tabrt.commands.options import VideoOptions
from tabrt.commands.progress import Progress, Stopwatch, Tell, Timed
from tabrt.commands.recorded import Past
from tabrt.commands.summary import Summary, drawing, landmark_header, stages, summary
from tabrt.faces import Scene
from tabrt.files import check_outputs, claimed, fingerprint
from tabrt.film import Film, FilmWriter, open_film
from tabrt.sinks import Aligning, CropFilms, CropSink, FilmSink, LandmarkWriter, Sink, crop_transforms
from tabrt.tracking import Tracker

DEPTH = 8  # frames that decoding, and scenes that tracking, may run ahead


def video(options: VideoOptions, tracker: Tracker | None = None, tell: Tell | None = None) -> Summary:
    """Track the faces of a film: `out` gets the film with them drawn, `landmarks` the numbers.

    tracker: one to use in place of a new one. tell: who is told how far it is, in place of a bar. Raises TabrtError;
    what was written until then is whole.
    """
    watch = Stopwatch()
    with ExitStack() as stack:
        if options.resume:
            stack.enter_context(claimed(str(options.landmarks)))
        goes_on = options.resume and broken_off(options)
        check_outputs([options.source], options.out, options.landmarks, overwrite=options.overwrite or goes_on)
        part = options.start, options.end, options.every, options.track
        film = stack.enter_context(open_film(options.source, *part))
        tracker = tracker or stack.enter_context(options.tracker(options.boundaries))
        past = Past(options.landmarks, options.field_of_view) if options.landmarks and goes_on else None
        sinks = [stack.enter_context(sink) for sink in _sinks(options, film, tracker, watch, past)]
        progress = stack.enter_context(Progress(film.frames, tell=tell))
        frames = stack.enter_context(closing(ahead(watch.each("decode", film), depth=DEPTH)))
        draw = drawing(options, tracker, watch)
        tracked: Iterator[Scene] = map(tracker, frames) if past is None else past.scenes(tracker, frames)
        hiding = options.hiding(tracker.topology)
        if hiding is not None:
            tracked = stack.enter_context(hiding).film(tracked)
        scenes = stack.enter_context(closing(ahead(map(draw, tracked), depth=DEPTH)))
        with progress.stated(0 if past is None else past.frames, _going_on(options)):
            for scene in scenes:
                for sink in (*sinks, progress):
                    sink(scene)
            for sink in sinks:
                sink.finish()
    notes = [note for sink in sinks for note in sink.notes]
    if past is not None:
        notes.insert(0, past.note(drawn=options.out is not None))
    if hiding is not None:
        watch.seconds["hide"] = hiding.seconds
        notes += hiding.notes
    return summary(progress, stages(watch, tracker), [*notes, *film.notes])


def _going_on(options: VideoOptions) -> str | None:
    """How to go on with what a run leaves that is stopped; None where it cannot be."""
    here = options.called is None and os.path.exists(options.source)
    return "tabrt video --resume goes on from there" if here and options.no_resuming is None else None


def _sinks(options: VideoOptions, film: Film, tracker: Tracker, watch: Stopwatch, past: Past | None) -> Iterator[Sink]:
    if options.out is not None:
        size = film.width, film.height
        hidden = options.hide is not None
        film_writer = FilmWriter(options.out, *size, film.rate, options.codec, options.crf, film, anonymous=hidden)
        yield Timed(watch, "encode", FilmSink(film_writer))
    aligning = options.aligning(tracker.topology)
    crops = None
    if options.crops is not None and aligning is not None:
        crops = _crops(options, Path(options.crops), aligning, film)
        yield Timed(watch, "write", crops)
    if options.landmarks is not None:
        header = landmark_header(options, tracker, options.called or options.source, (film.width, film.height), "film")
        header |= {"fingerprint": fingerprint(options.source), "options": options.differing}
        header |= {} if aligning is None else {"crops": aligning.told}
        tags = None if aligning is None else {"crops": crop_transforms(aligning, options.landmarks, options.cut_ids)}
        after = None if past is None else past.last
        end = dict if crops is None else lambda: {"crops": crops.count}
        writer = LandmarkWriter(options.landmarks, header, tracker.topology, tags, options.measures, after, end)
        yield Timed(watch, "write", writer)


def _crops(options: VideoOptions, folder: Path, aligning: Aligning, film: Film) -> CropFilms | CropSink:
    if options.crop_films:
        return CropFilms(folder, aligning, film.rate, options.cut_ids)
    return CropSink(folder, aligning, options.cut_ids)
