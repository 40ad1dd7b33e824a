"""What a finished file says about itself: enough to make it again, without this machine's folders and the time."""

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

MOST_RECIPE_BYTES = 1_000_000  # as many as the record of a job may have
LIBRARIES = ("torch", "transformers", "av", "pillow", "soundfile")  # whose versions may change a bit


class MadeModel(Record):
    """The model that was used. files: by role, those of the request among them."""

    name: str
    files: Mapping[str, MadeFile]


class Made(Record):
    """The recipe inside a file.

    Args: made_with: versions of this program and its libraries, by name. hardware: what the card or the CPU is called.
    output: how the file was written. Recipes of schema 2 have neither of the last two.
    """

    version: Literal[2, 3] = Field(default=3, alias="schema")
    made_with: Mapping[str, str]
    hardware: str = ""
    model: MadeModel
    request: Request
    machine: Machine
    output: EncodingSettings | None = None

    def dump(self) -> str:
        """The text that goes into the file's comment."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def parse(cls, comment: str) -> Made:
        """Read such a text. Raises: ValueError if it is something else, or larger than any recipe."""
        if len(comment) > MOST_RECIPE_BYTES:
            raise ValueError(f"it is larger than {MOST_RECIPE_BYTES:,} bytes")
        return cls.model_validate_json(comment, strict=True)


@cache
def versions() -> Mapping[str, str]:
    """The versions of this program and of the libraries that may change a bit, by name."""
    return {"ltx2": __version__, **{name: version(name) for name in LIBRARIES}}
