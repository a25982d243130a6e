"""Pictures of an evaluation: the error curve, the calibration of the confidence, and sheets of faces."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from tabrt.geometry import CROP_SIZE
from training.augment import truth_crop
from training.evaluate import Judgement, seen

_GREEN, _RED, _WHITE = (80, 220, 80), (60, 60, 255), (255, 255, 255)  # BGR


def save_all(judgements: dict[str, Judgement], folder: Path) -> None:
    """Write ced.png, calibration.png, worst.jpg, faces.jpg, and a sheet for each perturbation."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = judgements[""]
    error_curves({name or plain.faces.name: result for name, result in judgements.items()}, folder / "ced.png")
    calibration(judgements, folder / "calibration.png")
    save_sheet(plain, np.argsort(-plain.errors, kind="stable")[:24], folder / "worst.jpg")
    for name, result in judgements.items():
        save_evenly(result, folder / f"faces{'-' * bool(name)}{name}.jpg")


def save_evenly(result: Judgement, path: Path) -> None:
    """A sheet of fifty faces, evenly chosen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sheet(result, np.unique(np.linspace(0, len(result.faces) - 1, 50).astype(int)), path)


def _axes(title: str, x: str, y: str):
    from matplotlib.figure import Figure

    axes = Figure(figsize=(7, 4.5), layout="constrained").add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return axes


def error_curves(results: dict[str, Judgement], path: Path, limit: float = 0.1) -> None:
    """The cumulative error curve of each result, and of the subsets of the first."""
    axes = _axes("Cumulative error", "NME, %", "share of faces, %")
    first = next(iter(results.values()))
    curves = {name: result.errors for name, result in results.items()}
    curves |= {name: first.errors[mask] for name, mask in first.faces.subsets.items() if mask.any()}
    at = np.linspace(0, limit, 501)
    for name, errors in curves.items():
        below = np.searchsorted(np.sort(errors), at, side="right") / len(errors)
        axes.plot(100 * at, 100 * below, label=f"{name} ({len(errors)})")
    axes.set(xlim=(0, 100 * limit), ylim=(0, 100))
    axes.legend(loc="lower right")
    axes.figure.savefig(path, dpi=120)


def calibration(judgements: dict[str, Judgement], path: Path) -> None:
    """Mean and 90th percentile of the error of points, by their confidence; seen apart from covered."""
    axes = _axes("Error by confidence", "confidence", "error of a point, % of the normaliser")
    for name, result in judgements.items():
        for label, mask in ((", seen points", ~result.covered), (", hidden points", result.covered)):
            mask = mask & np.isfinite(result.point_errors)
            if mask.sum() >= 100 and (name == "" or result.covered.any()):
                _calibration_curve(
                    axes, result.confidence[mask], result.point_errors[mask], f"{name or 'as it is'}{label}"
                )
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.legend()
    axes.figure.savefig(path, dpi=120)


def _calibration_curve(axes, confidence: np.ndarray, errors: np.ndarray, label: str) -> None:
    order = np.argsort(confidence)
    groups = [group for group in np.array_split(order, 15) if len(group)]
    x = [confidence[group].mean() for group in groups]
    (line,) = axes.plot(x, [100 * errors[group].mean() for group in groups], "o-", label=f"{label}: mean")
    tops = [100 * np.percentile(errors[group], 90) for group in groups]
    axes.plot(x, tops, "--", color=line.get_color(), alpha=0.6, label=f"{label}: 90th percentile")


def save_sheet(result: Judgement, indices: Iterable[int], path: Path, columns: int = 8) -> None:
    """A contact sheet of faces: true points green, predicted ones red, NME in the corner."""
    cells = [face_cell(result, int(i)) for i in indices]
    write_sheet(cells, path, columns)


def face_cell(result: Judgement, i: int) -> np.ndarray:
    """A face as the network saw it, with its points, uint8 (256, 256, 3) BGR."""
    faces = result.faces
    crop = result.crops[i] or truth_crop(faces.points[i], box=None if faces.boxes is None else faces.boxes[i])
    cell = np.ascontiguousarray(seen(faces, i, crop, result.perturbation)[0][..., ::-1])
    draw_points(cell, crop.to_crop(faces.points[i]), _GREEN)
    draw_points(cell, crop.to_crop(result.points[i]), _RED)
    text = "missed" if np.isinf(result.errors[i]) else f"{100 * result.errors[i]:.1f}"
    cv2.putText(cell, text, (6, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(cell, text, (6, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, _WHITE, 1, cv2.LINE_AA)
    return cell


def draw_points(image: np.ndarray, points: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Dots at points (L, 2) in px of an image, drawn into it; NaN and far ones are left out."""
    for x, y in points[np.isfinite(points).all(axis=1)]:
        if abs(x) < 4 * CROP_SIZE and abs(y) < 4 * CROP_SIZE:
            cv2.circle(image, (round(float(x) * 16), round(float(y) * 16)), 20, colour, -1, cv2.LINE_AA, shift=4)


def write_sheet(cells: list[np.ndarray], path: Path, columns: int = 8) -> None:
    """Pictures of one size, laid out in rows, as one picture."""
    columns = min(columns, len(cells))
    blank = np.zeros_like(cells[0])
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    rows[-1] += [blank] * (columns - len(rows[-1]))
    cv2.imwrite(str(path), np.concatenate([np.concatenate(row, axis=1) for row in rows]))
