"""The JSON Schemas in docs/schemas belong to this version, and the output and input of commands is valid by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from ltx2_core.disk import hidden_file
from ltx2_core.pipeline.batch.jobs import JobLine
from ltx2_core.pipeline.batch.record import BatchRecord, Failure, Fingerprint, JobEntry, change_record, write_summary
from scripts.write_schemas import FOLDER, SCHEMAS, written
from tests.commands import ltx2


def validator(name: str) -> Any:
    schema = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def events(*words: object) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in ltx2(*words, "--json").stdout.splitlines()]
    for event in found:
        validator("event").validate(event)
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_that_of_this_version(name: str):
    assert (FOLDER / f"{name}.schema.json").read_text(encoding="utf-8") == written(SCHEMAS[name]())


def test_what_is_told_of_a_batch_before_it_begins_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"prompt": "a lamp", "name": "one"}\n')
    refused = events("batch", "a.jsonl", "--preset", "smoke", "--sweep", "seed_is=1")
    assert [event["event"] for event in refused] == ["error", "summary"]
    found = events("batch", "a.jsonl", "--preset", "smoke", "--steps", 2, "--video-st", 2, "--plan")
    (job,) = found[0]["jobs"]
    validator("job").validate(job)
    assert JobLine.parse(job, "line 1").name == "one"
    Path("b.yaml").write_text("- {steps: 1, prompt: a}")
    assert "job_error" in [event["event"] for event in events("batch", "b.yaml", "--preset", "smoke")]


@pytest.mark.parametrize("job", [{"stepz": 1}, {"mode": "t2w"}, {"steps": {"a": 1}}, [], "a"])
def test_what_no_job_can_be_is_invalid(job: Any):
    with pytest.raises(ValidationError):
        validator("job").validate(job)


def test_the_record_of_a_batch_is_valid(tmp_path: Path):
    print_ = Fingerprint(settings="a", inputs="b")
    failure = Failure(code=7, what="the disk is gone")
    entries = [
        JobEntry(job="a", file="a.mp4", seed=1, fingerprint=print_, state="done", nbytes=9),
        JobEntry(job="b", file="b.mp4", seed=2, fingerprint=print_, state="failed", failure=failure),
    ]
    change_record(tmp_path, lambda before: BatchRecord(seed=1, jobs=tuple(entries)))
    written_down = json.loads((tmp_path / "batch.json").read_text())
    assert list(validator("batch").iter_errors(written_down)) == []
    assert list(validator("batch").iter_errors({**written_down, "seed": "one"})) != []


def test_what_a_killed_command_left_beside_a_record_is_removed(tmp_path: Path):
    kept = BatchRecord(seed=1, jobs=())
    for name, write in (
        ("batch.json", lambda: change_record(tmp_path, lambda before: kept)),
        ("summary.csv", lambda: write_summary(tmp_path)),
    ):
        left = hidden_file(tmp_path / name)
        write()
        assert not left.exists()
        assert (tmp_path / name).exists()


def test_no_cell_of_the_summary_is_a_formula():
    entry = JobEntry(job="=1+1", file="@a.mp4", seed=1, fingerprint=Fingerprint(settings="a", inputs="b"), state="done")
    row = BatchRecord(seed=1, jobs=(entry,)).summary().splitlines()[1]
    assert row == "'=1+1,done,'@a.mp4,1,,,,"
