"""Facts about a YAML file: settings, with the user's presets, or one of the shipped preset files.

Source: docs/cli.md, "Settings files".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...yaml_file import read_yaml
from ..recipe import Recipe
from ..resolve.setting_sources import PRESETS
from ..resolve.settings import Origin, Place, check_layer
from .words import Facts, as_text

SUMMARY = "summary"
A_RECIPE = "a recipe"
SHIPPED = {  # kinds of files by a name that they contain
    "stages": A_RECIPE,
    "files": "the entry of a model",
    "one_stage": "the entry of a size",
    "stg_block": "the defaults of a generation",
    "like": "the defaults of a generation",
}


def facts(path: Path) -> Facts:
    """Facts about a file of settings or of a recipe. Raises: RequestError that names the line of a mistake."""
    values = read_yaml(path)
    shipped = next((kind for sign, kind in SHIPPED.items() if sign in values), None)
    if shipped == A_RECIPE:
        Recipe.checked(str(path), values)
    if shipped is not None:
        yield "kind", shipped
        yield from _texts(values)
        return
    presets = values.pop(PRESETS, None) or {}
    summary = values.pop(SUMMARY, None)
    check_layer(Place(Origin.FILE, str(path)), values)
    yield "kind", "a file of settings"
    if summary:
        yield SUMMARY, str(summary)
    yield from _texts(values)
    if isinstance(presets, dict):
        yield from ((f"preset {name}", as_text(preset)) for name, preset in presets.items())


def _texts(values: Mapping[str, Any]) -> Facts:
    return ((name, as_text(value)) for name, value in values.items() if value not in (None, [], {}))
