"""What a live run leaves on demand: films that begin and end with a key, and snapshots."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from tabrt.errors import TabrtError
from tabrt.faces import Scene
from tabrt.film import FilmWriter
from tabrt.live.camera import LiveCamera
from tabrt.live.run import Run
from tabrt.sinks import Sink, write_image

USUAL_RATE = 30.0  # pictures a second, of a source that does not say


class Recorder(Sink):
    """Films that follow `run.status.recording`: the first into `out`, where given, later ones beside it.

    Without `out` they lie in `folder`, named by the time they began. A film that cannot be written ends the run only
    where it is `out`.
    """

    def __init__(self, run: Run, camera: LiveCamera, folder: Path, out: Path | None = None):
        self._notes: list[str] = []
        self._run, self._camera, self._folder, self._out = run, camera, folder, out
        self._films = 0
        self._began = 0.0
        self._writer: FilmWriter | None = None

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def __call__(self, scene: Scene) -> None:
        if not self._run.status.recording:
            self._end()
            return
        try:
            self._write(scene)
        except TabrtError as problem:
            self._let_go()
            if self._out is not None and self._films == 1:
                raise
            self._run.note(recording=False, recorded=0.0)
            self._run.say(str(problem))

    def tick(self, last: Scene | None) -> None:
        self._camera.soundtrack.clear()  # what is not shown is not heard either
        if not self._run.status.recording:
            self._end()

    def close(self) -> None:
        self._end()

    def _write(self, scene: Scene) -> None:
        picture, moment = scene.picture, scene.frame.time
        if self._writer is None:
            self._films += 1
            size = picture.shape[1], picture.shape[0]
            rate = self._camera.rate or USUAL_RATE
            sound = self._camera.soundtrack if self._camera.soundtrack.streams else None
            self._writer = FilmWriter(self._next_path(), *size, rate, index_first=False, soundtrack=sound)
            self._began = moment
            self._run.say(f"recording {self._writer.path}")
        self._writer.write(picture, moment)
        self._run.note(recorded=moment - self._began)

    def _next_path(self) -> Path:
        if self._out is None:
            return unused(self._folder / time.strftime("tabrt-%Y%m%d-%H%M%S.mp4"))
        return self._out if self._films == 1 else unused(self._out, first=self._films)

    def _let_go(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(TabrtError):  # it has been said
                writer.close()

    def _end(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._run.note(recorded=0.0)
        writer.close()
        self._notes += [*writer.notes, f"wrote {writer.path}"]
        self._run.say(self._notes[-1])


class Snapshots(Sink):
    """The picture that is shown, as PNG in `folder`, each time one is asked for, be it live, paused or stalled.

    It stands after what shows the picture, so that it keeps the one that a key was pressed for.
    """

    def __init__(self, run: Run, folder: Path):
        self._run, self._folder = run, folder
        self._taken = 0

    def __call__(self, scene: Scene) -> None:
        asked = self._run.refresh().snapshots
        if asked == self._taken:
            return
        self._taken = asked
        path = unused(self._folder / time.strftime("tabrt-%Y%m%d-%H%M%S.png"))
        try:
            write_image(path, scene.picture)
            self._run.say(f"wrote {path}")
        except TabrtError as problem:
            self._run.say(str(problem))

    def tick(self, last: Scene | None) -> None:
        if last is not None:
            self(last)


def unused(path: Path, first: int = 2) -> Path:
    """The path, or where something lies there already, the first of path-2, path-3 … where nothing does."""
    number, stem = first, path.stem
    while path.exists():
        path = path.with_name(f"{stem}-{number}{path.suffix}")
        number += 1
    return path
