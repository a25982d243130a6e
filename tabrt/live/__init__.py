"""A camera followed for days: the newest frame, and all that shows and records it. The page is asked for by itself."""

from tabrt.live.camera import LiveCamera
from tabrt.live.devices import cameras
from tabrt.live.loop import follow, warm_up
from tabrt.live.metrics import MetricsServer
from tabrt.live.recorder import USUAL_RATE, Recorder, Snapshots
from tabrt.live.run import Counting, Resting, Run, Wish
from tabrt.live.sources import live_camera
from tabrt.live.status import Counts, Numbers, State, Status
from tabrt.live.window import Window, no_screen, numbers_place

__all__ = [
    "USUAL_RATE",
    "Counting",
    "Counts",
    "LiveCamera",
    "MetricsServer",
    "Numbers",
    "Recorder",
    "Resting",
    "Run",
    "Snapshots",
    "State",
    "Status",
    "Window",
    "Wish",
    "cameras",
    "follow",
    "live_camera",
    "no_screen",
    "numbers_place",
    "warm_up",
]
