"""One bar per phase of a render, and one per file of a download, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import ControlType, Segment
from rich.text import Text

import ltx2_core as core

LONGEST_NAME = 24  # characters beside a bar
SLOWEST_STEP_S = 3600  # the rate is known once two steps lie within this time


class Clock(ProgressColumn):
    """The remaining time of a phase whose steps are counted, else the elapsed time."""

    def render(self, task: Task) -> Text:
        if task.finished or task.total is None:
            return Text(minutes((task.finished_time if task.finished else task.elapsed) or 0))
        return Text("" if task.time_remaining is None else f"eta {minutes(task.time_remaining)}")


class Moving:
    """The moving bars on stderr, with lines above them. Text is never interpreted as markup."""

    def __init__(self, *columns: ProgressColumn, **options: Any) -> None:
        self.console = Console(stderr=True, highlight=False)
        name = TextColumn("{task.description}", markup=False)
        self.progress = Progress(name, *columns, console=self.console, refresh_per_second=4, **options)
        self.progress.start()

    def say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def show(self, picture: str) -> None:
        """An image above the bars. picture: an escape sequence, which has no width in a line."""
        self.console.print(Unchanged(picture), crop=False)

    def stop(self) -> None:
        self.progress.stop()


@dataclass(frozen=True)
class Unchanged:
    """Text that is sent to the terminal unchanged."""

    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self.text, control=[(ControlType.CARRIAGE_RETURN,)])
        yield Segment.line()


def counting(width: int) -> tuple[ProgressColumn, ...]:
    """A bar of so many characters, how many steps are done, and the time."""
    return BarColumn(bar_width=width), TextColumn("{task.fields[count]}", markup=False), Clock()


class Bars(Moving):
    """A bar for each phase that has started, the last one moving."""

    def __init__(self) -> None:
        super().__init__(*counting(20), speed_estimate_period=SLOWEST_STEP_S)

    def start(self, name: str, total: int | None) -> None:
        self.total = total
        self.task = self.progress.add_task(name, total=total, count="")
        self.step(0)

    def step(self, done: int) -> None:
        self.progress.update(self.task, completed=done, count=f"{done}/{self.total}" if self.total else "")

    def done(self) -> None:
        self.step(self.total or 0)
        self.progress.update(self.task, total=self.total or 1, completed=self.total or 1)


class FileBars(Moving):
    """A bar for each file, with its rate and the remaining time. total: bytes of all files, with its own bar."""

    def __init__(self, total: int = 0) -> None:
        super().__init__(BarColumn(bar_width=12), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self.tasks: dict[tuple[str, str], TaskID] = {}
        self.all = self.progress.add_task("in all", total=total, visible=total > 0)

    def step(self, progress: core.FileProgress) -> None:
        """The progress of a file. The bar of a finished file is removed."""
        key = (progress.action, progress.name)
        if key not in self.tasks:
            self.tasks[key] = self.progress.add_task(shortened(progress.name), total=progress.total)
        before = self.progress.tasks[self.progress.task_ids.index(self.tasks[key])].completed
        self.progress.update(self.tasks[key], completed=progress.done, visible=progress.done < progress.total)
        self.progress.update(self.all, advance=progress.done - before)


class BatchBars(Moving):
    """A line for each worker with its job and progress, and a bar over all jobs. done: those that are finished
    already.
    """

    def __init__(self, total: int, done: int) -> None:
        options = {"transient": True, "redirect_stdout": False}  # stdout is for the paths of results
        super().__init__(*counting(12), speed_estimate_period=SLOWEST_STEP_S, **options)
        self.workers: dict[int, TaskID] = {}
        self.total = total
        self.all = self.progress.add_task("all jobs", total=total, completed=done, count=f"{done}/{total}")

    def begin(self, worker: int, job: str) -> None:
        """A worker starts a job."""
        self.end(worker)
        self.workers[worker] = self.progress.add_task(shortened(job), total=None, count="")

    def phase(self, worker: int, job: str, name: str, total: int | None) -> None:
        """A job starts a phase of so many steps."""
        self.begin(worker, job)
        task = self.workers[worker]
        self.progress.update(task, description=f"{shortened(job)}: {shortened(name)}", total=total)

    def step(self, worker: int, done: int) -> None:
        if (task := self.workers.get(worker)) is not None:
            self.progress.update(task, completed=done, count=str(done))

    def end(self, worker: int) -> None:
        """A worker has no job any more."""
        if (task := self.workers.pop(worker, None)) is not None:
            self.progress.remove_task(task)

    def advance(self, done: int) -> None:
        """So many jobs are finished."""
        self.progress.update(self.all, completed=done, count=f"{done}/{self.total}")

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """In this block the bars are hidden, so that a line on standard output is not mixed with them."""
        self.progress.stop()
        try:
            yield
        finally:
            self.progress.start()


def shortened(name: str) -> str:
    """A file name shortened to leave room for its bar: its beginning and its end."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-(half - 1) :]}"


def minutes(seconds: float) -> str:
    """Minutes and seconds, with hours if there are any."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
