"""Write reports: a page beside a finished file, or one page in the folder of a batch.

Source: docs/report.md.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from ...disk import disk_errors, remove_leftovers, require_free, write_whole
from ...errors import MediaError, RequestError, StorageError
from ...lock import locked
from ...media.accept import check_input
from ...media.inputs import VideoSource
from ...media.overview import OF_MANY, OF_ONE, look_at
from ...media.seam import measure_seam
from ..batch.record import PAGE, POLL_S, RECORD, BatchRecord, JobEntry, change_record, read_record, require_own
from ..events import Watch
from ..outputs import report_of
from .cells import Result, result_of, unreadable
from .page import batch_page, clip_page

NOBODY = Watch()


def write_report(what: Path, watch: Watch = NOBODY, *, overwrite: bool = False) -> Path:
    """Write the page about a file, beside it, or about the batch in a folder, into it. Returns its path.

    Raises: as the functions below.
    """
    if what.is_dir():
        return write_batch_report(what, watch, overwrite=overwrite)
    target = report_of(what)
    write_clip_report(what, target, overwrite=overwrite)
    return target


def write_clip_report(clip: Path, target: Path, *, overwrite: bool = False) -> None:
    """Write the page about a finished file, into the folder of the file.

    Raises: MediaError if the file cannot be read. TargetTakenError if the page exists. StorageError.
    """
    if not overwrite:
        require_free(target, hint="--overwrite replaces it")
    content = clip_page(_with_seam(result_of(clip.name, look_at(clip, OF_ONE)), clip))
    with disk_errors(target):
        write_whole(target, content)


def write_batch_report(folder: Path, watch: Watch = NOBODY, *, overwrite: bool = False) -> Path:
    """Write the page about a batch, finished or not, from its record and its results. Returns its path.

    A page that the batch wrote before is replaced. The same results give the same page.
    Raises: RequestError if the folder contains no batch, and for a page that the batch did not write. StorageError.
    StoppedError if the watcher stops it.
    """
    target = folder / PAGE
    _record_of(folder)  # nothing is written into a folder without a batch, not even a lock
    with locked(target, wait=lambda: time.sleep(POLL_S)):
        record = _record_of(folder)
        if PAGE not in record.owns:
            if not overwrite:
                require_own(folder, record, [PAGE])
            record = change_record(folder, _with_page)
        results = []
        with watch.phase("report", "measuring the results", len(record.jobs)) as on_done:
            for number, entry in enumerate(record.jobs, 1):
                results.append(_result(folder, entry))
                on_done(number)
        content = batch_page(folder.resolve().name, results)
        with disk_errors(target):
            remove_leftovers(target)
            write_whole(target, content)
    return target


def _record_of(folder: Path) -> BatchRecord:
    """The record of the batch in a folder. Raises: RequestError if it contains none; StorageError."""
    record = read_record(folder)
    if record is None:
        hint = "name one clip, or the folder that ltx2 batch has made"
        raise RequestError(f"{folder} holds no batch", f"there is no {RECORD} in it", hint)
    return record


def _with_page(record: BatchRecord | None) -> BatchRecord:
    """The record of a batch that writes a page. Raises: StorageError if it was removed meanwhile."""
    if record is None:
        raise StorageError(f"{RECORD} does not exist any more", "it was removed meanwhile")
    return record.model_copy(update={"owns": tuple(sorted({*record.owns, PAGE}))})


def _with_seam(result: Result, path: Path) -> Result:
    """The same with the measured seam of a loop."""
    if result.made is None or not result.made.request.loops:
        return result
    return replace(result, seam=measure_seam(check_input(path, VideoSource)))


def _result(folder: Path, entry: JobEntry) -> Result:
    """The facts about one job from the record of a batch and its file."""
    if not entry.is_done(folder):
        state = "missing" if entry.state == "done" else entry.state
        return Result(file=entry.file, state=state, seed=entry.seed)
    try:
        path = folder / entry.file
        return _with_seam(result_of(entry.file, look_at(path, OF_MANY), entry.seed), path)
    except MediaError as error:
        return unreadable(entry.file, entry.seed, error)
