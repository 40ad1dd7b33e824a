"""Errors name a setting as the user has written it, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltx2_core.errors import RequestError
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE, ENVIRONMENT, Layer
from ltx2_core.pipeline.resolve.settle import Asked
from tests.commands import refused
from tests.places import A_FILE

FRAMES = {"frames": 10}
WRONG = "it must be one more than a multiple of 8"
PRESETS: dict[str, Any] = {"mine": FRAMES}


@pytest.mark.parametrize(
    ("layers", "what", "why"),
    [
        ([(COMMAND_LINE, FRAMES)], "--frames 10", WRONG),
        ([(ENVIRONMENT, FRAMES)], "LTX2_FRAMES 10", WRONG),
        ([(A_FILE, FRAMES)], "frames 10", f"{WRONG} (set in ltx2.yaml)"),
        ([(COMMAND_LINE, {"preset": "mine"})], "frames 10", f"{WRONG} (set in preset mine)"),
        ([(COMMAND_LINE, FRAMES), (ENVIRONMENT, {"frames": 12})], "--frames 10", WRONG),
        ([(COMMAND_LINE, {"frames": None}), (ENVIRONMENT, FRAMES)], "LTX2_FRAMES 10", WRONG),
    ],
    ids=["command line", "environment", "file", "preset", "the first that sets it", "not set above"],
)
def test_a_setting_has_the_name_that_it_was_given_by(layers: list[Layer], what: str, why: str) -> None:
    given = [*layers, (COMMAND_LINE, {"model": "toy"})]
    with pytest.raises(RequestError) as refusal:
        Asked(mode="t2v", prompt="a bell", layers=given, own_presets=PRESETS).settle()
    assert (refusal.value.what, refusal.value.why) == (f"{what} cannot be used", why)
    assert refusal.value.hint == "--frames 9 or --frames 17"  # hints always name options, wherever the setting was


def test_what_is_to_be_left_out_is_named_as_written_too() -> None:
    layers: list[Layer] = [(COMMAND_LINE, {"model": "toy"}), (ENVIRONMENT, {"loop": True, "until": "60s"})]
    with pytest.raises(RequestError) as refusal:
        Asked(mode="t2v", prompt="a bell", layers=layers).settle()
    assert (refusal.value.what, refusal.value.hint) == ("LTX2_LOOP cannot be used here", "leave LTX2_UNTIL out")


def test_the_command_line_names_variables_files_and_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("crf: 20\nstg_blocks: [99]\n")
    said = refused(2, "t2v", "a bell", "--model", "toy", "--config", "own.yaml")
    assert "stg_blocks 99 cannot be used the model has the blocks 0 to 5 (set in own.yaml, line 2)" in said
    monkeypatch.setenv("LTX2_STG_BLOCKS", "77")
    assert "LTX2_STG_BLOCKS 77 cannot be used" in refused(2, "t2v", "a bell", "--model", "toy")
