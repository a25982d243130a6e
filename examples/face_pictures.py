"""A picture of each face, upright and of one size, once a second: python examples/face_pictures.py IN.mp4 FOLDER"""

import sys
from pathlib import Path

import cv2

import tabrt
from tabrt.geometry import Crop

MARGIN = 1.6  # side of the picture over that of the face

if len(sys.argv) != 3:
    sys.exit(__doc__)
folder = Path(sys.argv[2])
taken: dict[int, float] = {}  # when each face was last taken
try:
    with tabrt.Tracker() as tracker:
        for scene in tracker.track(sys.argv[1]):
            for face in scene.faces:
                if scene.frame.time - taken.get(face.id, -1e9) >= 1:
                    crop = Crop.following(face.points, tracker.topology.roll(face.points), MARGIN)
                    rgb = crop.cut(scene.frame.image)  # uint8 (256, 256, 3)
                    folder.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(folder / f"face{face.id}_{scene.frame.time:07.2f}s.png"), rgb[..., ::-1])
                    taken[face.id] = scene.frame.time
except tabrt.TabrtError as problem:
    sys.exit(str(problem))
print(f"{len(list(folder.glob('face*.png')))} pictures in {folder}")
