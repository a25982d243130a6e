"""Where the tip of each nose is, in every frame: python examples/track_film.py IN.mp4"""

import sys

import tabrt

if len(sys.argv) != 2:
    sys.exit(__doc__)
try:
    with tabrt.Tracker(faces=4) as tracker:
        for scene in tracker.track(sys.argv[1]):
            for face in scene.faces:
                x, y = face.points[54]
                print(f"{scene.frame.time:8.3f} s  face {face.id} ({face.box.score:.2f})  nose at {x:.1f}, {y:.1f} px")
except tabrt.TabrtError as problem:
    sys.exit(str(problem))
