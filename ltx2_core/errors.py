"""Every error that a user can cause, as one class hierarchy.

Each class has its exit code; the command line only prints the errors.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_SHOWN = 60


def shown(value: object, longest: int = LONGEST_SHOWN) -> str:
    """A value for a message: shortened if it is long, and in quotes if it is empty or blank."""
    text = value if isinstance(value, str) else _as_text(value)
    if len(text) > longest:
        return text[: longest - 1] + "…"
    return text if text.strip() else f"'{text}'"


def json_reason(error: Exception) -> str:
    """Why a text is not JSON, or not JSON that can be read, from the error of Python's parser."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, character {error.colno}" if "\n" in error.doc else f"character {error.colno}"
        return f"it is not JSON: {error.msg} at {place}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    return "a number in it has thousands of digits" if "set_int_max_str_digits" in str(error) else str(error)


def _as_text(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # Python writes out no number of more than 4,300 digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a value of many levels"


class LTX2Error(Exception):
    """An error with a message for the user.

    Args: what: one line, lower-case, with the bad value and the name that the user typed. why: one line, or empty.
    hint: a command to run or a thing to change, or empty. problems: errors of single jobs, which this one summarises,
    each with the places of its jobs.
    """

    exit_code = 1

    def __init__(
        self, what: str, why: str = "", hint: str = "", problems: Sequence[tuple[Sequence[str], LTX2Error]] = ()
    ) -> None:
        super().__init__(what)
        self.what, self.why, self.hint, self.problems = what, why, hint, tuple(problems)

    @property
    def sentence(self) -> str:
        """The error and its reason, as one sentence."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def __str__(self) -> str:
        hint = f"hint: {self.hint}" if self.hint else ""
        return "\n".join(line for line in (self.what, self.why, hint) if line)


class RequestError(LTX2Error):
    """The request is not possible: a wrong size, option, preset or configuration."""

    exit_code = 2


class JobsError(RequestError):
    """Jobs of a batch cannot be rendered; its problems say why."""


class TargetTakenError(RequestError):
    """The output exists already, or another process is writing it."""


class MediaError(LTX2Error):
    """An image, video or audio file that was given cannot be used."""

    exit_code = 3


class DoesNotFitError(LTX2Error):
    """The plan needs more memory than this machine has free."""

    exit_code = 4


class OutOfMemoryError(LTX2Error):
    """Memory ran out while a model was running."""

    exit_code = 5


class AccessError(LTX2Error):
    """A download needs a login or accepted terms."""

    exit_code = 6


class StorageError(LTX2Error):
    """Network, disk or integrity: weights are missing, incomplete or cannot be written."""

    exit_code = 7


class CheckpointError(LTX2Error):
    """A weight file is there but cannot be used: wrong kind, unknown architecture, missing or unexpected tensors."""

    exit_code = 7


class OutputError(LTX2Error):
    """The finished file failed its own check."""

    exit_code = 8


class NotFiniteError(OutputError):
    """NaN or infinite values occurred in data that is to be written."""


class BatchError(LTX2Error):
    """A batch has ended, and some of its jobs failed (see its problems), or did not start."""

    exit_code = 9
