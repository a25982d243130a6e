"""What was compiled on this machine, and what was refused. Sealed: opening an engine can run code that lies in it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import os
import secrets
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tabrt.card import CARD_KEY, MAX_BATCH, ModelCard
from tabrt.engines.engine import ENGINE_SUFFIX
from tabrt.errors import TabrtError
from tabrt.files import MAX_MODEL_BYTES, read_bounded, write_atomically

FORMAT = "2"  # of what is cached: a new one makes every older engine stale
BUILT_FOR = "built for"
PLAN = "engine"  # TensorRT's own bytes, inside an engine file
SEAL_SUFFIX = ".seal"
REFUSED_SUFFIX = ".refused"
KEPT = 16  # engines; the oldest go
REMEDY = "make it here with: tabrt export --to tensorrt"

Identity = dict[str, str]


def identity_of(checkpoint: Path, precision: str, settings: str, here: Identity) -> Identity:
    """Everything an engine depends on. Engines whose identities differ in anything are different engines.

    settings: of the compilation, in words. here: versions, driver and GPU.
    """
    return {
        "format": FORMAT,
        "model": _model_hash(checkpoint),
        "precision": precision,
        "batch": f"1…{MAX_BATCH}",
        "settings": hashlib.sha256(settings.encode()).hexdigest(),
        **here,
    }


def _model_hash(checkpoint: Path) -> str:
    return hashlib.sha256(read_bounded(checkpoint, MAX_MODEL_BYTES)).hexdigest()


@dataclass(frozen=True)
class Cache:
    """A user's own folder of engines."""

    folder: Path

    def holds(self, checkpoint: Path) -> bool:
        """Whether there is an engine of this checkpoint, of whatever driver and versions."""
        return checkpoint.is_file() and any(self.folder.glob(f"{_model_hash(checkpoint)[:16]}-*{ENGINE_SUFFIX}"))

    def file(self, identity: Identity) -> Path:
        """Where the engine of an identity lies, if it does."""
        whole = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{identity['model'][:16]}-{whole[:16]}{ENGINE_SUFFIX}"

    # Refusals

    def refusal(self, identity: Identity) -> str | None:
        """Why this was refused before; None where it was not."""
        try:
            values = json.loads(self._verdict(identity).read_text("utf-8")[:10_000])
            return str(values["reason"]) if values["identity"] == identity else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def refuse(self, identity: Identity, reason: str) -> Path:
        """Remember that it was refused. Gives the file that says so."""
        verdict = self._verdict(identity)
        with contextlib.suppress(TabrtError):  # then it is tried again at the next start
            write_atomically(verdict, json.dumps({"identity": identity, "reason": reason}, indent=1).encode())
        return verdict

    def forget(self, identity: Identity) -> None:
        """Forget a refusal."""
        with contextlib.suppress(OSError):
            self._verdict(identity).unlink(missing_ok=True)

    def _verdict(self, identity: Identity) -> Path:
        return self.file(identity).with_suffix(REFUSED_SUFFIX)

    # Engines

    def save(self, plan: bytes, card: ModelCard, identity: Identity, path: Path) -> None:
        """Write an engine with its card and identity inside, and its seal beside it. Raises TabrtError."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(CARD_KEY, json.dumps({"card": card.to_json(), BUILT_FOR: identity}))
            archive.writestr(PLAN, plan)
        self.write_sealed(path, file.getvalue())
        self._prune()

    def open(self, path: Path, here: Identity) -> tuple[bytes, ModelCard]:
        """The plan and the card of an engine that this machine made, unchanged, for what is here now.

        Raises TabrtError for any other. Read once: what was checked is what is given.
        """
        data = self.read_sealed(path)
        plan, card, built_for = _unpacked(path, data)
        for name, value in here.items():
            if built_for.get(name) != value:
                raise TabrtError(f"{path} was made for {name} {built_for.get(name)}, and this is {value}; {REMEDY}")
        if built_for.get("format") != FORMAT:
            raise TabrtError(f"{path} was made by another version of tabrt; {REMEDY}")
        return plan, card

    def _prune(self) -> None:
        """Drop the oldest engines: an update of the driver leaves one of each model behind."""
        with contextlib.suppress(OSError):
            newest_first = sorted(
                self.folder.glob(f"*{ENGINE_SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True
            )
            for path in newest_first[KEPT:]:
                path.unlink(missing_ok=True)
                _seal_file(path).unlink(missing_ok=True)

    # Seals

    def write_sealed(self, path: Path, data: bytes) -> None:
        """Write a file and its seal. Raises TabrtError."""
        write_atomically(path, data)
        write_atomically(_seal_file(path), self._seal(data).encode())

    def read_sealed(self, path: Path) -> bytes:
        """The bytes of a file that this user's tabrt wrote. Raises TabrtError for any other."""
        data = read_bounded(path, MAX_MODEL_BYTES)
        seal = read_bounded(_seal_file(path), 1024).decode(errors="replace") if _seal_file(path).is_file() else ""
        if not hmac.compare_digest(seal.encode(), self._seal(data).encode()):
            raise TabrtError(f"{path} was not made on this machine, or was changed since; {REMEDY}")
        return data

    def _seal(self, data: bytes) -> str:
        return hmac.new(self._secret(), data, hashlib.sha256).hexdigest()

    def _secret(self) -> bytes:
        """The user's own random key, made at first use and readable by that user alone."""
        path = self.folder / "key"
        with contextlib.suppress(OSError):  # it is there already, or reading it below says what is wrong
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        return read_bounded(path, 1024)


def _unpacked(path: Path, data: bytes) -> tuple[bytes, ModelCard, Identity]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_MODEL_BYTES:
                raise TabrtError(f"{path} unpacks to too much; {REMEDY}")
            values = json.loads(archive.read(CARD_KEY))
            return archive.read(PLAN), ModelCard.from_json(values["card"]), dict(values[BUILT_FOR])
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise TabrtError(f"{path} is damaged or no engine of tabrt's; {REMEDY}") from error


def _seal_file(path: Path) -> Path:
    return path.with_name(path.name + SEAL_SUFFIX)
