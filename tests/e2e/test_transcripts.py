"""The output of commands equals the recorded and reviewed output: columns, units, order and wording."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.transcripts import COMMANDS, FOLDER, ROOT, transcript


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_print_what_their_transcript_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert transcript(name) == (FOLDER / f"{name}.txt").read_text(), "python -m scripts.transcripts writes it again"


def test_no_transcript_is_left_over() -> None:
    assert {path.stem for path in Path(FOLDER).iterdir()} == {*COMMANDS}
