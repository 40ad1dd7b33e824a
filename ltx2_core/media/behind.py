"""Steps that run in order in a second thread, while the caller prepares the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Behind:
    """Runs steps in order in a second thread; leaving the block waits for the last one.

    This is also so after an exception in the caller, but not after a KeyboardInterrupt.

    Args: most_bytes: limit for the bytes of steps that are not done; `put` waits above it. on_done: called in the
    caller's thread, for each step in turn, with the number of finished steps.
    Raises: an exception of a step, at the next `put` or at the end of the block; no later step is started then.
    """

    def __init__(self, most_bytes: int, on_done: Callable[[int], None] = lambda done: None) -> None:
        self.most_bytes, self.on_done = most_bytes, on_done
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._held_bytes = self._done = 0

    def put(self, step: Callable[[], None], nbytes: int) -> None:
        """Run this step after all earlier ones. nbytes: the memory that the step holds until it is done."""
        while self._waiting and (self._waiting[0][0].done() or self._held_bytes + nbytes > self.most_bytes):
            self._collect()
        self._waiting.append((self._thread.submit(step), nbytes))
        self._held_bytes += nbytes

    def _collect(self) -> None:
        """Wait for the oldest step. Raises: its exception."""
        future, nbytes = self._waiting.popleft()
        future.result()
        self._held_bytes -= nbytes
        self._done += 1
        self.on_done(self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            while kind is None and self._waiting:
                self._collect()
        finally:
            gives_up = kind is None or not issubclass(kind, Exception)
            self._thread.shutdown(cancel_futures=gives_up)
