"""Ctrl-C and TERM: the first asks a render to stop after its step, the second stops at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Handles signals while a render runs. on_first: called at the first one. exit_code: for that signal."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.on_first = on_first
        self.is_asked = False
        self.exit_code = 128 + signal.SIGINT

    def should_stop(self) -> bool:
        return self.is_asked

    def __enter__(self) -> Self:
        watched = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._hear) for number in watched}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self.before.items():
            signal.signal(number, before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
        self.on_first()
