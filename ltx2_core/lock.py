"""One writer per output: a lock beside the file that is written, which ends with its process.

Source: docs/cli.md, "Existing files".
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .disk import NO_LINK, disk_hint, disk_reason, read_whole
from .errors import StorageError, TargetTakenError

MOST_BYTES = 1000


@contextmanager
def locked(
    path: Path, *, wait: Callable[[], None] | None = None, hint: str = "-o gives another name"
) -> Iterator[None]:
    """Prevent every other process and thread from writing an output, or into a job folder, until the block ends.

    The lock is on `.NAME.lock` beside it, which contains its owner and is removed at the end. A process that is killed
    leaves the file without a lock on it.
    Args: wait: called between two tries while another process holds the lock; it should sleep, and any exception from
    it ends the waiting. Without it there is no waiting. hint: what the user can do in that case.
    Raises: TargetTakenError if another process holds the lock; StorageError if the lock file cannot be created.
    """
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file)
    try:
        while not _acquired(lock):
            if wait is None:
                raise TargetTakenError(f"{path} is being written by {_holder(file)}", hint=hint)
            wait()
    except OSError as error:
        why = f"{file}: {disk_reason(error)}"
        raise StorageError(f"{path} cannot be locked", why, disk_hint(error)) from error
    try:
        _sign(file)
        yield
    finally:
        if os.name == "nt":
            lock.release()  # Windows removes no file that is open
        with suppress(
            OSError
        ):  # while it is held: a process that has it open sees that it was removed, and creates a new one
            file.unlink()
        lock.release()


def _acquired(lock: FileLock) -> bool:
    """Try once to take a lock. Raises: OSError."""
    try:
        lock.acquire(blocking=False)
    except Timeout:  # an OSError too
        return False
    return True


def _sign(file: Path) -> None:
    """Write the owner into a lock file. If this fails, the lock is still valid."""
    with suppress(OSError), os.fdopen(os.open(file, os.O_WRONLY | NO_LINK), "wb") as opened:
        opened.write(f"{os.getpid()}\n{socket.gethostname()}\n".encode())
        opened.truncate()


def _holder(file: Path) -> str:
    """The owner of a lock, as text."""
    try:
        pid, host, *_ = read_whole(file, MOST_BYTES).decode().splitlines()
    except (OSError, ValueError):
        return "another process"
    return f"process {pid} on {host}"
