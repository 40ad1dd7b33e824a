"""The base class of records that users write, and the folder of the shipped ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import RequestError


class Record(BaseModel):
    """A record that users may write and that is stored with a result: no unknown fields, no changes afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def checked(cls, where: str, content: dict[str, Any]) -> Self:
        """A record from the content of a file. Raises: RequestError that names the file and the place in it."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RequestError(f"{where} cannot be used", f"{place}: {first['msg']}") from error


def presets_folder() -> Path:
    """Where the presets are: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "presets"
