"""The entry point: a table that selects the module for a thing by its content, not by its name only.

Source: docs/cli.md, "Output of inspect".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ...disk import not_a_file
from ...errors import LTX2Error, MediaError, RequestError, StorageError, shown
from ...folders import snapshot_of
from ...headers import START_BYTES, read_json
from ...hub.find import is_path
from ...hub.registry import read_catalogue
from ...media.kinds import IMAGES, OTHERS, READ, kind_of
from ...paths import input_path
from ..request import RECORD
from ..values import did_you_mean
from .words import Facts

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
CLIP_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".wav", ".flac", ".mp3", ".m4a", ".ogg")
CLIP_SUFFIXES += (".opus", ".aac", ".ac3", ".aiff", ".aif", ".caf")
YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Given:
    """The thing at a path. start: the first bytes of a regular file that can be read, else empty."""

    path: Path
    start: bytes

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def is_safetensors(self) -> bool:
        """Whether it begins with the length of a header, in eight bytes, and with the header in JSON."""
        return self.start[4:9] == bytes(4) + b"{"

    @property
    def is_encoder(self) -> bool:
        """Whether it is the folder of a text encoder, by its config."""
        try:
            return str(read_json(snapshot_of(self.path) / "config.json").get("model_type")).startswith("gemma")
        except LTX2Error:
            return False


@dataclass(frozen=True, slots=True)
class Describer:
    """Args: takes: whether it applies to the thing at a path. module: of this package, with a function `facts`."""

    takes: Callable[[Given], bool]
    module: str

    def facts(self, path: Path) -> Facts:
        """The facts from its module, imported only now: importing all of them would take longer than reading any
        file.
        """
        return import_module(f".{self.module}", __package__).facts(path)


# The first one that applies is used. Files of unknown content are reported by their suffix.
FOLDERS = (
    Describer(lambda given: os.path.lexists(given.path / RECORD), "job"),
    Describer(lambda given: given.is_encoder, "encoder"),
    Describer(lambda given: True, "folder"),
)
FILES = (
    Describer(lambda given: given.is_safetensors, "weights"),
    Describer(lambda given: kind_of(given.start, IMAGES) is not None, "image"),
    Describer(lambda given: kind_of(given.start, (*READ, *OTHERS)) is not None, "clip"),
    Describer(lambda given: given.suffix in YAML_SUFFIXES, "settings"),
    Describer(lambda given: given.suffix in IMAGE_SUFFIXES, "image"),
    Describer(lambda given: given.suffix in CLIP_SUFFIXES, "clip"),
    Describer(lambda given: True, "weights"),
)
JOB = Describer(lambda given: os.path.isdir(f"{given.path}.job"), "job")  # noqa: PTH112


def describe(what: str | Path) -> dict[str, str]:
    """Facts about a file, a folder, a render or a model, by name; records are JSON.

    Args: what: the name of a registered model or LoRA, or a path; a name wins over a file of that name, and a Path
    object is never taken for a name.
    Raises: RequestError for a word that is neither; CheckpointError, StorageError, MediaError for things that exist but
    cannot be described.
    """
    if isinstance(what, str) and os.sep not in what and what.lower() in _names():
        from .model import facts

        return dict(facts(what))
    path = input_path(what, "WHAT", _error_for(Path(what)))
    if os.path.isdir(path):  # noqa: PTH112 (what may not be looked at is not a folder)
        return _told(FOLDERS, Given(path, b""))
    if not os.path.lexists(path):
        return _absent(path)
    _require_regular(path)
    return _told(FILES, Given(path, _start(path)))


def _names() -> list[str]:
    catalogue = read_catalogue()
    return [*catalogue.models, *catalogue.controls]


def _told(table: tuple[Describer, ...], given: Given) -> dict[str, str]:
    return dict(next(row for row in table if row.takes(given)).facts(given.path))


def _absent(path: Path) -> dict[str, str]:
    """Facts about an output that does not exist yet and has a job folder.

    Raises: RequestError for a possibly misspelled name, MediaError and StorageError for the path of a file.
    """
    given = Given(path, b"")
    if JOB.takes(given):
        return _told((JOB,), given)
    if is_path(str(path)):
        return _told(FILES, given)
    hint = did_you_mean(str(path), _names())
    raise RequestError(f"there is no {shown(str(path))}", "it is neither a file nor the name of a model", hint)


def _require_regular(path: Path) -> None:
    """Check a file without opening it: opening a pipe would block.

    Raises: MediaError, StorageError, depending on its suffix.
    """
    with suppress(OSError):
        if why := not_a_file(path.stat()):
            kind = _error_for(path)
            raise kind(f"{path} cannot be read", why, "name a file or a folder")


def _error_for(path: Path) -> type[LTX2Error]:
    is_media = path.suffix.lower() in (*IMAGE_SUFFIXES, *CLIP_SUFFIXES)
    return MediaError if is_media else StorageError


def _start(path: Path) -> bytes:
    """The beginning of a file; empty if it cannot be read, which its describer reports."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(START_BYTES)
    return b""
