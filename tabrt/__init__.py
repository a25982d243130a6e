"""98 steady landmarks on every face of a film or camera, in real time.

The whole of it in one loop: a frame comes in, is looked at once, and leaves as a scene; sinks draw, write or send it.

    for scene in map(tracker, frames):        # Frame -> Scene(frame, faces)
        for sink in sinks:
            sink(scene)

With a film:

    import tabrt

    with tabrt.Tracker() as tracker:
        for scene in tracker.track("in.mp4"):
            for face in scene.faces:
                print(scene.frame.time, face.id, face.points)  # (98, 2) px

With a loop of your own: `tracker(tabrt.Frame(image, index, time))`, image uint8 (H, W, 3) BGR.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tabrt.drawing.overlay import draw
    from tabrt.engines import load_engine
    from tabrt.errors import TabrtError
    from tabrt.faces import Face, Frame, Scene
    from tabrt.film import open_film
    from tabrt.geometry import Box
    from tabrt.sinks.alignment import align, put_back
    from tabrt.sinks.landmarks import read_landmarks
    from tabrt.topology import to_68
    from tabrt.tracking import Tracker

__version__ = "0.1.0"

__all__ = [
    "Box",
    "Face",
    "Frame",
    "Scene",
    "TabrtError",
    "Tracker",
    "__version__",
    "align",
    "draw",
    "load_engine",
    "open_film",
    "put_back",
    "read_landmarks",
    "to_68",
]

# Nothing leaves the machine: newer ONNX Runtimes than tabrt asks for report usage to their maker unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Box": "tabrt.geometry",
    "Face": "tabrt.faces",
    "Frame": "tabrt.faces",
    "Scene": "tabrt.faces",
    "TabrtError": "tabrt.errors",
    "Tracker": "tabrt.tracking",
    "align": "tabrt.sinks",
    "draw": "tabrt.drawing",
    "load_engine": "tabrt.engines",
    "open_film": "tabrt.film",
    "put_back": "tabrt.sinks",
    "read_landmarks": "tabrt.sinks",
    "to_68": "tabrt.topology",
}


if not TYPE_CHECKING:  # a type checker that sees it takes every misspelt name for one that is there

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used, so that `tabrt --help` loads none of them."""
        if name not in _HOMES:
            raise AttributeError(f"module 'tabrt' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
