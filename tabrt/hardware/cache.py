"""Where what was made for this machine is kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tabrt.errors import EngineUnavailable


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/tabrt` where that is set; else `tabrt` where the system keeps such things for a user."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or _of_the_system()) / "tabrt"
    except RuntimeError as error:  # a user without a name, as in some containers
        raise EngineUnavailable("this user has no home folder; set HOME or XDG_CACHE_HOME") from error


def _of_the_system() -> str | Path:
    if sys.platform == "win32":
        return os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
