"""`until`, `loop`, `upscale` and `segment` in files: their meaning, and mistakes with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

import ltx2_core as core
from ltx2_core.pipeline.resolve.settings import merge
from tests.commands import ltx2

SETTINGS = """\
until: 1m30s
window: 8
overlap: 1.5s
loop: true
upscale: 1.5
segment:
  0s-2s: a door stands ajar
  2s-4s: "@ the door = shut"
"""


def test_they_are_read_from_a_settings_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(SETTINGS.replace('"@ ', '" @ '))
    settings = merge(core.gather({}, path).layers).settings
    assert (settings.until, settings.window, settings.overlap) == (90, 8, 1.5)
    assert (settings.loop, settings.upscale) == (True, 1.5)
    assert settings.segment == ((0, 2, "a door stands ajar"), (2, 4, " @ the door = shut"))


MISTAKES = [
    ("until: 0", "until 0 cannot be used", "it must be above 0"),
    ("until: [3s]", "until ['3s'] cannot be used", "it is not a duration"),
    ("loop: maybe", "loop maybe cannot be used", "it must be true or false"),
    ("upscale: 3", "upscale 3 cannot be used", "the upsamplers enlarge 2 or 1.5 times"),
    ("segment: {0s-1s: a lamp, 1s-: a drum}", "segment 1s-: a drum cannot be used", "it is not a span"),
    ("segment: {0s-1s: }", "segment 0s-1s: None cannot be used", "its prompt must be text"),
    ("segment: {0s-1s: [a, b]}", "segment 0s-1s: ['a', 'b'] cannot be used", "its prompt must be text"),
    ("segment: {0s-1s: ''}", "segment 0s-1s: cannot be used", "its prompt is empty"),
    (SETTINGS, "segment 2s-4s: @ the door = shut cannot be used", "its prompt is read from no file"),
    ("segment: [0s-1s]", "segment 0s-1s cannot be used", "it is not a span and a prompt"),
    ("segment: [[0s, 1s]]", "segment [['0s', '1s']] cannot be used", "it is not a span"),
    ("segment: 7", "segment 7 cannot be used", "it must be text or a list"),
]


@pytest.mark.parametrize(("text", "what", "why"), MISTAKES)
def test_a_mistake_is_told_with_the_file_the_line_and_the_key(text: str, what: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"steps: 8\n{text}\n")
    result = ltx2("plan", "t2v", "x", "--model", "toy", "--config", path)
    told = " ".join(result.stderr.split())
    line = 7 if text == SETTINGS else 2
    assert (result.exit_code, result.stdout) == (2, "")
    assert what in told
    assert why in told
    assert f"hint: correct {path}, line {line}" in told


def test_jobs_tell_of_each_mistake_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    mistakes = [one for one in MISTAKES if one[0] != SETTINGS]
    path.write_text("".join(f"- prompt: a lamp\n  {text}\n" for text, _, _ in mistakes))
    result = ltx2("batch", path, "--plan", "--model", "toy")
    told = " ".join(result.stderr.split())
    assert (result.exit_code, result.stdout) == (2, "")
    for number, (_, what, why) in enumerate(mistakes):
        assert f"{path}, line {2 * number + 1}: --{what} {why}" in told
