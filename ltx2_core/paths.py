"""The only entry point for paths from the user, on the command line, in the environment or in a file."""

from __future__ import annotations

import os
import re
import shlex
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from .disk import disk_hint, disk_reason, leads_to_itself, no_file
from .errors import LTX2Error, RequestError, StorageError, shown

LONGEST_NAME_BYTES = 255
LONGEST_PATH_BYTES = 4095
LONGEST_URL = 200  # characters of a URL in a hint
URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
HUB = re.compile(r"(www\.)?(huggingface\.co|hf\.co)/", re.IGNORECASE)


def input_path(text: str | Path, option: str, error: type[LTX2Error] = RequestError) -> Path:
    """The path of a file from the user that is read. It need not exist.

    Args: option: as for `given_path`. error: the class of errors for a file of this kind that cannot be used.
    Raises: that error for a URL, with the command that fetches it; RequestError as `given_path`.
    """
    require_local(text, option, error)
    return given_path(text, option)


def require_local(text: str | Path, option: str, error: type[LTX2Error] = RequestError) -> None:
    """Raises: an error of this class for a URL, unless a file with such a name exists."""
    url = URL.fullmatch(str(text))
    if url is not None and not os.path.lexists(str(text)):
        what = f"{option} {shown(str(text))} cannot be used"
        raise error(what, "it is a URL, and only files on this machine are read", _how_to_fetch(url))


def _how_to_fetch(url: re.Match[str]) -> str:
    """How to use the file that a URL names."""
    scheme, rest = url["scheme"].lower(), url["rest"]
    if scheme == "file":
        return f"give its path, {in_shell(unquote(rest.removeprefix('localhost')))}"
    if scheme not in ("http", "https", "ftp"):
        return "copy the file to this machine, and give its path"
    address = url[0]
    if HUB.match(rest):
        if not re.search(r"/(blob|resolve)/", rest):
            return "ltx2 models lists the models that ltx2 download NAME fetches"
        address = address.partition("?")[0].replace("/blob/", "/resolve/")  # the file, and not the page about it
    address = in_shell(address) if len(address) <= LONGEST_URL else "URL"
    return f"curl -LO {address} fetches it; then give the file"


def given_path(text: str | Path, option: str) -> Path:
    """A path from the user, with `~` expanded. The path need not exist.

    Args: option: its name in messages, such as --model.
    Raises: RequestError for an empty path, an unknown user, a name that no file system accepts, and bytes that are not
    UTF-8.
    """
    what = f"{option} {shown(str(text))} cannot be used"
    if not str(text).strip():
        hint = f"{option} takes a path"
        if option.startswith("-"):
            hint += "; leave it out if it is not needed"
        raise RequestError(what, "it is empty", hint)
    if URL.fullmatch(str(text)) and not os.path.lexists(str(text)):
        raise RequestError(what, "it is a URL", "name a place on this machine")
    if "\0" in str(text):
        raise RequestError(what, "a path cannot hold a zero byte", "check the path")
    try:
        path = Path(text).expanduser()
        encoded = str(path.absolute()).encode()
    except RuntimeError as error:
        user = Path(text).parts[0]
        raise RequestError(what, f"there is no user {shown(user[1:])}", f"./{user} is a file of that name") from error
    except OSError as error:  # of a path relative to it
        raise RequestError(what, "the current folder was removed", "cd into another folder") from error
    except UnicodeEncodeError as error:
        raise RequestError(what, "its name holds bytes that are not UTF-8", "give the file another name") from error
    if any(len(name) > LONGEST_NAME_BYTES for name in encoded.split(os.sep.encode())):
        raise RequestError(what, f"a name in it is longer than {LONGEST_NAME_BYTES} bytes", "give a shorter one")
    if len(encoded) > LONGEST_PATH_BYTES:
        raise RequestError(what, f"it is longer than {LONGEST_PATH_BYTES} bytes", "give a shorter one")
    if leads_to_itself(path):
        raise RequestError(what, "it is a link that leads to itself, or lies behind one", "check the links")
    return path


def with_name(folder: Path) -> Path:
    """The same folder by a path that ends in its name, so that files can be put beside it: not in `.` or `..`."""
    return folder if folder.name not in ("", "..") else Path(os.path.abspath(folder))  # noqa: PTH100


def in_shell(path: str | Path) -> str:
    """A path as a word of a command that can be pasted: quoted where needed, and never taken for an option.

    Characters that a terminal does not show are escaped as shells read them in $'…'.
    """
    text = f"./{path}" if str(path).startswith("-") else str(path)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(char: str) -> str:
    """A character inside $'…'."""
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"  # a byte of a name that is not UTF-8
    if char.isprintable():
        return f"\\{char}" if char in "\\'" else char
    return f"\\u{ord(char):04x}" if ord(char) < 2**16 else f"\\U{ord(char):08x}"


def wrong_suffix(path: Path, option: str, suffixes: Sequence[str], content: str) -> RequestError:
    """The error for an output whose name has another suffix than these, is nothing but a suffix, or is missing, as in
    `.` and `..`.

    Args: content: what is written, and a verb: `a video goes`.
    """
    given = path.name or path
    if path.name in ("", ".."):
        path /= "NAME"
    name = Path(path.name.rstrip(". "))
    why = f"{content} into a file that ends in {' or '.join(suffixes)}"
    if name.name.lower() in suffixes:
        why = f"{name} is a suffix, and the name before it is missing"
    stem = name.name if name.suffix[1:].isdigit() else name.stem
    if not stem or (stem.startswith(".") and not name.suffix):
        stem = "NAME"
    better = in_shell(path.with_name(stem + suffixes[0]))
    return RequestError(f"{option} {given} cannot be used", why, f"{option} {better}")


def require_file(path: Path, what: str, hint: str) -> None:
    """Raises: StorageError if there is no such file, with the reason. what: the option and the path."""
    if why := no_file(path):
        raise StorageError(f"{what} cannot be used", why, hint)


def require_existing(path: Path, what: str, hint: str, error: type[LTX2Error] = StorageError) -> None:
    """Raises: an error of this class if nothing exists at a path, or if this user may not look there.

    Args: what: the option and the path. hint: for a path that does not exist.
    """
    try:
        path.stat()
    except PermissionError as refused:
        raise error(f"{what} cannot be used", disk_reason(refused), disk_hint(refused)) from refused
    except (OSError, ValueError) as missing:
        raise error(f"{what} does not exist", hint=hint) from missing


def require_replaceable(path: Path) -> None:
    """Raises: StorageError for a file of another user in a folder where only owners may replace files."""
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    if user == 0 or not os.path.lexists(path):
        return
    folder = path.parent.stat()
    if folder.st_mode & stat.S_ISVTX and user not in (folder.st_uid, path.lstat().st_uid):
        why = f"it belongs to another user, and {path.parent} lets only owners replace a file"
        raise StorageError(f"{path} cannot be replaced", why, "name another place")


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
