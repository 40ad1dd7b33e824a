"""The location of a result, through the real command line: names, folders, links and existing files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import ltx2, refused, rendered

pytestmark = pytest.mark.usefixtures("kept_models")


@pytest.fixture
def smoke(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """The words of the smallest render, in its own folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *more: ["t2v", "a bell rings", "--model", tiny, "--preset", "smoke", "--seed", 7, *more]


def test_link_as_output_is_replaced_and_not_the_file_that_it_names(smoke: Callable[..., list[object]]) -> None:
    Path("victim.mp4").write_text("mine")
    Path("a.mp4").symlink_to("victim.mp4")
    told = ltx2(*smoke("-o", "a.mp4", "--overwrite", "--json"))
    paths = [event["path"] for event in map(json.loads, told.stdout.splitlines()) if "path" in event]
    assert paths == [str(Path("a.mp4").absolute())] * 2  # the plan reports it too
    assert Path("victim.mp4").read_text() == "mine"
    assert not Path("a.mp4").is_symlink()
    assert Path("a.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize("length", [242, 250, 255])
def test_name_that_leaves_no_room_for_hidden_ones_is_refused_at_once(
    length: int, smoke: Callable[..., list[object]]
) -> None:
    told = refused(2, *smoke("-o", "é" * 10 + "a" * (length - 24) + ".mp4"))
    assert f"its name has {length} bytes, and 241 is the most" in told
    assert [*Path.cwd().iterdir()] == []


def test_name_of_241_bytes_is_written(smoke: Callable[..., list[object]]) -> None:
    assert rendered(*smoke("-o", "a" * 237 + ".mp4")).stat().st_size > 0


def test_standard_output_and_a_link_that_leads_nowhere_are_refused_in_words(smoke: Callable[..., list[object]]) -> None:
    told = refused(2, *smoke("-o", "-"))
    assert "a result is a file, which is checked when it is complete hint: -o FILE" in told
    Path("a.mp4").symlink_to("nowhere.mp4")
    told = refused(2, *smoke("-o", "a.mp4", "--skip-existing"))
    assert "a.mp4 already exists it is a link to something that does not exist" in told


def test_new_folder_is_a_hint_and_an_existing_output_names_all_ways_out(smoke: Callable[..., list[object]]) -> None:
    assert "hint: mkdir -p 'new folder/b' creates it" in refused(2, *smoke("-o", "new folder/b/x.mp4"))
    Path("a.mp4").touch()
    assert "--overwrite replaces it, --skip-existing leaves it, -o gives" in refused(2, *smoke("-o", "a.mp4"))
