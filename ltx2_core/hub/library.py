"""Where the files of the Hub are on this machine: under LTX2_HOME, in folders of other programs, in the Hub's cache.

Source: docs/models.md, "Files that are there already".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from ..folders import REPOSITORIES, SNAPSHOTS, comfy_folders, snapshot_of
from ..home import ltx2_home
from ..paths import given_path
from .registry import Catalogue, Reference

PART, PART_NOTE = ".part", ".part.json"  # suffixes of an incomplete file, and of the note about its origin
WEIGHTS, CONFIG = ".safetensors", "config.json"
NEEDED = (CONFIG, "tokenizer.json", ".index.json")  # needed in addition to the weights of a text encoder
# Generic names: such a file is put into a folder with the name of its repository.
ANYBODYS = re.compile(r"(diffusion_pytorch_)?model([-.]\d+-of-\d+)?\.safetensors|.*(?<!\.safetensors)")


@dataclass(frozen=True)
class Library:
    """The places that are searched for published files, in this order: LTX2_HOME, then folders, then the Hub's cache.

    Args: folders: the user's own, flat or in ComfyUI's layout.
    """

    catalogue: Catalogue
    folders: tuple[Path, ...] = ()

    @cached_property
    def _by_name(self) -> Mapping[str, list[Path]]:
        """The files in the user's own folders, and in their subfolders for ComfyUI's layout, by name."""
        found: dict[str, list[Path]] = {}
        for own in self.folders:
            for folder in (own, *comfy_folders(own), *comfy_folders(own / "models")):
                for path in _content(folder):
                    found.setdefault(path.name, []).append(path)
        return found

    def find(self, reference: Reference) -> Path | None:
        """The local copy of a published file: with its name and, if it is known, its size."""
        size = self.catalogue.published(reference).bytes
        places = chain.from_iterable(self._places(twin) for twin in self.catalogue.twins(reference))
        return next((place for place in places if is_file(place, size)), None)

    def find_all(self, reference: Reference) -> Path | None:
        """The file, or the folder with all files, that a reference in an entry means; None if one is missing.

        A folder must contain its weights and the files for reading them; its other files are not always needed.
        """
        if reference.path:
            return self.find(reference)
        listed = [one for one in self.catalogue.files_of(str(reference)) if one.path]
        if not listed:
            return self._unlisted(reference)
        found = [self.find(one) for one in listed if one.path.endswith((WEIGHTS, *NEEDED))]
        folders = {path.parent for path in found if path is not None}
        return folders.pop() if None not in found and len(folders) == 1 else None

    def home_of(self, reference: Reference) -> Path:
        """The path of a downloaded file, or of a link to one that was found."""
        return models_home() / reference.repository / reference.path

    def _unlisted(self, reference: Reference) -> Path | None:
        """The file of weights from a repository of which nothing is listed, or the folder with several."""
        for folder in (self.home_of(reference), *self._snapshots(reference.repository)):
            weights = sorted(folder.glob(f"*{WEIGHTS}"))
            if weights:
                return folder if len(weights) > 1 or (folder / CONFIG).exists() else weights[0]
        return None

    def _places(self, reference: Reference) -> Iterator[Path]:
        """Every place where a file may be."""
        yield self.home_of(reference)
        name = Path(reference.path).name
        path = (Path(reference.repository).name, name) if ANYBODYS.fullmatch(name) else (name,)
        yield models_home().joinpath(*path)
        yield from (found.joinpath(*path[1:]) for found in self._by_name.get(path[0], ()))
        for snapshot in self._snapshots(reference.repository):
            yield snapshot / reference.path

    def _snapshots(self, repository: str) -> tuple[Path, ...]:
        """The snapshots of a repository in the Hub's cache, that of its main branch first."""
        if repository not in self._known_snapshots:
            self._known_snapshots[repository] = _read_snapshots(repository)
        return self._known_snapshots[repository]

    @cached_property
    def _known_snapshots(self) -> dict[str, tuple[Path, ...]]:
        return {}


def models_home() -> Path:
    """The folder with the installed models, and with the user's own entries."""
    return ltx2_home() / "models"


def hub_cache() -> Path:
    """The cache of the Hugging Face Hub, which other programs use too.

    Raises: RequestError if a variable names a place that cannot be one.
    """
    for name, below in (("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")):
        if chosen := os.environ.get(name):
            return given_path(chosen, name) / below
    return Path(os.path.expanduser("~/.cache/huggingface/hub"))  # noqa: PTH111 (a user may have no home)


def _read_snapshots(repository: str) -> tuple[Path, ...]:
    folder = hub_cache() / REPOSITORIES.replace("*", repository.replace("/", "--"))
    if not (folder / SNAPSHOTS).is_dir():
        return ()
    first = snapshot_of(folder)
    return (first, *(one for one in sorted((folder / SNAPSHOTS).iterdir()) if one != first))


def _content(folder: Path) -> list[Path]:
    """The files in a folder; none if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def is_file(path: Path, size: int | None) -> bool:
    """Whether a file exists, with this size if one is given."""
    try:
        return path.is_file() and size in (None, path.stat().st_size)
    except OSError:
        return False
