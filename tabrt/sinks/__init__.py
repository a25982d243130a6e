"""What a scene can become: knows no camera and no tracker."""

from tabrt.sinks.film import FilmSink, PictureSink, write_image
from tabrt.sinks.landmarks import Landmarks, read_landmarks
from tabrt.sinks.osc import OscSink, host_and_port
from tabrt.sinks.records import LandmarkWriter, landmark_lines, landmark_suffix
from tabrt.sinks.sink import MadeLate, Sink
from tabrt.sinks.virtual_camera import VirtualCamera, find_pyvirtualcam

__all__ = [
    "FilmSink",
    "LandmarkWriter",
    "Landmarks",
    "MadeLate",
    "OscSink",
    "PictureSink",
    "Sink",
    "VirtualCamera",
    "find_pyvirtualcam",
    "host_and_port",
    "landmark_lines",
    "landmark_suffix",
    "read_landmarks",
    "write_image",
]
