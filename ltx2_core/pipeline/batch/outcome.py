"""The outcome of a job, and the messages of workers: light, because they are sent between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..events import Event
from .record import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a job.

    Args: state: "existing" was done already; "busy" is being done by another process.
    """

    job: str
    state: Literal["done", "existing", "failed", "busy", "stopped"]
    path: Path | None = None
    seed: int = 0
    seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A worker has died with its job. how: as text."""

    how: str


Told = Event | Outcome | Gone  # messages of a worker


@dataclass(frozen=True, slots=True)
class BatchWatch:
    """Receives the events of a batch.

    Args: on_begin: called with the number of jobs of this process. on_start: with the job that a worker starts; workers
    are numbered from 0. on_event: with its events. on_outcome: with its outcome. say: with a line for the user, a
    warning. should_stop: called several times a second.
    """

    on_begin: Callable[[int], None] = lambda count: None
    on_start: Callable[[int, str], None] = lambda worker, job: None
    on_event: Callable[[int, str, Event], None] = lambda worker, job, event: None
    on_outcome: Callable[[int, Outcome], None] = lambda worker, outcome: None
    say: Callable[[str], None] = lambda line: None
    should_stop: Callable[[], bool] = lambda: False
