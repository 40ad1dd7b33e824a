"""A file appears under its name when it is complete and checked, never before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError, RequestError, StorageError


@contextmanager
def partial_file(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Hand out a hidden path beside the target; what was written there takes the target's name when the block ends.

    After a failed self-check (OutputError) the hidden file stays, and the error says where; after anything else that
    goes wrong in the block it is removed.
    Raises: RequestError if the target cannot be a file, or exists and may not be replaced; this is looked at before the
    block and once more after it. StorageError if the disk refuses.
    """
    if target.is_dir() or not target.parent.is_dir():
        why = "it is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise RequestError(f"{target} cannot be written", why)
    if not overwrite:
        require_free(target)
    partial = target.with_name(f".{target.name}.part")
    with _disk_errors(target):
        partial.unlink(missing_ok=True)
        try:
            yield partial
            sync(partial)
        except OutputError as error:
            if partial.exists():
                error.hint = f"what was written is kept as {partial}"
            raise
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if not overwrite:
            require_free(target, f"it appeared in the meantime; the new file is kept as {partial}")
        partial.replace(target)
        sync(target.parent)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{target} cannot be written", error.strerror or str(error)) from error


def require_free(target: Path, why: str = "") -> None:
    """Raises: RequestError if there is anything at this path, a dangling link included."""
    if os.path.lexists(target):
        raise RequestError(f"{target} already exists", why, "--overwrite replaces it, -o gives another name")


def sync(path: Path) -> None:
    """Make sure that a file, or the names in a folder, have reached the disk; Windows does that for files only."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
