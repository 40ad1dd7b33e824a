"""One writer per output: who comes second is told who is there, and nothing is left behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ltx2_core.errors import StorageError, TargetTakenError
from ltx2_core.pipeline.lock import locked


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
