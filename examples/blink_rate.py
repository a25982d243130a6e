"""Blinks a minute of each face in a film, as a table: python examples/blink_rate.py points.jsonl

tabrt video IN.mp4 --landmarks points.jsonl --measures makes the file.
"""

import sys
from collections import defaultdict

from tabrt.errors import TabrtError
from tabrt.sinks import landmark_lines

if len(sys.argv) != 2:
    sys.exit(__doc__)
try:
    header, *frames = landmark_lines(sys.argv[1])
except TabrtError as problem:
    sys.exit(str(problem))
if "measures" not in header:
    sys.exit(f"{sys.argv[1]} tells no blinks; write it with: tabrt video … --measures")
seen = defaultdict(list)  # by id and minute: times it was seen
blinks = defaultdict(list)  # by id and minute: blinks
for frame in frames:
    for face in frame["faces"]:
        where = face["id"], int(frame["time"] // 60)
        seen[where].append(frame["time"])
        if "blink" in face:
            blinks[where].append(face["blink"])
print("id  minute  seconds seen  blinks  blinks/min  median length, ms  deepest")
for (number, minute), times in sorted(seen.items()):
    found = blinks[number, minute]
    seconds = max(times) - min(times)
    lengths = sorted(blink["seconds"] for blink in found)
    length = f"{1000 * lengths[len(lengths) // 2]:.0f}" if found else "–"
    deepest = f"{max(blink['depth'] for blink in found):.2f}" if found else "–"
    rate = f"{60 * len(found) / seconds:.1f}" if seconds else "–"
    print(f"{number:2}  {minute:6}  {seconds:12.1f}  {len(found):6}  {rate:>10}  {length:>17}  {deepest:>7}")
