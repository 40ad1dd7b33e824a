"""The process that connects to a Ray cluster for a batch: the only one that imports ray.

Ray prints messages, installs signal handlers, and waits for minutes if nobody answers. In this process its output is
discarded, the parent decides about signals, and ends the process after a timeout.
Source: docs/scale.md, "Ray".
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ...errors import StorageError, shown
from ..processes import STOP, begin, ignore_signals
from .actor import CONTROL, Actor, Probe, Surroundings, look
from .outcome import Gone, Outcome, Told
from .record import Failure

Node = Mapping[str, float]  # resources of a machine in the cluster, by Ray's names
LONGEST = 300  # longest message of Ray, in characters
POLL_S = 0.02  # interval of checks for messages from actors and the parent
RESTART_S = 0.3  # interval of checks for an actor that is restarting
RESTARTS = 3  # restarts of an actor by Ray; after that it is replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The resources of a worker. device: its kind. memory: bytes."""

    device: str
    cpus: int
    gpus: int
    memory: int

    @property
    def amounts(self) -> Mapping[str, int]:
        """The same by Ray's names for resources."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}

    def count_in(self, nodes: Sequence[Node]) -> int:
        """How many such workers fit on some machines."""
        wanted = {name: amount for name, amount in self.amounts.items() if amount}
        return sum(int(min(node.get(name, 0) // amount for name, amount in wanted.items())) for node in nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Ray is imported, which may take long if Python is on a slow disk. version: of Ray."""

    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The cluster has answered. nodes: its machines."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All machines that get workers see the folder of the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker has started and waits for jobs."""


def drive(connection: Connection, parents: Connection, address: str, around: Surroundings, probe: Probe) -> None:
    """Connect to a cluster, report its machines, then run the requested workers until the parent closes the pipe.

    Args: connection, parents: as `begin`. address: of the cluster, as for Ray. probe: for the machines to find.
    """
    begin(parents)
    _be_silent()
    driver = _Driver(connection)
    try:
        driver.connect(address)
        seats = driver.receive()
        if driver.is_seen(seats, around, probe):
            driver.run(seats, around)
    except _ParentGoneError:
        driver.let_finish()
    except Exception as error:  # any error of Ray: nothing can be rendered then
        why = " ".join(str(error).split()) or type(error).__name__
        what = f"the Ray cluster at {address} cannot be used"
        with suppress(_ParentGoneError):
            driver.tell(Failure(code=StorageError.exit_code, what=what, why=shown(why, LONGEST)))
    finally:
        driver.close()


class _ParentGoneError(Exception):
    """The other end of the pipe is closed: the batch has ended, or its process has."""


