"""Values and places of settings that are almost right: digits of other scripts, switches as numbers, broken links."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ltx2_core.errors import RequestError, shown
from ltx2_core.pipeline.batch.expand import parse_seeds
from ltx2_core.pipeline.batch.options import BatchOptions, parse_time_limit
from ltx2_core.pipeline.resolve.setting_sources import gather
from ltx2_core.pipeline.resolve.settings import ENVIRONMENT, check_layer
from ltx2_core.pipeline.values import first_twin


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("name", ["ltx2.yaml", "home/config.yaml"])
def test_settings_that_cannot_be_read_are_not_left_out_silently(
    name: str, make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert gather({}).layers
    make(tmp_path / name)
    with pytest.raises(RequestError, match=f"{name} cannot be read\nit is "):
        gather({})


@pytest.mark.parametrize("name", ["duration", "until", "start", "fps", "retake", "tiles", "seed"])
def test_digits_of_other_scripts_are_no_numbers(name: str):
    values = {"retake": "{}s-{}s", "tiles": "{}x{}"}
    for digit in "１٣²":
        with pytest.raises(RequestError, match="cannot be used"):
            check_layer(ENVIRONMENT, {name: values.get(name, "{}").format(digit, digit)})
    with pytest.raises(ValueError, match="not a time"):
        parse_time_limit("１h")


@pytest.mark.parametrize("value", [[True], [1.5], [-1], ["x"]])
@pytest.mark.parametrize("name", ["gpus", "attention_steps", "attention_blocks"])
def test_lists_of_numbers_hold_whole_numbers(name: str, value: list[object]):
    with pytest.raises(RequestError, match=f"{name} .* cannot be used|{name.upper()} .* cannot be used"):
        check_layer(ENVIRONMENT, {name: value})
    assert check_layer(ENVIRONMENT, {name: [0, 2]}) == {name: (0, 2)}
    assert BatchOptions.of({"gpus": "0,2"}).gpus == (0, 2)


def test_a_value_that_comes_twice_is_found_among_very_many():
    assert first_twin([*range(300_000), 7]) == 7
    assert first_twin("abc") is None
    with pytest.raises(RequestError, match="9998 is in it twice"):
        parse_seeds("0-9998,9998")


def test_a_blank_value_is_shown_in_quotes():
    assert [shown(value) for value in ("", "  ", "a ", 0)] == ["''", "'  '", "a ", "0"]
