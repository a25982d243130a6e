"""How well a model does on a data set: NME, failure rates, the error curve, and what its confidence is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from tabrt.engines import Engine
from tabrt.errors import TabrtError
from tabrt.geometry import Box, Crop
from tabrt.heatmaps import decode
from tabrt.topology import INNER_51, Topology, to_68, topology_named
from training.augment import truth_crop
from training.metrics import area_under_curve, failure_rate, point_errors, pupil_distance
from training.perturb import PERTURBATIONS, moved, spoilt
from training.sets import FaceSet

Boxer = Callable[[np.ndarray, int], list[Box]]  # a detector: image uint8 (H, W, 3) BGR, and how many faces at most

_BATCH = 32
_SAME_FACE = 0.3  # overlap with the true box above which a detected box is that face's
# Of each 300w68 point, the wflw98 point it is taken from, or the nearest of them: for its confidence.
_SOURCES_68 = np.r_[0:33:2, 33:38, 42:47, 51:60, 60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, 76:96]
# Brows as the midline between the outline's two edges: the conversion that most reports use.
_MIDLINE_68 = {
    17: (33,), 18: (34, 41), 19: (35, 40), 20: (36, 39), 21: (37, 38),
    22: (42, 50), 23: (43, 49), 24: (44, 48), 25: (45, 47), 26: (46,),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a model said of each face of a set. Missed faces have NaN points and an error of inf."""

    faces: FaceSet
    perturbation: str | None
    crops: list[Crop | None]
    own: np.ndarray  # (N, L, 2) frame px, in the model's scheme
    points: np.ndarray  # (N, M, 2) frame px, in the set's scheme
    confidence: np.ndarray  # (N, M)
    point_errors: np.ndarray  # (N, M) as shares of the set's normaliser, NaN where there is no label
    errors: np.ndarray  # (N,) NME
    covered: np.ndarray  # (N, M) bool: points that a perturbation has covered


def judge(faces: FaceSet, engine: Engine, detector: Boxer | None = None, perturbation: str | None = None) -> Judgement:
    """Run a model on every face: in its true box, or in the best box of a detector run on the whole photo.

    Raises TabrtError for a set in a scheme that the model's cannot be converted to.
    """
    if len(faces) == 0:
        raise TabrtError(f"{faces.name} has no faces; check the folder")
    lengths = faces.lengths()
    if not (lengths > 0).all():
        name = faces.names[int(np.argmin(lengths > 0))]
        raise TabrtError(f"{faces.name}: face {name} has no {faces.normaliser} length to divide by; mend its labels")
    topology = topology_named(engine.card.topology)
    in_scheme(np.zeros((1, topology.points, 2)), topology, faces.topology)
    own = np.full((len(faces), topology.points, 2), np.nan)
    confidence = np.zeros((len(faces), topology.points))
    covered = np.zeros(faces.points.shape[:2], bool)
    crops: list[Crop | None] = []
    for first in range(0, len(faces), _BATCH):
        batch = range(first, min(first + _BATCH, len(faces)))
        for i in batch:
            crop = _place(faces, i, engine.card.crop_margin, detector)
            rng = np.random.default_rng((i, 0))
            crop = crop and moved(perturbation, crop, rng, engine.card.crop_margin)
            crops.append(crop and replace(crop, size=engine.card.crop_size))
        found = {i: crop for i in batch if (crop := crops[i]) is not None}
        if not found:
            continue
        views = [seen(faces, i, crop, perturbation) for i, crop in found.items()]
        these = list(found)
        pixels, covered[these] = np.stack([view for view, _ in views]), [hidden for _, hidden in views]
        points, confidence[these] = decode(engine(pixels), engine.card.decoding, engine.card.offset)
        own[these] = [crop.to_frame(p) for crop, p in zip(found.values(), points, strict=True)]
    converted = in_scheme(own, topology, faces.topology)
    if topology is not faces.topology:
        confidence = confidence[:, _SOURCES_68]
    each = point_errors(converted, faces.points, lengths)
    return Judgement(faces, perturbation, crops, own, converted, confidence, each, _face_errors(each, own), covered)


def _place(faces: FaceSet, i: int, margin: float, detector: Boxer | None) -> Crop | None:
    """The crop of face i, or None for a face that the detector missed."""
    if detector is None:
        return truth_crop(faces.points[i], margin, None if faces.boxes is None else faces.boxes[i])
    box = _detected(detector(faces.read(i), 20), faces.points[i])
    return None if box is None else Crop.around(box, margin)


def seen(faces: FaceSet, i: int, crop: Crop, perturbation: str | None) -> tuple[np.ndarray, np.ndarray]:
    """What the network is shown of face i: pixels uint8 (256, 256, 3) RGB, and which true points are covered (L,)."""
    pixels, points = crop.cut(faces.read(i)), faces.points[i]
    if perturbation is None:
        return pixels, np.zeros(len(points), bool)
    return spoilt(perturbation, pixels, crop.to_crop(points), np.random.default_rng((i, 1)))


def _detected(boxes: list[Box], points: np.ndarray) -> Box | None:
    true = Box.of(points[np.isfinite(points).all(axis=1)])
    best = max(boxes, key=true.overlap, default=None)
    return best if best is not None and true.overlap(best) >= _SAME_FACE else None


