"""The cameras of this machine, as Linux lists them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/class/video4linux")
STABLE_PATHS = Path("/dev/v4l/by-id")


@dataclass(frozen=True)
class Camera:
    """One camera. `path` may change when it is plugged in anew; `stable_path`, where there is one, does not."""

    path: str  # /dev/video0
    name: str
    stable_path: str | None = None


def cameras(sysfs: Path = SYSFS, stable_paths: Path = STABLE_PATHS) -> list[Camera]:
    """The cameras plugged in, in the order of their numbers; none where the system lists none."""
    stable = {link.resolve().name: str(link) for link in _listed(stable_paths)}
    nodes = sorted(_listed(sysfs), key=lambda node: (len(node.name), node.name))
    return [
        Camera(f"/dev/{node.name}", _read(node / "name") or node.name, stable.get(node.name))
        for node in nodes
        if _read(node / "index") in ("", "0")  # the others of a camera carry metadata, not pictures
    ]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
