"""What `--json` prints fits docs/events.schema.json, line by line, and holds no field that the schema does not name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ltx2_core.text.enhance import Answer, Writer
from tests.commands import ltx2
from tests.e2e.test_auto_duration import write_head
from tests.json_schema import errors, read_schema

pytestmark = pytest.mark.usefixtures("kept_models")

SCHEMA = read_schema("events.schema.json")
BETTER = "A brown dog is running over wet grass while rain is falling and a bell is ringing loudly."
SMOKE = ("--preset", "smoke", "--res", "128x128", "--seed", 7)
EVERY_EVENT = {
    "plan", "phase", "step", "prompt", "length", "warning", "output", "recipe", "differences", "error", "summary",
}  # fmt: skip


def told(*words: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ltx2(*words, "--json").stdout.splitlines()]


@pytest.fixture
def events(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events of commands that end well and badly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Writer, "write", lambda *given, **more: Answer(BETTER, has_ended=True))
    head = write_head(tmp_path / "head.safetensors")
    model = ("--model", tiny, *SMOKE)
    length = ("--duration", "auto", "--duration-head", head, "--fps", 8)
    found = [
        told("t2v", "a bell", *model, "--enhance", *length, "-o", "a.mp4"),
        told("t2v", "a bell", *model, "-o", "a.mp4"),
        told("t2v", "a bell", *model, "-o", "a.mp4", "--skip-existing"),
        told("plan", "t2v", "a bell", *model, "--vram", 8, "--explain", "--duration", "25s"),
        told("rerun", "a.mp4", "--set", "seed=8"),
        told("t2v", "a bell", *model, "--enhance-only"),
        told("inspect", "a.mp4"),
        told("presets"),
        told("download", "ltx-2", "--plan", "--offline"),
    ]
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    found.append(told("rerun", "a.mp4"))
    return [event for one in found for event in one]


def test_every_event_fits_the_schema(events: list[dict[str, Any]]) -> None:
    assert {event["event"] for event in events} == EVERY_EVENT
    assert [wrong for event in events for wrong in errors(event, SCHEMA, SCHEMA)] == []


def test_no_event_has_a_field_that_the_schema_does_not_name(events: list[dict[str, Any]]) -> None:
    known: dict[str, set[str]] = {}
    for one in SCHEMA["$defs"].values():
        if "event" in one["properties"]:
            known.setdefault(one["properties"]["event"]["const"], {"schema"}).update(one["properties"])
    assert known.keys() == EVERY_EVENT
    assert {(event["event"], name) for event in events for name in event if name not in known[event["event"]]} == set()


def test_an_event_of_another_kind_is_noticed() -> None:
    good = {"schema": 1, "event": "warning", "message": "dark"}
    assert list(errors(good, SCHEMA, SCHEMA)) == []
    for change in ({"schema": 2}, {"event": "warnings"}, {"message": 3}):
        assert list(errors(good | change, SCHEMA, SCHEMA)), change
    assert list(errors({"schema": 1, "event": "warning"}, SCHEMA, SCHEMA))
