"""The signals that ask a program to end."""

from __future__ import annotations

import signal


def ending_signals() -> tuple[signal.Signals, ...]:
    """Ctrl-C, SIGTERM, and the hang-up of a terminal that is closed, unless it is to be ignored, as under nohup."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    known = [signal.Signals[name] for name in names if name in signal.Signals.__members__]  # Windows has no SIGHUP
    return tuple(each for each in known if each.name != "SIGHUP" or signal.getsignal(each) is not signal.SIG_IGN)
