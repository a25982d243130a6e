"""68-point and inner-51-point errors of tabrt and the peers on the same pictures, in true and in detected boxes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.contract import LABELLED, ROOT, Report, markdown, pick
from benchmarks.mesh_map import MeshMap
from benchmarks.peers import MESH, Peer, open_peers, peer_68
from benchmarks.plots import figure, ink, save
from tabrt.detection import Detector
from tabrt.engines import Engine, load_engine
from tabrt.errors import TabrtError
from tabrt.geometry import Box
from tabrt.hardware import available_threads
from tabrt.topology import IBUG68, to_68
from tabrt.tracking import Tracker
from training.datasets import load_dataset
from training.effects import hard_light
from training.evaluate import Judgement, figures, judge
from training.metrics import point_errors
from training.sets import FaceSet, held_out, load_zip

CACHE = ROOT / ".cache" / "faces"
BORDER = 0.5  # of the picture, put around it where a peer finds no face: its detector may want to see more
WRONG_FACE = 0.3  # overlap with the true box below which a peer has found another face


def run(effort: str, model: str, faces: Path | None) -> Report:
    """Judge tabrt and every peer. faces: a folder in 300-W's layout, or one with human.zip and others like it."""
    root = LABELLED if faces is None else faces
    notes: list[str] = []
    engine = load_engine(model)
    sets = {name: some.evenly(pick(effort, None, 150, 6)) for name, some in _sets(root, effort).items()}
    judgements: dict[tuple[str, str, str, str], Judgement] = {}
    with ExitStack() as stack:
        stack.callback(engine.close)
        detector = Detector()
        stack.callback(detector.close)
        tracker = stack.enter_context(Tracker(engine=engine, detector=detector))
        peers = {} if effort == "smoke" else open_peers(stack, available_threads(None), notes)
        learning = _training_part(root, pick(effort, 1200, 300, 0)) if peers else None
        maps = {name: _mesh_map(peer, learning) for name, peer in peers.items() if name in MESH and learning}
        for kind, found in sets.items():
            judgements[kind, "tabrt", "truth", "to_68"] = judge(found, engine)
            judgements[kind, "tabrt", "detector", "to_68"] = judge(found, engine, detector)
            judgements[kind, "tabrt", "tracker", "to_68"] = _judgement(found, to_68(_tracked(tracker, found)))
            for name, peer in peers.items():
                told = _judge_peer(name, peer, found, learning, maps.get(name), notes)
                judgements |= {(kind, *key): result for key, result in told.items()}
    rows = [_row(key, result) for key, result in judgements.items()]
    first = next(iter(sets.values()))
    about = {"set": first.name, "faces": len(first), "normaliser": first.normaliser}
    about |= {"sets": {name: {"faces": len(some), "normaliser": some.normaliser} for name, some in sets.items()}}
    threads = [available_threads(None)]
    report = Report("accuracy", effort, engine.card, {"rows": rows, **about}, threads, notes=notes, behind=judgements)
    report.notes += _explained(sets, engine)
    _compare(report)
    return report


def _sets(root: Path, effort: str) -> dict[str, FaceSet]:
    """By kind, in 68 points, portraits first: where the zips of faces lie, held-out ones of each weakness too.

    For a try the larger zips are not unpacked.
    """
    if not (root / "human.zip").is_file():
        return {"portraits": load_dataset("300w", root, "test", CACHE)}
    portraits = load_dataset("shared-validation", root, "test", CACHE)
    sets = {"portraits": portraits, "hard light": replace(portraits, read=_Lit(portraits.read), name="hard light")}
    for kind, file in (("profiles", "cfp.zip"), ("children", "fgnet.zip")):
        if effort != "smoke" and (root / file).is_file():
            sets[kind] = _in_68(load_dataset(f"shared-{kind}", root, "test", CACHE))
    return sets


def _in_68(faces: FaceSet) -> FaceSet:
    """Faces of 98 points by those 68 that all of theirs are known of; errors are over the same lengths."""
    boxes = np.concatenate([np.nanmin(faces.points, axis=1), np.nanmax(faces.points, axis=1)], axis=1)
    return replace(faces, topology=IBUG68, points=to_68(faces.points), scales=faces.lengths(), boxes=boxes)


@dataclass(frozen=True, eq=False)
class _Lit:
    """Pictures in hard light, the same every time."""

    read: Callable[[int], np.ndarray]

    def __call__(self, i: int) -> np.ndarray:
        return hard_light(np.ascontiguousarray(self.read(i)[..., ::-1]), np.random.default_rng((i, 1)))[..., ::-1]


