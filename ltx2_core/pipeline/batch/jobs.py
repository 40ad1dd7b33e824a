"""Jobs: as written by a person or a program, and as resolved.

Source: docs/batch.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import MediaError, RequestError, shown
from ...paths import input_path
from ..resolve.modes import mode_of
from ..resolve.settings import Settings
from ..resolved import Resolved
from ..values import did_you_mean

DEFAULT_MODE = "t2v"
OWN_KEYS = ("mode", "prompt", "input", "name")  # keys of a job besides the settings of its mode

BATCH_KEYS = ("output", "overwrite", "skip_existing", "job_dir", "report")  # settings of the whole batch, not of a job


@dataclass(frozen=True, kw_only=True)
class JobLine:
    """One job, like a command line.

    Args: main: the file that its mode starts from. settings: by name, as they were written; they include those of the
    batch's command line, if the job does not set the same. name: of its file, without the suffix; "" uses the template.
    place: where it was written, for messages, such as `scenes.yaml, line 12`.
    """

    mode: str = DEFAULT_MODE
    prompt: str = ""
    main: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    place: str = ""

    def dump(self) -> dict[str, Any]:
        """The job as one JSON object, from which `parse` makes the same job."""
        own = {"mode": self.mode, "prompt": self.prompt, "input": self.main and str(self.main), "name": self.name}
        return {**{key: value for key, value in own.items() if value}, **self.settings}

    @classmethod
    def parse(cls, content: Mapping[str, Any], place: str) -> JobLine:
        """A job from its keys. The prompt is used word for word; None counts as not set.

        Raises: RequestError for an unknown key, and for a value that is not text. Values of settings are checked when
        the job is resolved.
        """
        given = {key: value for key, value in content.items() if value is not None}
        known = [*OWN_KEYS, *Settings.model_fields]
        if unknown := next((key for key in given if key not in known), None):
            raise RequestError(f"unknown key {shown(unknown)}", hint=did_you_mean(unknown, known))
        own = {key: _text(key, given.pop(key)) for key in OWN_KEYS if key in given}
        main = own.get("input")
        return cls(
            mode=mode_of(own.get("mode", DEFAULT_MODE)).name,
            prompt=own.get("prompt", ""),
            main=None if main is None else input_path(main, "input", MediaError),
            settings=given,
            name=own.get("name", ""),
            place=place,
        )


def _text(key: str, value: Any) -> str:
    """A value that must be text; a whole number becomes its digits. Raises: RequestError.

    A fraction is refused: 1.10 and 1e3 have been read as 1.1 and 1000.0 by now.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RequestError(f"{key} {shown(value)} cannot be used", "it must be text", f"put {key} in quotes")
    return value


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """A resolved job. name: of its file without the suffix, unique in the batch."""

    name: str
    line: JobLine
    resolved: Resolved


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Jobs that are rendered into one folder. seed: the base of their seeds.

    Args: is_replacing: whether an existing file in the place of a result may be replaced. has_report: whether one page
    about all results is requested. notes: for the user.
    """

    folder: Path
    jobs: tuple[BatchJob, ...]
    seed: int
    is_replacing: bool = False
    has_report: bool = False
    notes: tuple[str, ...] = ()
