"""A file that is being downloaded: its bytes in `NAME.part`, and its source in `NAME.part.json`.

It gets its name when its content has the right checksum and is synced to disk. Links are not followed.
Source: docs/reference/checkpoints.md, "Downloading".
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ..disk import NO_LINK, NO_WAIT, disk_hint, disk_reason, free_bytes, read_whole, show_bytes, sync, write_whole
from ..errors import StorageError
from ..paths import in_shell
from .checksums import PIECE, Digest
from .failures import stop_if
from .library import PART, PART_NOTE

MOST_NOTE_BYTES = 10_000
BINARY = getattr(os, "O_BINARY", 0)  # Windows changes line ends otherwise
ROOM = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file on the Hub.

    Args: repository: `owner/name`. path: inside the repository. commit: the version, 40 hex digits. checksum: of its
    content, the SHA-256 in 64 hex digits for a large file, or the git blob id in 40 for a small one.
    """

    repository: str
    path: str
    commit: str
    nbytes: int
    checksum: str

    @property
    def name(self) -> str:
        """The file as a person writes it."""
        return f"{self.repository}/{self.path}"


class Part:
    """The downloaded bytes of a file, and their checksum.

    Args: on_bytes: called with the number of new bytes, including those of an earlier run; no byte is counted twice.
    Attributes: size: number of bytes. etag: the version of the file at its storage host, or empty.
    """

    def __init__(self, file: RemoteFile, target: Path, on_bytes: Callable[[int], None]) -> None:
        self.file, self.target = file, target
        self.path = target.with_name(target.name + PART)
        self.size, self.etag = 0, ""
        self._note = target.with_name(target.name + PART_NOTE)
        self._digest = Digest(file.checksum, file.nbytes)
        self._on_bytes, self._told = on_bytes, 0
        self._descriptor = -1

    def __enter__(self) -> Self:
        with self._errors():
            flags = os.O_RDWR | os.O_CREAT | NO_LINK | NO_WAIT | BINARY
            self._descriptor = os.open(self.path, flags, 0o666)
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                self.close()
                raise StorageError(f"{self.path} is not a regular file", hint=f"rm {in_shell(self.path)}")
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor >= 0 and os.fstat(self._descriptor).st_size == 0:
            self.discard()  # no bytes arrived, so there is nothing to resume
        self.close()

    def close(self) -> None:
        """Leave the file as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def resume(self, should_stop: Callable[[], bool]) -> None:
        """Read the bytes that an earlier run has left of the same file; otherwise start with none."""
        with self._errors():
            there = os.fstat(self._descriptor).st_size
            left = self._left_etag()
            self.etag = left or ""
            if left is None or there > self.file.nbytes:
                self.begin_again()
            while self.size < there:
                stop_if(should_stop)
                data = os.read(self._descriptor, PIECE)
                if not data:
                    break
                self._count(data)

    def begin_again(self) -> None:
        """Discard all bytes, and record which file the next ones belong to."""
        with self._errors():
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self.size, self.etag, self._digest = 0, "", Digest(self.file.checksum, self.file.nbytes)
            self._write_note()

    def remember(self, etag: str) -> None:
        """Record the version of the file at its storage host, for the next run."""
        if etag != self.etag:
            self.etag = etag
            with self._errors():
                self._write_note()

    def write(self, data: bytes) -> None:
        """Add bytes. Raises: StorageError, also if the disk is full; the bytes so far stay for the next run."""
        with self._errors():
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]
        self._count(data)

    @property
    def checksum(self) -> str:
        """The checksum of the bytes so far, of the kind that the Hub has."""
        return self._digest.checksum

    def finish(self) -> str:
        """Rename the file, after it is synced to disk. Returns: the SHA-256 of its content."""
        with self._errors():
            os.fsync(self._descriptor)
            self.close()
            self.path.replace(self.target)
            self._note.unlink(missing_ok=True)
            sync(self.target.parent)
        return self._digest.sha256

    def discard(self) -> None:
        """Remove the partial file."""
        with self._errors():
            self.close()
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)

    def _count(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += len(data)
        if self.size > self._told:
            self._on_bytes(self.size - self._told)
            self._told = self.size

    def _left_etag(self) -> str | None:
        """The etag that an earlier run has noted; None if the bytes that it has left are not of this file."""
        try:
            note = json.loads(read_whole(self._note, MOST_NOTE_BYTES))
            is_same = (note["checksum"], note["nbytes"]) == (self.file.checksum, self.file.nbytes)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return str(note.get("etag", "")) if is_same else None

    def _write_note(self) -> None:
        note = {**asdict(self.file), "etag": self.etag}
        write_whole(self._note, json.dumps(note, indent=1).encode())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the disk into ours."""
        try:
            yield
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> StorageError:
        if error.errno in ROOM:
            needed = show_bytes(self.file.nbytes - self.size)
            why = f"{self.target.parent} has room for {show_bytes(free_bytes(self.target.parent))}"
            hint = "make room and run the command again: what was fetched is kept"
            return StorageError(f"the disk is full, and {self.target.name} needs {needed} more", why, hint)
        if error.errno == errno.EFBIG:
            why = f"the file system of {self.target.parent} holds no file of {show_bytes(self.file.nbytes)}"
            return StorageError(f"{self.path} cannot be written", why, "--to FOLDER names one on another disk")
        return StorageError(f"{self.path} cannot be written", disk_reason(error), disk_hint(error))
