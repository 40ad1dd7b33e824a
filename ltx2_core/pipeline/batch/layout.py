"""The layout of a batch's grid: rows of results that have everything in common except the seed or a swept value.

Source: docs/batch.md, "All results side by side".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import RequestError
from ...media.board import MOST_COLUMNS, MOST_ROWS, Cell, Row
from .jobs import BATCH_KEYS, Batch, BatchJob
from .record import GRID_CLIP, GRID_SHEET, read_record, require_own

MOST_CELLS = MOST_COLUMNS * MOST_ROWS
SEED, PROMPT = "seed", "prompt"
NOT_VARIED = ("name", *BATCH_KEYS)


def grid_layout(batch: Batch) -> tuple[Row, ...]:
    """The rows of the grid of a batch.

    Raises: RequestError for a batch that is too large for a grid, that has results without video, or that has a job
    with the name of the grid; and for an existing file of that name that the batch did not write.
    """
    what = "--grid cannot be used here"
    if len(batch.jobs) > MOST_CELLS:
        why = f"there are {len(batch.jobs):,} jobs, and a grid holds {MOST_CELLS}"
        raise RequestError(what, why, "fewer seeds or values, or several files of jobs")
    if any(job.resolved.request.video == "off" for job in batch.jobs):
        raise RequestError(what, "some of the jobs make audio alone", "leave it out")
    if not batch.is_replacing:
        require_own(batch.folder, read_record(batch.folder), (GRID_SHEET, GRID_CLIP))
    names = {path.name.lower() for job in batch.jobs for path in job.resolved.task.results}
    if taken := sorted(names & {GRID_SHEET, GRID_CLIP}):
        raise RequestError(what, f"a job writes {taken[0]}", "give that job another name")
    return _rows([(job, _values(job)) for job in batch.jobs])


Valued = tuple[BatchJob, Mapping[str, str]]


def _values(job: BatchJob) -> Mapping[str, str]:
    """The values that may differ between jobs, as text."""
    settings = {key: _text(value) for key, value in job.line.dump().items() if key not in NOT_VARIED}
    return {**settings, SEED: str(job.resolved.request.seed)}


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _rows(jobs: Sequence[Valued]) -> tuple[Row, ...]:
    """Rows in which one value varies, the same in each; or if there are none, all jobs in one row."""
    keys = list(dict.fromkeys(key for _, values in jobs for key in values))
    varied = [key for key in keys if len({values.get(key) for _, values in jobs}) > 1]
    for key in sorted(varied, key=lambda key: (key != SEED, -varied.index(key))):
        if key == PROMPT:
            continue
        others = [other for other in varied if other != key]
        rows: dict[tuple[str | None, ...], list[Valued]] = {}
        for job, values in jobs:
            rows.setdefault(tuple(values.get(other) for other in others), []).append((job, values))
        across = {tuple(values.get(key) for _, values in row) for row in rows.values()}
        if len(across) == 1 and len(rows) <= MOST_ROWS and len(rows) < len(jobs):
            shown = _without_followers(others, jobs)
            return tuple(_row(row, [key], shown) for row in rows.values())
    columns = math.ceil(math.sqrt(len(jobs)))
    shown = _without_followers(varied, jobs)
    lines = [jobs[begin : begin + columns] for begin in range(0, len(jobs), columns)]
    return tuple(_row(line, shown, []) for line in lines)


def _without_followers(keys: Sequence[str], jobs: Sequence[Valued]) -> list[str]:
    """The keys without the seed, if the others distinguish all jobs: a job without a seed gets one from its number."""
    rest = [key for key in keys if key != SEED]
    apart = {tuple(values.get(key) for key in rest) for _, values in jobs}
    both = {tuple(values.get(key) for key in keys) for _, values in jobs}
    return rest if len(apart) == len(both) else list(keys)


def _row(jobs: Sequence[Valued], of_cell: Sequence[str], of_row: Sequence[str]) -> Row:
    cells = tuple(Cell(_label(values, of_cell) or job.name, job.resolved.target) for job, values in jobs)
    return Row(_label(jobs[0][1], of_row), cells)


def _label(values: Mapping[str, str], keys: Sequence[str]) -> str:
    """Values as text: the prompt, then the others after their names."""
    ordered = sorted(keys, key=lambda key: key != PROMPT)
    return ", ".join(values[key] if key == PROMPT else f"{key} {values[key]}" for key in ordered if key in values)
