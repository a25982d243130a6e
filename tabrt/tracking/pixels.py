"""Frames whose pixels are not square: looked at as they are shown, told in pixels of their own."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from tabrt.faces import Face, Frame, Scene
from tabrt.geometry import Box


def as_shown(frame: Frame) -> Frame:
    """The frame with square pixels: its narrower side stretched, so that nothing is lost."""
    if frame.pixel_aspect == 1:
        return frame
    width, height = _scale(frame.pixel_aspect)
    image = cv2.resize(frame.image, None, fx=width, fy=height, interpolation=cv2.INTER_LINEAR)
    return replace(frame, image=image, pixel_aspect=1.0)


def as_stored(scene: Scene, frame: Frame) -> Scene:
    """What was seen in `as_shown(frame)`, in pixels of the frame."""
    shown = np.array(scene.frame.image.shape[1::-1])
    scale = shown / np.array(frame.image.shape[1::-1])
    return replace(scene, frame=frame, faces=tuple(_stored(face, scale, frame.pixel_aspect) for face in scene.faces))


def _scale(pixel_aspect: float) -> tuple[float, float]:
    return (pixel_aspect, 1.0) if pixel_aspect > 1 else (1.0, 1 / pixel_aspect)


def _stored(face: Face, scale: np.ndarray, pixel_aspect: float) -> Face:
    points, raw = (((each + 0.5) / scale - 0.5).astype(each.dtype) for each in (face.points, face.raw))
    crop = face.crop
    if crop is not None:
        centre = (np.array(crop.centre) + 0.5) / scale - 0.5
        x, y = centre.tolist()
        crop = replace(crop, centre=(x, y), side=crop.side / float(scale[1]), pixel_aspect=pixel_aspect)
    sight = None if face.sight is None else replace(face.sight, scale=(float(scale[0]), float(scale[1])))
    return replace(face, sight=sight, points=points, raw=raw, box=Box.of(points, face.box.score), crop=crop)
