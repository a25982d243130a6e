"""What a scene can become: knows no camera and no tracker."""

from tabrt.sinks.alignment import ALIGNMENTS, Aligning, align, put_back
from tabrt.sinks.crops import CropFilms, CropSink, crop_transforms, crops_in
from tabrt.sinks.film import FilmSink, PictureSink, write_image
from tabrt.sinks.ifacialmocap import IFacialMocapSink
from tabrt.sinks.landmarks import Landmarks, landmark_frames, read_landmarks
from tabrt.sinks.openseeface import OpenSeeFaceSink
from tabrt.sinks.osc import OscSink
from tabrt.sinks.records import LandmarkWriter, landmark_ends, landmark_lines, landmark_suffix
from tabrt.sinks.sink import MadeLate, Sink
from tabrt.sinks.udp import host_and_port
from tabrt.sinks.virtual_camera import VirtualCamera, find_pyvirtualcam
from tabrt.sinks.vmc import VmcSink

__all__ = [
    "ALIGNMENTS",
    "Aligning",
    "CropFilms",
    "CropSink",
    "FilmSink",
    "IFacialMocapSink",
    "LandmarkWriter",
    "Landmarks",
    "MadeLate",
    "OpenSeeFaceSink",
    "OscSink",
    "PictureSink",
    "Sink",
    "VirtualCamera",
    "VmcSink",
    "align",
    "crop_transforms",
    "crops_in",
    "find_pyvirtualcam",
    "host_and_port",
    "landmark_ends",
    "landmark_frames",
    "landmark_lines",
    "landmark_suffix",
    "put_back",
    "read_landmarks",
    "write_image",
]