def _training_part(root: Path, count: int) -> tuple[FaceSet, np.ndarray] | None:
    """Faces that no judgement is made on, with human 68 points: what fair mappings are learned from."""
    source = next((folder for folder in (root, LABELLED) if (folder / "human.zip").is_file()), None)
    if source is None or not count:
        return None
    faces, human = load_zip(source / "human.zip", CACHE)
    usable = np.flatnonzero(~held_out(faces.names) & np.isfinite(human).all(axis=(1, 2)))
    chosen = usable[np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(int)]
    return faces.subset(chosen), human[chosen]


# ---------------------------------------------------------------------------------------------------------------- peers


def _judge_peer(name: str, peer: Peer, faces: FaceSet, learning, mapped: MeshMap | None, notes: list[str]) -> dict:
    own = _see_all(peer, faces, faces.points)
    found = {(name, "detector", "nearest vertex" if name in MESH else "own"): _judgement(faces, peer_68(name, own))}
    if name in MESH:
        if mapped is None:
            notes.append(f"{name}: no best linear map, for there is no human.zip to learn it from")
            return found
        found[name, "detector", "best linear map"] = _judgement(faces, mapped(own))
    elif learning is not None:
        boxes = _boxes_like(peer, learning, faces)
        inside = np.stack([np.asarray(peer(faces.read(i), box=box)) for i, box in enumerate(boxes)])
        found[name, "truth", "own"] = _judgement(faces, inside)
    return found


def _tracked(tracker: Tracker, faces: FaceSet) -> np.ndarray:
    """(N, 98, 2): what the whole of tabrt says of each picture; NaN where it finds no face, or another one."""
    points = np.full((len(faces), tracker.topology.points, 2), np.nan)
    for i, true in enumerate(faces.points):
        box = Box.of(true[np.isfinite(true).all(axis=1)])
        best = max(tracker.still(faces.read(i)).faces, key=lambda face: box.overlap(face.box), default=None)
        if best is not None and box.overlap(best.box) >= WRONG_FACE:
            points[i] = best.raw
    return points


def _mesh_map(peer: Peer, learning: tuple[FaceSet, np.ndarray]) -> MeshMap:
    seen = _see_all(peer, learning[0], learning[1])
    known = np.isfinite(seen).all(axis=(1, 2))
    return MeshMap.learn(seen[known], learning[1][known])


def _see_all(peer: Peer, faces: FaceSet, points: np.ndarray) -> np.ndarray:
    """(N, K, 2): the peer's own points of every face; NaN where it found none, or another face."""
    seen = [_see(peer, faces.read(i), points[i]) for i in range(len(faces))]
    size = next((len(look) for look in seen if look is not None), None)
    if size is None:
        raise TabrtError(f"{peer.name} found no face at all; make its environment again")
    return np.stack([np.full((size, 2), np.nan) if look is None else look for look in seen])


