"""What a finished file says about itself: enough to make it again, without this machine's folders and the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ..machine import Machine
from ..records import Record
from .request import Request


class MadeFile(Record):
    """A file that a render read. fingerprint: the hash of what it holds."""

    name: str
    fingerprint: str


class MadeModel(Record):
    """The model that was used. files: by role, those of the request among them."""

    name: str
    files: Mapping[str, MadeFile]


class Made(Record):
    """The recipe inside a file.

    Args: made_with: versions of this program and its libraries, by name. loudness: in LUFS, which its audio was brought
    to; None where it is as it was made.
    """

    version: Literal[2] = Field(default=2, alias="schema")
    made_with: Mapping[str, str]
    model: MadeModel
    request: Request
    machine: Machine
    loudness: float | None = None

    def dump(self) -> str:
        """The text that goes into the file's comment."""
        return self.model_dump_json(by_alias=True, exclude={"loudness"} if self.loudness is None else None)

    @classmethod
    def parse(cls, comment: str) -> Made:
        """Read such a text. Raises: ValueError if it is something else."""
        return cls.model_validate_json(comment)
