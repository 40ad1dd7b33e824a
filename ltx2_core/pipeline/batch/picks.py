"""Picked drafts: the folder of a batch keeps the jobs of its drafts, and a file of picks turns them into full jobs.

Source: docs/batch.md, "Drafts and picks".
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...disk import disk_errors, no_file, read_whole, write_whole
from ...errors import RequestError, StorageError, shown
from ...lock import locked
from ...paths import given_path
from ...yaml_file import without
from ..values import did_you_mean
from .jobs import BATCH_KEYS, OWN_KEYS, Batch, BatchJob
from .record import DRAFTS, POLL_S, RECORD, read_record
from .rooted import rooted

FOLDER = "folder"  # the key of the folder in which the command ran
FIRST_LINE = re.compile(r"#\s*ltx2 picks of\s+(\S.*?)\s*")
MOST_FIRST_BYTES, MOST_BYTES = 4096, 64 * 2**20  # limits for the first line, and for the file of drafts


def picked_batch(path: Path) -> str | None:
    """The name of the batch in the first line of a file of picks; None for anything else, which is not opened."""
    if no_file(path) or path.suffix.lower() != ".txt":
        return None
    try:
        with path.open("rb") as file:
            first = file.read(MOST_FIRST_BYTES).decode("utf-8-sig", "replace").lstrip().partition("\n")[0]
    except OSError:
        return None
    match = FIRST_LINE.fullmatch(first.rstrip("\r"))
    return match and match[1]


def drafts_of(batch: Batch) -> list[BatchJob]:
    """The jobs of a batch that are drafts."""
    return [job for job in batch.jobs if job.resolved.request.full_recipe is not None]


def keep_drafts(batch: Batch) -> None:
    """Write the draft jobs of a batch into its folder, in addition to those that it contains, each with the folder that
    its paths are relative to.

    Raises: StorageError.
    """
    here = str(Path.cwd())
    lines = {job.name: {**job.line.dump(), "name": job.name, FOLDER: here} for job in drafts_of(batch)}
    if not lines:
        return
    path = batch.folder / DRAFTS
    with locked(path, wait=lambda: time.sleep(POLL_S)), disk_errors(path):
        before = _read_drafts(path) if path.exists() else {}
        after = before | {name: without(line, *BATCH_KEYS) for name, line in lines.items()}
        if after != before:
            write_whole(path, "".join(json.dumps(after[name]) + "\n" for name in sorted(after)).encode())


def _read_drafts(path: Path) -> dict[str, dict[str, Any]]:
    """Jobs by their names. Raises: StorageError for a file that `keep_drafts` did not write; OSError."""
    try:
        jobs = [json.loads(line) for line in read_whole(path, MOST_BYTES).decode().splitlines()]
        return {job["name"]: job for job in jobs}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StorageError(f"{path} cannot be read", "it is not what this program wrote", "move it away") from error


@dataclass(frozen=True)
class PickedDrafts:
    """The drafts of a file of picks. name: of the folder of their batch."""

    path: Path
    name: str

    def full_job(self, text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """A picked draft as a full job: its own keys, and the settings that the command line may override.

        Args: text: the path of its file, relative to the folder of the batch or to that of the picks.
        Raises: RequestError for a file that is not in the batch, or not a draft; StorageError.
        """
        file = self._in_folder(text)
        found = self._files.get(file)
        if found is None:
            what = f"{shown(text)} is not a result of {self._folder}"
            raise RequestError(what, f"{RECORD} there does not know it", did_you_mean(file, [*self._files]))
        job = self._jobs.get(found)
        if job is None:
            raise RequestError(
                f"{shown(text)} is not a draft", f"{self._folder} holds it as a full render", "leave it out"
            )
        folder = Path(job.get(FOLDER, "."))
        job = without(job, FOLDER)
        if folder.absolute() != Path.cwd():
            job = rooted(job, folder)
        own = {key: value for key, value in job.items() if key in (*OWN_KEYS, "seed")}
        return {**own, "draft": False}, without(job, *own, "draft")

    def _in_folder(self, text: str) -> str:
        """The name of a result in the folder of the batch."""
        beside = self.path.parent / given_path(text, "a pick")
        is_there = beside.parent.exists() and beside.parent.samefile(self._folder)
        return beside.name if is_there else text.removeprefix("./")

    @cached_property
    def _folder(self) -> Path:
        """The folder of the batch. Raises: RequestError if there is none of this name, or no batch in it."""
        folders = list(self._places())
        found = next((folder for folder in folders if (folder / RECORD).is_file()), None)
        if found is None:
            looked = " nor ".join(dict.fromkeys(str(folder / RECORD) for folder in folders))
            hint = "put the file of picks into the folder of its batch, or beside that folder"
            raise RequestError(f"the batch {shown(self.name)} cannot be found", f"there is no {looked}", hint)
        return found

    def _places(self) -> Iterator[Path]:
        """Where the folder of the batch may be: that of the picks, beside the file of picks, or in the current
        folder.
        """
        here = self.path.absolute().parent
        if here.name == self.name:
            yield self.path.parent
        named = given_path(self.name, "the batch of the picks")
        yield self.path.parent / named
        yield named

    @cached_property
    def _files(self) -> Mapping[str, str]:
        """The jobs of the batch by the names of their files."""
        record = read_record(self._folder)
        return {} if record is None else {entry.file: entry.job for entry in record.jobs}

    @cached_property
    def _jobs(self) -> Mapping[str, dict[str, Any]]:
        """The drafts of the batch by the names of their jobs."""
        path = self._folder / DRAFTS
        with disk_errors(path, "cannot be read"):
            return _read_drafts(path) if path.exists() else {}
