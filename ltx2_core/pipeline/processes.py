"""Start processes that communicate through a pipe, and that end by themselves if their parent has ended.

They are the workers of a batch, and the ranks of a clip on several GPUs.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.resource_tracker import ensure_running
from typing import Any

from .events import Event, Message

START_METHOD = "spawn"  # CUDA cannot be used in a process that was forked
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOP = "stop"  # message from the parent: stop after the current step


def start(serve: Callable[..., None], *given: object) -> tuple[Any, Connection]:
    """Start a process. Returns it, and our end of the pipe to it.

    Args: serve: its main function; it gets its end of the pipe, a copy of ours for `begin`, and further arguments.
    """
    context = get_context(START_METHOD)
    ours, its = context.Pipe()
    process: Any = context.Process(target=serve, args=(its, ours, *given), daemon=True)
    with _signals_wait():
        process.start()
    its.close()
    return process, ours


def begin(parents: Connection) -> None:
    """The first call in such a process.

    Args: parents: the other end of the pipe, which must be closed here, so that the end of the parent is noticed.
    """
    parents.close()
    ignore_signals()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def ignore_signals() -> None:
    """Leave the reaction to Ctrl-C and TERM to the parent: a terminal and SLURM send them to all processes."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """A process starts with these signals blocked, so that Ctrl-C does not end it before it listens to the parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    ensure_running()  # it unblocks signals in the thread that calls it first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Pipe:
    """The child's end of the pipe. If the parent has ended, it receives nothing more, and should stop."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.has_stopped = False

    def send(self, message: object) -> None:
        try:
            self.connection.send(message)
        except OSError:
            self.has_stopped = True

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
        """Whether the parent has asked for it, or has ended."""
        try:
            if not self.has_stopped and self.connection.poll():
                self.has_stopped = self.connection.recv() == STOP
        except (EOFError, OSError):
            self.has_stopped = True
        return self.has_stopped


def how_ended(code: int) -> str:
    """How a process ended that told nothing. code: its exit code, negative for a signal."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def tell_warnings(tell: Callable[[Event], None]) -> None:
    """Send logged warnings to the listener of this process, and nowhere else."""
    logger = logging.getLogger("ltx2")
    logger.handlers, logger.propagate = [_Told(tell)], False


class _Told(logging.Handler):
    def __init__(self, tell: Callable[[Event], None]) -> None:
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(Message(message=record.getMessage(), is_warning=True))
