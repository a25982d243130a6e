"""Warns when eyes stay shut: python examples/drowsiness.py [FILM]   (without one: the first camera)

Rings and prints a line when someone's eyes are shut for a second on end, or were for 30 % of the last 20 seconds. It is
an example, not a safety device.
"""

import sys
from collections import defaultdict, deque

import tabrt
from tabrt.live import live_camera

SECONDS, MOST, ON_END, SHUT = 20.0, 0.3, 1.0, 0.3  # s, share of them, s, openness

seen = defaultdict(deque)  # by id: (time, whether the eyes were shut)
warned = defaultdict(lambda: -SECONDS)
try:
    with tabrt.Tracker() as tracker:
        for frame in tabrt.open_film(sys.argv[1]) if sys.argv[1:] else live_camera():
            for face in tracker(frame).faces if frame else ():
                if face.measures is None:
                    continue
                past, now = seen[face.id], frame.time
                past.append((now, max(face.measures.left_eye, face.measures.right_eye) < SHUT))
                while now - past[0][0] > SECONDS:
                    past.popleft()
                share = sum(shut for _, shut in past) / len(past)
                opened = max((time for time, shut in past if not shut), default=past[0][0])
                often = share > MOST and now - past[0][0] > SECONDS / 2
                if (often or now - opened >= ON_END) and now - warned[face.id] > 5:
                    warned[face.id] = now
                    print(f"\a{now:8.1f} s  face {face.id}: shut for {now - opened:.1f} s, {100 * share:.0f} % of late")
except tabrt.TabrtError as problem:
    sys.exit(str(problem))
