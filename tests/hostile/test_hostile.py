"""A sample of hostile cases, always the same; `make fuzz` runs any number of cases, and also measures time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .guard import guarded
from .run import KINDS, Runner, plain_machine

SAMPLE = 40
FEWER = {"media": 20, "weights": 30}


@pytest.fixture(scope="module")
def runner(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with plain_machine():
        yield Runner.prepared(tmp_path_factory.mktemp("hostile"), tiny)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_cases_are_refused_in_words_or_understood(kind: str, runner: Runner) -> None:
    faults = {n: found for n in range(FEWER.get(kind, SAMPLE)) if (found := runner.run(kind, 0, n).faults)}
    assert faults == {}, f"python -m tests.hostile.run --kind {kind} --case {next(iter(faults))} shows the first"


@pytest.mark.parametrize("kind", KINDS)
def test_kind_seed_and_number_decide_a_case(kind: str, runner: Runner) -> None:
    assert runner.case(kind, 1, 5).words == runner.case(kind, 1, 5).words
    assert len({runner.case(kind, 1, number).words for number in range(20)}) > 1


def test_guard_sees_what_is_changed_outside_its_folders(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    outside.mkdir()
    with guarded(inside) as guard:
        inside.mkdir()
        (inside / "a").write_text("allowed")
        (outside / "b").write_text("not allowed")
        (outside / "b").read_text()
        (inside / "a").rename(outside / "c")
        (inside / "link").symlink_to(outside / "b")
        (inside / "link").write_text("not allowed either")
        (outside / "b").unlink()
    places = ("open", "b"), ("os.rename", "c"), ("open", "b"), ("os.remove", "b")
    assert guard.faults == [f"{event} {outside.resolve() / name}" for event, name in places]


def test_guard_sees_sockets() -> None:
    with guarded() as guard, socket.socket() as caller:
        caller.settimeout(1)
        assert caller.connect_ex(("127.0.0.1", 1)) != 0
    assert guard.faults == ["socket.connect (('127.0.0.1', 1),)"]
