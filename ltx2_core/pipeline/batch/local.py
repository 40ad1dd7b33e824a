"""Workers on this machine: a child process for each GPU, or one on the CPU.

Source: docs/batch.md, "Workers".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from time import sleep
from typing import Any

from ...errors import RequestError
from .. import processes
from ..resolve.machine import devices
from .begin import Order
from .child import serve
from .jobs import Batch, BatchJob
from .options import BatchOptions
from .outcome import Gone, Told


@dataclass
class _Child:
    """A child process and our end of its pipe, while it exists."""

    process: Any = None
    connection: Any = None

    def send(self, text: str) -> None:
        """Send a message. A dead process is noticed when nothing comes back."""
        with suppress(OSError):
            self.connection.send(text)

    def end(self) -> None:
        """End the process. An idle one is killed, because it has nothing to save and a normal exit takes a second."""
        if self.process is not None:
            self.connection.close()
            self.process.kill()
            self.process.join()
            self.process = self.connection = None


class LocalWorkers:
    """Child processes, each of which is started when it gets its first job.

    Args: jobs: they name the devices that they need. config: the file that --config names, which workers read too.
    Raises: RequestError if requested GPUs do not exist.
    """

    def __init__(self, batch: Batch, jobs: Sequence[BatchJob], options: BatchOptions, config: Path | None) -> None:
        self.devices: Sequence[str] = devices_for(jobs, options.gpus)
        self.config = config
        self.children = [_Child() for _ in self.devices]

    def device_of(self, job: BatchJob) -> str | None:
        """The only device that a job may run on; None if any GPU can be used."""
        return only_device(job)

    def is_ready(self, number: int) -> bool:
        """Always: a worker is started on demand."""
        return True

    def give(self, number: int, order: Order) -> None:
        """Send a job to a worker."""
        child = self.children[number]
        if child.process is None:
            child.process, child.connection = processes.start(serve, self.config)
        child.send(order.dump())

    def stop(self, number: int) -> None:
        """Ask a worker to stop after its step."""
        self.children[number].send(processes.STOP)

    def listen(self, seconds: float) -> Iterator[tuple[int, Told]]:
        """The messages of workers within some time."""
        numbers = {one.connection: number for number, one in enumerate(self.children) if one.connection is not None}
        if not numbers:
            sleep(seconds)
            return
        for connection in wait(list(numbers), seconds):
            number = numbers[connection]
            try:
                yield number, self.children[number].connection.recv()
            except (EOFError, OSError):
                yield number, self._bury(number)

    def close(self) -> None:
        """End all child processes."""
        for child in self.children:
            child.end()

    def _bury(self, number: int) -> Gone:
        child = self.children[number]
        child.process.join()
        code = child.process.exitcode
        child.end()
        return Gone(how=f"the worker on {self.devices[number]} died with {processes.how_ended(code)}")


def only_device(job: BatchJob) -> str | None:
    """The only device of this machine that a job may run on; None if any GPU can be used."""
    device, asked = job.resolved.task.machine.device, str(job.line.settings.get("device", ""))
    is_any = device == "cuda:0" and not re.fullmatch(r"cuda:\d+", asked)
    return None if is_any else device


def devices_for(jobs: Sequence[BatchJob], gpus: tuple[int, ...] | None) -> list[str]:
    """The devices that get a worker: those that jobs name, and for the others all GPUs, or the requested ones.

    Raises: RequestError for a GPU that does not exist, and for `--gpus` if no job could use them.
    """
    named = {device for job in jobs if (device := only_device(job)) is not None}
    takes_any = any(only_device(job) is None for job in jobs)
    cards = [one.name for one in devices() if one.kind == "cuda"] if takes_any or gpus is not None else []
    if gpus is not None:
        missing = [number for number in gpus if f"cuda:{number}" not in cards]
        what = f"--gpus {','.join(map(str, gpus))} cannot be used"
        if missing:
            why = f"this machine has no card {missing[0]} that torch can use"
            raise RequestError(what, why, "ltx2 doctor lists the cards" if cards else "leave it out")
        if not takes_any:
            raise RequestError(what, "every job names a device of its own", "leave one of them out")
        cards = [f"cuda:{number}" for number in gpus]
    return [*(cards if takes_any else []), *sorted(named - {*cards})]
