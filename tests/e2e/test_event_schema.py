"""Every line of `--json` is valid by docs/schemas/event.schema.json, for all commands, successful or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from ltx2_core.text.enhance import Answer, Writer
from scripts.write_schemas import event_schema
from tests.commands import ltx2
from tests.e2e.test_auto_duration import write_head

pytestmark = pytest.mark.usefixtures("kept_models")

BETTER = "A brown dog is running over wet grass while rain is falling and a bell is ringing loudly."
SMOKE = ("--preset", "smoke", "--res", "128x128", "--seed", 7)
OF_A_BATCH = {"batch", "job", "job_error"}  # test_schemas.py checks these


def told(*words: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ltx2(*words, "--json").stdout.splitlines()]


@pytest.fixture
def events(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events of commands that succeed and fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Writer, "write", lambda *given, **more: Answer(BETTER, has_ended=True))
    head = write_head(tmp_path / "head.safetensors")
    model = ("--model", tiny, *SMOKE)
    length = ("--duration", "auto", "--duration-head", head, "--fps", 8)
    found = [
        told("t2v", "a bell", *model, "--enhance", *length, "--preview", "auto", "-o", "a.mp4"),
        told("t2v", "a bell", *model, "-o", "a.mp4"),
        told("t2v", "a bell", *model, "-o", "a.mp4", "--skip-existing"),
        told("plan", "t2v", "a bell", *model, "--vram", 8, "--explain", "--duration", "25s"),
        told("rerun", "a.mp4", "--set", "seed=8"),
        told("t2v", "a bell", *model, "--enhance-only"),
        told("inspect", "a.mp4"),
        told("presets"),
        told("sync", "a.mp4"),
        told("download", "ltx-2", "--plan", "--offline"),
    ]
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    found.append(told("rerun", "a.mp4"))
    return [event for one in found for event in one]


def test_every_event_of_every_command_fits_the_schema(events: list[dict[str, Any]]) -> None:
    schema = event_schema()
    known = {form["properties"]["event"]["const"] for form in schema["oneOf"]}
    assert {event["event"] for event in events} == known - OF_A_BATCH
    for event in events:
        Draft202012Validator(schema).validate(event)
