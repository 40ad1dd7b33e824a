"""Starts processes that answer through a pipe, and that end by themselves where the one that started them is gone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.resource_tracker import ensure_running
from typing import Any

START_METHOD = "spawn"  # CUDA cannot be used in a process that was forked
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def start(serve: Callable[..., None], *given: object) -> tuple[Any, Connection]:
    """Start a process. Gives it, and our end of the pipe to it.

    Args: serve: what it does; it gets its end of the pipe, a copy of ours for `begin`, and what is given.
    """
    context = get_context(START_METHOD)
    ours, its = context.Pipe()
    process: Any = context.Process(target=serve, args=(its, ours, *given), daemon=True)
    with _signals_wait():
        process.start()
    its.close()
    return process, ours


def begin(parents: Connection) -> None:
    """The first thing that such a process does.

    Args: parents: the other end of the pipe, which it must not hold open: without it the end of the parent is noticed.
    """
    parents.close()
    ignore_signals()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def ignore_signals() -> None:
    """Leave to the parent what Ctrl-C and TERM mean: a terminal and SLURM send them to all processes."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """A process begins with these signals blocked, so that Ctrl-C does not end it before it listens to the parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    ensure_running()  # which lets signals through in the thread that it is first called in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