def _be_silent() -> None:
    """Discard everything that Ray prints."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for as long as the process lasts)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@dataclass
class _Worker:
    """An actor and its pending call: its greeting, or the events of an order."""

    seat: Seat
    actor: Any = None
    awaited: Any = None
    is_greeting: bool = True
    has_greeted: bool = False
    greet_after: float = 0.0
    order: int = -1
    node: str = ""


class _Driver:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.workers: list[_Worker] = []
        self.orders = 0
        self.ray: Any = None

    def tell(self, message: object, number: int = -1) -> None:
        """Send a message to the parent. number: of the worker that it is from; -1 if it concerns all."""
        try:
            self.connection.send((number, message))
        except OSError as error:
            raise _ParentGoneError from error

    def receive(self) -> Any:
        """The next message of the parent."""
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise _ParentGoneError from error

    def connect(self, address: str) -> None:
        """Import ray and connect to a cluster."""
        import ray

        self.tell(Imported(version=ray.__version__))
        ray.init(address=address, log_to_driver=False, configure_logging=False)
        ignore_signals()
        self.ray = ray
        nodes = tuple(node["Resources"] for node in ray.nodes() if node["Alive"])
        self.tell(Connected(nodes=nodes))

    def is_seen(self, seats: Sequence[Seat], around: Surroundings, probe: Probe) -> bool:
        """Have every machine with room for a worker look for the probe, and report the result."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        task = self.ray.remote(num_cpus=0, max_retries=0)(look)
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        able = [node["NodeID"] for node in nodes if any(seat.count_in([node["Resources"]]) for seat in seats)]
        asked = [task.options(scheduling_strategy=On(node, soft=False)).remote(around, probe) for node in able]
        failure = next((one for one in self.ray.get(asked) if one is not None), None)
        self.tell(Seen() if failure is None else failure)
        return failure is None

    def run(self, seats: Sequence[Seat], around: Surroundings) -> None:
        """Run workers, until the parent ends the pipe. Raises: _ParentGoneError then."""
        make = self.ray.remote(concurrency_groups={CONTROL: 1})(Actor)
        self.workers = [_Worker(seat) for seat in seats]
        while True:
            for worker in self.workers:
                if worker.actor is None:
                    given = worker.seat
                    limits = {"num_cpus": given.cpus, "num_gpus": given.gpus, "memory": given.memory}
                    again = {"max_restarts": RESTARTS, "max_task_retries": 0}
                    worker.actor = make.options(**limits, **again).remote(around)
                if worker.awaited is None and worker.is_greeting and time.monotonic() >= worker.greet_after:
                    worker.awaited = worker.actor.hello.remote()
            self._take_orders()
            self._hear_all()

    def let_finish(self) -> None:
        """Stop the running renders after their step, and wait for that."""
        for worker in self.workers:
            if worker.order >= 0:
                worker.actor.stop.options(concurrency_group=CONTROL).remote(worker.order)
        while any(worker.order >= 0 for worker in self.workers):
            with suppress(_ParentGoneError):
                self._hear_all()

    def close(self) -> None:
        """Disconnect from the cluster, which ends the actors."""
        if self.ray is not None:
            self.ray.shutdown()

    def _take_orders(self) -> None:
        """Receive the messages of the parent."""
        while self.connection.poll():
            number, text = self.receive()
            worker = self.workers[number]
            if text == STOP:
                worker.actor.stop.options(concurrency_group=CONTROL).remote(worker.order)
                continue
            self.orders += 1
            worker.order = self.orders
            worker.awaited = worker.actor.do.options(num_returns="streaming").remote(worker.order, text)

    def _hear_all(self) -> None:
        """Wait a moment for messages of actors."""
        awaited = [worker.awaited for worker in self.workers if worker.awaited is not None]
        if not awaited:
            self.connection.poll(POLL_S)
            return
        if self.ray.wait(awaited, timeout=POLL_S)[0]:
            ready, _ = self.ray.wait(awaited, num_returns=len(awaited), timeout=0)
            for number, worker in enumerate(self.workers):
                if any(worker.awaited is one for one in ready):
                    self._greet(number, worker) if worker.is_greeting else self._hear(number, worker)

    def _greet(self, number: int, worker: _Worker) -> None:
        greeting, worker.awaited = worker.awaited, None
        errors = self.ray.exceptions
        try:
            worker.node = self.ray.get(greeting)
        except errors.ActorUnavailableError:
            worker.greet_after = time.monotonic() + RESTART_S
        except errors.RayActorError:
            if not worker.has_greeted:
                raise
            worker.actor = None
        else:
            worker.is_greeting, worker.has_greeted = False, True
            self.tell(Ready(), number)

    def _hear(self, number: int, worker: _Worker) -> None:
        message: Told
        try:
            message = self.ray.get(next(worker.awaited))
        except (self.ray.exceptions.RayError, StopIteration):
            message = Gone(how=f"worker {number} on {worker.node} died")
            worker.is_greeting, worker.greet_after = True, time.monotonic() + RESTART_S
        if isinstance(message, Gone | Outcome):
            worker.awaited, worker.order = None, -1
        self.tell(message, number)
