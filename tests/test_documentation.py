"""What the documentation promises: its programs run, its pictures are those of the code, its site holds together."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CLIP, ROOT, environment

from tabrt import Tracker, load_engine, open_film, read_landmarks
from tabrt.geometry import Box, Crop
from tabrt.heatmaps import decode
from tabrt.sinks.records import LandmarkWriter

DOCS = ROOT / "docs"


def run(*words: object, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        **{"cwd": folder, "env": environment(DISPLAY=""), "capture_output": True, "text": True, "timeout": 120},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def example(name: str, *arguments: object, folder: Path) -> str:
    return run(ROOT / "examples" / f"{name}.py", *arguments, folder=folder)


# ------------------------------------------------------------------------------------------------------- examples


def test_noses_of_a_film(clip: Path, tmp_path: Path):
    lines = example("track_film", clip, folder=tmp_path).splitlines()
    assert len(lines) == 16
    assert re.fullmatch(r" +0\.000 s  face 1 \(0\.\d\d\)  nose at \d+\.\d, \d+\.\d px", lines[0])


def test_a_loop_of_ones_own(clip: Path, tmp_path: Path):
    example("own_loop", clip, "last.png", folder=tmp_path)
    assert cv2.imread(str(tmp_path / "last.png")).shape == (180, 320, 3)


def test_the_notebook_from_film_to_figure(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs matplotlib: the extra `plot`")
    cells = json.loads((DOCS / "from-film-to-figure.ipynb").read_text("utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    run("-c", "import matplotlib; matplotlib.use('Agg')\n" + code + "\nassert np.isfinite(pose).any()", folder=tmp_path)
    assert cv2.imread(str(tmp_path / "face.png")).std() > 5


def test_mouths_of_a_landmark_file(clip: Path, tmp_path: Path):
    with Tracker() as tracker, open_film(clip) as film:
        writer = LandmarkWriter(tmp_path / "points.jsonl", {"width": 320, "height": 180}, tracker.topology)
        for frame in film:
            writer(tracker(frame))
        writer.close()
    lines = example("mouths", "points.jsonl", folder=tmp_path).splitlines()
    assert len(lines) == len(read_landmarks(tmp_path / "points.jsonl").times) == 16


@pytest.mark.parametrize("name", ["mouths", "blink_rate"])
@pytest.mark.parametrize("words", [[], ["points.txt"], ["other.csv"]], ids=["nothing", "no file", "a table"])
def test_what_is_no_landmark_file_is_one_line_for_an_example(tmp_path: Path, name: str, words: list[str]):
    (tmp_path / "other.csv").write_text("frame,time\n0,0\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *words],
        **{"cwd": tmp_path, "env": environment(), "capture_output": True, "text": True, "timeout": 120},
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback" not in done.stderr and (words or [f"{name}.py"])[0] in done.stderr


@pytest.mark.parametrize("name", ["track_film", "face_pictures", "own_loop", "onnx_alone", "mouths", "blink_rate"])
def test_an_example_without_arguments_says_how_it_is_called(tmp_path: Path, name: str):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        **{"cwd": tmp_path, "env": environment(), "capture_output": True, "text": True, "timeout": 120},
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback" not in done.stderr and f"python examples/{name}.py" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("track_film", ["none.mp4"]),
        ("face_pictures", ["none.mp4", "faces"]),
        ("own_loop", ["none.mp4", "last.png"]),
        ("drowsiness", ["none.mp4"]),
        ("onnx_alone", [ROOT / "tabrt" / "models" / "tab1-nano.onnx", "none.png", 1, 2, 3, 4]),
        ("onnx_alone", ["none.onnx", ROOT / "docs" / "points.png", 1, 2, 3, 4]),
    ],
)
def test_an_example_says_in_a_line_what_is_not_there(tmp_path: Path, name: str, words: list[object]):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *map(str, words)],
        **{"cwd": tmp_path, "env": environment(), "capture_output": True, "text": True, "timeout": 120},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "none." in done.stderr.splitlines()[-1] and not list(tmp_path.iterdir())


def test_pictures_of_faces(clip: Path, tmp_path: Path):
    assert "1 pictures" in example("face_pictures", clip, "faces", folder=tmp_path)
    (picture,) = (tmp_path / "faces").glob("*.png")
    assert cv2.imread(str(picture)).shape == (256, 256, 3)


@pytest.mark.parametrize("name", ["tab1-nano", "tab1-lite"])
def test_the_network_alone_gives_the_points_that_tabrt_gives(name: str, tmp_path: Path):
    model = ROOT / "tabrt" / "models" / f"{name}.onnx"
    with Tracker(faces=1) as tracker, open_film(CLIP) as film:
        scene = next(islice(map(tracker, film), 10, None))
    box = scene.faces[0].box
    cv2.imwrite(str(tmp_path / "frame.png"), scene.frame.image)
    sides = [round(side, 2) for side in (box.left, box.top, box.right, box.bottom)]
    alone = np.array(json.loads(example("onnx_alone", model, "frame.png", *sides, folder=tmp_path)))
    engine = load_engine(model, "onnxruntime", 1)
    crop = Crop.around(Box(*sides), engine.card.crop_margin, engine.card.crop_size)
    points, _ = decode(engine(crop.cut(scene.frame.image)[np.newaxis]), engine.card.decoding, engine.card.offset)
    engine.close()
    np.testing.assert_allclose(alone, crop.to_frame(points[0]), atol=0.1)


def test_every_example_is_run_by_a_test():
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    for path in (ROOT / "examples").glob("*.py"):
        assert f'"{path.stem}"' in tests or f"{path.stem}.py" in tests, f"{path.name} is run by no test"


# ----------------------------------------------------------------------------------------------- pictures and pages


def test_the_readme_shows_the_rooms_as_the_contract_has_them():
    figures = _module(DOCS / "figures.py")
    text = figures.README.read_text("utf-8")
    assert figures.rooms() in text, "run: python docs/figures.py rooms"
    assert figures.readme_with_rooms() == text


def test_every_page_is_reached_from_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in navigation, f"mkdocs.yml does not name {page.name}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))], ids=str)
def test_links_lead_to_files(page: Path):
    text = re.sub(r"(?s)```.*?```", "", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_programs_in_a_page_use_no_name_that_they_do_not_have(page: Path):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    for block in (block for block in blocks if "tabrt." in block):
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"]
        told = subprocess.run(command, input=block, capture_output=True, text=True)
        assert told.returncode == 0, told.stdout


def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path):
    if importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("the site's builder is not installed here (extra docs)")
    run("-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path, folder=ROOT)
    pages = sorted(tmp_path.rglob("*.html"))
    assert {"index.html", "reference.html"} <= {page.name for page in pages}
    for page in pages:
        fetched = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="((?:https?:)?//[^"]+)', page.read_text())
        assert not fetched, page
    assert "Tracker" in (tmp_path / "reference.html").read_text()


def test_the_container_is_given_the_files_that_it_copies():
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    given = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    assert copied
    for name in copied:
        assert (ROOT / name).exists() and name in given, name


def _module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
