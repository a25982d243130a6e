"""A live run: wishes come in from any thread, its status goes out as a frozen value."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Literal

from tabrt.faces import Scene
from tabrt.live.camera import LiveCamera
from tabrt.live.status import Numbers, Status
from tabrt.signals import ending_signals
from tabrt.sinks import Sink

log = logging.getLogger("tabrt")

TOGETHER = 0.5  # seconds in which a second signal is the same one: `timeout` sends it to a process and to its group


@dataclass(frozen=True)
class Wish:
    """Something asked of a run while it goes on, by a key, the page or a signal."""

    what: Literal["quit", "pause", "boundaries", "record", "snapshot", "neutral"]
    on: bool | None = None  # of what can be switched; None: the other way round
    why: str = ""  # of quit
    signal: int = 0  # that asked to quit


class Run:
    """What the parts of a live run share: `ask` and `status` for any thread, the rest for that of the loop."""

    def __init__(self, camera: LiveCamera, recording: bool = False):
        self.numbers = Numbers()
        self.status = Status(recording=recording)
        self._camera = camera
        self._wishes: SimpleQueue[Wish] = SimpleQueue()

    def ask(self, wish: Wish) -> None:
        self._wishes.put(wish)

    def refresh(self) -> Status:
        """Fulfil the wishes that came, and look at camera and counts again."""
        state, reason = self._camera.condition
        reconnections = max(0, self._camera.openings - 1)
        self.note(state=state, reason=reason, reconnections=reconnections, counts=self.numbers.now())
        while True:
            try:
                self._fulfil(self._wishes.get_nowait())
            except Empty:
                return self.status

    def note(self, **changes) -> None:
        """Change what the status says."""
        self.status = replace(self.status, **changes)

    def say(self, message: str) -> None:
        """Tell whoever watches, and the log."""
        self.note(message=message, said=time.monotonic())
        log.info("%s", message)

    def _fulfil(self, wish: Wish) -> None:
        status = self.status
        if wish.what == "quit":
            self.note(quit=status.quit or wish.why, signal=status.signal or wish.signal)
        elif wish.what == "snapshot":
            self.note(snapshots=status.snapshots + 1)
        elif wish.what == "neutral":
            self.note(neutrals=status.neutrals + 1)
        else:
            name = {"pause": "paused", "record": "recording", "boundaries": "boundaries"}[wish.what]
            self.note(**{name: not getattr(status, name) if wish.on is None else wish.on})


class Counting(Sink):
    """Counts the scenes of a run. It stands after what shows them: what comes later does not count as latency."""

    def __init__(self, run: Run):
        self._run = run

    def __call__(self, scene: Scene) -> None:
        self._run.numbers.add(scene)


class Resting(Sink):
    """Takes the faces that are there for the neutral ones of these people, each time that is asked for."""

    def __init__(self, run: Run):
        self._run = run
        self._taken = 0

    def __call__(self, scene: Scene) -> None:
        asked = self._run.status.neutrals
        if asked == self._taken:
            return
        self._taken = asked
        for face in scene.faces:
            if face.sight is not None and face.measures is not None:
                face.sight.person.be_neutral()
        self._run.say("this is how these faces look at rest")


@contextmanager
def quit_by_signal(run: Run) -> Iterator[None]:
    """Let the first signal that asks to end do so between two frames, so that no file is cut in the middle."""
    asked: list[float] = []

    def ask(number: int, _frame: object) -> None:
        if asked:
            if time.monotonic() - asked[0] < TOGETHER:
                return
            raise KeyboardInterrupt
        asked.append(time.monotonic())
        run.ask(Wish("quit", why=signal.Signals(number).name, signal=number))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
