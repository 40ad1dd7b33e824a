"""One writer per output: the second one gets a message about the first one, and no lock file remains."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from ltx2_core.errors import StorageError, TargetTakenError
from ltx2_core.lock import locked


def test_second_writer_is_told_the_process_and_the_host_of_the_first(tmp_path: Path) -> None:
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with locked(tmp_path / "a.mp4"), pytest.raises(TargetTakenError, match=holder), locked(tmp_path / "a.mp4"):
        pass


def test_other_outputs_are_free_and_no_lock_file_is_left(tmp_path: Path) -> None:
    with locked(tmp_path / "a.mp4"), locked(tmp_path / "b.mp4"):
        assert len([*tmp_path.iterdir()]) == 2
    with locked(tmp_path / "a.mp4"):
        pass
    assert [*tmp_path.iterdir()] == []


def test_lock_file_of_a_killed_process_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / ".a.mp4.lock").write_text("1\na host of a longer name than this one has\n")
    with locked(tmp_path / "a.mp4"):
        assert (tmp_path / ".a.mp4.lock").read_text() == f"{os.getpid()}\n{socket.gethostname()}\n"
    assert [*tmp_path.iterdir()] == []


def test_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".a.mp4.lock").symlink_to(victim)
    with pytest.raises(StorageError, match="cannot be locked"), locked(tmp_path / "a.mp4"):
        pass
    assert victim.read_text() == "mine"


def test_who_waits_gets_the_lock_when_the_first_writer_is_done(tmp_path: Path) -> None:
    first = ExitStack()
    first.enter_context(locked(tmp_path / "a.mp4"))
    with locked(tmp_path / "a.mp4", wait=first.close):
        assert [path.name for path in tmp_path.iterdir()] == [".a.mp4.lock"]
    assert [*tmp_path.iterdir()] == []


def test_waiting_ends_with_what_the_waiter_raises(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with (
        locked(tmp_path / "a.mp4"),
        pytest.raises(KeyboardInterrupt),
        locked(tmp_path / "a.mp4", wait=stop),
    ):
        pass
