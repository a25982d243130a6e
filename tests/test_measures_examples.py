"""The examples of what pose and expression are good for, each run as its first line says."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, environment
from made_faces import calm, changed, face, scene, seen, shut_eye

from tabrt.sinks import LandmarkWriter
from tabrt.topology import WFLW98

OPEN_MOUTH = changed(((93, 94, 95, 84, 85, 86), (0, 0.25)))


def example(name: str, *words: object, folder: Path, **more) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *map(str, words)]
    options = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment(**more), **options)


def ended(process: subprocess.Popen) -> str:
    told, problem = process.communicate(timeout=120)
    assert process.returncode == 0, problem
    return told


def drowsy(index: int):
    """Of a face at 30 fps whose eyes are shut from the second to the fourth second."""
    both = shut_eye(right=False)
    both[60:68] = shut_eye(right=True)[60:68]
    return seen(head=both) if 60 <= index < 120 else seen()


def test_drowsiness_is_warned_of_once(clip: Path, tmp_path: Path):
    assert ended(example("drowsiness", clip, folder=tmp_path)) == ""  # 0.7 s of a film
    # With a tracker that sees shut eyes for two seconds.
    program = (
        "import sys, runpy, tabrt; sys.path.insert(0, {tests!r}); import test_measures_examples as t\n"
        "person = t.calm()\n"
        "class Tracker:\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *_): pass\n"
        "    def __call__(self, frame):\n"
        "        i = frame.index\n"
        "        return t.scene(t.face(t.drowsy(i), 1, person, i / 30), index=i, time=i / 30)\n"
        "tabrt.Tracker = Tracker\n"
        "tabrt.open_film = lambda path: (t.scene(index=i, time=i / 30).frame for i in range(200))\n"
        "sys.argv = ['drowsiness.py', 'made.mp4']; runpy.run_path({path!r})\n"
    ).format(tests=str(ROOT / "tests"), path=str(ROOT / "examples" / "drowsiness.py"))
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=120, check=True
    )
    (line,) = done.stdout.splitlines()
    found = re.fullmatch(r"\a +(\d\.\d) s  face 1: shut for 1\.\d s, \d+ % of late", line)
    assert found and 2.9 < float(found[1]) < 3.4


def test_blinks_a_minute_are_a_table(tmp_path: Path):
    person, both = calm(), shut_eye(right=False)
    both[60:68] = shut_eye(right=True)[60:68]
    with LandmarkWriter(tmp_path / "points.jsonl", {}, WFLW98, measures=True) as writer:
        for index in range(300):
            head = both if index % 60 in range(30, 35) else None
            points = seen() if head is None else seen(head=head)
            writer(scene(face(points, 3, person, index / 30), index=index, time=index / 30))
    heading, row = ended(example("blink_rate", "points.jsonl", folder=tmp_path)).splitlines()
    assert heading.split()[:2] == ["id", "minute"]
    number, minute, seconds, blinks, rate, length, deepest = row.split()
    assert (number, minute, blinks) == ("3", "0", "5")
    assert float(seconds) == pytest.approx(10, abs=0.1) and float(rate) == pytest.approx(30, abs=1)
    assert 100 < int(length) < 400 and float(deepest) > 0.7


def test_a_file_without_measures_is_said_to_be_one(tmp_path: Path):
    LandmarkWriter(tmp_path / "points.jsonl", {}, WFLW98).close()
    process = example("blink_rate", "points.jsonl", folder=tmp_path)
    assert "--measures" in process.communicate(timeout=120)[1] and process.returncode == 1


BLENDER = """
class Key:
    value = 0.0

class Head:
    class data:
        class shape_keys:
            key_blocks = {"jawOpen": Key()}

class context:
    object = Head()

class timers:
    def register(step):
        import time
        print("ready", flush=True)
        until = time.monotonic() + 60
        while not Head.data.shape_keys.key_blocks["jawOpen"].value and time.monotonic() < until:
            time.sleep(step())
        head = context.object
        print(head.rotation_mode, *head.rotation_euler, Head.data.shape_keys.key_blocks["jawOpen"].value, flush=True)

class app:
    timers = timers
"""


@pytest.mark.parametrize("blender", [True, False])
def test_blender_hears_pose_and_shapes(tmp_path: Path, blender: bool):
    pytest.importorskip("pythonosc", reason="sending needs the extra 'osc'")
    from tabrt.sinks import OscSink

    if blender:
        (tmp_path / "bpy.py").write_text(BLENDER)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "blender_face.py"), str(port)],
        **{"env": environment(PYTHONPATH=path), "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path},
    )
    try:
        first = process.stdout.readline()
        assert first.startswith("ready" if blender else "this is not Blender")
        with OscSink(f"127.0.0.1:{port}", measures=True) as sink, socket.socket(type=socket.SOCK_DGRAM) as mouth:
            for packet in sink.packets(scene(face(seen(-20, 10, 5, head=OPEN_MOUTH)))):
                mouth.sendto(packet, ("127.0.0.1", port))
                time.sleep(0.2)  # the pose is heard before the shapes come, as now and then it is by chance
        line = process.stdout.readline()
    finally:
        process.kill()
        process.communicate()
    if not blender:
        assert line.startswith("yaw -20, pitch 10, roll 5; jawOpen 0.")
        return
    mode, *numbers = line.split()
    pitch, roll, turn, jaw = map(float, numbers)
    assert mode == "YXZ" and jaw > 0.6
    assert (pitch, roll, turn) == pytest.approx((0.1745, 0.0873, 0.349), abs=0.01)
