"""The jobs in docs/ci.md run as documented, except for their installation commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

import ltx2_core as core
from ltx2_core.media.probe import probe
from ltx2_core.pipeline.batch.expand import job_seed
from tests.commands import ROOT, in_shell

PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
GITHUB, GITLAB, CLIPS = (
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
)
(LOOK,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands_of_github() -> list[str]:
    (job,) = GITHUB["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


COMMANDS = {"GitHub": commands_of_github(), "GitLab": GITLAB["smoke"]["script"]}


def test_both_jobs_run_the_same_commands() -> None:
    assert COMMANDS["GitHub"] == COMMANDS["GitLab"]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], Any]:
    """Run a script in its own folder, with `ltx2` on the path."""
    return lambda script: in_shell(tmp_path, "sh", "-ec", script)


def without_installing(commands: list[str]) -> str:
    """The commands of a job as a script, without the two commands that install."""
    left = [one for one in commands if not one.startswith("pip install ")]
    assert len(left) == len(commands) - 2
    return "\n".join(left)


def test_the_jobs_run_and_stop_where_a_command_fails(
    run: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = without_installing(COMMANDS["GitLab"])
    done = run(commands)
    assert done.returncode == 0, done.stderr
    assert "made with" in done.stdout
    info = probe(tmp_path / "smoke.mp4")
    assert info.video is not None
    assert info.audio is not None
    monkeypatch.chdir(tmp_path)
    exec(compile(LOOK, "docs/ci.md", "exec"), {})
    again = run(commands)  # the output exists
    assert again.returncode == core.RequestError("").exit_code


def test_a_job_renders_several_clips_and_its_events_are_valid(run: Callable[[str], Any], tmp_path: Path) -> None:
    done = run(without_installing(CLIPS["clips"]["script"]))
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    schema = Draft202012Validator(json.loads((ROOT / "docs" / "schemas" / "event.schema.json").read_text()))
    for event in told:
        schema.validate(event)
    assert {"batch", "phase", "step", "output", "summary"} <= {event["event"] for event in told}
    names = [path.name for path in sorted((tmp_path / "scenes").glob("*.mp4"))]
    assert names == [f"0001-a-lamp-blinks-{job_seed(1, 1)}.mp4", f"0002-a-red-ball-rolls-{job_seed(1, 2)}.mp4"]


@pytest.mark.slow
def test_the_example_script_renders_what_it_says(run: Callable[[str], Any], tmp_path: Path) -> None:
    done = run(f"{ROOT}/scripts/batch_example.sh here --steps 2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "all clips are made"
    assert [line.rpartition(" ")[2] for line in lines[1:]] == ["lamp.mp4", "ball.mp4"]
    assert "lamp.mp4" in (tmp_path / "here" / "plan.txt").read_text()
