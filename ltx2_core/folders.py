"""The model folders of other programs: the cache of the Hugging Face Hub, ComfyUI's `models`, diffusers.

Source: docs/reference/checkpoints.md, "Where models are looked for".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from .errors import CheckpointError, LTX2Error
from .headers import read_json

REPOSITORIES = "models--*"  # names of the repository folders in the Hub's cache
SNAPSHOTS = "snapshots"
COMFY_FOLDERS = ("checkpoints", "diffusion_models", "unet", "text_encoders", "clip", "vae", "loras")
COMFY_FOLDERS += ("latent_upscale_models", "upscale_models", "model_patches")
COMFY_SIGNS = 3  # this many of them indicate a ComfyUI tree
MOST_FOLDERS = 1000
DEEPEST = 4  # folders between a file and its tree
MOST_REF_CHARACTERS = 1000  # of a file that names a snapshot; the name has 40


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """Where the files of a model may be.

    Args: own: folders that are searched for everything. encoders: folders that are searched for a text encoder only.
    beside: folders that are searched for files that are missing in the own ones. layout: the kind of folder, as text.
    """

    own: tuple[Path, ...]
    encoders: tuple[Path, ...] = ()
    beside: tuple[Path, ...] = ()
    layout: str = "a folder with weight files"


def places_of(folder: Path) -> ModelPlaces:
    """Where to look for the files of a model, given its folder."""
    snapshot = snapshot_of(folder)
    cache = _cache_with(folder)
    if snapshot != folder or cache is not None:
        others = [] if cache is None else _snapshots(cache)
        encoders = tuple(other for other in others if other.resolve() != snapshot.resolve())
        return ModelPlaces(
            (snapshot,), encoders, layout=f"snapshot {snapshot.name} of a repository of the Hugging Face Hub"
        )
    for root in (folder, folder / "hub"):
        snapshots = _snapshots(root)
        if snapshots:
            return ModelPlaces(tuple(snapshots), layout="the cache of the Hugging Face Hub")
    for root in (folder, folder / "models"):
        if _is_comfy(root):
            return ModelPlaces(comfy_folders(root), layout="a tree of models of ComfyUI")
    tree = next((parent for parent in islice(folder.absolute().parents, DEEPEST) if _is_comfy(parent)), None)
    if tree is None:
        return ModelPlaces((folder,))
    return ModelPlaces((folder,), beside=comfy_folders(tree), layout="a folder in a tree of models of ComfyUI")


def snapshot_of(folder: Path) -> Path:
    """The snapshot of a repository in the Hub's cache that its main branch names, or else the newest.

    Any other folder is returned unchanged.
    """
    snapshots = _folders(folder / SNAPSHOTS)
    if not snapshots:
        return folder
    main = folder / "refs" / "main"
    named = _start_of(main).strip()
    return next((one for one in snapshots if one.name == named), max(snapshots, key=lambda one: one.stat().st_mtime))


def _start_of(path: Path) -> str:
    """The beginning of a small text file; empty if there is none."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MOST_REF_CHARACTERS)


def refuse_diffusers(folder: Path) -> None:
    """Refuse a folder in the layout of diffusers if it has no file that can be used.

    Raises: CheckpointError with the repository to use instead.
    """
    sign = next((name for name in ("model_index.json", "config.json") if _names_a_class(folder / name)), None)
    if sign is None:
        return
    generation = re.search(r"2\.[35]", str(folder.absolute()))
    repository = f"Lightricks/LTX-{generation.group() if generation else '2'}"
    raise CheckpointError(
        f"{folder} is a model in the layout of diffusers, which is not supported",
        f"its {sign} names a class of diffusers",
        f"take a single-file checkpoint of https://huggingface.co/{repository}, such as the distilled one",
    )


def _names_a_class(path: Path) -> bool:
    with suppress(LTX2Error):
        return "_class_name" in read_json(path)
    return False


def _cache_with(folder: Path) -> Path | None:
    """The Hub's cache that contains a folder as a repository or a snapshot of one."""
    for repository in (folder.absolute(), folder.absolute().parent.parent):
        if repository.match(REPOSITORIES) and (repository / SNAPSHOTS).is_dir():
            return repository.parent
    return None


def _snapshots(cache: Path) -> list[Path]:
    """The snapshots of all repositories in the Hub's cache."""
    repositories = [one for one in _folders(cache) if one.match(REPOSITORIES)]
    return [snapshot_of(one) for one in repositories if _folders(one / SNAPSHOTS)]


def _is_comfy(folder: Path) -> bool:
    return sum(os.path.isdir(folder / name) for name in COMFY_FOLDERS) >= COMFY_SIGNS  # noqa: PTH112


def comfy_folders(tree: Path) -> tuple[Path, ...]:
    """The folders of a ComfyUI tree that may contain parts of a model, with their subfolders."""
    found = (folder for name in COMFY_FOLDERS for folder in _with_inner(tree / name))
    return tuple(islice(found, MOST_FOLDERS))


def _with_inner(folder: Path) -> Iterable[Path]:
    if folder.is_dir():
        yield folder
        for inner in _folders(folder):
            yield from _with_inner(inner)


def _folders(folder: Path) -> list[Path]:
    """The visible folders in a folder, by name; none if it cannot be read."""
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    except OSError:
        return []
