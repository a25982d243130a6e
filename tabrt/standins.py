"""Imports without what they drag in: modules that stand in for others while a package is imported."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def standing_in(*modules: ModuleType) -> Iterator[None]:
    """Within, these are what is imported under their names; afterwards the real modules are again."""
    sys.modules.update({module.__name__: module for module in modules})
    try:
        yield
    finally:
        for module in modules:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]


def on_demand(name: str) -> ModuleType:
    """A stand-in that loads the real module at the first use of anything in it."""
    module = ModuleType(name)
    module.__getattr__ = lambda attribute: getattr(importlib.import_module(name), attribute)
    return module
