"""Files: bounded in, whole out."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from tabrt.errors import TabrtError, first_line

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

MAX_MODEL_BYTES = 512 * 2**20
MIB = 2**20
MODEL_FOLDER = Path(__file__).parent / "models"  # of what is shipped
PICKLES = (".pth", ".pt", ".tar")  # checkpoints of the paper's authors


def read_bounded(path: Path, limit: int = MAX_MODEL_BYTES) -> bytes:
    """The bytes of a file that is not empty and not above the limit. Raises TabrtError otherwise."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= limit:
                raise TabrtError(f"{path} has {size:,} bytes; a model has 1…{limit:,}: export it again")
            return file.read(limit)
    except OSError as error:
        raise TabrtError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error


def fingerprint(path: str | Path, opened: Callable[..., Any] | None = None) -> str | None:
    """What tells a file from others: SHA-256 of its size, its first and its last MiB. None for what is no file.

    Of a folder, that of the names and sizes of its files. opened: what opens a file that is elsewhere.
    """
    digest = hashlib.sha256()
    try:
        if os.path.isdir(path):
            for each in sorted(Path(path).iterdir()):
                digest.update(f"{printable(each.name)} {each.stat().st_size}\n".encode())
            return digest.hexdigest()
        if opened is None and not os.path.isfile(path):
            return None
        with (opened or open)(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest.update(f"{size}\n".encode() + file.read(MIB))
            file.seek(max(0, size - MIB))
            digest.update(file.read(MIB))
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file so that at every moment the old or the new one is there, whole. Raises TabrtError."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # a temporary file is readable by its owner alone
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        problem = error.strerror or str(error)
        raise TabrtError(f"cannot write {path}: {problem}; free some space or choose another folder") from error


REPLACED = "was replaced or removed while it was written; write to another file"


def make_room(path: str | Path) -> None:
    """Take a file away that is there, so that whoever may be writing it goes on elsewhere than in the new one."""
    if os.path.isfile(path):
        with contextlib.suppress(OSError):  # a folder that only lets files be changed
            os.unlink(os.path.realpath(path))


def inode_of(path: str | Path | int) -> tuple[int, int] | None:
    """What tells a file, by its name or opened, from another that took its name; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def claim(file: IO[bytes], path: str | Path, wait: bool = False) -> None:
    """Have an opened file to oneself until it is closed, be it by the end of this process. Where somebody else has
    claimed it, TabrtError is raised, or their end waited for; where files cannot be claimed, nothing happens."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise TabrtError(f"{path} is being written by another run; wait for its end, or stop it") from None
    except OSError:  # a file system that knows no claims
        pass


@contextlib.contextmanager
def claimed(path: str | Path) -> Iterator[None]:
    """Have a file to oneself, if it is there, as `claim` does."""
    if not os.path.isfile(path):
        yield
        return
    with open(path, "rb") as file:
        claim(file, path)
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_outputs(
    inputs: Sequence[str | Path],
    *outputs: str | Path | None,
    overwrite: bool = True,
    folders: Collection[Path] = (),
) -> None:
    """Raise TabrtError, before any work, for an output that cannot be written or that would destroy an input.

    overwrite: whether a file that is there already, and is not empty, may be replaced. folders: that will be made.
    """
    taken = {_identity(Path(path)) for path in inputs}
    for output in outputs:
        if output is None or str(output) == "-":
            continue
        path = Path(output)
        try:
            _check_writable(path, path.parent in folders)
        except (OSError, ValueError) as problem:  # such as a name that is too long
            why = first_line(problem)
            raise TabrtError(f"{printable(path)} cannot be written ({why}); choose another name") from None
        if _identity(path) in taken:
            raise TabrtError(f"{path} is read or written already; choose another name or folder for the output")
        if not overwrite and os.path.isfile(path) and os.path.getsize(path):
            raise TabrtError(f"{path} is there already; choose another name, or give --overwrite to replace it")
        taken.add(_identity(path))


def check_folder(folder: str | Path | None, overwrite: bool = True) -> None:
    """Raise TabrtError, before any work, for a folder that files cannot go into.

    overwrite: whether it may hold something already.
    """
    if folder is None:
        return
    path = Path(folder)
    try:
        there = path if os.path.lexists(path) else _there(path)
        if not there.is_dir():
            raise TabrtError(f"{printable(there)} is a file, not a folder; name another")
        if path.is_dir() and not overwrite and any(path.iterdir()):
            raise TabrtError(f"{printable(path)} holds files already; choose another folder, or give --overwrite")
        if not os.access(there, os.W_OK):
            raise TabrtError(f"{printable(there)} may not be written; choose another folder, or change its rights")
    except (OSError, ValueError) as problem:
        why = first_line(problem)
        raise TabrtError(f"the folder {printable(path)} cannot be made ({why}); choose another") from None


@contextlib.contextmanager
def folders_for(files: Iterable[str | Path]) -> Iterator[None]:
    """Make the folders that files go into; in the end, new ones that hold nothing are taken away. Raises TabrtError."""
    wanted = {Path(file).parent for file in files}
    missing = {each for folder in wanted for each in (folder, *folder.parents) if not each.exists()}
    try:
        for folder in wanted:
            _make_folder(folder)
        yield
    finally:
        for folder in sorted(missing, key=lambda folder: len(folder.parts), reverse=True):
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        why = problem.strerror
        raise TabrtError(f"the folder {printable(folder)} cannot be made ({why}); choose another") from None


def _check_writable(path: Path, made: bool) -> None:
    """made: whether its folder will be."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as problem:  # too long a name, say
        why = getattr(problem, "strerror", None) or problem
        raise TabrtError(f"cannot write {path} ({why}); choose another name") from None
    if os.path.isdir(path):
        raise TabrtError(f"{path} is a folder; name a file in it")
    there = _there(path)
    if not made and there not in (path, path.parent):
        raise TabrtError(f"there is no folder {path.parent}; make it first, or choose another")
    if not os.access(there, os.W_OK):
        raise TabrtError(f"{path} may not be written; choose another folder, or change its rights")


def _there(path: Path) -> Path:
    """The path, or what it would lie in, as far as that is there."""
    return next((each for each in (path, *path.parents) if os.path.exists(each)), Path(path.anchor))


def _identity(path: Path) -> object:
    """What is the same for two names of one file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return path.absolute()
    return status.st_dev, status.st_ino


def without_password(source: str) -> str:
    """An address without the user name, password and keys it may carry; anything else as it is."""
    if "://" not in source:
        return source
    return _SECRETS.sub(r"\1=…", re.sub(r"(?<=://)[^/?#]*@", "", source))


# Cameras take their password as a part of the path, too: rtsp://10.0.0.5/user=admin&password=…
_SECRETS = re.compile(r"(?i)\b(\w*(?:pass|passwd|password|pwd|token|secret|key|auth|signature|sig))=[^&#/;]*")


def printable(name: str | Path) -> str:
    """A name as any file and any terminal can hold it: bytes that are no UTF-8 become \\x and two digits."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
