"""What is left to do of a batch: which jobs are done, missing or changed, by its record and its files.

Source: docs/batch.md, "The same command again".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...disk import disk_hint, disk_reason
from ...errors import RequestError, StorageError
from ..reads import identities
from ..remains import remove_remains
from ..request import RenderTask
from .jobs import Batch, BatchJob, JobLine
from .picks import drafts_of, keep_drafts
from .record import (
    DRAFTS,
    GRID_CLIP,
    GRID_SHEET,
    PAGE,
    SUMMARY,
    BatchRecord,
    Fingerprint,
    JobEntry,
    change_record,
    require_own,
)

MOST_NAMED = 5  # largest number of jobs in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One job for a worker: the folder of its batch, its name there, and the job itself.

    Args: ahead: following jobs whose prompts are encoded together with its own.
    """

    folder: Path
    job: str
    fingerprint: Fingerprint
    line: JobLine
    ahead: tuple[JobLine, ...] = ()

    def dump(self) -> str:
        """The order as a line of JSON."""
        content = {
            "folder": str(self.folder),
            "job": self.job,
            "fingerprint": self.fingerprint.model_dump(),
            "line": self.line.dump(),
            "place": self.line.place,
            "ahead": [line.dump() for line in self.ahead],
        }
        return json.dumps(content)

    @classmethod
    def parse(cls, text: str) -> Order:
        """The order that `dump` wrote."""
        content = json.loads(text)
        return cls(
            folder=Path(content["folder"]),
            job=content["job"],
            fingerprint=Fingerprint(**content["fingerprint"]),
            line=JobLine.parse(content["line"], content["place"]),
            ahead=tuple(JobLine.parse(line, content["place"]) for line in content["ahead"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A batch and its record. done: jobs that need nothing. orders: the remaining jobs, in their order."""

    batch: Batch
    done: tuple[BatchJob, ...]
    orders: tuple[tuple[BatchJob, Order], ...]


def begin(batch: Batch, part: tuple[BatchJob, ...], *, overwrites: bool, has_grid: bool = False) -> Begun:
    """Compare a batch with its record, and write its present state.

    Args: part: the jobs of this process. overwrites: whether changed results, and other files in their places, may be
    replaced. has_grid: whether the results are joined in the end.
    Raises: RequestError if there are any and they may not be replaced; StorageError.
    """
    beside = {SUMMARY: True, PAGE: batch.has_report, DRAFTS: bool(drafts_of(batch))}
    beside |= dict.fromkeys((GRID_SHEET, GRID_CLIP), has_grid)
    written = [name for name, is_written in beside.items() if is_written]
    prints = {job.name: fingerprint(job.resolved.task) for job in batch.jobs}
    for job in part:
        remove_remains(job.resolved, [claim_of(job.resolved.target)])

    def compared(before: BatchRecord | None) -> BatchRecord:
        if not overwrites:
            require_own(batch.folder, before, written)
        known = {} if before is None else before.by_name
        found = [(job, _conflict(job, prints[job.name], known.get(job.name))) for job in part]
        if (conflicts := [(job, why) for job, why in found if why]) and not overwrites:
            raise _refusal(conflicts)
        entries = {job.name: known.get(job.name) or _waiting(job, prints[job.name]) for job in batch.jobs}
        entries |= {job.name: _begun(job, prints[job.name], entries[job.name]) for job in part}
        owns = {*written, *(() if before is None else before.owns)}
        jobs = tuple({**entries, **known, **entries}.values())
        return BatchRecord(seed=batch.seed, owns=tuple(sorted(owns)), jobs=jobs)

    record = change_record(batch.folder, compared)
    keep_drafts(batch)
    done = tuple(job for job in part if record.by_name[job.name].state == "done")
    orders = tuple(
        (job, Order(folder=batch.folder, job=job.name, fingerprint=prints[job.name], line=job.line))
        for job in part
        if record.by_name[job.name].state != "done"
    )
    return Begun(batch=batch, done=done, orders=orders)


def fingerprint(task: RenderTask) -> Fingerprint:
    """The inputs that determine the result of a task, apart from the machine. Raises: StorageError."""
    try:
        inputs = {role: one.content for role, one in identities(task).items()}
    except OSError as error:
        raise StorageError(f"{error.filename} cannot be read", disk_reason(error), disk_hint(error)) from error
    return Fingerprint(settings=settings_digest(task), inputs=_digest(inputs))


def settings_digest(task: RenderTask) -> str:
    """SHA-256 of the request, without the files that it reads."""
    output = task.output.model_dump(mode="json", exclude={"overwrite", "report", "preview"})
    return _digest({"request": task.request.model_dump(mode="json"), "output": output, "file": task.target.name})


def claim_of(target: Path) -> Path:
    """The path that a worker locks while it does the job of a target."""
    return target.with_name(f"{target.name}.claim")


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _begun(job: BatchJob, now: Fingerprint, entry: JobEntry) -> JobEntry:
    """The entry of a job of this process: kept if the job is done, or if its render has started."""
    is_same = entry.fingerprint == now
    stays = is_same and (entry.state == "running" or entry.is_done(job.resolved.target.parent))
    return entry if stays else _waiting(job, now)


def _waiting(job: BatchJob, print_: Fingerprint) -> JobEntry:
    target = job.resolved.target
    return JobEntry(job=job.name, file=target.name, seed=job.resolved.request.seed, fingerprint=print_)


def _conflict(job: BatchJob, now: Fingerprint, entry: JobEntry | None) -> str:
    """Why the result of a job would replace something; "" if it would not."""
    target, job_dir = job.resolved.target, job.resolved.job_dir
    is_there = any(os.path.lexists(path) for path in job.resolved.task.results)
    if entry is None or (entry.state in ("waiting", "failed") and not job_dir.exists()):
        return "a file of this name exists, which this batch did not make" if is_there else ""
    if entry.fingerprint.settings != now.settings:
        return "its settings have changed" if is_there or job_dir.exists() else ""
    if entry.fingerprint.inputs != now.inputs:
        return "a file that it reads has changed" if is_there or job_dir.exists() else ""
    if entry.state == "done" and target.exists() and not entry.is_done(target.parent):
        return "the file was changed after it was rendered"
    return ""


def _refusal(changed: Sequence[tuple[BatchJob, str]]) -> RequestError:
    """The error that lists what would be replaced, with the option that allows it."""
    names = [f"{job.resolved.target.name}: {why}" for job, why in changed]
    more = f"; and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    what = "1 result would be replaced" if len(names) == 1 else f"{len(names):,} results would be replaced"
    hint = "--overwrite renders them again, -o FOLDER/ renders into another folder"
    return RequestError(what, "; ".join(names[:MOST_NAMED]) + more, hint)
