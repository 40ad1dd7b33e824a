"""The loop over the jobs of a batch, for any kind of workers: assigns jobs, repeats failed ones, and decides when to
end.

Source: docs/batch.md, "Workers".
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import monotonic
from typing import Protocol

from ..events import Message
from .begin import Order
from .jobs import BatchJob, JobLine
from .options import BatchOptions
from .outcome import BatchWatch, Gone, Outcome, Told
from .record import Failure, change_entry

NOBODY = -1  # worker number for messages that concern all workers
MOST_TRIES = 2
AHEAD = 15  # number of following jobs whose prompts are encoded together
LISTEN_S = 0.2  # waiting time for events between checks for a stop
BUSY_S = 0.5  # waiting time before a retry of a job that another process is doing


class Workers(Protocol):
    """The workers of an engine, numbered from 0. One that dies is replaced by another with the same number.

    devices: the device of each, "cpu" or "cuda:N".
    """

    devices: Sequence[str]

    def device_of(self, job: BatchJob) -> str | None:
        """The only device that a job may run on; None if any GPU can be used."""
        ...

    def is_ready(self, number: int) -> bool:
        """Whether an idle worker can take a job."""
        ...

    def give(self, number: int, order: Order) -> None:
        """Give a worker a job. It sends events, and an outcome at the end, unless it dies."""
        ...

    def stop(self, number: int) -> None:
        """Ask a worker to stop after its step, and to take no further job."""
        ...

    def listen(self, seconds: float) -> Iterable[tuple[int, Told]]:
        """The messages of workers within some time, with their numbers. A message of `NOBODY` is for the user.

        Raises: StorageError if workers are no longer possible.
        """
        ...

    def close(self) -> None:
        """End all workers, at once."""
        ...


@dataclass(kw_only=True)
class Queued:
    """A job to do. device: the only one that it may run on; None for any GPU. after: the earliest time."""

    order: Order
    device: str | None
    tries: int = 0
    after: float = 0.0


@dataclass
class BatchLoop:
    """Does jobs with workers.

    Args: jobs: to do. Afterwards `is_stopped` says whether the watcher stopped it, and `is_late` whether the time limit
    was reached.
    """

    jobs: Sequence[Queued]
    workers: Workers
    options: BatchOptions
    watch: BatchWatch
    is_stopped: bool = False
    is_late: bool = False
    has_failed: bool = False
    start: float = field(default_factory=lambda: monotonic())

    def __post_init__(self) -> None:
        self.waiting = deque(self.jobs)
        self.doing: dict[int, Queued] = {}  # by worker
        self.busy: Counter[str] = Counter()
        self.read: set[str] = set()  # jobs whose prompts a worker encodes with those of another job

    def run(self) -> None:
        """Do all jobs, or as many as the options allow. Raises: whatever the watcher raises; StorageError."""
        while self._goes_on():
            for number in range(len(self.workers.devices)):
                if number not in self.doing and self.workers.is_ready(number) and (job := self._next(number)):
                    self._give(number, job)
            for number, message in self.workers.listen(LISTEN_S):
                self._hear(number, message)

    def _goes_on(self) -> bool:
        """Whether there is anything left to do or to wait for."""
        if not self.is_stopped and self.watch.should_stop():
            self.is_stopped = True
            for number in self.doing:
                self.workers.stop(number)
        limit = self.options.max_time
        if limit is not None and self.waiting and monotonic() - self.start >= limit:
            self.is_late = True
        return bool(self.doing) or (bool(self.waiting) and not self._begins_no_more)

    @property
    def _begins_no_more(self) -> bool:
        return self.is_stopped or self.is_late or (self.has_failed and not self.options.keep_going)

    def _next(self, number: int) -> Queued | None:
        """Take the first job that a worker can do now."""
        if self._begins_no_more:
            return None
        now, device = monotonic(), self.workers.devices[number]
        for job in self.waiting:
            is_for_any_card = job.device is None and device.startswith("cuda")
            if job.after <= now and (is_for_any_card or job.device == device):
                self.waiting.remove(job)
                return job
        return None

    def _give(self, number: int, job: Queued) -> None:
        device = self.workers.devices[number]

        def placed(line: JobLine) -> JobLine:
            return replace(line, settings={**line.settings, "device": device})

        self.watch.on_start(number, job.order.job)
        ahead = tuple(map(placed, self._ahead(job)))
        self.doing[number] = job
        self.workers.give(number, replace(job.order, line=placed(job.order.line), ahead=ahead))

    def _ahead(self, job: Queued) -> list[JobLine]:
        """The jobs whose prompts are encoded together with that of a job: none, or some of the following ones."""
        if self.options.order == "file" or job.order.job in self.read:
            return []
        following = islice((one for one in self.waiting if one.device == job.device), AHEAD)
        found = [one.order for one in following if one.order.job not in self.read]
        self.read.update(order.job for order in found)
        return [order.line for order in found]

    def _hear(self, number: int, message: Told) -> None:
        match message:
            case Outcome():
                self._conclude(number, self.doing.pop(number), message)
            case Gone():
                if (job := self.doing.pop(number, None)) is not None:
                    self._bury(number, job, message)
            case Message(message=line) if number == NOBODY:
                self.watch.say(line)
            case event if number in self.doing:
                self.watch.on_event(number, self.doing[number].order.job, event)

    def _conclude(self, number: int, job: Queued, outcome: Outcome) -> None:
        if outcome.state == "busy":
            if not self.busy[outcome.job]:
                self.watch.say(f"{outcome.job}: another process is doing this job; waiting for it")
            self.busy[outcome.job] += 1
            self.waiting.append(replace(job, after=monotonic() + BUSY_S))
        self.has_failed |= outcome.state == "failed"
        self.watch.on_outcome(number, outcome)

    def _bury(self, number: int, job: Queued, gone: Gone) -> None:
        """A worker has died: its job is tried once more, by another worker that resumes the job's folder."""
        name, tries = job.order.job, job.tries + 1
        if tries < MOST_TRIES or self.is_stopped:
            if not self.is_stopped:
                self.watch.say(f"{name}: {gone.how}; the job is tried once more")
            self.waiting.appendleft(replace(job, tries=tries))
            self.watch.on_outcome(number, Outcome(job=name, state="stopped"))
            return
        why = f"the last time {gone.how}; out of memory is a common reason"
        failure = Failure(code=1, what=f"its worker died {tries} times", why=why, hint="--memory streamed needs less")
        changes = {"state": "failed", "failure": failure}
        change_entry(job.order.folder, name, lambda entry: entry.model_copy(update=changes))
        self.has_failed = True
        self.watch.on_outcome(number, Outcome(job=name, state="failed", failure=failure))
