"""Run a batch: the remaining jobs, and the result.

Source: docs/batch.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from .begin import begin
from .cluster import ClusterWorkers
from .jobs import Batch, BatchJob
from .local import LocalWorkers
from .loop import BatchLoop, Queued, Workers
from .options import BatchOptions
from .outcome import BatchWatch, Outcome
from .record import JobEntry, write_summary
from .shard import part_of

NOBODY = BatchWatch()
Start = Callable[[Batch, Sequence[BatchJob], BatchOptions, Path | None], Workers]
ENGINES: Mapping[str, Start] = {"local": LocalWorkers, "ray": ClusterWorkers}  # values of --engine


@dataclass(frozen=True, kw_only=True)
class BatchEnd:
    """The result of a batch.

    Args: count: the jobs of this process. failed: those that failed. left: those that did not start, or were stopped.
    is_stopped: whether the watcher stopped it. is_late: whether the time limit was reached.
    """

    count: int
    failed: tuple[JobEntry, ...]
    left: tuple[JobEntry, ...]
    is_stopped: bool
    is_late: bool


def run_batch(batch: Batch, options: BatchOptions, config: Path | None, watch: BatchWatch = NOBODY) -> BatchEnd:
    """Do the jobs of a batch that are not done yet, and record the outcome of each in its folder.

    Args: config: the file that --config names, which the workers read too.
    Raises: RequestError if something would be replaced, or for a GPU or shard that does not exist; StorageError, also
    if no cluster answers or it does not see the folder; DoesNotFitError if no machine is large enough.
    """
    part = part_of(batch.jobs, options.shard)
    with closing(ENGINES[options.engine](batch, part, options, config)) as workers:
        begun = begin(batch, part, overwrites=options.overwrite, has_grid=options.grid)
        watch.on_begin(len(part))
        for job in begun.done:
            target, seed = job.resolved.target, job.resolved.request.seed
            watch.on_outcome(-1, Outcome(job=job.name, state="existing", path=target, seed=seed))
        pairs = begun.orders if options.order == "file" else sorted(begun.orders, key=_Groups(part))
        queued = [Queued(order=order, device=workers.device_of(job)) for job, order in pairs]
        loop = BatchLoop(queued, workers, options, watch)
        try:
            with closing(workers):
                loop.run()
        finally:
            record = write_summary(batch.folder)
    known = {} if record is None else record.by_name
    entries = [known[job.name] for job in part]
    return BatchEnd(
        count=len(part),
        failed=tuple(entry for entry in entries if entry.state == "failed"),
        left=tuple(entry for entry in entries if entry.state in ("waiting", "running")),
        is_stopped=loop.is_stopped,
        is_late=loop.is_late,
    )


class _Groups:
    """A sort key that groups jobs with the same files and machine, in the order of their first ones."""

    def __init__(self, jobs: Sequence[BatchJob]) -> None:
        self.known: dict[str, int] = {}
        for job in jobs:
            self.known.setdefault(self._of(job), len(self.known))

    def __call__(self, pair: tuple[BatchJob, object]) -> int:
        return self.known[self._of(pair[0])]

    def _of(self, job: BatchJob) -> str:
        task = job.resolved.task
        return repr((sorted(task.files.paths.items()), task.machine.memory, task.machine.precision))
