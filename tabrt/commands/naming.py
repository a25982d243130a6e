"""What names on a command line stand for, and what the outputs made of them are called."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tabrt.commands.remote import is_remote, listed
from tabrt.errors import TabrtError
from tabrt.files import printable

NAME = "{name}"  # in an output, for the name of its source
FILM_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".m2ts", ".mts", ".wmv"),
    *(".asf", ".flv", ".f4v", ".ogv", ".ogm", ".3gp", ".3g2", ".mxf", ".dv", ".divx", ".rm", ".rmvb", ".mjpeg", ".y4m"),
)


@dataclass(frozen=True)
class Source:
    """A film or picture, and the folders that lie between it and the one that was given."""

    path: str
    below: tuple[str, ...] = ()
    found: bool = False  # in a folder; nobody named it

    @property
    def file_name(self) -> str:
        """The last part of the path or address; of a pattern what does not change."""
        if self.path == "-":
            return "stdin"
        address = "://" in self.path and not os.path.exists(self.path)
        name = PurePosixPath(urlsplit(self.path).path).name if address else Path(os.path.abspath(self.path)).name
        return re.sub(r"[-_. ]*%0?\d*d", "", name) or "film"

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.file_name if os.path.isdir(self.path) else Path(self.file_name).stem


def expanded(names: Iterable[str]) -> Iterator[str]:
    """The names, and what the patterns among them stand for where no shell has expanded them, each once.

    A name of nothing that is there comes as it is: it may be an address, and whoever opens it says what it lacks. A
    pattern that nothing matches raises TabrtError.
    """
    seen: set[str] = set()
    for name in names:
        itself = os.path.lexists(name) or "://" in name
        found = [] if itself else sorted(glob.glob(name, recursive=True))
        if not itself and not found and glob.has_magic(name):
            raise TabrtError(f"nothing matches the pattern {printable(name)}; check its folder and its ending")
        for each in found or [name]:
            if _place(each) not in seen:
                seen.add(_place(each))
                yield each


def films_of(names: Iterable[str], recursive: bool = False, outputs: Sequence[str | None] = ()) -> list[Source]:
    """The films that the names stand for, each once: a folder for the films in it, else for its pictures as one film.

    recursive: the films in all folders below, too, but those in folders that are for outputs.
    """
    kept_out = {os.path.realpath(each) for each in outputs if each is not None and is_folder(each)}
    films: dict[str, Source] = {}
    for name in expanded(names):
        found = _elsewhere(name, recursive) if is_remote(name) else []
        if os.path.isdir(name):
            found = _films_in(name, recursive, kept_out - {os.path.realpath(name)})
        for film in found or [Source(name)]:
            films.setdefault(_place(film.path), film)
    return list(films.values())


def _elsewhere(name: str, recursive: bool) -> list[Source]:
    """The films of a store that a name stands for."""
    files = listed(name, recursive)
    if not name.endswith("/"):
        return [Source(file) for file in files]
    films = [file for file in files if os.path.splitext(file)[1].lower() in FILM_SUFFIXES]
    return [Source(film, _folders(film.removeprefix(name)), found=True) for film in films]


def _folders(key: str) -> tuple[str, ...]:
    """The folders in a name that others chose, none of which leads out of where outputs go."""
    return tuple(part for part in key.split("/")[:-1] if part.strip(". "))


def _films_in(folder: str, recursive: bool, kept_out: set[str]) -> list[Source]:
    def refused(problem: OSError) -> None:
        raise TabrtError(f"cannot read {printable(problem.filename)} ({problem.strerror}); check its rights")

    films = []
    for place, folders, files in os.walk(folder, onerror=refused):
        below = Path(os.path.relpath(place, folder)).parts
        folders[:] = sorted(
            each
            for each in folders
            if recursive and not each.startswith(".") and os.path.realpath(os.path.join(place, each)) not in kept_out
        )
        for file in sorted(files):
            if os.path.splitext(file)[1].lower() in FILM_SUFFIXES and not file.startswith("."):
                films.append(Source(os.path.join(place, file), below, found=True))
    return films


def targets(
    out: str | Path | None, sources: Sequence[Source], kind: str, option: str, named: Callable[[Source], str]
) -> list[str]:
    """Where the output of each source goes: to the file `out`, into the folder `out`, or to the pattern `out`.

    A pattern has {name} in it. A folder is one that is there, or a name that ends in a slash or has no suffix; it may
    be missing, and keeps the folders that the sources lie in. named: what an output is called in it. kind: what the
    sources are, in the plural. Raises TabrtError for outputs of one name.
    """
    if out is None:
        return []
    if len(sources) == 1 and not is_folder(out) and NAME not in str(out):
        return [str(out)]
    found = [target(out, source, named) for source in sources]
    twice, count = Counter(found).most_common(1)[0]
    if count > 1 and not is_folder(out) and NAME not in str(out):
        what = "standard output" if str(out) == "-" else "one file"
        raise TabrtError(
            f"{len(sources)} {kind} cannot go into {what}; give a folder with {option}, or a name with {NAME} in it"
        )
    if count > 1:
        name = os.path.basename(twice)
        raise TabrtError(f"several {kind} are called {name}; give their folders one at a time, each its own {option}")
    return found


def new_folders(out: str | Path | None, files: Iterable[str | Path]) -> set[Path]:
    """The folders to be made for the outputs of `targets`: none for a file that was named itself."""
    return {Path(file).parent for file in files} if out and (is_folder(out) or NAME in str(out)) else set()


def target(out: str | Path, source: Source, named: Callable[[Source], str]) -> str:
    """Where the output of a source goes."""
    store, _, place = str(out).rpartition("://")
    if NAME in place:
        path = _filled(Path(place), source)
    else:
        path = Path(place, *source.below, named(source)) if is_folder(out) else Path(place)
    return f"{store}://{path}" if store else str(path)


def without_outputs(sources: Sequence[Source], out: str | None, named: Callable[[Source], str]) -> list[Source]:
    """The sources but those that nobody named, and that are where the output of another one goes."""
    if out is None:
        return list(sources)
    made = {_place(target(out, each, named)): each for each in sources}
    return [each for each in sources if not each.found or made.get(_place(each.path), each) is each]


def _place(name: str) -> str:
    """What is the same for all names of one file."""
    return name if is_remote(name) else os.path.realpath(name)


def is_folder(out: str | Path) -> bool:
    """Whether an output is a folder for files: it is one, ends like one, or is nothing yet and has no suffix."""
    text = str(out)
    if text in ("", "-") or NAME in text:
        return False
    return text.endswith(("/", os.sep)) or os.path.isdir(text) or not (Path(text).suffix or os.path.lexists(text))


def _filled(pattern: Path, source: Source) -> Path:
    """The pattern with the source's name in it, below the folders that the source lies in."""
    parts = list(pattern.parts)
    first = next(index for index, part in enumerate(parts) if NAME in part)
    whole = [*parts[:first], *source.below, *(part.replace(NAME, source.name) for part in parts[first:])]
    return Path(*whole)
