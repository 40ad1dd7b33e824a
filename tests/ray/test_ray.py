"""Batches on a Ray cluster of two nodes with one CPU each, which both run on this machine: `make ray-test`."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import ltx2_core as core
from ltx2_cli.batch import TAKES
from ltx2_core.pipeline import processes
from ltx2_core.pipeline.batch import cluster
from ltx2_core.pipeline.batch.begin import claim_of
from scripts.local_cluster import local_cluster, new_token
from tests.batches import FLAGS, HERE, race, settled, states, tree
from tests.commands import ROOT, in_shell, ltx2

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: make ray-test installs it"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
NOBODY = "127.0.0.1:1"
TOKEN = new_token()
TWO_STAGES = {"model": "toy", "preset": "two-stage", "frames": "9", "res": "128x128", "steps": "3", "seed": "1"}
STEPS = 6  # number of steps of both stages


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, because a socket path in it may have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def _cluster() -> Iterator[str]:
    with local_cluster(2, TOKEN) as address:
        yield address


@pytest.fixture
def ray(_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> core.BatchOptions:
    """Arguments that run a batch on the cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "START_METHOD", "fork")
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    return core.BatchOptions.of({"engine": "ray", "address": _cluster})


def test_a_cluster_makes_the_tree_of_this_machine(ray: core.BatchOptions):
    core.run_batch(settled(3, "local"), HERE, None)
    told: dict[str, set[int]] = {}
    watch = core.BatchWatch(on_start=lambda worker, job: told.setdefault(job, set()).add(worker))
    end = core.run_batch(settled(3, "ray"), ray, None, watch)
    assert (end.failed, end.left) == ((), ())
    assert tree("ray") == tree("local")
    assert set().union(*told.values()) == {0, 1}


def test_an_actor_that_is_killed_costs_no_more_than_a_stage(ray: core.BatchOptions):
    core.run_batch(settled(2, "local", TWO_STAGES), HERE, None)
    found = settled(2, "ray", TWO_STAGES)
    victim, stages, said = found.jobs[0].resolved.target, [], []

    def on_event(worker: int, job: str, event: object) -> None:
        if job == victim.stem and isinstance(event, core.StepDone) and event.phase == "denoise":
            stages.append(event.done)
            if len(stages) == STEPS - 1:
                lock = claim_of(victim).with_name(f".{claim_of(victim).name}.lock")
                os.kill(int(lock.read_text().split()[0]), signal.SIGKILL)

    end = core.run_batch(found, ray, None, core.BatchWatch(on_event=on_event, say=said.append))
    assert (end.failed, end.left) == ((), ())
    assert tree("ray") == tree("local")
    assert [line.partition(":")[0] for line in said] == [victim.stem]
    assert said[0].endswith(" died; the job is tried once more")
    assert STEPS < len(stages) <= STEPS + STEPS // 2
    assert stages[-STEPS // 2 :] == [1, 2, 3]


def test_a_stop_keeps_latents_and_another_engine_goes_on(ray: core.BatchOptions):
    steps: list[str] = []

    def on_event(worker: int, job: str, event: object) -> None:
        if isinstance(event, core.StepDone) and event.phase == "denoise":
            steps.append(job)

    stopping = core.BatchWatch(on_event=on_event, should_stop=lambda: bool(steps))
    assert core.run_batch(settled(3, "ray"), ray, None, stopping).is_stopped
    assert states("ray")[steps[0]] == "running"
    assert Path(f"ray/{steps[0]}.mp4.job/job.json").exists()
    assert not [name for name, state in states("ray").items() if state in ("done", "failed")]
    assert not core.run_batch(settled(3, "ray"), HERE, None).left  # on this machine, which has access to the folder too
    core.run_batch(settled(3, "local"), HERE, None)
    assert tree("ray") == tree("local")


def test_a_job_that_fails_stops_no_other(ray: core.BatchOptions):
    Path("a.png").write_bytes((ROOT / "docs" / "lamp.png").read_bytes())
    lines = ('{"prompt": "a lamp", "mode": "i2v", "input": "a.png", "name": "j0"}', '{"prompt": "b", "name": "j1"}')
    Path("i.jsonl").write_text("\n".join(lines))
    found = core.read_batch(core.AskedBatch(path=Path("i.jsonl"), flags={**FLAGS, "output": "ray/"}, takes=TAKES))
    end = core.run_batch(found, ray, None, core.BatchWatch(on_begin=lambda count: Path("a.png").unlink()))
    assert [entry.job for entry in end.failed] == ["j0"]
    assert end.failed[0].failure is not None
    assert "a.png" in end.failed[0].failure.what
    assert states("ray") == {"j0": "failed", "j1": "done"}


def test_two_shards_beside_a_cluster_do_no_job_twice(ray: core.BatchOptions):
    shards = [core.BatchOptions(shard=f"{number}/2") for number in range(2)]
    for number in range(6):
        assert race(3, f"race{number}", ray, *shards, gives_start=True) == 3
    assert tree("race0") == tree("race5")


def test_a_folder_that_machines_do_not_see_is_refused(ray: core.BatchOptions, tmp_path: Path):
    own = os.open(tmp_path, os.O_RDONLY)  # the meaning of a descriptor differs between processes
    try:
        with pytest.raises(core.StorageError, match="is not on shared storage") as failure:
            core.run_batch(settled(1, f"/proc/self/fd/{own}/here"), ray, None)
    finally:
        os.close(own)
    assert "--address" not in failure.value.hint
    assert [path.name for path in Path("here").iterdir()] == []


def test_a_cluster_that_does_not_answer_is_exit_7(ray: core.BatchOptions, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "ANSWER_S", 1.0)
    settled(1, "s")
    done = ltx2(
        "batch",
        "s.jsonl",
        *(f"--{name}={value}" for name, value in FLAGS.items()),
        "--engine=ray",
        f"--address={NOBODY}",
    )
    assert done.exit_code == 7
    assert done.stdout == ""
    assert f"error: no Ray cluster answers at {NOBODY}" in done.stderr


@pytest.mark.slow
def test_the_script_of_the_page_starts_a_cluster_and_a_batch(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"  # starts a task on another node
    srun.write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    programs = Path(sys.executable).parent  # the folder with `ray`
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{programs}")
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    (tmp_path / "s.txt").write_text("a lamp\na ball\n")
    words = ("s.txt", "-o", "shared/", *(f"--{name}={value}" for name, value in FLAGS.items()))
    slurm = {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1", "PORT": str(free_port())}
    done = in_shell(tmp_path, "bash", ROOT / "docs" / "scale" / "ray.sh", *words, **slurm)
    assert done.returncode == 0, done.stderr
    assert len(list(Path("shared").glob("*.mp4"))) == len(done.stdout.splitlines()) == 2
