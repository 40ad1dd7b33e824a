"""Records in LTX2_HOME: verified files, accepted licences, files that were made here.

Source: docs/models.md; docs/cli.md, "Rendering again".
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TypeVar

from pydantic import Field

from ..disk import NO_LINK, disk_errors, read_whole, write_whole
from ..home import ltx2_home
from ..identity import Identity, identity
from ..lock import locked
from ..records import Record

MOST_BYTES = 4_000_000
POLL_S = 0.05
MOST_MADE_BYTES = 1_000_000  # some 15,000 results; beyond it the older half is removed
MOST_PLACES = 2000
VERIFIED, ACCEPTED, PLACES, MADE = "verified.json", "licences.json", "places.json", "made.txt"

Kept = TypeVar("Kept", bound=Record)
_writing = Lock()  # between threads; files are locked between processes


class VerifiedFile(Record):
    """A file whose content was compared with its checksum. sha256: of all its bytes. day: as 2026-11-28."""

    size: int
    mtime_ns: int
    content: str
    sha256: str
    day: str


class VerifiedFiles(Record):
    """All such files, by their path without links."""

    files: dict[str, VerifiedFile] = Field(default_factory=dict)


class AcceptedLicences(Record):
    """The day on which each licence was accepted, by its name in presets/licences."""

    accepted: dict[str, str] = Field(default_factory=dict)


def verified(path: Path) -> VerifiedFile | None:
    """The record of a verified file; None if there is none, or if its size or time has changed since."""
    try:
        status, known = path.stat(), _read(VERIFIED, VerifiedFiles).files.get(str(path.resolve()))
    except OSError:
        return None
    same = known is not None and (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns)
    return known if same else None


def still_verified(path: Path) -> VerifiedFile | None:
    """The same, but a file with a changed time counts too if its content is unchanged; it may be read to check this."""
    known = _read(VERIFIED, VerifiedFiles).files.get(str(path.resolve()))
    try:
        same = known is not None and Identity(known.size, known.mtime_ns, known.content).is_of(path)
    except OSError:
        return None
    return known if same else None


def known_checksum(path: Path) -> str | None:
    """The SHA-256 that a file had when it was verified, even if it has changed since; None if it never was."""
    known = _read(VERIFIED, VerifiedFiles).files.get(str(path.resolve()))
    return None if known is None else known.sha256


def remember_verified(path: Path, sha256: str) -> None:
    """Remember that a file has the right content. Raises: OSError, StorageError."""
    made = identity(path)
    entry = VerifiedFile(size=made.size, mtime_ns=made.mtime_ns, content=made.content, sha256=sha256, day=_today())
    with _changing(VERIFIED):
        known = _read(VERIFIED, VerifiedFiles).files
        _write(VERIFIED, VerifiedFiles(files={**known, str(path.resolve()): entry}))


def forget(path: Path) -> None:
    """Remember nothing about a file any more."""
    with _changing(VERIFIED):
        known = dict(_read(VERIFIED, VerifiedFiles).files)
        if known.pop(str(path.resolve()), None) is not None:
            _write(VERIFIED, VerifiedFiles(files=known))


def is_accepted(licence: str) -> bool:
    """Whether the terms of a licence have been accepted on this machine."""
    return licence in _read(ACCEPTED, AcceptedLicences).accepted


def remember_accepted(licence: str) -> None:
    """Remember that a licence was accepted today. Raises: StorageError."""
    with _changing(ACCEPTED):
        known = _read(ACCEPTED, AcceptedLicences).accepted
        _write(ACCEPTED, AcceptedLicences(accepted={**known, licence: _today()}))


class Places(Record):
    """Where files that renders read were last seen, by the hash of their content, the newest last."""

    seen: dict[str, str] = Field(default_factory=dict)


def remember_made(content: str) -> None:
    """Record that a file with this hash was made on this machine, one per line. Raises: OSError, StorageError."""
    path = ltx2_home() / MADE
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINK, 0o666), "ab") as file:
        file.write(f"{content}\n".encode())
        is_full = file.tell() > MOST_MADE_BYTES
    if is_full:
        with _changing(MADE):
            lines = path.read_bytes().splitlines(keepends=True)
            write_whole(path, b"".join(lines[len(lines) // 2 :]))


def is_made_here(content: str) -> bool:
    """Whether a file with this hash is recorded as made on this machine."""
    try:
        lines = read_whole(ltx2_home() / MADE, 2 * MOST_MADE_BYTES).splitlines()
    except (OSError, ValueError):
        return False
    return content.encode() in lines


def remember_places(places: Mapping[str, Path]) -> None:
    """Record the locations of files and folders, by the hash of their content. Raises: StorageError."""
    given = {content: str(path.absolute()) for content, path in places.items()}
    if given.items() <= _read(PLACES, Places).seen.items():
        return
    with _changing(PLACES):
        known = _read(PLACES, Places).seen
        kept = {content: path for content, path in known.items() if content not in given} | given
        _write(PLACES, Places(seen=dict(list(kept.items())[-MOST_PLACES:])))


def place_of(content: str) -> Path | None:
    """Where something with this hash was last seen; it may not exist any more."""
    seen = _read(PLACES, Places).seen.get(content)
    return None if seen is None else Path(seen)


def _today() -> str:
    return time.strftime("%Y-%m-%d")


def _read(name: str, kind: type[Kept]) -> Kept:
    """One of the records; an unreadable record counts as empty."""
    path = ltx2_home() / name
    try:
        status = path.stat()
        return _parsed(path, kind, (status.st_ino, status.st_mtime_ns, status.st_size))
    except (OSError, ValueError):
        return kind()


@lru_cache(maxsize=8)
def _parsed(path: Path, kind: type[Kept], version: tuple[int, ...]) -> Kept:
    """The content of one of the files. version: changes whenever the file does. Raises: OSError, ValueError."""
    return kind.model_validate_json(read_whole(path, MOST_BYTES))


@contextmanager
def _changing(name: str) -> Iterator[None]:
    """Lock one of the records against changes by other processes and threads. Raises: StorageError."""
    path = ltx2_home() / name
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _writing, locked(path, wait=lambda: time.sleep(POLL_S)):
        yield


def _write(name: str, content: Record) -> None:
    path = ltx2_home() / name
    with disk_errors(path):
        write_whole(path, json.dumps(content.model_dump(), indent=1).encode())
