"""The identity of files: by size and time while these do not change, otherwise by content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ltx2_core import identity as module
from ltx2_core.identity import SAMPLED, identity

LONG = bytes(range(256)) * 40


def written(path: Path, content: bytes, mtime_ns: int) -> Path:
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def test_content_of_a_small_file_is_its_sha256(tmp_path: Path) -> None:
    path = written(tmp_path / "a", b"weights", 1)
    assert identity(path).content == hashlib.sha256(b"weights").hexdigest()


def test_file_of_other_times_and_the_same_bytes_is_the_same(tmp_path: Path) -> None:
    before = identity(written(tmp_path / "a", b"weights", 1))
    assert before.is_of(written(tmp_path / "a", b"weights", 2))


def test_file_of_the_same_size_and_other_bytes_is_another(tmp_path: Path) -> None:
    before = identity(written(tmp_path / "a", b"weights", 1))
    assert not before.is_of(written(tmp_path / "a", b"WEIGHTS", 2))
    assert not before.is_of(written(tmp_path / "a", b"weights and more", 1))


def test_equal_size_and_time_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a", b"weights", 1)
    before = identity(path)
    monkeypatch.setattr(module, "_content", lambda *given: pytest.fail("it was read"))
    assert before.is_of(path)


@pytest.mark.parametrize("place", [0, len(LONG) // 2, len(LONG) - 1])
def test_change_in_the_beginning_a_stripe_or_the_end_of_a_large_file_is_seen(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"WHOLE_BYTES": 1000, "HEAD_BYTES": 64, "STRIPES": 5, "STRIPE_BYTES": 1000}
    for name, size in sizes.items():
        monkeypatch.setattr(module, name, size)
    before = identity(written(tmp_path / "a", LONG, 1))
    assert before.content.startswith(SAMPLED)
    assert identity(written(tmp_path / "b", LONG, 2)).content == before.content
    changed = LONG[:place] + bytes([LONG[place] ^ 1]) + LONG[place + 1 :]
    assert not before.is_of(written(tmp_path / "a", changed, 2))


def test_large_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(50_000_000_000)  # a sparse file
    monkeypatch.setattr(module, "STRIPE_BYTES", 1000)
    assert identity(path).size == 50_000_000_000


def test_identities_that_were_stored_stay_valid(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        for place in range(0, 2**30, 2**26):
            file.seek(place)
            file.write(place.to_bytes(8, "little"))
        file.truncate(2**30)
    assert identity(path).content == f"{SAMPLED}70ec2b22b590a0683cb9f7b994bf68a42310028d2831407783fe0cc590f04c3c"
