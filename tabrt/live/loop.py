"""The live loop: the newest frame of a camera is tracked, shown and written, for hours.

    camera -> tracker, in a thread, only the newest -> window, page, files: in the main thread

A slow part drops frames; nothing queues, so the picture is never late by more than one frame's work in each part.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tabrt.ahead import ahead
from tabrt.drawing.overlay import PALETTE, draw
from tabrt.errors import TabrtError
from tabrt.faces import Frame, Scene
from tabrt.files import check_outputs
from tabrt.film.writing import check_film
from tabrt.geometry import CROP_SIZE
from tabrt.live.camera import LiveCamera, State, live_camera
from tabrt.live.outputs import MetricsServer, Recorder, VirtualCamera, find_pyvirtualcam, snapshot
from tabrt.live.status import Controls, Numbers
from tabrt.live.window import Window, no_screen
from tabrt.sinks import LandmarkWriter, OscSink, landmark_header, landmark_suffix
from tabrt.topology import topology_named
from tabrt.tracking.tracker import Tracker

View = Callable[[Scene | None, np.ndarray | None], object]  # a new scene and its picture; or None and the last picture
Sink = Callable[[Scene, np.ndarray | None], object]

log = logging.getLogger("tabrt")


@dataclass(frozen=True)
class LiveSummary:
    """What a live run did. `signal` is the one that ended it, 0 for none."""

    numbers: Numbers
    reconnections: int
    signal: int
    lines: tuple[str, ...]


def live(
    source: str | int = "0",
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    mirror: bool = False,
    window: bool = True,
    serve: int | None = None,
    host: str = "127.0.0.1",
    out: str | Path | None = None,
    landmarks: str | Path | None = None,
    osc: str | None = None,
    virtual_camera: bool = False,
    metrics_port: int | None = None,
    stop_after: float | None = None,
    exit_when_lost: bool = False,
    folder: Path | None = None,
    **tracking,
) -> LiveSummary:
    """Track the faces in front of a camera until someone quits.

    source: index, name or path of a camera, address of a stream, or film. serve: port of the web page, in place of a
    window. stop_after: seconds. folder: for snapshots and films begun by hand, by default the current one.
    tracking: what `Tracker` takes. Raises TabrtError; what was written until then is whole.
    """
    _check([Path(str(source))], out, landmarks, virtual_camera)
    camera = live_camera(source, size, fps, mirror=mirror, exit_when_lost=exit_when_lost)
    controls, numbers = Controls(recording=out is not None), Numbers()
    folder = folder or Path.cwd()
    sinks: list[Sink] = []
    views: list[View] = []
    with ExitStack() as stack:
        if osc is not None:
            sinks.append(_scene_only(OscSink(osc)))
        if metrics_port is not None:
            metrics = stack.enter_context(closing(MetricsServer(metrics_port, numbers, camera)))
            log.info("metrics at http://127.0.0.1:%d/metrics", metrics.port)
        shown = window and serve is None and _screen_or_reason(bool(out or landmarks or osc or virtual_camera))
        if shown:
            window_ = stack.enter_context(closing(Window(camera.name)))
            window_.show(None, controls, trouble=f"{camera.state}: loading the network")
            views.append(_window_view(window_, camera, controls, numbers))
        # Only a window can ask for boundaries, at any moment: the maps are a small part of the work.
        tracker = stack.enter_context(Tracker(boundaries=shown, **tracking))
        topology = topology_named(tracker.engine.card.topology)
        if serve is not None:
            views.append(_page(stack, serve, host, camera, tracker, controls, numbers))
        recorder = stack.enter_context(closing(Recorder(folder, out)))
        sinks.append(_recording(recorder, camera, controls, required=out is not None))
        views.append(_snapshots(folder, controls))  # after the window: the picture that a key was pressed for
        if landmarks is not None:
            sinks.append(_landmarks(stack, landmarks, tracker, camera))
        if virtual_camera:
            sinks.append(_virtual_camera(stack, camera))

        def picture(scene: Scene) -> np.ndarray | None:
            if shown or virtual_camera or controls.recording or controls.snapshot:
                return draw(scene, topology, boundaries=controls.boundaries)
            return None

        warm_up(tracker)
        run(camera, tracker, views, sinks, picture, controls, numbers, stop_after)
    reconnections = max(0, camera.openings - 1)
    return LiveSummary(numbers, reconnections, controls.signal, _summary(numbers, reconnections, out, landmarks))


def _check(inputs: list[Path], out: str | Path | None, landmarks: str | Path | None, virtual_camera: bool) -> None:
    """Say what cannot be written before a camera is opened."""
    check_outputs(inputs, out, landmarks)
    if out is not None:
        check_film(Path(out))
    if landmarks is not None:
        landmark_suffix(landmarks)
    if virtual_camera:
        find_pyvirtualcam()


def run(
    camera: LiveCamera,
    tracker: Tracker,
    views: list[View],
    sinks: list[Sink],
    picture: Callable[[Scene], np.ndarray | None],
    controls: Controls,
    numbers: Numbers,
    stop_after: float | None = None,
) -> None:
    """Track, show and write the newest frames until the source ends, `controls.quit` or `stop_after` seconds.

    picture: draws a scene for views and sinks; None where none of them needs it. While paused nothing is written.
    """
    until = time.monotonic() + (math.inf if stop_after is None else stop_after)
    last: Scene | None = None  # that was shown
    with quit_by_signal(controls), closing(ahead(tracked(camera, tracker), drop=True)) as scenes:
        try:
            for scene in scenes:
                if time.monotonic() >= until:
                    controls.quit = controls.quit or f"{stop_after:g} s are over"
                if controls.quit:
                    break
                if scene is None or controls.paused:
                    if scene is not None:
                        numbers.pass_over(scene)
                    _show(views, None, picture(last) if last is not None else None)
                    continue
                drawn, last = picture(scene), scene
                _show(views, scene, drawn)
                numbers.add(scene)
                for sink in sinks:
                    sink(scene, drawn)
        except TabrtError as problem:
            controls.quit = str(problem)
            raise
        finally:
            camera.stop(controls.quit)


def _show(views: list[View], scene: Scene | None, picture: np.ndarray | None) -> None:
    for view in views:
        view(scene, picture)


def tracked(camera: LiveCamera, tracker: Tracker) -> Iterator[Scene | None]:
    """Scenes of a camera's frames, its ticks passed on. Ids start afresh when the source was opened anew."""
    openings = None
    with closing(iter(camera)) as frames:
        for frame in frames:
            if frame is None:
                yield None
                continue
            if openings not in (None, camera.openings):
                tracker.reset()
            openings = camera.openings
            yield tracker(frame)


