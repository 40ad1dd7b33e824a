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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import StorageError, TargetTakenError

MOST_NAME_BYTES = 241  # for an output: file systems allow 255, and the longest hidden name needs 14 more
IN_HIDDEN_NAME = r"[0-9a-f]{6}\.part"
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # on Windows, only administrators can create links
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a pipe without a writer returns at once
RIGHTS = "its rights, or those of its folder, do not allow that", "check the rights on that file and its folder"
REASONS = {  # by error code: the reason as text, and a hint
    errno.ENOENT: ("there is no such file", "check the path"),
    errno.EISDIR: ("it is a folder", "name a file"),
    errno.ENOTDIR: ("it, or what it lies in, is a file and not a folder", "check the path"),
    errno.EEXIST: ("a file of that name already exists", "name another place"),
    errno.ELOOP: ("it is a link that leads to itself, or lies behind one", "check the links"),
    errno.ENAMETOOLONG: ("a name in it is too long for that disk", "give a shorter one"),
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: ("that disk is read-only", "that disk takes no files; copy what is there to another"),
    errno.ENOSPC: ("that disk is full", "make room on that disk"),
    errno.EDQUOT: ("the quota on that disk is used up", "make room on that disk"),
    errno.EFBIG: ("that disk takes no file of such a size", "name a place on another disk"),
    errno.EIO: ("that disk failed to read or write it", "check that disk, or use another"),
    errno.EBUSY: ("another program is using it", "close that program, and try again"),
    errno.EMFILE: ("too many files are open", "ulimit -n 4096 allows more"),
    errno.ENOMEM: ("the system has no memory left for it", "close other programs"),
}
# These are checked before a path is used; if they occur later, they are a bug.
LOOKED_AT = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST}


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
        raise StorageError(f"{path} {what}", disk_reason(error), disk_hint(error)) from error


@contextmanager
def made_folder(folder: Path, *, stays: bool, earlier: Sequence[Path] = ()) -> Iterator[list[Path]]:
    """Create a folder for a block, and keep it afterwards if it stays, unless the block fails.

    Args: earlier: folders that were created for the same purpose before, the innermost first. They are removed too if
    they are empty.
    Yields: the folders that were created, now or earlier, the innermost first.
    Raises: StorageError if it cannot be created.
    """
    with disk_errors(folder, "cannot be made"):
        missing = [path.absolute() for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    missing += [path for path in earlier if path not in missing]
    is_done = False
    try:
        yield missing
        is_done = True
    finally:
        if not (is_done and stays):
            _remove_empty(missing)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that are empty, the innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def disk_reason(error: Exception) -> str:
    """The reason why a file or folder cannot be read or written, in plain words and one line, from Python's error."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    if not isinstance(error, OSError) or not error.strerror:
        return " ".join(str(error).split())
    if isinstance(error, FileNotFoundError) and os.path.islink(error.filename or ""):  # noqa: PTH114
        return f"it is a link to {os.readlink(error.filename)}, which does not exist"  # noqa: PTH115
    if error.errno == errno.ELOOP and not (error.filename is None or leads_to_itself(error.filename)):
        return "it is a link, which is not followed here"
    why, _ = REASONS.get(error.errno or 0, (f"the system says: {error.strerror}", ""))
    return why


def leads_to_itself(path: str | Path) -> bool:
    """Whether a path is a link to itself, or lies behind one."""
    try:
        Path(path).stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def disk_hint(error: Exception, otherwise: str = "") -> str:
    """A hint for a file or folder that cannot be read or written, as far as its error code allows."""
    if isinstance(error, UnicodeDecodeError):
        return "save it in UTF-8"
    number = error.errno if isinstance(error, OSError) else None
    _, hint = REASONS.get(number or 0, ("", otherwise))
    return hint


def disk_failure(error: Exception) -> StorageError | None:
    """The error for the user if the system refused an operation anywhere in the program; None for a bug."""
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_folder():
        failure = StorageError("the current folder was removed", hint="cd into another folder")
        failure.__cause__ = error
        return failure
    if not isinstance(error, OSError) or error.errno not in REASONS or error.errno in LOOKED_AT:
        return None
    failure = StorageError(f"{error.filename or 'a file'} cannot be used", disk_reason(error), disk_hint(error))
    failure.__cause__ = error
    return failure


def _has_folder() -> bool:
    """Whether the current folder exists."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def not_a_file(status: os.stat_result) -> str:
    """Why something cannot be used as a file, from its status; "" for a regular file."""
    if stat.S_ISREG(status.st_mode):
        return ""
    return "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not a regular file"


def no_file(path: Path) -> str:
    """Why there is no regular file at a path; "" if there is one. It is not opened."""
    try:
        return not_a_file(path.stat())
    except (OSError, ValueError) as error:
        return disk_reason(error)


def read_whole(path: Path, limit: int) -> bytes:
    """Read a small file. Raises: OSError; ValueError if it is a link, a pipe or a device, or larger than the limit."""
    if path.is_symlink():
        raise ValueError("it is a link")
    with os.fdopen(os.open(path, os.O_RDONLY | NO_LINK | NO_WAIT), "rb") as file:
        if why := not_a_file(os.fstat(file.fileno())):
            raise ValueError(why)
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
        if pattern.fullmatch(other.name) and not other.is_dir():
            with suppress(PermissionError):  # it is another user's, in a folder that all may write
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
