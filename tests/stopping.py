"""Renders that are stopped inside a stage, as by Ctrl-C, and renders that are killed."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from ltx2_cli.display import Display
from ltx2_core.pipeline.render import stages
from tests.commands import ltx2


@contextmanager
def stopped_when(monkeypatch: pytest.MonkeyPatch, *answers: bool) -> Iterator[None]:
    """Stop renders in a `with` block according to the answers, one for each step before which a stage can stop."""
    usual, each = stages.StageRun._guarded, iter(answers)

    def stopping(self: stages.StageRun, denoise: Any, watch: stages.Watch, done: int, total: int) -> Any:
        stop = stages.Watch(on_event=watch.on_event, should_stop=lambda: next(each))
        return usual(self, denoise, stop, done, total)

    with monkeypatch.context() as patch:
        patch.setattr(stages.StageRun, "_guarded", stopping)
        yield


def at(
    patch: pytest.MonkeyPatch,
    wanted: Callable[[Any], bool],
    act: Callable[[], None],
    number: int = 1,
    of: tuple[type, str] = (Display, "event"),
) -> None:
    """Call a function right after this many calls of a method with a matching first argument. By default the method is
    the display's, and the argument an event of a kind.
    """
    usual = getattr(*of)
    found: list[Any] = []

    def called(self: Any, what: Any, *more: Any) -> Any:
        result = usual(self, what, *more)
        if wanted(what):
            found.append(what)
            if len(found) == number:
                act()
        return result

    patch.setattr(*of, called)


def killed(
    words: Sequence[object], wanted: Callable[[Any], bool], number: int = 1, of: tuple[type, str] = (Display, "event")
) -> None:
    """Run a command in a child process that is killed at a point, given as for `at`."""
    with warnings.catch_warnings(action="ignore"):  # about threads: they only wait, and the child ends soon
        child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                at(patch, wanted, lambda: os.kill(os.getpid(), signal.SIGKILL), number, of)
                ltx2(*words)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
