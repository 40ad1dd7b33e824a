"""Run a batch and show its progress; and render jobs that arrive as lines of JSON."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ltx2_core as core

from .display import DETAILS, Display
from .failures import UserStopError, crash, is_stop
from .stop import Stop

if TYPE_CHECKING:
    from .progress import BatchBars

LONGEST_LINE = 2**20  # longest job on standard input, in bytes


def run_jobs(
    show: Display, batch: core.Batch, rows: Sequence[core.Row], options: core.BatchOptions, config: Path | None
) -> None:
    """Do the jobs of a batch that are not done yet, and join all results in a grid, if its rows are given.

    Raises: BatchError if some failed, or the time limit was reached.
    """
    view = BatchView(show)
    with Stop(lambda: show.say("stopping after this step; Ctrl-C again stops at once")) as stop:
        watch = core.BatchWatch(view.begun, view.started, view.event, view.outcome, show.warn, stop.should_stop)
        try:
            end = core.run_batch(batch, options, config, watch)
        except KeyboardInterrupt as stopped:
            what = f"stopped at once: {view.words}"
            raise UserStopError(stop.exit_code, what, command="the same command again goes on") from stopped
        finally:
            view.close()
        if batch.has_report and not end.is_stopped:
            _write_report(show, batch.folder, stop)
    if end.is_stopped and end.left:
        what = f"stopped: {view.words}"
        raise UserStopError(stop.exit_code, what, command="the same command again goes on")
    if rows and not end.is_stopped:
        show.say("joining the results")
        for path in core.draw_grid(rows, batch.folder):
            show.beside(path)
    _require_all(end)


def _write_report(show: Display, folder: Path, stop: Stop) -> None:
    """Write the page about a batch. Raises: UserStopError if the user stops that."""
    try:
        page = core.write_batch_report(folder, core.Watch(on_event=show.event, should_stop=stop.should_stop))
    except core.StoppedError as stopped:
        what = "stopped: the results are there, the report is not written"
        raise UserStopError(stop.exit_code, what, command="the same command again writes it") from stopped
    show.close()
    show.beside(page)


def _require_all(end: core.BatchEnd) -> None:
    """Raises: BatchError with the failures, or if something is left."""
    if not end.failed and not end.left:
        return
    problems = []
    for entry in end.failed:
        assert entry.failure is not None
        problems.append(((entry.job,), core.LTX2Error(entry.failure.what, entry.failure.why, entry.failure.hint)))
    parts: list[str] = []
    if end.failed:
        parts.append(f"{len(end.failed):,} of {core.counted(end.count, 'job')} failed")
    if end.left:
        reason = "as the time was up" if end.is_late else "after that"
        parts.append(f"{core.counted(len(end.left), 'job')} did not begin {reason}")
    again = "the same command again tries what is missing" if end.failed else "the same command again does the rest"
    raise core.BatchError("; ".join(parts), hint=again, problems=problems)


@dataclass
class BatchView:
    """The display of a running batch. total: the jobs of this process."""

    show: Display
    total: int = 0
    counts: dict[str, int] = field(default_factory=dict)  # number of jobs by their result
    bars: BatchBars | None = None

    @property
    def words(self) -> str:
        """The progress of the batch."""
        return f"{self._finished:,} of {core.counted(self.total, 'job')} are done"

    @property
    def _finished(self) -> int:
        return self.counts.get("done", 0) + self.counts.get("existing", 0)

    def begun(self, count: int) -> None:
        self.total = count

    def started(self, worker: int, job: str) -> None:
        with self.show.about(job):
            self.show.job(state="started", worker=worker)
        if bars := self._bars():
            bars.begin(worker, job)

    def event(self, worker: int, job: str, event: Any) -> None:
        """An event of a worker: as JSON, else as its job's progress."""
        if self.show.is_json:
            with self.show.about(job):
                self.show.event(event)
            return
        match event:
            case core.PhaseStarted(name=name, total=total) if self.bars is not None:
                self.bars.phase(worker, job, name, total)
            case core.StepDone(done=done) if self.bars is not None:
                self.bars.step(worker, done)
            case core.Message(message=message, is_warning=True):
                self.show.warn(f"{job}: {message}")
            case core.Message(message=message) | core.LengthChosen(message=message):
                self.show.say(f"{job}: {message}", DETAILS)
            case core.PromptRewritten(message=message):
                self.show.say(f"{job}: {message}")

    def outcome(self, worker: int, outcome: core.Outcome) -> None:
        """The outcome of a job: the path of a result goes to stdout."""
        self.counts[outcome.state] = self.counts.get(outcome.state, 0) + 1
        if self.bars is not None:
            self.bars.end(worker)
        with self.show.about(outcome.job):
            failure = {} if outcome.failure is None else outcome.failure.model_dump()
            if failure:
                failure["message"] = failure.pop("what")
            self.show.job(state=outcome.state, worker=worker, seconds=round(outcome.seconds, 3), **failure)
            if outcome.path is not None:
                with nullcontext() if self.bars is None else self.bars.hidden():
                    self.show.file(outcome.path, is_new=outcome.state == "done")
        if outcome.state == "done":
            done, total = self._finished, self.total
            self.show.say(f"{done}/{total} {outcome.job}: seed {outcome.seed}, {outcome.seconds:.1f} s")
        elif outcome.failure is not None:
            self.show.say(f"{outcome.job} failed: {outcome.failure.what}")
        if self.bars is not None:
            self.bars.advance(self._finished + self.counts.get("failed", 0))

    def close(self) -> None:
        """Remove the progress bars."""
        self.show.close()
        self.bars = None

    def _bars(self) -> BatchBars | None:
        if self.bars is None and self.show.takes_bars:
            from .progress import BatchBars  # this imports rich, which is only needed on a terminal

            self.bars = BatchBars(self.total, self._finished)
            self.show.bars = self.bars
        return self.bars


