"""The records in the folder of a batch: `batch.json` with the state of each job, and `summary.csv`.

Neither contains a time, so that an interrupted batch ends with the same bytes as one that was not.
Source: docs/batch.md, "The folder of a batch".
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError

from ...disk import disk_errors, disk_hint, disk_reason, read_whole, remove_leftovers, require_free, write_whole
from ...errors import LTX2Error, StorageError
from ...lock import locked
from ...records import Record

RECORD, SUMMARY, PAGE = "batch.json", "summary.csv", "report.html"
DRAFTS = "drafts.jsonl"  # a job of a draft a line
GRID_SHEET, GRID_CLIP = "grid.png", "grid.mp4"
BESIDE_RESULTS = (SUMMARY, PAGE, DRAFTS, GRID_SHEET, GRID_CLIP)
MOST_BYTES = 16 * 2**20
POLL_S = 0.01  # polling interval while another process writes the record
COLUMNS = ("job", "state", "file", "seed", "exit_code", "error", "why", "hint")


class Failure(Record):
    """Why a job failed. code: the exit code of its own command."""

    code: int
    what: str
    why: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: LTX2Error) -> Self:
        """The failure for an error."""
        return cls(code=error.exit_code, what=error.what, why=error.why, hint=error.hint)


class Fingerprint(Record):
    """The inputs that determine the result of a job. settings: SHA-256 of its request. inputs: of the files that it
    reads.
    """

    settings: str
    inputs: str


def _in_folder(name: str) -> str:
    """Raises: ValueError for a name that leads out of a folder."""
    if Path(name).name != name or name in ("", ".."):
        raise ValueError("it is not the name of a file in the folder")
    return name


class JobEntry(Record):
    """The state of a job.

    Args: file: its result, in the folder of the batch. nbytes: the size of that, when it is done. replaces: SHA-256 of
    a file that was in its place when it started.
    """

    job: str
    file: Annotated[str, AfterValidator(_in_folder)]
    seed: int
    fingerprint: Fingerprint
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    nbytes: int | None = None
    replaces: str | None = None
    failure: Failure | None = None

    def is_done(self, folder: Path) -> bool:
        """Whether the result exists, with the size that was written."""
        path = folder / self.file
        return self.state == "done" and path.is_file() and path.stat().st_size == self.nbytes


class BatchRecord(Record):
    """The state of a batch.

    Args: seed: the base of its jobs' seeds. owns: the files beside the results that the batch writes, by name; records
    of earlier versions do not say, and own all of them. jobs: in the order of their file.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    seed: int
    owns: tuple[str, ...] = BESIDE_RESULTS
    jobs: tuple[JobEntry, ...] = ()

    @property
    def by_name(self) -> Mapping[str, JobEntry]:
        """The entries by the names of their jobs."""
        return {entry.job: entry for entry in self.jobs}

    def with_entry(self, new: JobEntry) -> Self:
        """The same with another entry for one of its jobs."""
        return self.model_copy(update={"jobs": tuple(new if old.job == new.job else old for old in self.jobs)})

    def summary(self) -> str:
        """A row for each job, as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for entry in self.jobs:
            failure = entry.failure
            why = ("", "", "", "") if failure is None else (failure.code, failure.what, failure.why, failure.hint)
            row = (entry.job, entry.state, entry.file, entry.seed, *why)
            writer.writerow([_harmless(str(cell)) for cell in row])
        return text.getvalue()


def _harmless(cell: str) -> str:
    """A cell that spreadsheets do not interpret as a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t")) else cell


def require_own(folder: Path, record: BatchRecord | None, names: Iterable[str]) -> None:
    """Raises: TargetTakenError for an existing file with one of these names that the batch in a folder did not write.

    record: of that batch; None if there is none.
    """
    owned = () if record is None else record.owns
    for name in names:
        if name not in owned:
            require_free(folder / name, "no batch wrote it", "--overwrite replaces it, or move it away")


def stored_seed(folder: Path) -> int | None:
    """The seed of the batch in a folder; None if there is none. Raises: StorageError if its record is damaged."""
    record = read_record(folder)
    return None if record is None else record.seed


def read_record(folder: Path) -> BatchRecord | None:
    """The record of a batch; None if there is none. Raises: StorageError if it is damaged."""
    path = folder / RECORD
    try:
        return BatchRecord.model_validate_json(read_whole(path, MOST_BYTES), strict=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read", disk_reason(error), disk_hint(error)) from error
    except ValidationError as error:
        why = f"it is not what this program wrote: {error.errors()[0]['msg']}"
    except ValueError as error:
        why = str(error)
    hint = "move it away; ltx2 batch JOBS --overwrite then makes all results again"
    raise StorageError(f"{path} cannot be read", why, hint)


def change_record(folder: Path, change: Callable[[BatchRecord | None], BatchRecord]) -> BatchRecord:
    """Change the record of a batch while no other process does. Raises: StorageError."""
    path = folder / RECORD
    with locked(path, wait=lambda: time.sleep(POLL_S)), disk_errors(path):
        remove_leftovers(path)
        before = read_record(folder)
        after = change(before)
        if after != before:
            write_whole(path, after.model_dump_json(by_alias=True, indent=1).encode() + b"\n")
    return after


def change_entry(folder: Path, job: str, change: Callable[[JobEntry], JobEntry]) -> JobEntry:
    """Change the entry of one job, and return it. Raises: StorageError, also if the record does not contain the job."""

    def changed(record: BatchRecord | None) -> BatchRecord:
        if record is None or job not in record.by_name:
            raise StorageError(f"{folder / RECORD} does not know job {job}", "it was removed or changed meanwhile")
        return record.with_entry(change(record.by_name[job]))

    return change_record(folder, changed).by_name[job]


def write_summary(folder: Path) -> BatchRecord | None:
    """Write the table of a batch, and return its record. Raises: StorageError."""
    path = folder / SUMMARY
    with locked(path, wait=lambda: time.sleep(POLL_S)), disk_errors(path):
        remove_leftovers(path)
        record = read_record(folder)
        if record is not None:
            write_whole(path, record.summary().encode())
    return record
