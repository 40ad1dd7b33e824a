"""The only entry point for paths from the user, on the command line, in the environment or in a file."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from .disk import disk_reason, no_file
from .errors import RequestError, StorageError, shown

LONGEST_NAME_BYTES = 255
LONGEST_PATH_BYTES = 4095


def given_path(text: str | Path, option: str) -> Path:
    """A path from the user, with `~` expanded. The path need not exist.

    Args: option: its name in messages, such as --model.
    Raises: RequestError for an empty path, an unknown user, a name that no file system accepts, and bytes that are not
    UTF-8.
    """
    what = f"{option} {shown(str(text))} cannot be used"
    if not str(text).strip() or not str(text):
        raise RequestError(what, "it is empty", f"{option} takes a path; leave it out if it is not needed")
    if "\0" in str(text):
        raise RequestError(what, "a path cannot hold a zero byte", "check the path")
    try:
        path = Path(text).expanduser()
        encoded = str(path.absolute()).encode()
    except RuntimeError as error:
        user = Path(text).parts[0]
        raise RequestError(what, f"there is no user {shown(user[1:])}", f"./{user} is a file of that name") from error
    except (UnicodeEncodeError, OSError) as error:
        raise RequestError(what, "its name holds bytes that are not UTF-8", "give the file another name") from error
    if any(len(name) > LONGEST_NAME_BYTES for name in encoded.split(os.sep.encode())):
        raise RequestError(what, f"a name in it is longer than {LONGEST_NAME_BYTES} bytes", "give a shorter one")
    if len(encoded) > LONGEST_PATH_BYTES:
        raise RequestError(what, f"it is longer than {LONGEST_PATH_BYTES} bytes", "give a shorter one")
    if _leads_to_itself(path):
        raise RequestError(what, "it is a link that leads to itself, or lies behind one", "check the links")
    return path


def _leads_to_itself(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def require_file(path: Path, what: str, hint: str) -> None:
    """Raises: StorageError if there is no such file, with the reason. what: the option and the path."""
    if why := no_file(path):
        raise StorageError(f"{what} cannot be used", why, hint)


def require_writable(folder: Path, what: str) -> None:
    """Raises: StorageError if no file can be created in a folder, or in the nearest existing one above it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():  # a device must not be opened for writing, not even to check whether it is a folder
        raise StorageError(f"{what} cannot be written", f"{folder} is not a folder", "name another place")
    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        why = f"no file can be made in {folder}: {disk_reason(error)}"
        raise StorageError(f"{what} cannot be written", why, "name another place") from error