def _see(peer: Peer, image: np.ndarray, true: np.ndarray) -> np.ndarray | None:
    points = peer(image)
    if points is None:
        border = int(BORDER * max(image.shape[:2]))
        points = peer(np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge"))
        points = None if points is None else points - border
    if points is None:
        return None
    labelled = true[np.isfinite(true).all(axis=1)]
    return points if Box.of(points).overlap(Box.of(labelled)) >= WRONG_FACE else None


def _boxes_like(peer: Peer, learning: tuple[FaceSet, np.ndarray], faces: FaceSet) -> np.ndarray:
    """(N, 4): true boxes as the peer's own detector would draw them: medians of 150 faces give shift and size."""
    shifts, sizes = [], []
    for i in range(min(150, len(learning[0]))):
        if peer(learning[0].read(i)) is None or peer.box is None:
            continue
        centre, side = _square(learning[1][i])
        left, top, right, bottom = peer.box
        if np.linalg.norm(((left + right) / 2, (top + bottom) / 2) - centre) < side / 2:
            shifts.append((((left + right) / 2, (top + bottom) / 2) - centre) / side)
            sizes.append((right - left) / side)
    shift, size = np.median(shifts, axis=0), np.median(sizes)
    boxes = []
    for points in faces.points:
        centre, side = _square(points[np.isfinite(points).all(axis=1)])
        x, y = centre + shift * side
        half = size * side / 2
        boxes.append((x - half, y - half, x + half, y + half))
    return np.array(boxes).round().astype(int).tolist()


def _square(points: np.ndarray) -> tuple[np.ndarray, float]:
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, float((high - low).max())


def _judgement(faces: FaceSet, points: np.ndarray) -> Judgement:
    """What the same figures are made of, for points (N, 68, 2) of any origin."""
    each = point_errors(points, faces.points, faces.lengths())
    missed = np.isnan(points).any(axis=(1, 2))
    errors = np.full(len(faces), np.inf)
    errors[~missed] = np.nanmean(each[~missed], axis=1)
    nothing = np.zeros(points.shape[:2])
    return Judgement(
        faces=faces,
        perturbation=None,
        crops=[],
        own=points,
        points=points,
        confidence=nothing,
        point_errors=each,
        errors=errors,
        covered=nothing.astype(bool),
    )


# -------------------------------------------------------------------------------------------------------------- account


def _row(key: tuple[str, str, str, str], result: Judgement) -> dict:
    kind, method, boxes, mapping = key
    return {"set": kind, "method": method, "boxes": boxes, "map": mapping, **figures(result)}


def _explained(sets: dict[str, FaceSet], engine: Engine) -> list[str]:
    return [
        *(
            f"{kind}: {len(faces)} faces of {faces.name}; errors over {faces.normaliser}."
            for kind, faces in sets.items()
        ),
        "Profiles are judged by the points that people marked, on the half of the face that is seen. Hard light is a "
        "spoiling of the portraits: a single hue, a posterised print, two stage lights, or hardly any light.",
        f"tabrt's crops have a margin of {engine.card.crop_margin}.",
        "`tracker` is all that tabrt does with a picture: the detector, and looks again from where the network put the "
        "face; `detector` its network in the detector's box alone. Peers' own ways count as `detector`.",
        "A missed face, or another one found in its place, counts in FR and AUC as a failure; NME is over found faces.",
        "`best linear map`: each of the 68 points as a ridge regression on all of the peer's mesh points, learned on "
        "faces of human.zip that are not judged on. It is the fair one: no choice of vertices matches hand labels.",
        "Peers look at pictures one by one, with a border put around where they find no face at first. dlib's true "
        "boxes are moved and sized as its own detector draws them; the mesh takes no box. dlib's model was trained on "
        "300-W, much of which is in human.zip: its figures there are on faces it has seen.",
    ]


def _compare(report: Report) -> None:
    rows = [row for row in report.results["rows"] if row["boxes"] in ("detector", "tracker")]
    mine = {row["set"]: row for row in rows if row["boxes"] == "tracker"}
    for row in rows:
        if row["method"] != "tabrt":
            own = mine[row["set"]]
            line = f"{row['set']}: NME {_percent(own['nme'])}, missed {own['missed']}; "
            line += f"{row['method']} ({row['map']}) {_percent(row['nme'])}, missed {row['missed']}"
            better = own["nme"] is not None and (row["nme"] is None or own["nme"] < row["nme"])
            (report.wins if better else report.losses).append(line)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def table(report: Report) -> str:
    header = ["set", "", "boxes", "mapping", "NME 68", "inner 51", "FR 8 %", "FR 10 %", "AUC 8 %", "AUC 10 %", "missed"]
    keys = ("nme", "nme_inner", "fr_08", "fr_10", "auc_08", "auc_10")
    rows = []
    for row in report.results["rows"]:
        rows.append(
            [row["set"], row["method"], row["boxes"], row["map"], *(_percent(row[key]) for key in keys), row["missed"]]
        )
        rows += [
            [row["set"], f"· {name}", row["boxes"], row["map"], *(_percent(part[key]) for key in keys), part["missed"]]
            for name, part in row["subsets"].items()
        ]
    return markdown(header, rows)


def plots(report: Report) -> None:
    kinds = list(dict.fromkeys(kind for kind, *_ in report.behind))
    fig, axes = figure(len(kinds), width=5.2, height=4.6)
    for ax, kind in zip(axes, kinds, strict=True):
        for (of, method, boxes, mapping), result in report.behind.items():
            if of != kind:
                continue
            errors = 100 * np.sort([0.0, *result.errors])
            share = 100 * np.arange(len(errors)) / (len(errors) - 1)
            style = {"truth": "--", "detector": "-", "tracker": "-"}[boxes] if mapping != "nearest vertex" else ":"
            label = f"{method}, {boxes} box, {mapping}"
            ax.step(errors, share, style, where="post", color=ink(method), lw=1.4, label=label)
        ax.set_xlim(0, 10)
        ax.set_ylim(0, 100)
        about = report.results["sets"][kind]
        ax.set_xlabel(f"error of a face, % of {about['normaliser']}")
        ax.set_ylabel("faces with at most this error, %")
        ax.set_title(f"{kind}, {about['faces']} faces", fontsize=10)
    fig.legend(*axes[0].get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="outside lower center", ncols=2)
    save(fig, report.folder / "accuracy.png")
