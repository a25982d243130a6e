"""filterpy's KalmanFilter, from its own file alone.

`import filterpy` imports all of itself, and scipy with it: half of the time that a command takes to start. The filter
needs four names of the rest: two helpers, which have a file of their own, and logpdf for a likelihood that nobody asks
for here, and which is had all the same. So its file is run with an import statement of its own. Nothing outside this
module sees that: sys.modules and whoever imports filterpy are left as they are.
"""

from __future__ import annotations

import builtins
import importlib.util
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tabrt.errors import TabrtError


def _run(file: Path, instead: Mapping[str, Any]) -> ModuleType:
    """The module in a file, run with other things in the place of what it imports."""

    def import_(name: str, *rest: Any, **options: Any) -> Any:
        return instead[name] if name in instead else builtins.__import__(name, *rest, **options)

    loader = SourceFileLoader(f"{__name__}.{file.stem}", str(file))
    module = ModuleType(loader.name)
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_}
    loader.exec_module(module)
    return module


def _logpdf(*arguments: Any, **options: Any) -> Any:
    from filterpy.stats import logpdf

    return logpdf(*arguments, **options)


def _kalman_filter() -> type:
    package = importlib.util.find_spec("filterpy")
    if package is None or package.origin is None:
        raise TabrtError("filterpy is not installed; install tabrt again")
    folder = Path(package.origin).parent
    helpers = _run(folder / "common" / "helpers.py", {})
    instead = {"filterpy.stats": SimpleNamespace(logpdf=_logpdf), "filterpy.common": helpers}
    return _run(folder / "kalman" / "kalman_filter.py", instead).KalmanFilter


KalmanFilter = _kalman_filter()
