"""The one kind of thing that scenes are given to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

from tabrt.faces import Scene


class Sink(ABC):
    """What becomes of scenes: called with each, closed at the end. A context manager.

    Whoever shows or writes pictures takes `scene.picture`, so that all show the same one. Raises TabrtError, from any
    of its methods, for what ends the run.
    """

    @property
    def notes(self) -> Sequence[str]:
        """What there is to tell at the end, a line each."""
        return ()

    @abstractmethod
    def __call__(self, scene: Scene) -> None:
        """Draw, write or send a scene."""

    def tick(self, last: Scene | None) -> None:  # noqa: B027  most have nothing to do then
        """Called live while no new scene is to be shown, some ten times a second; `last` is the last one shown."""

    def finish(self) -> None:  # noqa: B027  for most the end is the end
        """Called once before `close` where the run came to its end, after the sinks before this one have finished."""

    def close(self) -> None:  # noqa: B027  many hold nothing
        """Finish what was written, and let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_problem: object) -> None:
        self.close()


class MadeLate(Sink):
    """A sink that can only be made with the first scene, such as one that must know the size of the picture."""

    def __init__(self, make: Callable[[Scene], Sink]):
        self._make = make
        self._sink: Sink | None = None

    @property
    def notes(self) -> Sequence[str]:
        return self._sink.notes if self._sink is not None else ()

    def __call__(self, scene: Scene) -> None:
        if self._sink is None:
            self._sink = self._make(scene)
        self._sink(scene)

    def finish(self) -> None:
        if self._sink is not None:
            self._sink.finish()

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
