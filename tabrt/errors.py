"""The problems that tabrt states in one line."""

import re

SYSTEM_PACKAGES = "libegl1 libgl1 libgles2 libglib2.0-0"  # what MediaPipe and OpenCV link and pip cannot bring


class TabrtError(Exception):
    """A problem the user can mend: the message is one line that names the problem and the remedy.

    The command line prints it on stderr and exits with 1; it never shows a traceback for one.
    """


class EngineUnavailable(TabrtError):
    """An engine that cannot run here: a missing package, driver or device."""


def missing_library(problem: BaseException) -> str | None:
    """What to say of a system library that could not be loaded; None for any other problem."""
    found = re.search(r"([\w.+-]+\.so[\w.]*): cannot open shared object file", str(problem))
    return found and f"{found[1]} is not installed; on Debian and Ubuntu: sudo apt-get install {SYSTEM_PACKAGES}"
