"""Sources of settings besides the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ltx2_core.errors import RequestError
from ltx2_core.pipeline.resolve.setting_sources import gather
from ltx2_core.pipeline.resolve.settings import ENVIRONMENT, merge


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with an empty user folder inside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path


def test_each_place_holds_below_the_one_before(folder: Path, monkeypatch: pytest.MonkeyPatch):
    names = ("steps", "seed", "crf", "video_st", "audio_st")
    places = [f"{folder / 'home' / 'config.yaml'}", "ltx2.yaml", "my.yaml", "the environment", "the command line"]
    for number, place in enumerate(places[:3], 1):
        Path(place).write_text("".join(f"{name}: {number + 2}\n" for name in names[: 6 - number]))
    for name in names[:2]:
        monkeypatch.setenv(f"LTX2_{name.upper()}", "6")
    merged = merge(gather({"steps": "7"}, Path("my.yaml")).layers)
    assert [getattr(merged.settings, name) for name in names] == [7, 6, 5, 4, 3]
    assert [str(merged.sources[name]) for name in names] == places[::-1]


def test_own_presets_come_from_all_files_and_the_nearest_holds(folder: Path):
    (folder / "home" / "config.yaml").write_text("presets: {a: {steps: 3}, b: {steps: 4}}")
    Path("ltx2.yaml").write_text("presets: {b: {steps: 5}}")
    assert gather({}).own_presets == {"a": {"steps": 3}, "b": {"steps": 5}}


def test_an_empty_variable_sets_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTX2_STEPS", "")
    assert merge(gather({}).layers).sources == {}


def test_off_in_a_file_is_the_word_and_not_false(folder: Path):
    Path("ltx2.yaml").write_text("sound: off\nvideo: generate\n")
    settings = merge(gather({}).layers).settings
    assert (settings.sound, settings.video) == ("off", "generate")


@pytest.mark.parametrize("written", ["[3, 14]", '"3,14"'])
def test_blocks_are_a_list_or_text_with_commas(written: str, folder: Path):
    Path("ltx2.yaml").write_text(f"stg_blocks: {written}")
    assert merge(gather({}).layers).settings.stg_blocks == (3, 14)


def test_only_our_own_variables_are_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLTX2_STEPS", "3")
    monkeypatch.setenv("LTX2X_STEPS", "3")
    assert gather({}).layers[1] == (ENVIRONMENT, {})
    monkeypatch.setenv("LTX2_HOM", str(folder))
    with pytest.raises(RequestError, match="did you mean LTX2_HOME"):
        gather({})
    assert "LTX2_HOME" in os.environ
