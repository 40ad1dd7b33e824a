"""`ltx2 inspect` of clips whose comment is not a recipe, or only looks like one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ltx2_cli.app import app
from ltx2_core.media.clip import Output
from ltx2_core.media.waveform import Waveform
from ltx2_core.media.writer import write_audio

pytestmark = pytest.mark.usefixtures("kept_models")

GOOD = {"made_with": {"ltx2": "1"}, "model": {"name": "toy"}, "request": {"seed": 7}}
UNREADABLE = {
    "request is a list": json.dumps({**GOOD, "request": [1, 2]}),
    "model is a text": json.dumps({**GOOD, "model": "toy"}),
    "versions are a number": json.dumps({**GOOD, "made_with": 3}),
    "a list": "[]",
    "nothing in it": "{}",
    "cut off": json.dumps(GOOD)[:-5],
    "nested too deep": "[" * 50_000,
    "nested too deep inside": json.dumps(GOOD)[:-2] + ', "x": ' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "}}",
    "a number of too many digits": json.dumps(GOOD).replace("7", "7" * 5000),
}


def inspect(folder: Path, comment: str) -> str:
    path = folder / "a.flac"
    write_audio(Output(path=path, comment=comment), Waveform(torch.full((2, 480), 0.1), 24000))
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 0, result.stderr
    assert "flac 24000 Hz" in result.stdout
    return result.stdout


@pytest.mark.parametrize("comment", UNREADABLE.values(), ids=UNREADABLE)
def test_a_recipe_that_cannot_be_read_leaves_the_rest(comment: str, tmp_path: Path) -> None:
    assert "it holds no recipe that can be read" in inspect(tmp_path, comment)


def test_other_comments_are_shown(tmp_path: Path) -> None:
    assert "made on a rainy day" in inspect(tmp_path, "made on a rainy day")
