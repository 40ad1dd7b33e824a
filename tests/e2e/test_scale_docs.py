"""The files in docs/scale run as documented, with stand-ins for the tools of a cluster."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ltx2_core.pipeline import processes
from ltx2_core.pipeline.batch.shard import parse_shard
from ltx2_core.pipeline.batch.worker import Worker
from tests.batches import write_jobs
from tests.commands import ROOT, in_shell, ltx2

FILES = ROOT / "docs" / "scale"
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
SMALL = ("--preset", "smoke", "--steps", "2")


@pytest.fixture
def forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own, in which workers are forked, so that they have torch from the start."""
    assert Worker
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "START_METHOD", "fork")
    return tmp_path


def test_the_page_names_every_file() -> None:
    assert {path.name for path in FILES.iterdir()} == {*re.findall(r"\b(?:slurm\.sh|ray\.sh|kubernetes\.yaml)", PAGE)}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_tasks_of_an_array_job_make_a_batch(forked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = forked / "bin" / "ltx2"  # writes the words of the script's command, which then runs in this process
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    stub.chmod(0o755)
    (forked / "s.txt").write_text("a lamp\na ball\n")
    words = ("bash", FILES / "slurm.sh", "s.txt", "--seed", "1", *SMALL, "-o", "shared/")
    for number in (5, 7):
        for name, value in {"ID": str(number), "MIN": "5", "STEP": "2", "COUNT": "2"}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
        asked = in_shell(forked, *words)
        assert asked.returncode == 0, asked.stderr
        done = ltx2(*asked.stdout.splitlines())
        assert done.exit_code == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
    assert [path.name[:4] for path in sorted((forked / "shared").glob("*.mp4"))] == ["0001", "0002"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_pods_of_an_indexed_job_make_a_batch(forked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = yaml.safe_load((FILES / "kubernetes.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    program, *words = (word.replace(mount["mountPath"], str(forked)) for word in container["command"])
    assert program == "ltx2"
    assert container["env"][0]["value"].startswith(mount["mountPath"])
    path = forked / "scenes.yaml"
    write_jobs(job["completions"]).rename(path)
    path.write_text("".join(f"- {line}\n" for line in path.read_text().splitlines()))
    for index in (0, job["completions"] - 1):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        done = ltx2(*words, *SMALL)
        assert done.exit_code == 0, done.stderr
        assert done.stdout == f"{forked}/scenes/j{index}.mp4\n"


def test_the_array_asks_for_as_many_parts_as_it_has_tasks() -> None:
    first, last = map(int, re.findall(r"^#SBATCH --array=(\d+)-(\d+)", (FILES / "slurm.sh").read_text(), re.M)[0])
    told = {"ID": str(last), "MIN": str(first), "STEP": "1", "COUNT": str(last - first + 1)}
    environment = {f"SLURM_ARRAY_TASK_{name}": value for name, value in told.items()}
    assert parse_shard("auto", environment) == (last - first, last - first + 1)


@pytest.mark.parametrize("path", sorted(FILES.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_well_formed(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path]).returncode == 0
