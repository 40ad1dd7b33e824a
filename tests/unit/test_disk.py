"""Files that appear whole: hidden names of their own, no link followed, nothing but small regular files read whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ltx2_core import disk
from ltx2_core.disk import disk_errors, hidden_file, read_whole, remove_leftovers, write_whole
from ltx2_core.errors import StorageError


def test_hidden_files_of_one_target_have_names_of_their_own(tmp_path: Path) -> None:
    names = {hidden_file(tmp_path / "a.mp4").name for _ in range(8)}
    assert len(names) == 8
    assert all(name.startswith(".a.mp4.") and name.endswith(".part") for name in names)


def test_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".a.111111.part").symlink_to(victim)
    (tmp_path / ".a.222222.part").symlink_to(tmp_path / "dangling")
    tokens = iter(["111111", "222222", "333333"])
    monkeypatch.setattr(disk.secrets, "token_hex", lambda count: next(tokens))
    write_whole(tmp_path / "a", b"new")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "dangling").exists()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a").symlink_to(victim)
    write_whole(tmp_path / "a", b"new")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_small_regular_files_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert read_whole(tmp_path / "small", 5) == b"12345"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        read_whole(tmp_path / "small", 4)
    for name, why in {"pipe": "regular", "zero": "a link"}.items():
        with pytest.raises(ValueError, match=why):
            read_whole(tmp_path / name, 5)


def test_only_what_this_program_left_is_removed(tmp_path: Path) -> None:
    kept = [".a.mp4.part", ".a.mp4.ABCDEF.part", ".b.mp4.0a1b2c.part", "a.mp4.0a1b2c.part", ".a.mp4.0a1b2c.part.txt"]
    for name in [*kept, ".a.mp4.0a1b2c.part"]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_disk_that_refuses_is_told_with_what_helps(tmp_path: Path) -> None:
    for number, helps in ((errno.EACCES, "check the rights"), (errno.ENOSPC, "make room"), (errno.EROFS, "copy")):
        with pytest.raises(StorageError) as caught, disk_errors(tmp_path):
            raise OSError(number, os.strerror(number))
        assert (caught.value.why, helps in caught.value.hint) == (os.strerror(number), True)
