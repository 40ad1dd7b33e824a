"""Files that are written atomically: unique hidden names, no links followed, and only small regular files are read
whole.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from ltx2_core import disk
from ltx2_core.disk import (
    REASONS,
    disk_errors,
    disk_failure,
    disk_hint,
    disk_reason,
    hidden_file,
    made_folder,
    no_file,
    read_whole,
    remove_leftovers,
    write_whole,
)
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
    kept.append(".a.mp4.0a1b2d.part")
    (tmp_path / kept[-1]).mkdir()
    remove_leftovers(tmp_path / "a.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize("number", REASONS)
def test_a_disk_that_refuses_is_told_in_plain_words_with_what_helps(number: int, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written") as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert (caught.value.why, caught.value.hint) == REASONS[number]
    assert os.strerror(number) not in str(caught.value)
    assert caught.value.hint


def test_what_python_raises_is_told_in_one_plain_line(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "lost")
    (tmp_path / "text").write_bytes(b"\xff")
    for name, read, why in (
        ("lost", Path.read_bytes, "there is no such file"),
        ("link", Path.stat, f"it is a link to {tmp_path / 'lost'}, which does not exist"),
        (".", Path.read_bytes, "it is a folder"),
        ("text/a", Path.read_bytes, "it, or what it lies in, is a file and not a folder"),
        ("text", Path.read_text, "it is not text in UTF-8"),
    ):
        with pytest.raises((OSError, ValueError)) as caught:
            read(tmp_path / name, **{"encoding": "utf-8"} if read is Path.read_text else {})
        assert disk_reason(caught.value) == why
        assert disk_hint(caught.value)
    assert (
        disk_reason(OSError(errno.EXDEV, "Invalid cross-device link")) == "the system says: Invalid cross-device link"
    )
    assert (disk_hint(OSError(errno.EXDEV, "?"), "move it"), disk_reason(ValueError("a\nb"))) == ("move it", "a b")


def test_what_is_no_file_is_known_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    told = {"pipe": "it is not a regular file", ".": "it is a folder", "lost": "there is no such file", "file": ""}
    assert {name: no_file(tmp_path / name) for name in told} == told


def test_only_what_nobody_could_foresee_is_taken_for_a_mistake_of_ours() -> None:
    refused = disk_failure(PermissionError(errno.EACCES, "Permission denied", "closed/a.mp4"))
    assert refused is not None
    assert (refused.exit_code, refused.what) == (7, "closed/a.mp4 cannot be used")
    assert isinstance(refused.__cause__, PermissionError)
    full = disk_failure(OSError(errno.ENOSPC, "No space left on device"))
    assert full is not None
    assert full.why == "that disk is full"
    missing = FileNotFoundError(errno.ENOENT, "", "a"), FileNotFoundError("a library is missing")
    for bug in (*missing, OSError("?"), ValueError("?")):
        assert disk_failure(bug) is None


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    for stays, fails, left in ((False, False, []), (True, True, []), (True, False, ["a", "a/b"])):
        with suppress(ZeroDivisionError), made_folder(deep, stays=stays):
            assert deep.is_dir()
            _ = 1 / (not fails)
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == left
    with made_folder(deep / "c", stays=False):
        (deep / "c" / "kept").touch()
    with made_folder(deep, stays=False, earlier=[deep, tmp_path / "a"]) as parents:
        assert parents == [deep, tmp_path / "a"]
    assert (deep / "c" / "kept").exists()
    with pytest.raises(StorageError, match="cannot be made"), made_folder(deep / "c" / "kept" / "d", stays=True):
        pass


def test_no_other_module_shows_the_words_of_the_system() -> None:
    allowed = {"disk.py", "probe.py"}  # probe.py for the files of FFmpeg
    root = Path(disk.__file__).parents[1]
    files = [path for package in ("ltx2_core", "ltx2_cli") for path in (root / package).rglob("*.py")]
    assert {path.name for path in files if "strerror" in path.read_text()} == allowed
