"""Work in a separate thread: in order, bounded, and never after an error."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, get_ident
from threading import enumerate as enumerate_threads

import pytest

from ltx2_core.media.behind import Behind


def test_steps_are_done_in_order_in_one_other_thread_and_told_in_this_one() -> None:
    steps: list[int] = []
    threads: set[int] = set()
    told: list[tuple[int, int]] = []

    def step(number: int) -> Callable[[], None]:
        def done() -> None:
            steps.append(number)
            threads.add(get_ident())

        return done

    with Behind(10, lambda done: told.append((done, get_ident()))) as behind:
        for number in range(50):
            behind.put(step(number), 3)
    assert steps == list(range(50))
    assert len(threads) == 1
    assert told == [(number + 1, get_ident()) for number in range(50)]
    assert get_ident() not in threads


def test_the_caller_goes_on_while_a_step_is_done_until_too_much_waits() -> None:
    held: list[int] = []
    gate = Event()

    def step() -> None:
        gate.wait(10)
        held.pop()

    with Behind(2) as behind:
        for _ in range(2):
            held.append(1)
            behind.put(step, 1)
        assert len(held) == 2, "neither is done, and this thread went on"
        gate.set()
        for _ in range(20):
            held.append(1)
            behind.put(step, 1)
            assert len(held) <= 2
    assert held == []


def test_a_step_larger_than_all_that_may_wait_is_done_alone() -> None:
    done: list[int] = []
    with Behind(0) as behind:
        for number in range(3):
            behind.put(lambda number=number: done.append(number), 5)
            assert len(done) >= number
    assert done == [0, 1, 2]


def test_an_error_of_a_step_is_raised_where_the_block_ends_and_nothing_follows_it() -> None:
    done: list[int] = []

    def fails() -> None:
        raise OSError("disk full")

    def work() -> None:
        with Behind(0) as behind:
            behind.put(fails, 1)
            behind.put(lambda: done.append(1), 1)

    with pytest.raises(OSError, match="disk full"):
        work()
    assert done == []


def test_an_error_of_the_caller_ends_the_thread_before_it_is_passed_on() -> None:
    done: list[int] = []

    def work() -> None:
        with Behind(100) as behind:
            for number in range(5):
                behind.put(lambda number=number: done.append(number), 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not [thread for thread in enumerate_threads() if thread.name.startswith("behind")]
    assert done == [*range(len(done))]
