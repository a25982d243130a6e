"""The problems that tabrt states in one line."""

import re

SYSTEM_PACKAGES = "libgl1 libglib2.0-0"  # what OpenCV links and pip cannot bring
MEDIAPIPE_PACKAGES = "libegl1 libgles2"  # what MediaPipe links besides


class TabrtError(Exception):
    """A problem the user can mend: the message is one line that names the problem and the remedy.

    The command line prints it on stderr and exits with 1; it never shows a traceback for one.
    """


class EngineUnavailable(TabrtError):
    """An engine that cannot run here: a missing package, driver or device."""


def first_line(problem: BaseException) -> str:
    """What a problem, or the system behind it, says in its first line, at most 200 characters; else its type."""
    lines = (getattr(problem, "strerror", None) or str(problem)).strip().splitlines()
    return lines[0][:200] if lines else type(problem).__name__


def install_extra(extra: str) -> str:
    """What brings an extra. No index has tabrt, so its name there could be anybody's."""
    return f"in tabrt's checkout, run: pip install '.[{extra}]'"


def missing_package(problem: ModuleNotFoundError, extra: str) -> TabrtError:
    """What to raise where a package of an extra is missing. A module of tabrt's own that is missing is a defect."""
    if (problem.name or "").startswith("tabrt"):
        raise problem
    return TabrtError(f"{problem.name} is not installed; {install_extra(extra)}")


def missing_library(problem: BaseException) -> str | None:
    """What to say of a system library that could not be loaded; None for any other problem."""
    found = re.search(r"([\w.+-]+\.so[\w.]*): cannot open shared object file", str(problem))
    if not found:
        return None
    packages = MEDIAPIPE_PACKAGES if "EGL" in found[1] or "GLES" in found[1] else SYSTEM_PACKAGES
    return f"{found[1]} is not installed; on Debian and Ubuntu: sudo apt-get install {packages}"


def stated(problem: Exception) -> str:
    """What to say of any problem, in one line: what it states, or what the system refused, or that it is a defect."""
    if isinstance(problem, TabrtError):
        return str(problem)
    return missing_library(problem) or _of_the_system(problem) or _defect(problem)


def _of_the_system(problem: Exception) -> str | None:
    """What the system refused: a file or folder, memory; None for any other problem."""
    if isinstance(problem, MemoryError):
        return "there is too little memory for this; close other programs, or give smaller pictures"
    if not isinstance(problem, OSError) or problem.strerror is None:
        return None
    if isinstance(problem, BrokenPipeError):
        return "the output was closed by its reader; write to a file"
    where = f" with {problem.filename}" if problem.filename is not None else ""
    return f"the system refuses something{where} ({problem.strerror}); check names, rights and room"


def _defect(problem: Exception) -> str:
    return f"unexpected {type(problem).__name__}: {problem}; please report it, with what TABRT_DEBUG=1 shows"
