"""Head pose, blinks and expression: against turned portraits, people at known poses, and blinks marked by people.

All is what a user gets: the tracker finds the face in a picture or follows it through a film. Errors are in degrees.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from benchmarks.contract import LABELLED, ROOT, Report, markdown, pick
from tabrt.faces import Face, Frame, Scene
from tabrt.measures import SHAPES, Lens, Measures, Person, Pose
from tabrt.measures.pose import angles_of
from tabrt.topology import WFLW98
from tabrt.tracking import Tracker
from training.heads import fitted, portraits, turned_portraits
from training.sets import held_out, load_zip
from training.turned import load_meshes

EDGES = (0, 8, 20, 35, 45, 55, 65, 75, 90)  # degrees of yaw, between which errors are told
NEAR = 45  # degrees, up to which the smaller errors are promised
TURNS = 6  # of each portrait
PICTURE = (1280, 720)  # px, in whose middle a turned portrait lies
AWAY = 120.0  # px: farther from the middle it is another face
FULL = 0.9  # of a shape of mouth or brows: few are so strong in a portrait
SLACK = 2  # frames, by which a blink's lowest may lie outside the marked ones
PROMISED = {"yaw": 2.5, "pitch": 3.0, "roll": 1.2, "turned": 6.0, "jitter": 0.1, "blinks": 0.95, "cost": 0.15}
ANGLES = ("yaw", "pitch", "roll")
CACHE = ROOT / ".cache" / "faces"


def run(effort: str, model: str, faces: Path | None) -> Report:
    from tabrt.commands.demo import DEMO_FILM

    shared = (faces or LABELLED).parent
    results: dict[str, Any] = {}
    with Tracker(model, threads=1) as tracker:
        card = tracker.engine.card
        demo = [scene for scene in tracker.track(DEMO_FILM) if scene.faces][: pick(effort, 600, 200, 40)]
        results["still"] = _still(tracker, demo[len(demo) // 2].frame.image, pick(effort, 300, 150, 30))
        results["demo"] = _jitter([scene.faces[0] for scene in demo])
        results["cost"] = _cost(demo)
        results["mirror"] = _mirror(demo)
        if (shared / "faces" / "meshes.npz").exists() and effort != "smoke":
            results["turned"] = _turned(tracker, shared / "faces", pick(effort, 200, 50, 0))
        if (shared / "poses" / "pointing04.zip").exists():
            results["photographs"] = _photographs(tracker, shared / "poses" / "pointing04.zip", pick(effort, 1, 4, 80))
        if (shared / "blinks" / "blinks.json").exists():
            results["blinks"] = _blinks(tracker, shared / "blinks", pick(effort, 99, 8, 2))
    report = Report("measures", effort, card, results, [1])
    _judge(report)
    return report


# Turned portraits


def _turned(tracker: Tracker, folder: Path, most: int) -> dict[str, Any]:
    """How poses are told of portraits that are turned by known angles, in a picture like a camera's.

    They are those of `human` that no network was trained on, and what pose knows of turned heads is not from that set.
    """
    faces = load_zip(folder / "human.zip", CACHE)[0]
    meshes, shape = load_meshes(folder / "meshes.npz")
    which = portraits(faces, meshes["human"])
    which = which[held_out(faces.names[which])][:most]
    true, told = [], []
    for portrait in turned_portraits(faces, meshes["human"], shape, which, TURNS, seed=1):
        true.append(angles_of(fitted(portrait.head)[0]))
        told.append(_told_of(_face_in(tracker, _in_the_middle(portrait.image))))
    return {"portraits": len(which), **_by_side(np.array(true), np.array(told))}


def _told_of(face: Face | None) -> tuple[float, ...]:
    """Yaw, pitch, roll, openness of the eye on the near side, and how many shapes of mouth and brows are full."""
    if face is None or face.pose is None or face.measures is None:
        return (np.nan,) * 5
    told = face.measures
    full = sum(value > FULL for name, value in told.items() if not name.startswith("eye"))
    return (*face.pose.angles, told.left_eye if face.pose.yaw > 0 else told.right_eye, full)


def _in_the_middle(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    picture = np.zeros((*PICTURE[::-1], 3), np.uint8)
    top, left = (PICTURE[1] - height) // 2, (PICTURE[0] - width) // 2
    picture[top : top + height, left : left + width] = image
    return picture


def _face_in(tracker: Tracker, image: np.ndarray) -> Face | None:
    """The face that lies nearest to the middle of a picture."""
    tracker.reset()
    found = tracker(Frame(image)).faces
    middle = np.array(image.shape[1::-1]) / 2
    away = [float(np.linalg.norm(face.points.mean(axis=0) - middle)) for face in found]
    if not away or min(away) > AWAY:
        return None
    return found[int(np.argmin(away))]


def _by_side(true: np.ndarray, told: np.ndarray) -> dict[str, Any]:
    """Mean errors of yaw, pitch and roll (N, 3), and what else is told, by how far heads are turned.

    told: (N, 5) as by `_told_of`; NaN where there is no face.
    """
    turned, sides = np.abs(true[:, 0]), np.sign(true[:, :1])
    off = (told[:, :3] - true + 180) % 360 - 180
    found = np.isfinite(off[:, 0])

    def row(low: float, high: float) -> dict[str, Any]:
        these = (turned >= low) & (turned < high)
        seen = these & found
        return {
            "turned": f"{low:g}–{high:g}",
            "pictures": int(these.sum()),
            "found": float(found[these].mean()),
            "true": float(turned[seen].mean()),
            "told": float((told[seen, 0] * sides[seen, 0]).mean()),
            **{name: float(np.abs(off[seen, column]).mean()) for column, name in enumerate(ANGLES)},
            "median": float(np.median(np.abs(off[seen, 0]))),
            "pitch_bias": float(off[seen, 1].mean()),
            "roll_bias": float((off[seen] * sides[seen])[:, 2].mean()),
            "near_eye": float(np.median(told[seen, 3])),
            "full": float(told[seen, 4].mean()),
        }

    ends = list(pairwise(EDGES))
    return {
        "rows": [row(*end) for end in ends if ((turned >= end[0]) & (turned < end[1]) & found).any()],
        "near": row(0, NEAR),
        "far": row(NEAR, EDGES[-1]),
    }


# People at known poses


def _photographs(tracker: Tracker, path: Path, every: int) -> dict[str, Any]:
    """Pointing'04: what the tracker tells of people who look at markers; one offset a person is taken off."""
    rows, looked = [], 0
    with zipfile.ZipFile(path) as archive:
        with np.load(io.BytesIO(archive.read("labels.npz"))) as labels:
            columns = [labels[name][::every] for name in ("image", "person", "tilt", "pan", "box")]
        for name, person, tilt, pan, box in zip(*columns, strict=True):
            image = cv2.imdecode(np.frombuffer(archive.read(f"images/{name}"), np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            tracker.reset()
            scene = tracker(Frame(image))
            looked += 1
            near = [face for face in scene.faces if np.abs(face.points.mean(axis=0) - box[:2]).max() < max(box[2:])]
            if near and near[0].pose is not None:
                rows.append((person, tilt, pan, *near[0].pose.angles))
    told = np.array(rows, float)
    person, tilt, pan, yaw, pitch, _ = told.T
    level = np.abs(tilt) <= 30
    errors = {"yaw": yaw - pan, "pitch": pitch + tilt}
    for one in np.unique(person):
        his = person == one
        for name, error in errors.items():
            errors[name] = np.where(his, error - np.median(error[his & level & (np.abs(pan) <= 45)]), error)
    ranges = []
    for low, high in ((0, 30), (0, 45), (46, 90)):
        these = level & (np.abs(pan) >= low) & (np.abs(pan) <= high)
        if len(np.unique(pan[these])) < 2:  # of a few photographs only
            continue
        ranges.append(
            {
                "pan": f"{low}–{high}",
                **{name: float(np.abs(error[these]).mean()) for name, error in errors.items()},
                "slope": float(np.polyfit(pan[these], yaw[these], 1)[0]),
                "correlation": float(np.corrcoef(pan[these], yaw[these])[0, 1]),
            }
        )
    means = {int(at): float(yaw[level & (pan == at)].mean()) for at in np.unique(pan) if (level & (pan == at)).any()}
    turned = level & (np.abs(pan) >= 15)
    return {
        "photographs": looked,
        "found": len(told) / looked,
        "ranges": ranges,
        "yaw_by_pan": means,
        "right_side": float((np.sign(yaw[turned]) == np.sign(pan[turned])).mean()),
        "pitch_slope": float(np.polyfit(-tilt[level], pitch[level], 1)[0]),
        "pitch_correlation": float(np.corrcoef(-tilt[level], pitch[level])[0, 1]),
    }


# Blinks, and faces that do nothing


def _blinks(tracker: Tracker, folder: Path, most: int) -> dict[str, Any]:
    """Blinks found in films in which people marked them: one is right where its lowest lies in a marked one ± SLACK."""
    marked = json.loads((folder / "blinks.json").read_text("utf-8"))
    right = missed = wrong = 0
    rest: list[dict[str, float]] = []
    ends: list[float] = []
    for name in sorted(marked)[:most]:
        found, quiet, index = [], [], -1
        blinking = {frame for first, last in marked[name]["blinks"] for frame in range(first - 3, last + 4)}
        for scene in tracker.track(str(folder / name)):
            index += 1
            if not scene.faces:
                continue
            face = max(scene.faces, key=lambda face: face.box.height)
            if face.measures is None:
                continue
            if face.measures.blink is not None:
                found.append(face.measures.blink)
            if index > 30 and index not in blinking:
                quiet.append([face.measures.get(shape, np.nan) for shape in SHAPES])
        rate = 30.0
        free = list(found)
        for first, last in marked[name]["blinks"]:
            blink = next((b for b in free if first - SLACK <= b.lowest_time * rate <= last + SLACK), None)
            if blink is None:
                missed += 1
                continue
            free.remove(blink)
            right += 1
            ends.append((blink.time + blink.seconds) * rate - last)
        wrong += len(free)
        if quiet:
            rest.append(dict(zip(SHAPES, np.nanmean(quiet, axis=0).tolist(), strict=True)))
    table = {shape: [one[shape] for one in rest] for shape in SHAPES}
    return {
        "films": min(len(marked), most),
        "blinks": right + missed,
        "recall": right / max(right + missed, 1),
        "precision": right / max(right + wrong, 1),
        "ends_late_frames": float(np.median(ends)) if ends else None,
        "rest": {shape: {"mean": float(np.mean(v)), "most": float(np.max(v))} for shape, v in table.items() if v},
    }


# Steadiness, symmetry, cost


def _jitter(faces: Iterable) -> list[float]:
    """Degrees of yaw, pitch and roll: rms of second differences over √6, which motion hardly adds to."""
    angles = np.array([face.pose.angles for face in faces])
    return np.sqrt((np.diff(angles, 2, axis=0) ** 2).mean(axis=0) / 6).tolist()


def _still(tracker: Tracker, image: np.ndarray, frames: int) -> list[float]:
    """A head at rest before a camera: one picture, with the noise of a sensor in each frame."""
    rng = np.random.default_rng(0)
    tracker.reset()
    told: list[Face] = []
    for index in range(frames):
        noisy = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        told += tracker(Frame(noisy, index, index / 30)).faces[:1]
    return _jitter(told[10:])


def _mirror(scenes: list[Scene]) -> dict[str, float]:
    """How far apart a face and its mirror image are told: worst of yaw and roll in degrees, and of all shapes."""
    height, width = scenes[0].frame.image.shape[:2]
    lens = Lens.usual(width, height)
    angles: list[float] = []
    shapes: list[float] = []
    one, other = Person(), Person()
    for scene in scenes:
        face = scene.faces[0]
        mirrored = face.points[WFLW98.mirror] * (-1, 1) + (width - 1, 0)
        sure = face.confidence[WFLW98.mirror]
        pose, measures = _told(one, face.points, face.confidence, lens, scene.frame.time)
        pose_mirrored, measures_mirrored = _told(other, mirrored, sure, lens, scene.frame.time)
        angles.append(float(np.abs(np.multiply(pose.angles, (-1, 1, -1)) - pose_mirrored.angles).max()))
        for name, value in measures.items():
            swapped = name.replace("Left", "?").replace("Right", "Left").replace("?", "Right")
            shapes.append(abs(value - measures_mirrored.get(swapped, value)))
    return {"degrees": max(angles), "shapes": max(shapes)}


def _told(person: Person, points: np.ndarray, confidence: np.ndarray, lens: Lens, time: float) -> tuple[Pose, Measures]:
    pose = person.pose(points, confidence, lens, time)
    measures = person.read(points, confidence, pose, time)[1]
    assert pose is not None and measures is not None
    return pose, measures


def _cost(scenes: list[Scene]) -> dict[str, float]:
    """Milliseconds a face: the median over frames of each frame's least, of 20 runs."""
    parts = {"pose": np.full(len(scenes), np.inf), "measures": np.full(len(scenes), np.inf)}
    lens = Lens.usual(*scenes[0].frame.image.shape[1::-1])
    for _ in range(20):
        person = Person()
        for index, scene in enumerate(scenes):
            face = scene.faces[0]
            start = perf_counter()
            pose = person.pose(face.points, face.confidence, lens, scene.frame.time)
            middle = perf_counter()
            person.read(face.points, face.confidence, pose, scene.frame.time)
            end = perf_counter()
            parts["pose"][index] = min(parts["pose"][index], middle - start)
            parts["measures"][index] = min(parts["measures"][index], end - middle)
    return {name: float(np.median(times) * 1e3) for name, times in parts.items()}


# Account


def _judge(report: Report) -> None:
    results = report.results

    def say(kept: bool, text: str) -> None:
        (report.wins if kept else report.losses).append(text)

    if "turned" in results:
        near, far = results["turned"]["near"], results["turned"]["far"]
        for name in ANGLES:
            say(
                near[name] <= PROMISED[name],
                f"{name} of portraits turned by up to {NEAR}°: {near[name]:.2f}° off, wanted {PROMISED[name]:g}°",
            )
            say(
                far[name] <= PROMISED["turned"],
                f"{name} beyond {NEAR}°: {far[name]:.2f}° off, wanted {PROMISED['turned']:g}°",
            )
        worst = max(results["turned"]["rows"], key=lambda row: row["yaw"])
        say(worst["yaw"] <= PROMISED["turned"], f"yaw at {worst['turned']}°, the worst: {worst['yaw']:.2f}° off")
    if "photographs" in results:
        for row in results["photographs"]["ranges"]:
            limit = PROMISED["yaw"] if row["pan"].startswith("0") else PROMISED["turned"]
            say(row["yaw"] <= limit, f"yaw of people who look at markers, pan {row['pan']}°: {row['yaw']:.1f}° off")
    if "blinks" in results:
        for name in ("recall", "precision"):
            value = results["blinks"][name]
            say(value >= PROMISED["blinks"], f"{name} of marked blinks: {100 * value:.1f} %, wanted 95 %")
    worst = max(results["still"])
    say(worst <= PROMISED["jitter"], f"jitter at rest: {worst:.3f}°, wanted {PROMISED['jitter']:g}°")
    cost = sum(results["cost"].values())
    say(cost < PROMISED["cost"], f"pose and measures of a face: {cost:.3f} ms, wanted {PROMISED['cost']:g} ms")
    report.notes.append("Pointing'04: N. Gourier, D. Hall, J. L. Crowley, 2004, © INRIA. People looked at markers with "
                        "heads and eyes, so some of the degrees are theirs.")  # fmt: skip


def table(report: Report) -> str:
    results = report.results
    parts = []
    if "turned" in results:
        told = results["turned"]
        rows = [
            (
                row["turned"],
                row["pictures"],
                f"{100 * row['found']:.1f} %",
                f"{row['true']:.1f}",
                f"{row['told']:.1f}",
                *(row[name] for name in (*ANGLES, "median", "pitch_bias", "roll_bias", "near_eye", "full")),
            )
            for row in (*told["rows"], told["near"], told["far"])
        ]
        parts.append(
            f"{told['portraits']} portraits that no network was trained on, each turned by its mesh to {TURNS} known "
            "yaws and tilted by up to 25°, as the tracker sees one picture of each; mean errors in degrees:\n\n"
            + markdown(
                ("turned by", "pictures", "found", "mean yaw", "told", *(f"{name} off" for name in ANGLES),
                 "median yaw off", "pitch bias", "roll bias", "near eye open, median", f"shapes above {FULL}"),
                rows,
            )
        )  # fmt: skip
    if "photographs" in results:
        told = results["photographs"]
        rows = [(row["pan"], row["yaw"], row["pitch"], row["slope"], row["correlation"]) for row in told["ranges"]]
        means = ", ".join(f"{at}: {mean:.0f}" for at, mean in told["yaw_by_pan"].items())
        parts.append(
            f"Pointing'04, {told['photographs']} photographs of people at known poses, {100 * told['found']:.1f} % "
            "found; tilt up to 30°, one offset a person taken off:\n\n"
            + markdown(("pan, degrees", "yaw off", "pitch off", "slope of yaw", "correlation"), rows)
            + f"\n\nMean yaw by pan: {means}. The side is right in {100 * told['right_side']:.1f} % from 15° on; pitch "
            f"follows tilt with a slope of {told['pitch_slope']:.2f} and a correlation of "
            f"{told['pitch_correlation']:.2f}."
        )
    if "blinks" in results:
        told = results["blinks"]
        restless = sorted(told["rest"].items(), key=lambda item: -item[1]["mean"])[:6]
        parts.append(
            f"Blinks in {told['films']} films (ZJU, 320×240, people with and without glasses): recall "
            f"{100 * told['recall']:.1f} %, precision {100 * told['precision']:.1f} % of {told['blinks']} blinks, the "
            f"lowest within {SLACK} frames of the marked ones. While these people do nothing, no shape but these is on "
            "average above what is told here: "
            + ", ".join(f"{name} {value['mean']:.2f} (most {value['most']:.2f})" for name, value in restless)
            + "."
        )
    steady = [(name, *results[key]) for name, key in (("one picture, sensor noise", "still"), ("demo film", "demo"))]
    parts.append("Jitter, degrees:\n\n" + markdown(("", *ANGLES), steady))
    mirror, cost = results["mirror"], results["cost"]
    parts.append(
        f"A face and its mirror image are told {mirror['degrees']:.3f}° and {mirror['shapes']:.4f} of a shape apart at "
        f"worst. Pose takes {cost['pose']:.3f} ms a face, gaze and expression {cost['measures']:.3f} ms."
    )
    return "\n\n".join(parts)


def plots(report: Report) -> None:
    import matplotlib.pyplot as plt

    results = report.results
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    rows = results.get("turned", {}).get("rows", [])
    for name in ANGLES:
        left.plot([row["true"] for row in rows], [row[name] for row in rows], marker="o", label=name)
    left.set(
        xlabel="yaw, degrees", ylabel="mean error, degrees", title="portraits turned by known angles", ylim=(0, None)
    )
    left.legend()
    means = results.get("photographs", {}).get("yaw_by_pan", {})
    right.plot([-90, 90], [-90, 90], color="0.8")
    right.plot(list(means), list(means.values()), marker="o")
    right.set(xlabel="pan of the marker, degrees", ylabel="mean yaw, degrees", title="Pointing'04")
    figure.tight_layout()
    report.folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(report.folder / "measures.png", dpi=110)
    plt.close(figure)
