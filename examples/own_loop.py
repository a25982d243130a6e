"""A loop of your own, with pictures from anywhere: python examples/own_loop.py IN.mp4 LAST.png

Shows the drawn frames in a window where there is one, and leaves the last as a picture.
"""

import os
import sys

import cv2

import tabrt

if len(sys.argv) != 3:
    sys.exit(__doc__)
capture = cv2.VideoCapture(sys.argv[1])
window = bool(os.environ.get("DISPLAY") or os.name == "nt")
index, picture = 0, None
with tabrt.Tracker() as tracker:
    while True:
        there, image = capture.read()  # uint8 (H, W, 3) BGR
        if not there:
            break
        seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # a camera's: time.monotonic()
        scene = tracker(tabrt.Frame(image, index, seconds))
        picture = tabrt.draw(scene, tracker.topology)
        if window:
            cv2.imshow("tabrt", picture)
            if cv2.waitKey(1) == ord("q"):
                break
        index += 1
if picture is None:
    sys.exit(f"{sys.argv[1]} has no pictures")
cv2.imwrite(sys.argv[2], picture)
