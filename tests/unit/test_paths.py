"""The check of paths: valid paths of users, and the messages for others."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from ltx2_core.disk import RIGHTS
from ltx2_core.errors import MediaError, RequestError, StorageError
from ltx2_core.paths import given_path, in_shell, input_path, require_file, require_writable, wrong_suffix
from tests.hostile.guard import guarded


def test_a_home_is_filled_in_and_other_paths_stay_as_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert given_path("~/a.mp4", "-o") == Path("/somewhere/a.mp4")
    assert given_path("a/Zürich 日本.mp4", "-o") == Path("a/Zürich 日本.mp4")
    assert given_path("a" * 255, "-o").name == "a" * 255


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        (" ", "it is empty"),
        ("~nosuchuser/a", "there is no user nosuchuser"),
        ("a" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
        ("a/" * 2500, "longer than 4095 bytes"),
        ("a\udcff", "not UTF-8"),
        ("a\0b", "zero byte"),
        ("~nobody\0/b", "zero byte"),
    ],
)
def test_what_no_disk_can_hold_is_refused_with_a_hint(text: str, why: str):
    with pytest.raises(RequestError, match="cannot be used") as caught:
        given_path(text, "--model")
    assert why in caught.value.why
    assert caught.value.hint
    assert len(caught.value.what) < 120


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("https://a.example/b.mp4", "curl -LO https://a.example/b.mp4 fetches it; then give the file"),
        ("HTTP://a.example/b c.mp4?x=1&y", "curl -LO 'HTTP://a.example/b c.mp4?x=1&y' fetches it; then give the file"),
        (f"https://a.example/b.mp4?x={'1' * 300}", "curl -LO URL fetches it; then give the file"),
        ("https://huggingface.co/a/b", "ltx2 models lists the models that ltx2 download NAME fetches"),
        (
            "https://huggingface.co/a/b/blob/main/c.mp4?download=true",
            "curl -LO https://huggingface.co/a/b/resolve/main/c.mp4 fetches it; then give the file",
        ),
        ("s3://a/b.mp4", "copy the file to this machine, and give its path"),
        ("file:///a/b%20c.mp4", "give its path, '/a/b c.mp4'"),
    ],
)
def test_a_url_is_refused_with_the_way_to_its_file(url: str, hint: str):
    with pytest.raises(MediaError, match=r"VIDEO .* cannot be used\nit is a URL") as caught:
        input_path(url, "VIDEO", MediaError)
    assert caught.value.hint == hint
    with pytest.raises(RequestError, match="it is a URL") as caught:
        given_path(url, "-o")
    assert caught.value.hint == "name a place on this machine"


def test_a_file_with_a_name_like_a_url_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("https:/a.example").mkdir(parents=True)
    Path("https:/a.example/b.mp4").touch()
    assert input_path("https://a.example/b.mp4", "VIDEO", MediaError).is_file()


def test_only_an_option_can_be_left_out():
    for option, hint in {
        "--lora": "--lora takes a path; leave it out if it is not needed",
        "FILE": "FILE takes a path",
    }.items():
        with pytest.raises(RequestError) as caught:
            input_path("", option)
        assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("name", "why", "better"),
    [
        (".mp4", ".mp4 is a suffix, and the name before it is missing", "NAME.mp4"),
        ("a b/.MP4", ".MP4 is a suffix, and the name before it is missing", "'a b/NAME.mp4'"),
        ("a/.avi", "a video goes into a file that ends in .mp4", "a/NAME.mp4"),
        ("a/b.avi", "a video goes into a file that ends in .mp4", "a/b.mp4"),
        ("b.mp4.", "a video goes into a file that ends in .mp4", "b.mp4"),
        ("v1.5", "a video goes into a file that ends in .mp4", "v1.5.mp4"),
        (".b.avi", "a video goes into a file that ends in .mp4", ".b.mp4"),
        (".", "a video goes into a file that ends in .mp4", "NAME.mp4"),
        ("a/..", "a video goes into a file that ends in .mp4", "a/../NAME.mp4"),
        ("/", "a video goes into a file that ends in .mp4", "/NAME.mp4"),
    ],
)
def test_a_name_with_the_right_suffix_is_suggested(name: str, why: str, better: str):
    error = wrong_suffix(Path(name), "-o", [".mp4"], "a video goes")
    assert (error.why, error.hint) == (why, f"-o {better}")
    assert wrong_suffix(Path(better.strip("'")), "-o", [".mp4"], "").hint == error.hint


def test_a_path_in_a_command_is_pasted_as_itself_and_not_as_an_option():
    assert in_shell("a.mp4") == "a.mp4"
    odd = [
        "-x.mp4.job",
        "it's a\\b",
        "line\none",
        "\x1b[31m'\\",
        "\u202e4pm",
        "\U000e0041",
        "\x85",
        "a\udcff",
        "$HOME `id`",
        "~",
    ]
    words = [in_shell(name) for name in odd]
    assert all(word.replace("\udcff", "").isprintable() and not word.startswith("-") for word in words)
    command = ["bash", "-c", f"printf '%s\\0' {' '.join(words)}"]
    pasted = subprocess.run(command, capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True).stdout
    assert os.fsdecode(pasted).split("\0")[:-1] == ["./-x.mp4.job", *odd[1:]]


@pytest.mark.parametrize("name", ["loop", "loop/a.mp4"])
def test_a_link_that_leads_to_itself_is_refused(name: str, tmp_path: Path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(RequestError, match=r"cannot be used\nit is a link that leads to itself"):
        given_path(tmp_path / name, "--job-dir")


def test_what_is_no_file_is_told_as_what_it_is(tmp_path: Path):
    (tmp_path / "file").touch()
    require_file(tmp_path / "file", "--lora file", "check the path")
    for path, why in (
        (tmp_path, "it is a folder"),
        (tmp_path / "lost", "no such file"),
        (Path("/dev/null"), "regular"),
    ):
        with pytest.raises(StorageError) as caught:
            require_file(path, "--lora x", "check the path")
        assert why in caught.value.why


def test_a_folder_in_which_nothing_can_be_made_is_found_before_a_render(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    require_writable(tmp_path / "new" / "folder", "x.mp4")
    assert not list(tmp_path.iterdir())

    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StorageError) as caught:
        require_writable(tmp_path, "x.mp4")
    assert caught.value.why == f"no file can be made in {tmp_path}: {RIGHTS[0]}"


@pytest.mark.parametrize("place", ["/dev/null", "/dev/zero", "/dev/zero/x", "file", "file/x"])
def test_what_is_no_folder_is_not_even_tried(place: str, tmp_path: Path):
    (tmp_path / "file").touch()
    with guarded(tmp_path / "new") as guard, pytest.raises(StorageError, match="cannot be written"):
        require_writable(tmp_path / place, "x.mp4")
    assert guard.faults == []
