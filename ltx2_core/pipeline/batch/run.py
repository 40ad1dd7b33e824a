"""Runs a batch: what is left of it, and how it ended.

Source: docs/batch.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import RequestError
from ..resolve.machine import devices
from .begin import begin
from .jobs import Batch, BatchJob
from .local import LocalEngine, Queued
from .options import BatchOptions
from .outcome import BatchWatch, Outcome
from .record import JobEntry, write_summary
from .shard import part_of

NOBODY = BatchWatch()


@dataclass(frozen=True, kw_only=True)
class BatchEnd:
    """How a batch ended.

    Args: count: the jobs of this process. failed: those that failed. left: those that were not begun, or were stopped.
    is_stopped: the watcher stopped it. is_late: its time was up.
    """

    count: int
    failed: tuple[JobEntry, ...]
    left: tuple[JobEntry, ...]
    is_stopped: bool
    is_late: bool


def run_batch(batch: Batch, options: BatchOptions, config: Path | None, watch: BatchWatch = NOBODY) -> BatchEnd:
    """Do the jobs of a batch that are not done yet, and write down in its folder what became of each.

    Args: config: the file that --config names, which the workers read too.
    Raises: RequestError if something would be replaced, or cards or a shard are not there; StorageError.
    """
    part = part_of(batch.jobs, options.shard)
    workers = devices_for(part, options.gpus)
    begun = begin(batch, part, overwrites=options.overwrite)
    watch.on_begin(len(part))
    for job in begun.done:
        target, seed = job.resolved.target, job.resolved.request.seed
        watch.on_outcome(-1, Outcome(job=job.name, state="existing", path=target, seed=seed))
    pairs = begun.orders if options.order == "file" else sorted(begun.orders, key=_Groups(part))
    queued = [Queued(order=order, device=only_device(job)) for job, order in pairs]
    engine = LocalEngine(queued, workers, options, config, watch)
    try:
        engine.run()
    finally:
        record = write_summary(batch.folder)
    known = {} if record is None else record.by_name
    entries = [known[job.name] for job in part]
    return BatchEnd(
        count=len(part),
        failed=tuple(entry for entry in entries if entry.state == "failed"),
        left=tuple(entry for entry in entries if entry.state in ("waiting", "running")),
        is_stopped=engine.is_stopped,
        is_late=engine.is_late,
    )


def only_device(job: BatchJob) -> str | None:
    """The only device that a job may run on; None if any card will do."""
    device, asked = job.resolved.task.machine.device, str(job.line.settings.get("device", ""))
    is_any = device == "cuda:0" and not re.fullmatch(r"cuda:\d+", asked)
    return None if is_any else device


def devices_for(jobs: Sequence[BatchJob], gpus: tuple[int, ...] | None) -> list[str]:
    """The devices that get a worker: those that jobs name, and for the others all cards, or those that were asked for.

    Raises: RequestError for a card that is not there, and for cards where no job could use them.
    """
    named = {device for job in jobs if (device := only_device(job)) is not None}
    takes_any = any(only_device(job) is None for job in jobs)
    cards = [one.name for one in devices() if one.kind == "cuda"] if takes_any or gpus is not None else []
    if gpus is not None:
        missing = [number for number in gpus if f"cuda:{number}" not in cards]
        what = f"--gpus {','.join(map(str, gpus))} cannot be used"
        if missing:
            why = f"this machine has no card {missing[0]} that torch can use"
            raise RequestError(what, why, "ltx2 doctor lists the cards" if cards else "leave it out")
        if not takes_any:
            raise RequestError(what, "every job names a device of its own", "leave one of them out")
        cards = [f"cuda:{number}" for number in gpus]
    return [*(cards if takes_any else []), *sorted(named - {*cards})]


class _Groups:
    """A key that puts jobs of the same files and the same machine together, in the order of their first ones."""

    def __init__(self, jobs: Sequence[BatchJob]) -> None:
        self.known: dict[str, int] = {}
        for job in jobs:
            self.known.setdefault(self._of(job), len(self.known))

    def __call__(self, pair: tuple[BatchJob, object]) -> int:
        return self.known[self._of(pair[0])]

    def _of(self, job: BatchJob) -> str:
        task = job.resolved.task
        return repr((sorted(task.files.paths.items()), task.machine.memory, task.machine.precision))
