"""Where settings come from besides the command line: the environment and YAML files.

Source: docs/cli.md, "Precedence of settings".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...disk import no_file
from ...errors import RequestError, shown
from ...home import ltx2_home
from ...yaml_file import Written, read_yaml
from ..values import did_you_mean
from .presets import AUTO
from .settings import COMMAND_LINE, ENVIRONMENT, Layer, Origin, Place, Settings

PREFIX = "LTX2_"
VARIABLES = {PREFIX + name.upper(): name for name in Settings.model_fields}
OTHER_VARIABLES = {"LTX2_HOME"}
PROJECT_FILE = Path("ltx2.yaml")
USER_FILE = "config.yaml"  # in the folder that LTX2_HOME names
PRESETS = "presets"


@dataclass(frozen=True, slots=True)
class Gathered:
    """The user's settings. layers: most important first. own_presets: by name."""

    layers: tuple[Layer, ...]
    own_presets: Mapping[str, Any]


def gather(flags: Mapping[str, Any], config: Path | None = None) -> Gathered:
    """Collect the settings of the command line, the environment and files.

    Args: flags: settings by name. config: the file that --config names.
    Raises: RequestError for an unknown variable that starts with LTX2_, and for a file that cannot be read.
    """
    layers: list[Layer] = [(COMMAND_LINE, flags), (ENVIRONMENT, read_environment())]
    own_presets: dict[str, Any] = {}
    for path in config_files(config):
        values = read_yaml(path)
        own_presets = _own_presets(values) | own_presets
        values.pop(PRESETS, None)
        layers.append((Place(Origin.FILE, str(path)), values))
    return Gathered(tuple(layers), own_presets)


def read_environment() -> dict[str, str]:
    """The settings among the environment's variables; an empty one counts as not set."""
    given = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    for name in given.keys() - VARIABLES.keys() - OTHER_VARIABLES:
        hint = did_you_mean(name, [*VARIABLES, *OTHER_VARIABLES])
        raise RequestError(f"{name} sets nothing", "variables that start with LTX2_ are settings of this program", hint)
    return {VARIABLES[name]: value for name, value in given.items() if name in VARIABLES and value}


def config_files(config: Path | None = None) -> list[Path]:
    """The settings files, most important first: that of --config, the project's, the user's."""
    if config is not None and (why := no_file(config)):
        raise RequestError(f"--config {config} cannot be read", why, "check the path")
    usual = [path for path in (PROJECT_FILE, ltx2_home() / USER_FILE) if os.path.lexists(path)]
    return [config, *usual] if config else usual


def own_presets() -> Mapping[str, Any]:
    """The user's own presets, by name."""
    return gather({}).own_presets


def _own_presets(file: Written) -> dict[str, Any]:
    """The presets of a file, by their names in small letters."""
    presets = file.get(PRESETS)
    if presets is None:
        return {}
    place = file.place(PRESETS)
    if not isinstance(presets, Written):
        raise RequestError(f"{PRESETS} ({place}) cannot be used", "it must hold names, and settings under each")
    found: dict[str, Any] = {}
    for name, values in presets.items():
        what = f"preset {shown(name)} ({presets.place(name)}) cannot be used"
        if not isinstance(values, Written):
            raise RequestError(what, "it must hold settings, such as steps: 30")
        if name.lower() == AUTO:
            raise RequestError(what, f"--preset {AUTO} chooses one by itself", "give it another name")
        if name.lower() in found:
            raise RequestError(what, "another one has the same name; names are not case-sensitive")
        found[name.lower()] = values
    return found