def _face_errors(each: np.ndarray, own: np.ndarray) -> np.ndarray:
    missed = np.isnan(own).any(axis=(1, 2))
    errors = np.full(len(each), np.inf)
    errors[~missed] = np.nanmean(each[~missed], axis=1)
    return errors


def in_scheme(points: np.ndarray, own: Topology, wanted: Topology) -> np.ndarray:
    """Points (N, L, 2) of one scheme in another. Raises TabrtError where there is no conversion."""
    if own is wanted:
        return points
    if (own.name, wanted.name) != ("wflw98", "300w68"):
        raise TabrtError(f"a model of {own.name} points cannot be judged on {wanted.name}; use one of {wanted.name}")
    return to_68(points)


def midline_brows(points: np.ndarray) -> np.ndarray:
    """wflw98 points (N, 98, 2) as 300w68 points, the brows taken midway between the outline's two edges."""
    out = to_68(points)
    for target, sources in _MIDLINE_68.items():
        out[:, target] = points[:, list(sources)].mean(axis=1)
    return out


def figures(result: Judgement) -> dict:
    """The figures of a whole set, and of each of its subsets under `subsets`."""
    out = _figures(result, np.ones(len(result.faces), bool))
    out["subsets"] = {name: _figures(result, mask) for name, mask in result.faces.subsets.items() if mask.any()}
    return out


def _figures(result: Judgement, of: np.ndarray) -> dict:
    """Errors as fractions. A missed face counts as a failure in fr and auc; nme is over the faces that were found."""
    errors = result.errors[of]
    found = of & np.isfinite(result.errors)
    out = {"faces": int(of.sum()), "missed": int(of.sum() - found.sum()), "nme": _mean(result.errors[found])}
    if result.faces.topology.name == "300w68":
        faces = result.faces.subset(found)
        out["nme_inner"] = _mean(result.point_errors[found][:, INNER_51])
        pupils = pupil_distance(faces.points, faces.topology)
        by_pupils = point_errors(result.points[found], faces.points, pupils)
        told = np.isfinite(by_pupils).any(axis=1)  # a profile may have no second pupil
        out["nme_pupil"] = float(np.nanmean(by_pupils[told], axis=1).mean()) if told.any() else None
        if result.own.shape[1] == 98:
            midline = point_errors(midline_brows(result.own[found]), faces.points, faces.lengths())
            out["nme_midline_brows"] = _mean(midline)
    else:
        out["nme_inner"] = None
    for percent in (8, 10):
        out[f"fr_{percent:02d}"] = failure_rate(errors, percent / 100)
        out[f"auc_{percent:02d}"] = area_under_curve(errors, percent / 100)
    return out


def _mean(values: np.ndarray) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def confidence_figures(result: Judgement) -> dict:
    """What a confidence is worth: its correlation with the error, and seen against covered points."""
    known = np.isfinite(result.point_errors)
    errors, sure = result.point_errors[known], result.confidence[known]
    out: dict = {"rank_correlation_with_error": _rank_correlation(sure, errors)}
    hidden = result.covered[known]
    if hidden.any() and not hidden.all():
        out["covered"] = {"points": int(hidden.sum()), "confidence": _mean(sure[hidden]), "nme": _mean(errors[hidden])}
        out["seen"] = {
            "points": int((~hidden).sum()),
            "confidence": _mean(sure[~hidden]),
            "nme": _mean(errors[~hidden]),
        }
        out["covered_scores_lower"] = _share_lower(sure[hidden], sure[~hidden])
    return out


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1]) if len(a) > 2 else None


def _share_lower(low: np.ndarray, high: np.ndarray) -> float:
    """The chance that one of `low` lies below one of `high`."""
    return float(np.searchsorted(np.sort(low), high, side="left").mean() / len(low))


def protocol(faces: FaceSet, engine: Engine, detected: bool) -> str:
    """One line that says how the figures were measured."""
    given = "boxes of the labelled points" if faces.boxes is None else faces.boxed
    boxes = "boxes of tabrt's detector on the whole picture" if detected else given
    line = f"{faces.name}: {boxes}, margin {engine.card.crop_margin}, {faces.topology.name}, {faces.normaliser}"
    if engine.card.topology != faces.topology.name:
        line += f", {engine.card.topology} converted by tabrt.topology.to_68"
    return line


def report(
    faces: FaceSet, engine: Engine, detector: Boxer | None = None, perturbations: tuple[str, ...] = ()
) -> tuple[dict, dict[str, Judgement]]:
    """Everything there is to say of a model on a set, ready for JSON, and the judgements behind it by perturbation."""
    plain = judge(faces, engine, detector)
    judgements = {"": plain}
    out = {
        **figures(plain),
        "protocol": protocol(faces, engine, detector is not None),
        "card": asdict(engine.card),
        "engine": engine.name,
        "confidence": confidence_figures(plain),
        "perturbed": {},
    }
    for name in perturbations:
        result = judgements[name] = judge(faces, engine, detector, name)
        told = {"how": PERTURBATIONS[name], **figures(result), "confidence": confidence_figures(result)}
        out["perturbed"][name] = told
    return out, judgements
