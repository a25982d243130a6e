"""Evaluation: figures by hand, on models that are right, wrong and unsure in known ways."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic_faces import drawn_faces, drawn_points

from tabrt.card import ModelCard
from tabrt.errors import TabrtError
from tabrt.geometry import Box, Crop
from tabrt.heatmaps import render_logits
from tabrt.topology import COFW29, IBUG68, WFLW98, to_68
from training import commands, datasets
from training.augment import truth_crop
from training.evaluate import figures, in_scheme, judge, midline_brows, report, seen
from training.perturb import PERTURBATIONS, moved
from training.plots import save_all

ROOT = Path(__file__).parents[1]


class Knowing:
    """An engine that knows the faces it will be shown, in order, and answers with an error of its choice.

    shift: px of the picture added to each point. unsure: of points under a grey sheet, it only knows a wide area.
    """

    name = "knowing"

    def __init__(self, faces, points=None, shift=(0.0, 0.0), perturbation=None, margin=1.25):
        self.card = ModelCard(name="knowing", crop_margin=margin)
        self.faces, self.perturbation, self.next = faces, perturbation, 0
        self.points = (faces.points if points is None else points) + np.asarray(shift)

    def __call__(self, crops):
        maps = []
        for i in range(self.next, self.next + len(crops)):
            box = None if self.faces.boxes is None else self.faces.boxes[i]
            crop = moved(self.perturbation, truth_crop(self.faces.points[i], box=box), np.random.default_rng((i, 0)))
            _, covered = seen(self.faces, i, crop, self.perturbation)
            logits = render_logits(crop.to_crop(self.points[i]))
            if covered.any():
                logits[covered] /= 40
            maps.append(logits)
        self.next += len(crops)
        return np.stack(maps)

    def close(self):
        pass


def test_a_model_that_is_right_has_no_error():
    faces = drawn_faces(5)
    out = figures(judge(faces, Knowing(faces)))
    assert out["nme"] < 0.002 and out["fr_08"] == 0 and out["auc_08"] > 0.97 and out["missed"] == 0
    assert out["nme_inner"] is None and out["faces"] == 5


def test_an_error_of_known_size():
    faces = drawn_faces(4)
    eyes = np.linalg.norm(faces.points[:, 60] - faces.points[:, 72], axis=1)
    shift = np.zeros((4, 1, 2))
    shift[:, 0, 0] = eyes * (0.01, 0.03, 0.09, 0.2)
    faces = dataclasses.replace(
        faces, subsets={"near": np.array([True, True, False, False]), "none": np.zeros(4, bool)}
    )
    result = judge(faces, Knowing(faces, shift=shift))
    np.testing.assert_allclose(result.errors, (0.01, 0.03, 0.09, 0.2), atol=2e-3)
    out = figures(result)
    assert (out["fr_08"], out["fr_10"]) == (0.5, 0.25)
    assert out["nme"] == pytest.approx(0.0825, abs=2e-3)
    assert out["auc_10"] == pytest.approx((0.09 + 0.07 + 0.01) / 0.1 / 4, abs=0.02)
    assert out["subsets"]["near"]["nme"] == pytest.approx(0.02, abs=2e-3) and list(out["subsets"]) == ["near"]
    json.dumps(out, allow_nan=False)


def judged_by_68(count: int = 3):
    """Drawn faces with the 68 points that a model of 98 points is judged on."""
    faces = drawn_faces(count)
    low, high = faces.points.min(axis=1), faces.points.max(axis=1)
    boxes = np.concatenate([low, high], axis=1)
    return dataclasses.replace(faces, topology=IBUG68, points=to_68(faces.points), boxes=boxes), faces.points


def test_a_98_point_model_is_judged_on_68_points():
    faces, points = judged_by_68()
    told, judgements = report(faces, Knowing(faces, points))
    assert judgements[""].points.shape == (3, 68, 2) and told["nme"] < 0.003 and told["nme_inner"] < 0.003
    assert "to_68" in told["protocol"] and "list's boxes" in told["protocol"] and "inter-ocular" in told["protocol"]
    assert told["card"]["name"] == "knowing" and told["nme_pupil"] > told["nme"]
    assert told["nme_midline_brows"] > told["nme"]
    with pytest.raises(TabrtError, match="cannot be judged on cofw29"):
        in_scheme(points, WFLW98, COFW29)


def test_midline_brows_by_hand():
    points = drawn_points()[None]
    found = midline_brows(points)[0]
    np.testing.assert_allclose(found[17], points[0, 33])
    np.testing.assert_allclose(found[19], (points[0, 35] + points[0, 40]) / 2)
    np.testing.assert_allclose(found[25], (points[0, 45] + points[0, 47]) / 2)
    mirrored = midline_brows(points[:, WFLW98.mirror] * (-1, 1))[0]
    np.testing.assert_allclose(mirrored[IBUG68.mirror] * (-1, 1), found, atol=1e-9)


def test_missed_faces_are_failures():
    faces = drawn_faces(4)
    true = [truth_crop(p) for p in faces.points]

    def detector(image, limit):
        i = next(i for i in range(4) if np.array_equal(image, faces.read(i)))
        if i == 1:
            return []
        if i == 2:
            return [Box(0, 0, 20, 20)]
        box = Box.of(faces.points[i])
        return [Box(300, 300, 310, 310), box]

    class Fixed(Knowing):
        def __call__(self, crops):
            return np.stack([render_logits(true[i].to_crop(faces.points[i])) for i in (0, 3)])

    out = figures(judge(faces, Fixed(faces), detector))
    assert out["missed"] == 2 and out["fr_08"] == 0.5 and out["nme"] < 0.003 and 0.47 < out["auc_08"] < 0.5


def test_nobody_found_is_said_not_raised():
    faces = drawn_faces(2)
    out = figures(judge(faces, Knowing(faces), lambda image, limit: []))
    assert out["nme"] is None and out["missed"] == 2 and out["fr_10"] == 1 and out["auc_10"] == 0


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbations_move_points_and_pixels_together(name):
    """A model that knows the truth is right however the crop is moved; and the same spoiling comes twice."""
    faces = drawn_faces(4)
    result = judge(faces, Knowing(faces, perturbation=name), perturbation=name)
    np.testing.assert_array_less(result.errors if name != "covered" else 0, 0.003)
    plain = seen(faces, 0, truth_crop(faces.points[0]), None)[0].astype(int)
    spoilt = seen(faces, 0, result.crops[0], name)[0].astype(int)
    assert np.abs(plain - spoilt).mean() > 0.5
    np.testing.assert_array_equal(seen(faces, 0, result.crops[0], name)[0], spoilt)


def test_covered_points_lie_under_the_sheet_and_unsure_ones_score_lower():
    faces = drawn_faces(6)
    told, _ = report(faces, Knowing(faces))
    assert told["perturbed"] == {} and "covered" not in told["confidence"]
    result = judge(faces, Knowing(faces, perturbation="covered"), perturbation="covered")
    assert 0.3 < result.covered.mean() < 0.7
    for i in range(6):
        pixels, covered = seen(faces, i, result.crops[i], "covered")
        for x, y in np.round(result.crops[i].to_crop(faces.points[i])[covered]).astype(int):
            assert (pixels[y, x] == 127).all()
    from training.evaluate import confidence_figures

    sure = confidence_figures(result)
    assert sure["covered"]["confidence"] < 0.3 < 0.8 < sure["seen"]["confidence"]
    assert sure["covered_scores_lower"] > 0.99


def test_pictures_of_an_evaluation(tmp_path):
    faces = drawn_faces(5)
    judgements = {
        "": judge(faces, Knowing(faces)),
        "roll": judge(faces, Knowing(faces, perturbation="roll"), None, "roll"),
    }
    save_all(judgements, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "ced.png",
        "calibration.png",
        "worst.jpg",
        "faces.jpg",
        "faces-roll.jpg",
    }
    sheet = cv2.imread(str(tmp_path / "worst.jpg"))
    assert sheet.shape == (256, 5 * 256, 3)


def test_a_face_without_a_length_is_named():
    faces = drawn_faces(2)
    faces.points[1, 60] = np.nan
    with pytest.raises(TabrtError, match="face face1 has no inter-ocular length"):
        judge(faces, Knowing(faces))
    with pytest.raises(TabrtError, match="has no faces"):
        judge(faces.subset(np.zeros(2, bool)), Knowing(faces))


def test_the_command_writes_json_and_plots(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from tabrt.engines import engine

    faces, points = judged_by_68()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: faces)
    monkeypatch.setattr(engine, "load_engine", lambda *_: Knowing(faces, points))
    words = ["evaluate", "--dataset", "300w", "--root", str(tmp_path), "--json", str(tmp_path / "a/b.json")]
    done = CliRunner().invoke(commands.app, [*words, "--plots", str(tmp_path / "plots")])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "a/b.json").read_text())
    keys = {"nme", "nme_inner", "fr_08", "fr_10", "auc_08", "auc_10", "faces", "missed", "protocol", "card", "subsets"}
    assert keys <= told.keys() and told["faces"] == 3 and told["boxes"] == "truth" and told["dataset"] == "300w"
    assert "300w68" in done.output and (tmp_path / "plots/ced.png").is_file()


def test_the_shipped_model_on_a_tree_of_pts(tmp_path):
    """The whole way, by the command: a picture with .pts beside it, the shipped model, the detector's box."""
    model = ROOT / "tabrt/models/tab1-lite.onnx"
    if not model.is_file():
        pytest.skip("tab1-lite.onnx is not in this checkout")
    capture = cv2.VideoCapture(str(ROOT / "tabrt/demo/pexels_face.mp4"))
    _, frame = capture.read()
    cv2.imwrite(str(tmp_path / "face.png"), frame)
    from tabrt.engines.engine import load_engine
    from tabrt.heatmaps import decode

    engine = load_engine(model, "onnxruntime", 1)
    crop = Crop((415.0, 190.0), 300.0)
    maps = engine(crop.cut(frame)[None])
    points, _ = decode(maps, engine.card.decoding, engine.card.offset)
    rows = "\n".join(f"{x + 1} {y + 1}" for x, y in to_68(crop.to_frame(points[0])))
    (tmp_path / "face.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")
    words = [
        "evaluate",
        "--dataset",
        "300w",
        "--root",
        str(tmp_path),
        "--boxes",
        "detector",
        "--json",
        str(tmp_path / "o.json"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "training", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "o.json").read_text())
    assert told["missed"] == 0 and told["nme"] < 0.05 and "detector" in told["protocol"]
