"""The problems that tabrt states in one line."""


class TabrtError(Exception):
    """A problem the user can mend: the message is one line that names the problem and the remedy.

    The command line prints it on stderr and exits with 1; it never shows a traceback for one.
    """


class EngineUnavailable(TabrtError):
    """An engine that cannot run here: a missing package, driver or device."""
