"""A queue between two threads: one makes items while the other uses them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar, cast

Item = TypeVar("Item")

PATIENCE = 1.0  # seconds that close() waits for a source that is in the middle of an item


def ahead(iterator: Iterable[Item], depth: int = 8, drop: bool = False) -> Ahead[Item]:
    """Run an iterator in a thread, up to `depth` items ahead of whoever takes them.

    Items come in order, then the iterator's error, if it had one, or the end. With `drop`, only the newest item is
    kept and older ones are let go, for sources that do not wait. Closing stops the thread, which then closes the
    iterator if it is a generator; it never waits for a source that is stuck.
    """
    return Ahead(iterator, 1 if drop else depth, drop)


class Ahead(Generic[Item]):
    """What `ahead` returns: an iterator with `close`; `dropped` counts the items that were let go."""

    def __init__(self, iterator: Iterable[Item], depth: int, drop: bool):
        self._belt: _Belt[Item] = _Belt(max(1, depth), drop)
        self._thread = threading.Thread(target=_run, args=(iterator, self._belt), name="tabrt-ahead", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._belt.dropped

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        return cast(Item, self._belt.take())

    def take(self, timeout: float) -> Item | None:
        """The next item as `next` gives it, or None when none comes for `timeout` seconds."""
        return self._belt.take(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def close(self, patience: float = PATIENCE) -> None:
        """Stop the thread, waiting for it `patience` seconds at most. Items not taken yet are let go."""
        self._belt.stop()
        if self._thread is not threading.current_thread():
            self._thread.join(patience)

    def __enter__(self) -> Ahead[Item]:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._belt.stop()


class _Belt(Generic[Item]):
    """The items on their way, and how they end. The thread knows only this, so that a forgotten Ahead can be freed."""

    def __init__(self, depth: int, drop: bool):
        self.dropped = 0
        self._depth, self._drop = depth, drop
        self._items: deque[Item] = deque()
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, item: Item) -> bool:
        """Add an item once there is room; False when nobody wants it any more."""
        with self._changed:
            if self._drop and self._items:
                self._items.clear()
                self.dropped += 1
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._depth)
            if not self._stopped:
                self._items.append(item)
            self._changed.notify_all()
            return not self._stopped

    def take(self, timeout: float | None = None) -> Item | None:
        """The next item; None only where a timeout was given and none came."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._ended or self._stopped, timeout)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if not (self._ended or self._stopped):
                return None
            error, self._error = self._error, None
        raise error or StopIteration

    def end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()


def _run(iterable: Iterable[Item], belt: _Belt[Item]) -> None:
    error = None
    try:
        iterator = iter(iterable)
        try:
            for item in iterator:
                if not belt.put(item):
                    break
                del item  # a frame is large: not kept while the next one is made
        finally:
            close: Callable[[], None] | None = getattr(iterator, "close", None)
            if close is not None:
                close()
    except BaseException as problem:
        error = problem
    belt.end(error)
