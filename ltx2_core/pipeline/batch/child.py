"""What a child process of a batch does: orders come through a pipe as lines of JSON, events and outcomes go back.

Source: docs/batch.md, "Workers".
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import LTX2Error
from ..events import Event, Message, Watch
from .begin import Order
from .outcome import Outcome
from .processes import begin
from .record import Failure

if TYPE_CHECKING:
    from .worker import Worker

STOP = "stop"  # what a parent sends to have a render stopped after its step


def serve(connection: Connection, parents: Connection, config: Path | None) -> None:
    """Do orders until the parent sends no more.

    Args: parents: the other end of the pipe. config: the file that --config names.
    """
    begin(parents)
    pipe = Pipe(connection)
    tell_warnings(pipe.send)
    from .worker import Worker

    worker = Worker(config)
    while (text := pipe.receive()) is not None:
        order = Order.parse(text)
        pipe.send(outcome_of(worker, order, Watch(on_event=pipe.send, should_stop=pipe.is_asked_to_stop)))


def outcome_of(worker: Worker, order: Order, watch: Watch) -> Outcome:
    """Do an order, whatever becomes of it."""
    from ..render.run import Interrupted
    from .worker import note_failure

    try:
        return worker.do(order, watch)
    except Interrupted:
        return Outcome(job=order.job, state="stopped")
    except LTX2Error as error:
        return Outcome(job=order.job, state="failed", failure=Failure.of(error))
    except Exception as error:  # one of ours: it ends this job, and no other
        for line in traceback.format_exc().splitlines():
            watch.tell(line)
        place = traceback.extract_tb(error.__traceback__)[-1]
        why = f"in {Path(place.filename).name}, line {place.lineno}; -v shows where it happened"
        failure = Failure(code=1, what=f"internal error: {type(error).__name__}: {error}", why=why)
        note_failure(order, failure)
        worker.clear()
        return Outcome(job=order.job, state="failed", failure=failure)


class Pipe:
    """The child's end of the pipe. Where the parent is gone, the child ends too."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.has_stopped = False

    def send(self, message: object) -> None:
        try:
            self.connection.send(message)
        except OSError:
            self.has_stopped = True
            if isinstance(message, Outcome):
                sys.exit()

    def receive(self) -> str | None:
        """The next order; None where there are no more."""
        while not self.has_stopped:
            try:
                text = self.connection.recv()
            except (EOFError, OSError):
                return None
            if text != STOP:
                return text
        return None

    def is_asked_to_stop(self) -> bool:
        """Whether the parent has said so, or is gone."""
        try:
            if not self.has_stopped and self.connection.poll():
                self.has_stopped = self.connection.recv() == STOP
        except (EOFError, OSError):
            self.has_stopped = True
        return self.has_stopped


def tell_warnings(tell: Callable[[Event], None]) -> None:
    """Send warnings that are logged to whoever listens to this process, and nowhere else."""
    logger = logging.getLogger("ltx2")
    logger.handlers, logger.propagate = [_Told(tell)], False


class _Told(logging.Handler):
    def __init__(self, tell: Callable[[Event], None]) -> None:
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(Message(message=record.getMessage(), is_warning=True))