def serve_lines(
    show: Display, flags: dict[str, Any], config: Path | None, takes: Mapping[str, Collection[str]]
) -> None:
    """Render jobs that arrive as lines of JSON on standard input, and answer in lines of JSON, until the input ends.

    Raises: BatchError if some jobs failed.
    """
    show.set_level(as_json=True, quiet=False, verbose=max(show.level, 0))
    server = _Server(show, core.Worker(config), flags, takes)
    with Stop(server.stop_if_idle) as stop:
        try:
            for number, text in enumerate(server.lines(), 1):
                server.do(number, text, stop)
        except core.Interrupted as stopped:
            raise UserStopError(stop.exit_code, stopped.what, command=stopped.command) from stopped
        except KeyboardInterrupt as stopped:
            raise UserStopError(stop.exit_code) from stopped
    if server.failed:
        raise core.BatchError(f"{server.failed:,} of {core.counted(server.count, 'job')} failed")


@dataclass
class _Server:
    """Jobs that arrive one after another, with models that stay loaded between them."""

    show: Display
    worker: core.Worker
    flags: dict[str, Any]
    takes: Mapping[str, Collection[str]]
    is_idle: bool = False
    count: int = 0
    failed: int = 0

    def lines(self) -> Iterator[bytes]:
        """The lines of standard input. One that is too long is cut at its limit, which makes it invalid."""
        while True:
            self.is_idle = True
            line = sys.stdin.buffer.readline(LONGEST_LINE + 1)
            self.is_idle = False
            if not line:
                return
            while len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                line = line[:LONGEST_LINE] + sys.stdin.buffer.readline(LONGEST_LINE)[-1:]
            yield line

    def do(self, number: int, text: bytes, stop: Stop) -> None:
        """One job. Raises: Interrupted."""
        if not text.strip():
            return
        self.count += 1
        place = f"line {number}"
        watch = core.Watch(on_event=self.show.event, should_stop=stop.should_stop)
        with self.show.about(place):
            try:
                line = core.job_of_line(text, place, self.flags, self.takes, self.worker.given)
                self.show.about_job = line.name or place
                resolved = core.settle_line(line, self.worker.given)
                self.show.request(resolved)
                if resolved.is_done:
                    self.show.file(resolved.target, is_new=False)
                    return
                self.show.result(self.worker.finish(resolved, watch))
            except core.Interrupted:
                raise
            except Exception as error:
                if is_stop(error):
                    raise KeyboardInterrupt from error
                self.failed += 1
                self.show.fail(error if isinstance(error, core.LTX2Error) else crash(error, ["batch", "-"]))

    def stop_if_idle(self) -> None:
        """A signal that arrives while nothing is rendered ends the command at once."""
        if self.is_idle:
            raise KeyboardInterrupt