def warm_up(tracker: Tracker) -> None:
    """Run everything once, for a first run is many times slower than the next."""
    tracker.engine(np.zeros((1, CROP_SIZE, CROP_SIZE, 3), np.uint8))
    tracker(Frame(np.zeros((480, 640, 3), np.uint8), 0, time.monotonic()))
    tracker.reset()


@contextmanager
def quit_by_signal(controls: Controls) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM end the loop between two frames, so that no file is cut in the middle."""

    def ask(number: int, _frame: object) -> None:
        if controls.signal:
            raise KeyboardInterrupt
        controls.quit, controls.signal = signal.Signals(number).name, number

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------------------- views


def _screen_or_reason(other_outputs: bool) -> bool:
    """Whether to open a window. Without a screen a run goes on only for the sake of its other outputs."""
    problem = no_screen()
    if problem and other_outputs:
        log.warning("no window: %s", problem)
        return False
    return True  # the window states the problem


def _window_view(window: Window, camera: LiveCamera, controls: Controls, numbers: Numbers) -> View:
    def view(_scene: Scene | None, picture: np.ndarray | None) -> None:
        trouble = "" if camera.state is State.RUNNING else f"{camera.state}: {camera.reason}"
        window.show(picture, controls, numbers.lines() if controls.numbers else (), trouble)

    return view


def _page(
    stack: ExitStack, port: int, host: str, camera: LiveCamera, tracker: Tracker, controls: Controls, numbers: Numbers
) -> View:
    from tabrt.live.page import Server, about

    card = tracker.engine.card
    told = about(camera.name, card.name, tracker.engine.name, topology_named(card.topology), PALETTE)
    server = stack.enter_context(closing(Server(host, port, controls, lambda: told)))
    log.info("watch at %s", server.url)

    def view(scene: Scene | None, _picture: np.ndarray | None) -> None:
        server.publish(scene, numbers, camera)

    return view


# ------------------------------------------------------------------------------------------------------------- sinks


def _scene_only(sink: Callable[[Scene], None]) -> Sink:
    return lambda scene, _picture: sink(scene)


def _recording(recorder: Recorder, camera: LiveCamera, controls: Controls, required: bool) -> Sink:
    """Films that follow `controls.recording`. A film that fails ends the run only where it was `required`."""

    def sink(scene: Scene, picture: np.ndarray | None) -> None:
        wanted = controls.recording and picture is not None
        try:
            said = recorder.follow(wanted, picture, scene.frame.time, camera.rate)
        except TabrtError as problem:
            if required:
                raise
            controls.recording, said = False, str(problem)
        controls.recorded = recorder.seconds
        _say(controls, said)

    return sink


def _snapshots(folder: Path, controls: Controls) -> View:
    """Pictures of what is shown, be it live, paused or stalled."""

    def view(_scene: Scene | None, picture: np.ndarray | None) -> None:
        if not controls.snapshot or picture is None:
            return
        controls.snapshot = False
        try:
            _say(controls, snapshot(folder, picture))
        except TabrtError as problem:
            _say(controls, str(problem))

    return view


def _say(controls: Controls, text: str) -> None:
    if text:
        controls.say(text)
        log.info("%s", text)


def _landmarks(stack: ExitStack, path: str | Path, tracker: Tracker, camera: LiveCamera) -> Sink:
    writer: LandmarkWriter | None = None

    def sink(scene: Scene, _picture: np.ndarray | None) -> None:
        nonlocal writer
        if writer is None:  # the header tells the size of the pictures
            height, width = scene.frame.image.shape[:2]
            header = landmark_header(tracker.engine, camera.name, width, height)
            topology = topology_named(tracker.engine.card.topology)
            writer = stack.enter_context(closing(LandmarkWriter(path, header, topology)))
        writer(scene)

    return sink


def _virtual_camera(stack: ExitStack, camera: LiveCamera) -> Sink:
    virtual: VirtualCamera | None = None

    def sink(_scene: Scene, picture: np.ndarray | None) -> None:
        nonlocal virtual
        if picture is None:
            return
        if virtual is None:
            virtual = stack.enter_context(closing(VirtualCamera(picture.shape[1], picture.shape[0], camera.rate)))
        virtual.send(picture)

    return sink


def _summary(
    numbers: Numbers, reconnections: int, out: str | Path | None, landmarks: str | Path | None
) -> tuple[str, ...]:
    lines = [numbers.summary()]
    if reconnections:
        lines.append(f"the source was opened anew {reconnections} time{'' if reconnections == 1 else 's'}")
    lines += [f"wrote {path}" for path in (out, landmarks) if path is not None and str(path) != "-" and numbers.frames]
    return tuple(lines)
