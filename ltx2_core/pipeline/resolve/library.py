"""The models of this machine, with the user's settings and the presets that they support.

Source: docs/models.md, "What is installed".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...disk import show_bytes
from ...hub.installed import InstalledModel, installed_models, leftovers, size_of
from ...hub.library import Library
from ...hub.registry import read_catalogue
from ...paths import given_path
from .presets import names, recipe
from .setting_sources import gather
from .settings import Settings, merge


def own_library() -> Library:
    """The places of published files on this machine, including the folders in the user's settings."""
    return Library(read_catalogue(), model_folders(merge(gather({}).layers).settings))


def model_folders(settings: Settings) -> tuple[Path, ...]:
    """The folders with models in the user's settings, which need not exist."""
    return tuple(given_path(folder, "model_folders") for folder in settings.model_folders or ())


def model_tables(library: Library) -> dict[str, dict[str, str]]:
    """All named models and LoRAs, in tables: installed ones, others, and what can be removed."""
    found = installed_models(library)
    models = [model for model in found if model.name in library.catalogue.models]
    loras = [lora for lora in found if lora.name in library.catalogue.controls]
    partial = leftovers()
    return {
        "installed models": {
            model.name: _installed(model) for model in models if model.is_installed and not model.lacking
        },
        "models to download": {
            model.name: _to_download(model) for model in models if not model.is_installed and not model.lacking
        },
        "models that this version cannot use yet": {
            model.name: f"{_to_download(model)}; {model.lacking}" for model in models if model.lacking
        },
        "installed LoRAs": {lora.name: _installed_lora(lora) for lora in loras if lora.paths and not lora.lacking},
        "LoRAs to download": {
            lora.name: _lora_to_download(lora) for lora in loras if not lora.paths and not lora.lacking
        },
        "LoRAs that this version cannot use yet": {
            lora.name: f"{_lora_to_download(lora)}; {lora.lacking}" for lora in loras if lora.lacking
        },
        "unfinished downloads (ltx2 models rm --partial)": {path.name: show_bytes(size_of([path])) for path in partial},
    }


def _installed(model: InstalledModel) -> str:
    """A usable model: its size, whether it was verified, and which presets lack a file."""
    verified = "not verified" if model.verified is None else f"verified {model.verified}"
    if model.comes_along:
        verified = "comes with this program"
    return f"{model.summary}; {show_bytes(model.nbytes)}, {verified}; {_presets_text(model)}"


def _presets_text(model: InstalledModel) -> str:
    short = [name for name in names("recipes") if not {*recipe(name).needs} <= model.paths.keys()]
    return f"all presets but {', '.join(short)}" if short else "all presets"


def _to_download(model: InstalledModel) -> str:
    there = f"{len(model.paths)} of {len(model.roles)} parts here, " * bool(model.paths)
    return f"{model.summary}; {there}{show_bytes(model.size)}"


def _installed_lora(lora: InstalledModel) -> str:
    return f"{lora.summary}; for {_listed(tuple(lora.paths))}, {show_bytes(lora.nbytes)}"


def _lora_to_download(lora: InstalledModel) -> str:
    return f"{lora.summary}; for {_listed(lora.roles)}"


def _listed(generations: Sequence[str]) -> str:
    return " and ".join(generations)
