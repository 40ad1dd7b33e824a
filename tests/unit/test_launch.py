"""The end of a rank's process."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from ltx2_core.pipeline.render import launch

PARENT, STRANGER = 7, 8


class Ended(Exception):
    """Raised instead of ending this process."""


@pytest.mark.parametrize("answers", [[None, STRANGER, PARENT], [STRANGER, STRANGER, None, PARENT]])
def test_a_rank_ends_by_a_signal_of_its_parent_alone(
    answers: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """answers: the senders of signals, None if there is no signal within the waiting time."""
    left = list(answers)

    def heard(*_: object) -> SimpleNamespace | None:
        sender = left.pop(0)
        return None if sender is None else SimpleNamespace(si_pid=sender)

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(signal, "sigtimedwait", heard)
    monkeypatch.setattr(os, "getppid", lambda: PARENT)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended, match=str(128 + signal.SIGTERM)):
        launch._obey(PARENT)
    assert left == []


def test_a_rank_ends_when_its_parent_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = [PARENT, 1]

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(signal, "sigtimedwait", lambda *_: None)
    monkeypatch.setattr(os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended):
        launch._obey(PARENT)
    assert parents == []
