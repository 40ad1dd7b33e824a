"""A prompt with more tokens than the model has text rows is cut, with a warning in every run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from ltx2_cli.app import app

pytestmark = pytest.mark.usefixtures("kept_models")

LONG = "bell " * 150  # the toy has 128 text rows


def warnings(folder: Path, *words: str) -> list[str]:
    """The warnings of a render with the toy."""
    size = ["--model", "toy", "--frames", "9", "--res", "64x64", "--steps", "2", "--seed", "1"]
    target = ["-o", str(folder / "a.mp4"), "--overwrite", "--json"]
    result = CliRunner().invoke(app, ["t2v", *words, *size, *target])
    assert result.exit_code == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    return [event["message"] for event in events if event["event"] == "warning" and "too long" in event["message"]]


@pytest.mark.parametrize("cache", [(), ("--no-cache",)])
def test_prompt_that_is_cut_is_told_every_time(
    cache: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    first = warnings(tmp_path, LONG, *cache)
    assert len(first) == 1
    assert first[0].startswith("the prompt is too long: its last ")
    assert warnings(tmp_path, LONG, *cache) == first


def test_negative_prompt_that_is_cut_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    for _ in range(2):
        (told,) = warnings(tmp_path, "a bell", "--negative", LONG)
        assert told.startswith("the negative prompt is too long: its last ")


def test_a_kept_context_says_how_many_tokens_were_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    (told,) = warnings(tmp_path, LONG)
    dropped = set()
    for path in (tmp_path / "home").rglob("text/*.safetensors"):
        with safe_open(path, "pt") as file:
            dropped.add(int(file.metadata()["dropped"]))
    assert dropped == {0, int(told.split()[7])}
