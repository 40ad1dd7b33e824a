"""`--sheet` through the real command line: every written file is reported, and stdout has only the path of the clip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import UNGUIDED, ltx2

pytestmark = pytest.mark.usefixtures("kept_models")


def test_each_file_that_is_written_is_told(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("--model", tiny, "--res", "64x64", "--frames", 17, "--steps", 2, "--seed", 3, *UNGUIDED, "--sheet")
    result = ltx2("t2v", "a bell", *small, "-o", "a.mp4", "--loudness", "-20")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'a.mp4'}\n"
    assert f"wrote {tmp_path / 'a.png'}" in result.stderr
    told = map(json.loads, ltx2("t2v", "a bell", *small, "-o", "b.mp4", "--json").stdout.splitlines())
    outputs = [event["path"] for event in told if event["event"] == "output"]
    assert outputs == [str(tmp_path / "b.mp4"), str(tmp_path / "b.png")]
    with Image.open("a.png") as sheet:
        assert sheet.format == "PNG"
