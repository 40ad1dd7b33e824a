"""Files that appear complete or not at all: they have a unique hidden name until they are complete.

Links are not followed: a hidden file is created exclusively, and a rename replaces a link, not its target.
Source: docs/cli.md, "Existing files".
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import StorageError, TargetTakenError

MOST_NAME_BYTES = 241  # of an output: file systems take 255, and the longest hidden name beside it needs 14 more
IN_HIDDEN_NAME = r"[0-9a-f]{6}\.part"
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows makes links for administrators only
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a pipe without a writer returns at once
RIGHTS, ROOM = "check the rights on that file and its folder", "make room on that disk"
HINTS = {
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: "that disk takes no files; copy what is there to another",
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
}


def require_free(target: Path, why: str = "", hint: str = "--overwrite replaces it, -o gives another name") -> None:
    """Raises: TargetTakenError if anything exists at this path, including a dangling link."""
    if os.path.lexists(target):
        raise TargetTakenError(f"{target} already exists", why, hint)


def hidden_file(path: Path) -> Path:
    """Create an empty hidden file beside a path, with a name that no other process uses. Raises: OSError."""
    while True:
        hidden = path.with_name(f".{path.name}.{secrets.token_hex(3)}.part")
        try:
            os.close(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666))
        except FileExistsError:
            continue
        return hidden


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file atomically and sync it to disk. Raises: OSError."""
    hidden = hidden_file(path)
    try:
        hidden.write_bytes(content)
        sync(hidden)
        hidden.replace(path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def disk_errors(path: Path, what: str = "cannot be written") -> Iterator[None]:
    """Turn an OSError into a StorageError with a message. what: the action that failed, after the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} {what}", error.strerror or str(error), disk_hint(error)) from error


def disk_hint(error: OSError) -> str:
    """A hint for an error of the disk, as far as its error code allows; otherwise ""."""
    return HINTS.get(error.errno or 0, "")


def read_whole(path: Path, limit: int) -> bytes:
    """Read a small file. Raises: OSError; ValueError if it is a link, a pipe or a device, or larger than the limit."""
    if path.is_symlink():
        raise ValueError("it is a link")
    with os.fdopen(os.open(path, os.O_RDONLY | NO_LINK | NO_WAIT), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit:,} bytes")
    return content


def remove_leftovers(path: Path) -> None:
    """Remove the hidden files that killed processes have left beside a path. Call it only while holding the path's
    lock.
    """
    pattern = re.compile(re.escape(f".{path.name}.") + IN_HIDDEN_NAME)
    for other in path.parent.iterdir():
        if pattern.fullmatch(other.name):
            other.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """The free space on the disk of a folder, which need not exist yet. Raises: OSError."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free


def show_bytes(nbytes: int) -> str:
    """A number of bytes as text: `68.7 GB`, `996 MB`, `2 kB`, `12 bytes`; a kilobyte has 1,000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= size:
            digits = 1 if unit == "GB" else 0
            return f"{nbytes / size:,.{digits}f} {unit}"
    return f"{nbytes} bytes"


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk; Windows supports this for files only."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
