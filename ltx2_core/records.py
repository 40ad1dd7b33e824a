"""Records that people write: the base class, how one is read from YAML, and where those that come along lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import RequestError


class Record(BaseModel):
    """What a person may write and what is stored with a result: nothing unknown, nothing changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def checked(cls, where: str, content: dict[str, Any]) -> Self:
        """A record from what a file holds. Raises: RequestError that names the file and the place in it."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RequestError(f"{where} cannot be used", f"{place}: {first['msg']}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds names and values. Raises: RequestError if it cannot be read as such."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"{path.name} cannot be read", " ".join(str(error).split())) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise RequestError(f"{path.name} cannot be used", "it must hold names and values, one to a line")
    return content


def presets_folder() -> Path:
    """Where the presets are: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "presets"
