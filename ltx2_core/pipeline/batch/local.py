"""Runs a batch on this machine: a child process for each card, or one on the CPU. A child that dies is replaced.

Source: docs/batch.md, "Workers".
"""

from __future__ import annotations

import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from .begin import Order
from .child import SIGNALS, STOP, serve
from .jobs import JobLine
from .options import BatchOptions
from .outcome import BatchWatch, Outcome
from .record import Failure, change_entry

START_METHOD = "spawn"  # CUDA cannot be used in a process that was forked
MOST_TRIES = 2
AHEAD = 15  # jobs whose prompts are read together with that of the job before them
LISTEN_S = 0.2  # for events, before the watcher is asked again whether to stop
BUSY_S = 0.5  # before a job is tried again that another process has been doing


@dataclass(kw_only=True)
class Queued:
    """A job that has to be done. device: the only one that it may run on; None for any card. after: not before."""

    order: Order
    device: str | None
    tries: int = 0
    after: float = 0.0


@dataclass
class Child:
    """A worker, and its process while there is one. doing: its job."""

    number: int
    device: str
    process: Any = None
    connection: Any = None
    doing: Queued | None = None

    def start(self, config: Path | None) -> None:
        context = get_context(START_METHOD)
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, self.connection, config), daemon=True)
        with _signals_wait():
            self.process.start()
        other.close()

    def give(self, job: Queued) -> None:
        """Send a job. A process that is dead is noticed when nothing comes back."""
        self.doing = job
        self.send(job.order.dump())

    def send(self, text: str) -> None:
        try:
            self.connection.send(text)
        except OSError:
            return

    def end(self) -> None:
        """End the process. One that has no job has nothing to lose, and leaving on its own would take it a second."""
        if self.process is None:
            return
        self.connection.close()
        self.process.kill()
        self.process.join()
        self.process = self.connection = None


@contextmanager
def _signals_wait() -> Iterator[None]:
    """A child begins with these signals blocked, so that Ctrl-C does not end it before it listens to the parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass
class LocalEngine:
    """Does jobs with the workers of this machine.

    Args: jobs: what is to be done. devices: one worker each. Afterwards `is_stopped` says whether the watcher stopped
    it, and `is_late` whether its time was up.
    """

    jobs: Sequence[Queued]
    devices: Sequence[str]
    options: BatchOptions
    config: Path | None
    watch: BatchWatch
    is_stopped: bool = False
    is_late: bool = False
    has_failed: bool = False
    start: float = field(default_factory=lambda: monotonic())

    def __post_init__(self) -> None:
        self.waiting = deque(self.jobs)
        self.children = [Child(number, device) for number, device in enumerate(self.devices)]
        self.busy: Counter[str] = Counter()
        self.read: set[str] = set()  # jobs whose prompts a worker was told to read with those of another

    def run(self) -> None:
        """Do all jobs, or as many as the options let it. Raises: whatever the watcher raises, and ends the workers."""
        try:
            while self._goes_on():
                for child in self.children:
                    if child.doing is None and (job := self._next(child)) is not None:
                        self._give(child, job)
                self._listen()
        finally:
            for child in self.children:
                child.end()

    def _goes_on(self) -> bool:
        """Whether there is anything left to do or to wait for."""
        if not self.is_stopped and self.watch.should_stop():
            self.is_stopped = True
            for child in self.children:
                if child.doing is not None:
                    child.send(STOP)
        limit = self.options.max_time
        if limit is not None and self.waiting and monotonic() - self.start >= limit:
            self.is_late = True
        return any(child.doing for child in self.children) or (bool(self.waiting) and not self._begins_no_more)

    @property
    def _begins_no_more(self) -> bool:
        return self.is_stopped or self.is_late or (self.has_failed and not self.options.keep_going)

    def _next(self, child: Child) -> Queued | None:
        """Take the first job that a worker can do now."""
        if self._begins_no_more:
            return None
        now = monotonic()
        for job in self.waiting:
            is_for_any_card = job.device is None and child.device.startswith("cuda")
            if job.after <= now and (is_for_any_card or job.device == child.device):
                self.waiting.remove(job)
                return job
        return None

    def _give(self, child: Child, job: Queued) -> None:
        if child.process is None:
            child.start(self.config)
        self.watch.on_start(child.number, job.order.job)
        ahead = self._ahead(job)

        def placed(line: JobLine) -> JobLine:
            return line if job.device else replace(line, settings={**line.settings, "device": child.device})

        order = replace(job.order, line=placed(job.order.line), ahead=tuple(map(placed, ahead)))
        child.give(replace(job, order=order))

    def _ahead(self, job: Queued) -> list[JobLine]:
        """The jobs whose prompts are read with that of a job: those that follow, unless somebody reads its own."""
        if self.options.order == "file" or job.order.job in self.read:
            return []
        following = islice((one for one in self.waiting if one.device == job.device), AHEAD)
        found = [one.order for one in following if one.order.job not in self.read]
        self.read.update(order.job for order in found)
        return [order.line for order in found]

    def _listen(self) -> None:
        """Take what workers tell, for a moment."""
        open_ones = {child.connection: child for child in self.children if child.connection is not None}
        if not any(child.doing for child in open_ones.values()):
            sleep(LISTEN_S)
            return
        for connection in wait(list(open_ones), LISTEN_S):
            child = open_ones[connection]
            try:
                message = child.connection.recv()
            except (EOFError, OSError):
                self._bury(child)
                continue
            if isinstance(message, Outcome):
                self._conclude(child, message)
            elif child.doing is not None:
                self.watch.on_event(child.number, child.doing.order.job, message)

    def _conclude(self, child: Child, outcome: Outcome) -> None:
        job, child.doing = child.doing, None
        assert job is not None
        if outcome.state == "busy":
            if not self.busy[outcome.job]:
                self.watch.say(f"{outcome.job}: another process is doing this job; waiting for it")
            self.busy[outcome.job] += 1
            self.waiting.append(replace(job, after=monotonic() + BUSY_S))
        self.has_failed |= outcome.state == "failed"
        self.watch.on_outcome(child.number, outcome)

    def _bury(self, child: Child) -> None:
        """A worker has died: its job is tried once more, by another one that goes on with the job's folder."""
        job, child.doing = child.doing, None
        child.process.join()
        code = child.process.exitcode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        child.end()
        if job is None:
            return
        name, tries = job.order.job, job.tries + 1
        if tries < MOST_TRIES or self.is_stopped:
            if not self.is_stopped:
                self.watch.say(f"{name}: the worker on {child.device} died with {how}; the job is tried once more")
            self.waiting.appendleft(replace(job, tries=tries))
            self.watch.on_outcome(child.number, Outcome(job=name, state="stopped"))
            return
        why = f"the last time with {how}; out of memory is a common reason"
        failure = Failure(code=1, what=f"its worker died {tries} times", why=why, hint="--memory streamed needs less")
        changes = {"state": "failed", "failure": failure}
        change_entry(job.order.folder, name, lambda entry: entry.model_copy(update=changes))
        self._conclude_failed(child, name, failure)

    def _conclude_failed(self, child: Child, name: str, failure: Failure) -> None:
        self.has_failed = True
        self.watch.on_outcome(child.number, Outcome(job=name, state="failed", failure=failure))
