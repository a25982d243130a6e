"""filterpy's KalmanFilter, from its own file alone.

The package imports all of itself, and scipy with it: half of the time that a command takes to start. This filter needs
that for its likelihood alone, which nobody asks for here, and which is had all the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tabrt.standins import standing_in


def _kalman_filter() -> type:
    if "filterpy" in sys.modules:
        return importlib.import_module("filterpy.kalman").KalmanFilter
    package, kalman, common, stats = (ModuleType(f"filterpy{part}") for part in ("", ".kalman", ".common", ".stats"))
    stats.logpdf = _logpdf
    folder = Path(importlib.util.find_spec("filterpy").origin).parent
    for module, place in ((package, folder), (kalman, folder / "kalman"), (common, folder / "common")):
        module.__path__ = [str(place)]  # its files are found, its own imports are not run
    with standing_in(package, kalman, common, stats):
        helpers = importlib.import_module("filterpy.common.helpers")
        common.pretty_str, common.reshape_z = helpers.pretty_str, helpers.reshape_z
        found = importlib.import_module("filterpy.kalman.kalman_filter")
    for module in (helpers, found):  # whoever imports filterpy later gets the whole of it
        del sys.modules[module.__name__]
    return found.KalmanFilter


def _logpdf(*arguments, **options):
    from filterpy.stats import logpdf

    return logpdf(*arguments, **options)


KalmanFilter = _kalman_filter()
