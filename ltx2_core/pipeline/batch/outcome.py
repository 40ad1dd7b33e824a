"""What becomes of a job, and what a worker tells meanwhile: light, as it goes from one process to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..events import Event
from .record import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a job.

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
    """A worker has died, and with it whatever it did. how: in words."""

    how: str


Told = Event | Outcome | Gone  # what comes from a worker


@dataclass(frozen=True, slots=True)
class BatchWatch:
    """Whoever watches a batch.

    Args: on_begin: is told how many jobs this process is to do. on_start: is told which job a worker begins; workers
    are numbered from 0. on_event: what happens in it. on_outcome: what became of it. say: one line for a person, a
    warning. should_stop: asked several times a second.
    """

    on_begin: Callable[[int], None] = lambda count: None
    on_start: Callable[[int, str], None] = lambda worker, job: None
    on_event: Callable[[int, str, Event], None] = lambda worker, job, event: None
    on_outcome: Callable[[int, Outcome], None] = lambda worker, outcome: None
    say: Callable[[str], None] = lambda line: None
    should_stop: Callable[[], bool] = lambda: False
