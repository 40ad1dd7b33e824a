"""The names of the results of a batch: one folder, and a unique name for each job.

Source: docs/batch.md, "Names".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from ...errors import RequestError, shown
from ...paths import given_path
from ..resolve.target import FIELDS, slug
from .expand import Variant

DRAFT_ENDING = "-draft"  # suffix of a folder's name
DEFAULT_TEMPLATE = "{index}-{slug}-{seed}"
NOT_IN_A_NAME = re.compile(r"[/\\\x00-\x1f\x7f]")
PLAIN_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Naming:
    """How results are named. template: of a file in the folder; None for the default names."""

    folder: Path
    template: str | None = None

    @classmethod
    def of(cls, output: str | None, jobs: Path, *, is_draft: bool = False) -> Naming:
        """The meaning of `-o`: a folder, or a folder and a name template.

        Args: jobs: the file of jobs. is_draft: whether they are drafts, which have their own folder.
        Raises: RequestError.
        """
        usual = (jobs.absolute().stem or "batch") + DRAFT_ENDING * is_draft  # the root of a disk has no name
        path = given_path(usual if output is None else output, "-o")
        is_folder = output is None or output.endswith(("/", "\\")) or path.is_dir() or not path.suffix
        folder, template = (path, None) if is_folder else (path.parent, path.name)
        what = f"-o {shown(str(output or folder))} cannot be used"
        if "{" in str(folder) or "}" in str(folder):
            raise RequestError(what, "a batch has one folder", "-o FOLDER/ or -o 'FOLDER/{slug}-{seed}.mp4'")
        if folder.exists() and not folder.is_dir():
            raise RequestError(what, f"{folder} is not a folder", "-o FOLDER/ names another")
        return cls(folder, template)

    def output(self, number: int, name: str, variant: Variant) -> str:
        """The template of one job, with only those fields left that need its resolved request.

        Args: number: of the job in its file, from 1. name: its own, or "". Raises: RequestError.
        """
        if name:
            check_name(name)
        if name or self.template is None:
            given = escaped(name) if name else DEFAULT_TEMPLATE
            seed = "-{seed}" if name and variant.seed is not None else ""
            file = given + seed + "".join(f"-{key.replace('_', '-')}-{{{key}}}" for key in variant.swept) + ".{ext}"
        else:
            file = self.template
        known = {"index": f"{number:04d}", **{key: _in_a_name(value) for key, value in variant.swept.items()}}
        return f"{escaped(str(self.folder))}/{_filled(file, known)}"


def check_name(name: str) -> None:
    """Raises: RequestError for a job name that is not a valid file name."""
    if NOT_IN_A_NAME.search(name) or name.startswith(".") or name != name.strip():
        why = "it becomes the name of a file in the folder of the batch"
        raise RequestError(f"name {shown(name)} cannot be used", why, f"name: {slug(name)}")


def escaped(text: str) -> str:
    """A text as part of a template, without fields."""
    return text.replace("{", "{{").replace("}", "}}")


def _in_a_name(value: str) -> str:
    """A value of a sweep as part of a name: a number as it is, else its slug."""
    return value if PLAIN_NUMBER.fullmatch(value) else slug(value)


def _filled(template: str, known: Mapping[str, str]) -> str:
    """A template with some fields filled in; the others are filled in later.

    Raises: RequestError for unknown fields.
    """
    what = f"-o {shown(template)} cannot be used"
    names = ", ".join(f"{{{name}}}" for name in (*known, *FIELDS))
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise RequestError(what, "it has an unmatched brace", f"known fields are {names}") from error
    found = ""
    for text, name, form, conversion in pieces:
        found += escaped(text)
        if name is None:
            continue
        if name not in (*known, *FIELDS) or form or conversion:
            raise RequestError(what, f"known fields are {names}", "a field is a name in braces, without a format")
        found += escaped(known[name]) if name in known else f"{{{name}}}"
    return found
