"""A render that is stopped inside a stage, as by Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ltx2_core.pipeline.render import stages


@contextmanager
def stopped_when(monkeypatch: pytest.MonkeyPatch, *answers: bool) -> Iterator[None]:
    """Stop renders in a `with` block as the answers say, one for each step before which a stage can stop."""
    usual, each = stages.StageRun._guarded, iter(answers)

    def stopping(self: stages.StageRun, denoise: Any, watch: stages.Watch, done: int, total: int) -> Any:
        stop = stages.Watch(on_event=watch.on_event, should_stop=lambda: next(each))
        return usual(self, denoise, stop, done, total)

    with monkeypatch.context() as patch:
        patch.setattr(stages.StageRun, "_guarded", stopping)
        yield
