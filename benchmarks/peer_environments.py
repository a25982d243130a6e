"""Makes each peer's own environment: `python -m benchmarks.peer_environments`. Needs PyPI; about 1.2 GB."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).parent / ".peers"
# dlib-bin is dlib, compiled; face_recognition_models carries its 68-point model. The last mediapipe with the face mesh
# inside its wheel is 0.10.21.
REQUIREMENTS = {
    "mediapipe": ["mediapipe==0.10.21"],
    "dlib": ["dlib-bin==20.0.1.post1", "face_recognition_models==0.3.0", "numpy<3", "opencv-python-headless<5"],
}
ENVIRONMENT_OF = {"mediapipe": "mediapipe", "mediapipe-refined": "mediapipe", "dlib": "dlib"}


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, there or not."""
    return FOLDER / ENVIRONMENT_OF[peer] / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def make(name: str) -> None:
    """Make one environment of REQUIREMENTS anew."""
    folder = FOLDER / name
    venv.create(folder, clear=True, with_pip=True)
    python = python_of(name)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]], check=True)
    print(f"{name}: {folder}")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    for wanted in sys.argv[1:] or REQUIREMENTS:
        make(wanted)
