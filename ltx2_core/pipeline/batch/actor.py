"""The code that runs on the nodes of a Ray cluster: a worker as an actor, and a check whether a node can be used.

Nothing here imports ray: the driver makes actors of these classes.
Source: docs/scale.md, "Ray".
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from ...errors import StorageError
from ...version import __version__
from ..events import Event, Watch
from ..processes import tell_warnings
from .begin import Order
from .child import outcome_of
from .outcome import Outcome
from .record import Failure

CONTROL = "control"  # concurrency group of calls that stop a rendering actor
SHARED = "run it in a folder on storage that all machines of the cluster see under the same path, with -o there too"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The environment of the command, which its workers reproduce.

    Args: folder: the current one. config: the file that --config names. environment: variables that affect a worker.
    version: of this program.
    """

    folder: Path
    config: Path | None
    environment: Mapping[str, str]
    version: str = __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A file that the driver has just written into the folder of the batch. content: its random content."""

    path: Path
    content: str


def look(around: Surroundings, probe: Probe) -> Failure | None:
    """Why the machine that this runs on cannot be used; None if it can."""
    node = platform.node()
    if around.version != __version__:
        what, hint = f"{node} cannot be used", "install one version of ltx2 on all machines of the cluster"
        return _failure(what, f"it has ltx2 {__version__}, and this is {around.version}", hint)
    if not around.folder.is_dir():
        return _failure(f"{around.folder} is not on shared storage", f"{node} does not see it", SHARED)
    try:
        is_seen = probe.path.read_text(encoding="ascii") == probe.content
    except (OSError, ValueError):
        is_seen = False
    if is_seen:
        return None
    why = f"a file that was written there is not found on {node}"
    return _failure(f"{probe.path.parent} is not on shared storage", why, SHARED)


def _failure(what: str, why: str, hint: str) -> Failure:
    return Failure(code=StorageError.exit_code, what=what, why=why, hint=hint)


class Actor:
    """A worker in a process of a cluster: it does one order at a time, and yields its events, then its outcome."""

    def __init__(self, around: Surroundings) -> None:
        os.chdir(around.folder)
        os.environ.update(around.environment)
        from .worker import Worker  # this imports torch, which reads the environment

        self.worker = Worker(around.config)
        self.told: SimpleQueue[Event | Outcome] = SimpleQueue()
        self.thread = ThreadPoolExecutor(1)
        self.stopped = -1
        tell_warnings(self.told.put)

    def hello(self) -> str:
        """The name of its node, when it is ready."""
        return platform.node()

    def do(self, number: int, text: str) -> Iterator[Event | Outcome]:
        """Do an order. number: increases from order to order. text: the order as a line of JSON."""
        watch = Watch(on_event=self.told.put, should_stop=lambda: number <= self.stopped)
        self.thread.submit(lambda: self.told.put(outcome_of(self.worker, Order.parse(text), watch)))
        while True:
            message = self.told.get()
            yield message
            if isinstance(message, Outcome):
                return

    def stop(self, number: int) -> None:
        """Stop the order with this number after its step, also if it arrives later."""
        self.stopped = number
