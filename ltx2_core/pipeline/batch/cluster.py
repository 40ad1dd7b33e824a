"""Workers on a Ray cluster, through a separate process that connects to it.

Source: docs/scale.md, "Ray".
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ...disk import disk_errors, hidden_file, remove_leftovers, show_bytes
from ...errors import DoesNotFitError, RequestError, StorageError
from ...lock import locked
from .. import processes
from ..events import Message
from .actor import Probe, Surroundings
from .begin import Order
from .driver import Connected, Imported, Node, Ready, Seat, Seen, drive
from .jobs import Batch, BatchJob
from .loop import NOBODY
from .options import BatchOptions
from .outcome import Gone, Outcome, Told
from .record import Failure

M = TypeVar("M")
IMPORT_S = 120.0  # time limit for the import of ray
ANSWER_S = 10.0  # time limit for the answer of a cluster
LOOK_S = 120.0  # time limit for one process per machine that looks for a file
END_S = 5.0  # time limit for disconnecting from a cluster
WAIT_S = 20.0  # waiting time for a worker before the user is informed
POLL_S = 0.1  # polling interval
PROBE = "probe"
CARD = "cuda:0"  # the only GPU that Ray shows to a worker
PASSED_ON = ("LTX2_", "HF_")  # prefixes of environment variables that workers get from the command


class ClusterWorkers:
    """Actors of a Ray cluster: one for each of its GPUs, or as many as its CPUs have room for.

    Args: as `LocalWorkers`.
    Raises: RequestError for jobs that a cluster cannot do; DoesNotFitError if no machine is large enough; StorageError
    if the cluster does not answer, or does not see the folder of the batch.
    """

    def __init__(self, batch: Batch, jobs: Sequence[BatchJob], options: BatchOptions, config: Path | None) -> None:
        assert options.address is not None
        wanted = wanted_seats(jobs)
        self.address = options.address
        self.ready: set[int] = set()
        self.doing: set[int] = set()
        threads = max((job.resolved.task.machine.threads for job in jobs), default=1)
        around = Surroundings(folder=Path.cwd(), config=config, environment=passed_on(os.environ, threads))
        with _probe(batch.folder) as probe:
            self.process, self.connection = processes.start(drive, self.address, around, probe)
            try:
                self._receive(Imported, IMPORT_S)
                nodes = self._receive(Connected, ANSWER_S).nodes
                require_same_kind(jobs, nodes)
                seats = taken_seats(wanted, nodes)
                self.connection.send(seats)
                self._receive(Seen, LOOK_S)
            except BaseException:
                self.close()
                raise
        self.start, self.has_waited = time.monotonic(), False
        self.devices: Sequence[str] = [seat.device for seat in seats]

    def device_of(self, job: BatchJob) -> str | None:
        """The CPU for a job that is resolved for it; None if any GPU can be used."""
        return None if _is_for_card(job) else job.resolved.task.machine.device

    def is_ready(self, number: int) -> bool:
        """Whether a worker has started, or restarted, and has no job."""
        return number in self.ready

    def give(self, number: int, order: Order) -> None:
        """Send a job to a worker."""
        self.doing.add(number)
        self._send(number, order.dump())

    def stop(self, number: int) -> None:
        """Ask a worker to stop after its step."""
        self._send(number, processes.STOP)

    def listen(self, seconds: float) -> Iterator[tuple[int, Told]]:
        """The messages of workers within some time. Raises: StorageError if the connection to the cluster is lost."""
        if not (self.ready or self.has_waited) and time.monotonic() - self.start > WAIT_S:
            self.has_waited = True
            waiting = f"waiting for the Ray cluster, which has started none of {len(self.devices)} workers yet"
            yield NOBODY, Message(message=f"{waiting}; what they need may be in use")
        if not self.connection.poll(seconds):
            return
        number, message = self._next()
        if isinstance(message, Ready):
            self.ready.add(number)
            return
        if isinstance(message, Gone):
            self.ready.discard(number)
        if isinstance(message, Gone | Outcome):
            self.doing.discard(number)
        yield number, message

    def close(self) -> None:
        """End all workers: idle ones leave the cluster, the others are killed."""
        self.connection.close()
        if not self.doing:
            self.process.join(END_S)
        self.process.kill()
        self.process.join()

    def _send(self, number: int, text: str) -> None:
        with suppress(OSError):  # the process reports its error as a message
            self.connection.send((number, text))

    def _receive(self, kind: type[M], seconds: float) -> M:
        """The next message, of an expected kind. Raises: StorageError if it does not arrive in time."""
        if not self.connection.poll(seconds):
            why = f"nothing came back within {seconds:.0f} s"
            hint = f"ray status --address {self.address} tells whether it runs"
            raise StorageError(f"no Ray cluster answers at {self.address}", why, hint)
        _, message = self._next()
        assert isinstance(message, kind)
        return message

    def _next(self) -> tuple[int, Any]:
        try:
            number, message = self.connection.recv()
        except (EOFError, OSError) as error:
            hint = "the same command again goes on"
            raise StorageError(f"the connection to the Ray cluster at {self.address} was lost", hint=hint) from error
        if isinstance(message, Failure):
            raise StorageError(message.what, message.why, message.hint)
        return number, message


def wanted_seats(jobs: Sequence[BatchJob]) -> list[tuple[Seat, int]]:
    """The resources for workers of each kind, and the number of their jobs, GPUs before CPUs.

    Raises: RequestError for a job that names a card, or a device that no cluster has.
    """
    found = []
    for is_card in (True, False):
        mine = [job for job in jobs if _is_for_card(job) is is_card]
        if not mine:
            continue
        rows = [row for job in mine if job.resolved.plan is not None for row in job.resolved.plan.rows]
        memory = max((row.ram for row in rows), default=0)
        threads = max(job.resolved.task.machine.threads for job in mine)
        cpus, gpus = (0, 1) if is_card else (threads, 0)
        found.append((Seat(device=CARD if is_card else "cpu", cpus=cpus, gpus=gpus, memory=memory), len(mine)))
    return found


def require_same_kind(jobs: Sequence[BatchJob], nodes: Sequence[Node]) -> None:
    """Raises: RequestError if jobs are resolved for a CPU only because this machine has no GPU."""
    has_cards = any(node.get("GPU") for node in nodes)
    if has_cards and any(not _is_for_card(job) and "device" not in job.line.settings for job in jobs):
        why = (
            "this machine has no card that torch can use, and jobs are settled for the kind of machine that they are on"
        )
        hint = "run the command on a machine with a card, or --device cpu renders on CPUs"
        raise RequestError("the cards of the Ray cluster cannot be used", why, hint)


def taken_seats(wanted: Sequence[tuple[Seat, int]], nodes: Sequence[Node]) -> list[Seat]:
    """The workers that the machines of a cluster have room for, and no more than there are jobs.

    Raises: DoesNotFitError if there is no room for one.
    """
    found: list[Seat] = []
    for seat, count in wanted:
        room = seat.count_in(nodes)
        if not room:
            cores = "1 GPU" if seat.gpus else f"{seat.cpus} CPUs"
            why = f"a worker needs {cores} and {show_bytes(seat.memory)} of memory on one machine"
            hint = "ray status shows what there is; ray start says what a machine offers, with --num-gpus and --memory"
            raise DoesNotFitError("no machine of the Ray cluster is large enough", why, hint)
        found += [seat] * min(room, count)
    return found


def passed_on(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment variables for workers: settings, and the number of compute threads, which affects the last
    bits.
    """
    passed = {name: value for name, value in environment.items() if name.startswith(PASSED_ON)}
    return {**passed, "OMP_NUM_THREADS": str(threads)}


def _is_for_card(job: BatchJob) -> bool:
    """Whether a job is for any GPU, and not for CPUs. Raises: RequestError if it is for neither."""
    asked, device = str(job.line.settings.get("device", "")), job.resolved.task.machine.device
    if re.fullmatch(r"cuda:\d+", asked) or device not in (CARD, "cpu"):
        what = f"{job.line.place}: --device {asked or device} cannot be used with --engine ray"
        raise RequestError(what, "Ray decides which card a worker gets", "--device cuda or --device cpu")
    return device == CARD


@contextmanager
def _probe(folder: Path) -> Iterator[Probe]:
    """A file that the machines of a cluster have to find, while they look for it. Raises: StorageError."""
    path, content = folder / PROBE, secrets.token_hex()
    with locked(path, wait=lambda: time.sleep(POLL_S)), disk_errors(path):
        remove_leftovers(path)
        hidden = hidden_file(path)
        try:
            hidden.write_text(content, encoding="ascii")
            yield Probe(path=hidden.absolute(), content=content)
        finally:
            hidden.unlink(missing_ok=True)
