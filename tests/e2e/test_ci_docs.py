"""The jobs of docs/ci.md run as they stand there, but for what they install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import ltx2_core as core
from ltx2_core.media.probe import probe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
GITHUB, GITLAB = (yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
(LOOK,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands_of_github() -> list[str]:
    (job,) = GITHUB["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


COMMANDS = {"GitHub": commands_of_github(), "GitLab": GITLAB["smoke"]["script"]}


def test_both_jobs_run_the_same_commands() -> None:
    assert COMMANDS["GitHub"] == COMMANDS["GitLab"]


def test_the_jobs_run_and_stop_where_a_command_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [one for one in COMMANDS["GitLab"] if not one.startswith("pip install ")]
    assert len(commands) == len(COMMANDS["GitLab"]) - 2
    (tmp_path / "bin").mkdir()
    ltx2 = tmp_path / "bin" / "ltx2"
    ltx2.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ltx2_cli "$@"\n')
    ltx2.chmod(0o755)
    environment = {**os.environ, "PATH": f"{ltx2.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(words: list[str]) -> Any:
        script = "\n".join(words)
        return subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True)

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
