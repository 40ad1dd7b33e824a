"""Which models and LoRAs are installed on this machine, and how to remove them.

Source: docs/models.md, "What is installed".
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..components import NOT_ALWAYS_NEEDED
from ..disk import disk_errors
from ..errors import RequestError, TargetTakenError, shown
from ..lock import locked
from .find import own_files
from .ledger import forget, verified
from .library import PART, PART_NOTE, Library, hub_cache, models_home
from .registry import Control, Reference, RegisteredModel

ORPHAN_AGE_S = 24 * 3600  # older partial files of the Hub's client belong to no running download


@dataclass(frozen=True)
class InstalledModel:
    """A named model or LoRA, and its files on this machine.

    Args: paths: role to file or folder; of a LoRA, generation to file. roles: all its parts. needed: those without
    which it cannot be used. lacking: a feature that it needs and this version does not support. size: bytes of all its
    files, if known. comes_along: whether it is included in this program.
    """

    name: str
    summary: str
    paths: dict[str, Path]
    roles: tuple[str, ...]
    needed: tuple[str, ...]
    lacking: str | None
    size: int
    comes_along: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether all needed parts exist."""
        return bool(self.paths) and all(role in self.paths for role in self.needed)

    @cached_property
    def files(self) -> list[Path]:
        """All its files on this machine, including those in folders."""
        return [file for path in self.paths.values() for file in files_in(path)]

    @cached_property
    def nbytes(self) -> int:
        """How many bytes they have."""
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def verified(self) -> str | None:
        """The day since which all its weights are verified; None if some are not."""
        known = [verified(file) for file in self.files if file.suffix == ".safetensors"]
        days = [one.day for one in known if one is not None]
        return max(days, default=None) if len(days) == len(known) else None


def installed_models(library: Library) -> list[InstalledModel]:
    """All named models and LoRAs, the models in the order of their generations."""
    models = library.catalogue.models.items()
    ordered = sorted(models, key=lambda item: (item[1].folder is None, item[1].generation, item[0]))
    loras = library.catalogue.controls.items()
    return [*(_model(name, model, library) for name, model in ordered), *(_lora(*item, library) for item in loras)]


def _model(name: str, model: RegisteredModel, library: Library) -> InstalledModel:
    return InstalledModel(
        name=name,
        summary=model.summary,
        paths={str(role): path for role, path in own_files(name, model, library).items()},
        roles=tuple(map(str, model.files)),
        needed=tuple(str(role) for role in model.files if role not in NOT_ALWAYS_NEEDED),
        lacking=model.lacking,
        size=_size(model.files.values(), library),
        comes_along=model.folder is not None,
    )


def _lora(name: str, control: Control, library: Library) -> InstalledModel:
    references = {made: Reference.parse(place) for made, place in control.files.items()}
    return InstalledModel(
        name=name,
        summary=control.summary,
        paths={made: path for made, one in references.items() if one and (path := library.find_all(one))},
        roles=tuple(references),
        needed=(),
        lacking=control.refused,
        size=_size(control.files.values(), library),
    )


def installed_names(library: Library) -> list[str]:
    """The names of the models and LoRAs of which something was downloaded to this machine."""
    return [one.name for one in installed_models(library) if one.paths and not one.comes_along]


def generations_here(library: Library) -> set[str]:
    """The generations of the models of which something was downloaded."""
    models = library.catalogue.models
    return {models[name].generation for name in installed_names(library) if name in models}


def parts_of(name: str, library: Library) -> dict[str, Path]:
    """The parts of a model or a LoRA on this machine, by role or by generation."""
    catalogue = library.catalogue
    if name in catalogue.models:
        return _model(name, catalogue.models[name], library).paths
    return _lora(name, catalogue.controls[name], library).paths


def leftovers() -> list[Path]:
    """Partial files of unfinished downloads: of this program, and old ones of the Hub's own client."""
    endings = (PART, PART_NOTE)
    found = sorted(path for path in models_home().rglob("*") if path.name.endswith(endings))
    own = [path for path in found if not _is_running(path)]
    limit = time.time() - ORPHAN_AGE_S
    theirs = sorted(hub_cache().glob("models--*/blobs/*.incomplete"))
    return [*own, *(path for path in theirs if path.stat().st_mtime < limit)]


def _is_running(part: Path) -> bool:
    """Whether a running download has locked the file of a partial file."""
    target = part.with_name(part.name.removesuffix(PART_NOTE).removesuffix(PART))
    if not target.with_name(f".{target.name}.lock").exists():
        return False
    try:
        with locked(target):
            return False
    except TargetTakenError:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """The files that are removed with a model, and those that stay.

    Args: removed: files of this program. links: to files elsewhere, which stay. shared: files that stay because another
    installed model needs them. elsewhere: files that other programs keep.
    """

    removed: tuple[Path, ...]
    links: tuple[Path, ...]
    shared: tuple[Path, ...]
    elsewhere: tuple[Path, ...]


def plan_removal(name: str, library: Library) -> Removal:
    """What can be removed of a model or LoRA. Raises: RequestError for an unknown name, or the built-in model."""
    all_of_them = {model.name: model for model in installed_models(library)}
    chosen = all_of_them.get(name.lower())
    if chosen is None:
        raise RequestError(f"unknown model {shown(name)}", hint="ltx2 models lists what is installed")
    if chosen.comes_along:
        raise RequestError(f"{chosen.name} cannot be removed", "it comes with this program")
    others = {
        file for model in all_of_them.values() if model is not chosen and model.is_installed for file in model.files
    }
    home = os.path.abspath(models_home())  # noqa: PTH100 (a path of an entry may lead out of it again with ..)
    own = [file for file in chosen.files if Path(os.path.abspath(file)).is_relative_to(home)]  # noqa: PTH100
    free = [file for file in own if file not in others]
    return Removal(
        removed=tuple(file for file in free if not file.is_symlink()),
        links=tuple(file for file in free if file.is_symlink()),
        shared=tuple(file for file in own if file in others),
        elsewhere=tuple(file for file in chosen.files if file not in own),
    )


def size_of(paths: Iterable[Path]) -> int:
    """How many bytes files take; a link takes none."""
    return sum(path.lstat().st_size for path in paths if not path.is_symlink())


def remove_files(paths: Iterable[Path]) -> None:
    """Remove files or links below LTX2_HOME/models, and the folders that become empty. Raises: StorageError."""
    for path in paths:
        with disk_errors(path, "cannot be removed"):
            forget(path)
            path.unlink(missing_ok=True)
            _remove_empty(path.parent)


def _remove_empty(folder: Path) -> None:
    while folder != models_home() and folder.is_relative_to(models_home()) and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def files_in(path: Path) -> Iterator[Path]:
    """The file itself, or the files in a folder."""
    if path.is_dir():
        yield from sorted(one for one in path.iterdir() if one.is_file())
    else:
        yield path


def _size(places: Iterable[str], library: Library) -> int:
    """How many bytes the files of all places have, as far as that is known."""
    catalogue = library.catalogue
    return sum(catalogue.published(file).size or 0 for place in places for file in catalogue.files_of(place))
