"""Input checks for the user's files: the kind of each file is determined from its header before anything is done with
it.

Importing this module is fast; PyAV and Pillow are loaded with the first file.
Source: docs/cli.md, "Inputs".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ..disk import REASONS, RIGHTS, disk_hint, disk_reason, not_a_file
from ..errors import MediaError
from .inputs import AudioSource, ImageSource, VideoSource, refusal

Source = TypeVar("Source", ImageSource, AudioSource, VideoSource)


def check_input(path: Path, kind: type[Source]) -> Source:
    """Determine the kind of a file from its header, and refuse what cannot be used. Opens no other file, whatever its
    content.

    An unchanged file is examined only once.
    Raises: MediaError, with a reason and a hint.
    """
    try:
        status = require_readable(path, kind.largest_bytes)
        return _examine(path, kind, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    except MediaError as error:
        raise MediaError(f"{path} cannot be used as {kind.noun}", error.why, error.hint or kind.hint) from error


@lru_cache(maxsize=256)
def _examine(path: Path, kind: type[Source], version: tuple[int, ...]) -> Source:
    """Read the header of a file. version: changes whenever the file at the path does."""
    return _reader(kind)(path)


def _reader(kind: type) -> Callable[[Path], Any]:
    """The function that reads headers of a kind of file, with Pillow or PyAV, which requests without files never
    import.
    """
    if kind is ImageSource:
        from .image_header import image_source

        return image_source
    from .sources import READERS

    return READERS[kind]


def require_readable(path: Path, largest_bytes: int) -> os.stat_result:
    """Check the file without opening it: opening a pipe would block, and reading a device can have side effects."""
    try:
        status = path.stat()
    except ValueError as error:  # a NUL character, which no path can contain
        raise refusal(path, *REASONS[errno.ENOENT]) from error
    except OSError as error:
        raise refusal(path, disk_reason(error), disk_hint(error, "check the path")) from error
    if why := not_a_file(status):
        raise refusal(path, why)
    if not status.st_size:
        raise refusal(path, "it is empty")
    if status.st_size > largest_bytes:
        raise refusal(path, f"it is larger than {largest_bytes // 2**30} GiB")
    if not os.access(path, os.R_OK):
        raise refusal(path, *RIGHTS)
    return status
