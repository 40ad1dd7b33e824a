"""The models that have a name, as presets/models describes them."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import Field

from ..components import Role
from ..records import Record, presets_folder
from ..yaml_file import read_yaml


class RegisteredModel(Record):
    """A model that has a name.

    Args: files: role (checkpoint, text_encoder …) to file name. folder: inside the package, of a model that comes with
    it. tiers: the sizes by name that it is made for; None for all. defaults: values for settings, above those of its
    generation; `preset` is its recipe where none is asked for.
    """

    summary: str
    generation: str
    files: dict[Role, str]
    folder: str | None = None
    tiers: tuple[str, ...] | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)


@cache
def registered_models() -> dict[str, RegisteredModel]:
    """All models that have a name. Raises: RequestError if one of the files is not right."""
    files = sorted((presets_folder() / "models").glob("*.yaml"))
    return {path.stem: RegisteredModel.checked(f"presets/models/{path.name}", read_yaml(path)) for path in files}
