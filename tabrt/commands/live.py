"""What `tabrt live` does: the sinks that its options ask for, and the loop that feeds them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tabrt.commands.options import LiveOptions
from tabrt.commands.summary import landmark_header
from tabrt.drawing import Drawing, Expression, face_layers
from tabrt.faces import Scene
from tabrt.files import check_outputs
from tabrt.film import check_film
from tabrt.live import (
    USUAL_RATE,
    Counting,
    LiveCamera,
    MetricsServer,
    Numbers,
    Recorder,
    Resting,
    Run,
    Snapshots,
    Window,
    follow,
    live_camera,
    no_screen,
    numbers_place,
    warm_up,
)
from tabrt.sinks import (
    IFacialMocapSink,
    LandmarkWriter,
    MadeLate,
    OpenSeeFaceSink,
    OscSink,
    Sink,
    VirtualCamera,
    VmcSink,
    find_pyvirtualcam,
    landmark_suffix,
)
from tabrt.tracking import Tracker
from tabrt.words import counted

log = logging.getLogger("tabrt")


@dataclass(frozen=True)
class LiveSummary:
    """What a live run did. `signal` is the one that ended it, 0 for none."""

    numbers: Numbers
    reconnections: int
    signal: int
    lines: tuple[str, ...]


def live(options: LiveOptions, tracker: Tracker | None = None, folder: Path | None = None) -> LiveSummary:
    """Track the faces in front of a camera until someone quits.

    tracker: one to use in place of a new one. folder: for snapshots and films begun by hand, by default the current
    one. Raises TabrtError; what was written until then is whole.
    """
    _check(options)
    watching = {"mirror": options.mirror, "exit_when_lost": options.exit_when_lost}
    camera = live_camera(options.camera, options.picture_size, options.fps, **watching)
    run = Run(camera, recording=options.out is not None)
    with ExitStack() as stack:
        if options.metrics_port is not None:
            metrics = stack.enter_context(closing(MetricsServer(options.metrics_port, lambda: run.status)))
            log.info("metrics at http://127.0.0.1:%d/metrics", metrics.port)
        window = _window(options, camera, run)
        shown = [stack.enter_context(window)] if window else []
        # Only a window can ask for boundaries, at any moment: the maps are a small part of the work.
        tracker = tracker or stack.enter_context(options.tracker(boundaries=bool(shown)))
        others = [stack.enter_context(sink) for sink in _sinks(options, camera, tracker, run, folder or Path.cwd())]
        card, topology = tracker.engine.card, tracker.topology
        hide = options.hiding(topology)
        if hide is not None:
            stack.enter_context(hide)
        more = (Expression(numbers_place if window else None),) if options.measures else ()
        layers = ((*face_layers(topology), *more), (*face_layers(topology, True, card.offset), *more))
        points, boundaries = (Drawing(each if options.drawn else (), hide) for each in layers)
        warm_up(tracker)
        follow(camera, tracker, run, [*shown, *others], (points, boundaries), options.stop_after)
        if not run.status.signal:
            for sink in others:
                sink.finish()
    return _summary(options, run, others)


def _check(options: LiveOptions) -> None:
    """Say what cannot be written before a camera is opened."""
    check_outputs(
        [options.camera] if options.camera else [], options.out, options.landmarks, overwrite=options.overwrite
    )
    if options.out is not None:
        check_film(Path(options.out))
    if options.landmarks is not None:
        landmark_suffix(options.landmarks)
    if options.virtual_camera:
        find_pyvirtualcam()


def _window(options: LiveOptions, camera: LiveCamera, run: Run) -> Window | None:
    """The window, open while the network loads. Without a screen a run goes on only for its other outputs."""
    if not options.window or options.serve is not None:
        return None
    problem = no_screen()
    if problem and options.has_outputs:
        log.warning("no window: %s", problem)
        return None
    run.note(reason="loading the network")
    return Window(camera.name, run)  # it states the problem


def _sinks(options: LiveOptions, camera: LiveCamera, tracker: Tracker, run: Run, folder: Path) -> Iterator[Sink]:
    """What shows the picture first, then what counts and writes it."""
    if options.serve is not None:
        yield _page(options, options.serve, camera, tracker, run)
    yield Snapshots(run, folder)
    yield Counting(run)
    yield Resting(run)
    if options.osc is not None:
        yield OscSink(options.osc, options.measures)
    if options.openseeface is not None:
        yield OpenSeeFaceSink(options.openseeface)
    if options.ifacialmocap is not None:
        yield IFacialMocapSink(options.ifacialmocap)
    if options.vmc is not None:
        yield VmcSink(options.vmc, options.vmc_head)
    yield Recorder(run, camera, folder, Path(options.out) if options.out is not None else None)
    if options.landmarks is not None:
        yield MadeLate(lambda scene: _landmarks(options, camera, tracker, scene))
    if options.virtual_camera:
        yield MadeLate(lambda scene: _virtual_camera(camera, scene))


def _page(options: LiveOptions, port: int, camera: LiveCamera, tracker: Tracker, run: Run) -> Sink:
    from tabrt.live.page import Page, about

    page = Page(
        options.host, port, run, about(camera.name, tracker.engine.card.name, tracker.engine.name), options.measures
    )
    log.info("watch at %s", page.url)
    return page


def _landmarks(options: LiveOptions, camera: LiveCamera, tracker: Tracker, scene: Scene) -> Sink:
    """Made with the first scene, for the header tells the size of the pictures."""
    height, width = scene.frame.image.shape[:2]
    header = landmark_header(options, tracker, camera.name, (width, height), "monotonic")
    return LandmarkWriter(str(options.landmarks), header, tracker.topology, {"utc": _utc}, options.measures)


def _virtual_camera(camera: LiveCamera, scene: Scene) -> Sink:
    height, width = scene.picture.shape[:2]
    return VirtualCamera(width, height, camera.rate or USUAL_RATE)


def _utc(scene: Scene) -> str:
    """The date and time at which the picture had been read."""
    then = time.time() - time.monotonic() + scene.frame.time
    return datetime.fromtimestamp(then, UTC).isoformat(timespec="milliseconds")


def _summary(options: LiveOptions, run: Run, sinks: list[Sink]) -> LiveSummary:
    status, lines = run.status, [run.numbers.summary()]
    if status.reconnections:
        lines.append(f"the source was opened anew {counted(status.reconnections, 'time')}")
    lines += [note for sink in sinks for note in sink.notes]
    if options.landmarks not in (None, "-") and run.numbers.frames:
        lines.append(f"wrote {options.landmarks}")
    return LiveSummary(run.numbers, status.reconnections, status.signal, tuple(lines))
