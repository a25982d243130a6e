"""The signals that ask a program to end, and the end that closes its files."""

from __future__ import annotations

import os
import signal
import time


def ending_signals() -> tuple[signal.Signals, ...]:
    """Ctrl-C, SIGTERM, and the hang-up of a terminal that is closed, unless it is to be ignored, as under nohup."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    known = [signal.Signals[name] for name in names if name in signal.Signals.__members__]  # Windows has no SIGHUP
    return tuple(each for each in known if each.name != "SIGHUP" or signal.getsignal(each) is not signal.SIG_IGN)


class Ending:
    """A handler of such signals: the first one ends the program through its `with` blocks, so that files are closed.

    patience: seconds after which another one ends it at once, for whoever sends it sees nothing move; infinite where
    nobody watches.
    """

    def __init__(self, patience: float):
        self._patience = patience
        self._since: float | None = None

    def __call__(self, number: int, _frame: object) -> None:
        if self._since is None:
            self._since = time.monotonic()
            raise SystemExit(128 + number)
        if time.monotonic() - self._since > self._patience:
            os._exit(128 + number)
