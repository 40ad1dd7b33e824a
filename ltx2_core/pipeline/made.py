"""The recipe in a finished file: enough to render it again, without this machine's folders and the time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Literal

from pydantic import Field

from ..machine import Machine
from ..records import Record
from ..version import __version__
from .request import EncodingSettings, MadeFile, Request

MOST_RECIPE_BYTES = 1_000_000  # the same limit as for the record of a job
LIBRARIES = ("torch", "transformers", "av", "pillow", "soundfile")  # libraries whose versions may change the result


class MadeModel(Record):
    """The model of a recipe. files: by role, including those of the request."""

    name: str
    files: Mapping[str, MadeFile]


class Made(Record):
    """The recipe inside a file.

    Args: made_with: versions of this program and its libraries, by name. hardware: the name of the GPU or the CPU.
    output: the output settings. Recipes of schema 2 lack the last two.
    """

    version: Literal[2, 3] = Field(default=3, alias="schema")
    made_with: Mapping[str, str]
    hardware: str = ""
    model: MadeModel
    request: Request
    machine: Machine
    output: EncodingSettings | None = None

    def dump(self) -> str:
        """The text of the file's comment."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def parse(cls, comment: str) -> Made:
        """Read such a text. Raises: ValueError if it is something else, or too large."""
        if len(comment) > MOST_RECIPE_BYTES:
            raise ValueError(f"it is larger than {MOST_RECIPE_BYTES:,} bytes")
        return cls.model_validate_json(comment, strict=True)


@cache
def versions() -> Mapping[str, str]:
    """The versions of this program and of the libraries that may affect a bit, by name."""
    return {"ltx2": __version__, **{name: version(name) for name in LIBRARIES}}
