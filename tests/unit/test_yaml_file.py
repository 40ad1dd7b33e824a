"""YAML settings files: their valid content, and that every mistake is reported with its line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltx2_core.errors import RequestError
from ltx2_core.records import presets_folder
from ltx2_core.yaml_file import read_yaml

PRESET_FILES = sorted(presets_folder().rglob("*.yaml"))
BOMB = "".join(
    f"z{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9) if n else 'x,x,x,x,x,x,x,x,x'}]\n" for n in range(9)
)  # 9 to the power of 9 values in 542 bytes
REFUSED = {
    "aliases that stand for billions of values": (BOMB, "line 2: its aliases stand for more than 50"),
    "lists in lists": (f"steps: {'[' * 1000}{']' * 1000}", "line 1: its values stand more than 20 levels deep"),
    "more values than settings need": (f"a: [{'1,' * 30_000}]", "more than 20,000 values"),
    "a number of thousands of digits": (f"steps: {'9' * 5000}", "line 1: 9999"),
    "a tag": ("seed: 1\nsteps: !!int 'x'", "line 2: the tag tag:yaml.org,2002:int is not supported"),
    "a tag that makes an object": ("steps: !!python/object:os.system x", "line 1: the tag"),
    "a name that occurs twice": ("steps: 3\nseed: 1\nsteps: 4", "line 3: steps occurs twice, first in line 1"),
    "a name twice inside a preset": ("presets:\n  a: {seed: 1, seed: 2}", "line 2: seed occurs twice"),
    "an octal number": ("seed: 1\nsteps: 010", "line 2: 010 begins with 0"),
    "a second document": ("steps: 3\n---\nseed: 4", "line 3: a second document"),
    "a name that is a list": ("[a, b]: 3", "line 1: a name must be a word"),
    "an alias of nothing": ("steps: *a", "line 1: "),
    "an alias of what holds it": ("steps: &a [*a]", "line 1: "),
    "a bracket that stays open": ("seed: 1\nsteps: [1, 2", "line "),
    "a list alone": ("- steps", "it must hold names and values"),
}


def read(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "ltx2.yaml"
    path.write_text(text)
    return read_yaml(path)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_is_refused_with_the_line_that_is_wrong(name: str, tmp_path: Path):
    text, why = REFUSED[name]
    with pytest.raises(RequestError, match="cannot be") as caught:
        read(tmp_path, text)
    assert why in caught.value.why
    assert len(str(caught.value)) < 500


def test_a_file_of_more_than_a_megabyte_is_not_read(tmp_path: Path):
    with pytest.raises(RequestError) as caught:
        read(tmp_path, "#" * (2**20 + 1))
    assert caught.value.why == "it is larger than 1 MB"


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "ltx2.yaml")
    with pytest.raises(RequestError) as caught:
        read_yaml(tmp_path / "ltx2.yaml")
    assert caught.value.why == "it is not a regular file"


def test_bytes_that_are_not_utf8_are_told_as_such(tmp_path: Path):
    (tmp_path / "ltx2.yaml").write_bytes(b"negative: \xff")
    with pytest.raises(RequestError) as caught:
        read_yaml(tmp_path / "ltx2.yaml")
    assert caught.value.why == "it is not text in UTF-8"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("30", 30),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("off", "off"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("16:9", "16:9"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("2024-01-02", "2024-01-02"),
        ("'30'", "30"),
        ('"true"', "true"),
        ("[3, 14]", [3, 14]),
        ("&a {b: 1}", {"b": 1}),
        (">-\n  two\n  words", "two words"),
    ],
)
def test_values_are_decimal_numbers_true_false_null_and_text(written: str, value: Any, tmp_path: Path):
    found = read(tmp_path, f"x: {written}")["x"]
    assert found == value
    assert type(found) is type(value) or isinstance(found, dict | list)


def test_few_values_may_stand_by_an_alias(tmp_path: Path):
    assert read(tmp_path, "a: &b [1, 2]\nc: *b") == {"a": [1, 2], "c": [1, 2]}


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.name)
def test_shipped_presets_mean_what_any_reader_of_yaml_finds(path: Path):
    assert read_yaml(path) == yaml.safe_load(path.read_text())
