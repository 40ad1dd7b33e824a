"""How batches run: which jobs are done, missing or changed, workers that die, shards, and JSON lines."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import ltx2_core as core
from ltx2_cli import batch_view
from ltx2_cli.batch import TAKES
from ltx2_cli.batch_view import serve_lines
from ltx2_cli.display import Display
from ltx2_core.lock import locked
from ltx2_core.pipeline import processes
from ltx2_core.pipeline.batch import loop
from ltx2_core.pipeline.batch import worker as worker_module
from ltx2_core.pipeline.batch.begin import claim_of
from ltx2_core.pipeline.batch.record import (
    BESIDE_RESULTS,
    RECORD,
    BatchRecord,
    change_entry,
    change_record,
    read_record,
)
from ltx2_core.pipeline.batch.worker import Worker, unfinished
from ltx2_core.pipeline.job import Job
from ltx2_core.pipeline.render.run import run
from tests.batches import FLAGS, FORK, HERE, race, run_apart, settled, states, tree, write_jobs
from tests.commands import ltx2

# a forked process has already imported torch, and the models are tiny
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
COMMON = ("--preset", "smoke", "--seed", 1, "--steps", 2)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "START_METHOD", "fork")


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what a render needs before the first worker is forked."""
    done = ltx2("t2v", "a lamp", "--preset", "smoke", "--steps", 2, "-o", tmp_path_factory.mktemp("warm") / "a.mp4")
    assert done.exit_code == 0, done.stderr


def batch(*words: object) -> Any:
    return ltx2("batch", "s.jsonl", *COMMON, *words)


def test_the_same_command_again_does_only_what_is_missing():
    write_jobs(2)
    first = batch()
    assert first.exit_code == 0, first.stderr
    assert [Path(line).name for line in first.stdout.splitlines()] == ["j0.mp4", "j1.mp4"]
    before = tree("s")
    Path("s/j1.mp4").unlink()
    again = batch()
    assert again.exit_code == 0
    assert "2/2 j1: seed" in again.stderr
    assert " j0: seed" not in again.stderr
    assert tree("s") == before


def test_a_job_of_a_batch_has_the_bytes_of_its_own_command():
    write_jobs(1)
    assert batch().exit_code == 0
    seed = read_record(Path("s")).jobs[0].seed  # type: ignore[union-attr]
    single = ltx2("t2v", "lamp 0", "--preset", "smoke", "--steps", 2, "--seed", seed, "-o", "single.mp4")
    assert single.exit_code == 0, single.stderr
    assert Path("single.mp4").read_bytes() == Path("s/j0.mp4").read_bytes()


@pytest.mark.parametrize(("words", "is_together"), [((), True), (("--order", "file"), False)])
def test_prompts_are_read_together_before_the_first_job_is_denoised(
    words: tuple[str, ...], is_together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    write_jobs(3)
    events = [json.loads(line) for line in batch("--json", *words).stdout.splitlines()]
    read = [(one["job"], one["done"]) for one in events if (one["event"], one.get("phase")) == ("step", "text")]
    found = {name: sum(count for job, count in read if job == name) for name in ("j0", "j1", "j2")}
    assert sum(found.values()) >= 3
    assert (found["j0"] == sum(found.values())) is is_together
    assert states() == dict.fromkeys(found, "done")


def test_jobs_that_have_changed_are_refused_and_rendered_again_with_overwrite():
    write_jobs(2)
    assert batch().exit_code == 0
    before = tree("s")
    text = Path("s.jsonl").read_text()
    Path("s.jsonl").write_text(text.replace("lamp 1", "a bell"))
    refused = batch()
    assert refused.exit_code == 2
    assert "j1.mp4: its settings have changed" in refused.stderr
    assert "j0" not in refused.stderr
    assert tree("s") == before
    assert batch("--overwrite").exit_code == 0
    after = tree("s")
    assert after["j0.mp4"] == before["j0.mp4"]
    assert after["j1.mp4"] != before["j1.mp4"]


def test_a_file_that_the_batch_did_not_make_is_not_replaced():
    write_jobs(1)
    Path("s").mkdir()
    Path("s/j0.mp4").write_bytes(b"mine")
    refused = batch()
    assert refused.exit_code == 2
    assert "j0.mp4: a file of this name exists, which this batch did not make" in refused.stderr
    assert tree("s") == {"j0.mp4": b"mine"}


@pytest.mark.parametrize(
    ("name", "flag"), [("summary.csv", ()), ("report.html", ("--report",)), ("grid.png", ("--grid",))]
)
def test_what_lies_beside_the_results_is_not_replaced_where_no_batch_wrote_it(name: str, flag: tuple[str, ...]):
    write_jobs(1)
    Path("s").mkdir()
    (Path("s") / name).write_bytes(b"mine")
    refused = batch(*flag)
    assert (refused.exit_code, tree("s")) == (2, {name: b"mine"})
    assert f"{name} already exists\nno batch wrote it\nhint: --overwrite replaces it" in refused.stderr


def test_a_file_of_the_user_in_the_folder_of_a_batch_is_not_replaced():
    write_jobs(1)
    assert batch().exit_code == 0
    names, words = ("grid.mp4", "report.html"), ("--grid", "--report")
    for name in names:
        (Path("s") / name).write_bytes(b"mine")
    before = tree("s")
    for name, refused in zip(("grid.mp4", *names), (batch(*words), batch("--grid"), batch("--report")), strict=True):
        assert (refused.exit_code, tree("s")) == (2, before)
        assert f"{name} already exists\nno batch wrote it\nhint: --overwrite replaces it" in refused.stderr
    assert "report.html already exists" in ltx2("report", "s").stderr
    assert tree("s") == before
    assert batch(*words, "--overwrite").exit_code == 0
    written = tree("s")
    assert not {written[name] for name in names} & {b"mine"}
    assert batch(*words).exit_code == 0  # they belong to the batch now
    assert tree("s") == written


def test_a_record_of_an_earlier_version_owns_every_file_beside_its_results():
    record = BatchRecord.model_validate_json('{"schema": 1, "seed": 1, "jobs": []}')
    assert record.owns == BESIDE_RESULTS


@pytest.mark.parametrize(("count", "more"), [(5, ""), (8, "; and 3 more")])
def test_of_many_files_that_would_be_replaced_the_first_are_named(count: int, more: str):
    write_jobs(count)
    Path("s").mkdir()
    for number in range(count):
        Path(f"s/j{number}.mp4").touch()
    refused = " ".join(batch().stderr.split())
    assert f"{count} results would be replaced" in refused
    assert f"j4.mp4: a file of this name exists, which this batch did not make{more}" in refused
    assert "j5.mp4" not in refused


def fail_for(monkeypatch: pytest.MonkeyPatch, job: str, how: Callable[[], None]) -> None:
    """Call a function when a worker begins a job."""
    usual = Worker.finish

    def finish(self: Worker, resolved: core.Resolved, watch: core.Watch) -> core.Result:
        if resolved.target.stem == job:
            how()
        return usual(self, resolved, watch)

    monkeypatch.setattr(Worker, "finish", finish)


def broken() -> None:
    raise core.StorageError("the disk is gone", "it was removed", "put it back")


def test_a_job_that_fails_stops_no_other_and_the_end_lists_it(monkeypatch: pytest.MonkeyPatch):
    write_jobs(3)
    fail_for(monkeypatch, "j1", broken)
    done = batch()
    assert done.exit_code == 9
    assert "error: 1 of 3 jobs failed" in done.stderr
    assert "j1: the disk is gone\n  it was removed\n  hint: put it back" in done.stderr
    assert states() == {"j0": "done", "j1": "failed", "j2": "done"}
    rows = Path("s/summary.csv").read_text().splitlines()
    assert rows[2].startswith("j1,failed,j1.mp4,")
    assert rows[2].endswith(",7,the disk is gone,it was removed,put it back")
    monkeypatch.undo()


def test_a_file_that_comes_in_before_a_job_has_begun_is_not_replaced(monkeypatch: pytest.MonkeyPatch):
    write_jobs(2)
    with monkeypatch.context() as patch:
        fail_for(patch, "j0", broken)
        assert batch("--fail-fast").exit_code == 9
    for name in ("j0", "j1"):  # one job has failed, and one is waiting
        mine = Path(f"s/{name}.mp4")
        mine.write_bytes(b"mine")
        refused = batch()
        assert (refused.exit_code, mine.read_bytes()) == (2, b"mine")
        assert f"{name}.mp4: a file of this name exists, which this batch did not make" in refused.stderr
        mine.unlink()


def test_fail_fast_begins_no_further_job(monkeypatch: pytest.MonkeyPatch):
    write_jobs(3)
    fail_for(monkeypatch, "j0", broken)
    done = batch("--fail-fast")
    assert done.exit_code == 9
    assert "1 of 3 jobs failed; 2 jobs did not begin after that" in done.stderr
    assert states() == {"j0": "failed", "j1": "waiting", "j2": "waiting"}


def test_no_job_begins_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch):
    write_jobs(2)
    monkeypatch.setattr(loop, "monotonic", count(0, 100).__next__)  # each reading of the clock is 100 s later
    done = batch("--max-time", "90s")
    assert done.exit_code == 9
    assert "2 jobs did not begin as the time was up" in done.stderr
    assert "the same command again does the rest" in done.stderr


def test_a_worker_that_settles_a_job_in_another_way_does_not_render_it(monkeypatch: pytest.MonkeyPatch):
    found = settled(1, "s")
    monkeypatch.setattr(worker_module, "settings_digest", lambda task: "other")
    (failed,) = core.run_batch(found, HERE, None).failed
    assert failed.failure is not None
    assert failed.failure.what == "j0 means something else on this machine"
    assert not Path("s/j0.mp4").exists()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_replaced_and_its_job_tried_twice(monkeypatch: pytest.MonkeyPatch):
    write_jobs(2)
    fail_for(monkeypatch, "j0", die)
    done = batch()
    assert done.exit_code == 9
    assert "j0: the worker on cpu died with signal 9; the job is tried once more" in done.stderr
    assert "j0: its worker died 2 times" in done.stderr
    assert states() == {"j0": "failed", "j1": "done"}


def test_a_mistake_of_ours_ends_its_job_and_no_other(monkeypatch: pytest.MonkeyPatch):
    write_jobs(2)
    fail_for(monkeypatch, "j0", lambda: [][0])
    done = batch()
    assert done.exit_code == 9
    assert "j0: internal error: IndexError: list index out of range" in done.stderr
    assert states() == {"j0": "failed", "j1": "done"}


def test_a_stop_keeps_what_is_done_of_a_job():
    found, steps = settled(2, "s"), []
    stopping = core.BatchWatch(on_event=lambda *told: steps.append(told), should_stop=lambda: bool(steps))
    end = core.run_batch(found, core.BatchOptions(), None, stopping)
    assert end.is_stopped
    assert {entry.job for entry in end.left} == {"j0", "j1"}
    assert states() == {"j0": "running", "j1": "waiting"}
    again = core.run_batch(settled(2, "s"), core.BatchOptions(), None)
    assert not again.left
    assert not again.failed
    core.run_batch(settled(2, "other"), core.BatchOptions(), None)
    assert tree("s") == tree("other")


def test_a_job_that_was_killed_before_its_end_was_noted_is_done():
    core.run_batch(settled(1, "s"), core.BatchOptions(), None)
    before = tree("s")
    changes = {"state": "running", "nbytes": None}
    change_entry(Path("s"), "j0", lambda entry: entry.model_copy(update=changes))
    Path("s/j0.mp4.job").mkdir()  # the record was removed, but not yet the folder
    told: list[str] = []
    watch = core.BatchWatch(on_outcome=lambda worker, outcome: told.append(outcome.state))
    assert not core.run_batch(settled(1, "s"), core.BatchOptions(), None, watch).failed
    assert told == ["existing"]
    assert tree("s") == before
    assert not Path("s/j0.mp4.job").exists()


def test_a_job_that_another_process_does_is_waited_for():
    found, said = settled(1, "s"), []
    target = found.jobs[0].resolved.target
    holder = locked(claim_of(target))
    holder.__enter__()

    def say(line: str) -> None:
        said.append(line)
        holder.__exit__(None, None, None)

    end = core.run_batch(found, core.BatchOptions(), None, core.BatchWatch(say=say))
    assert not end.left
    assert said == ["j0: another process is doing this job; waiting for it"]


def child_of(pid: int) -> Iterator[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return map(int, listed.read_text().split()) if listed.exists() else iter(())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux, to find the children of a process")
def test_kills_leave_the_tree_of_an_undisturbed_run():
    choose, jobs = random.Random(7), 6
    core.run_batch(settled(jobs, "whole"), core.BatchOptions(), None)
    for number in range(4):
        heard, tell = FORK.Pipe(duplex=False)
        process = run_apart(settled(jobs, "killed"), tell)
        tell.close()
        try:
            for _ in range(choose.randrange(1, 18)):
                heard.recv_bytes()
        except EOFError:
            pass
        if number % 2:
            process.kill()
        else:
            for child in child_of(process.pid):
                os.kill(child, signal.SIGKILL)
            process.kill()
        process.join()
        heard.close()
    end = core.run_batch(settled(jobs, "killed"), core.BatchOptions(), None)
    assert not end.left
    assert not end.failed
    assert tree("killed") == tree("whole")


def test_two_runs_of_one_batch_at_once_do_no_job_twice():
    for number in range(3):
        assert race(2, f"race{number}", HERE, HERE) == 2
    assert tree("race0") == tree("race2")


def test_shards_make_the_tree_of_one_run():
    core.run_batch(settled(3, "whole"), core.BatchOptions(), None)
    for shard in ("1/2", "0/2"):
        assert core.run_batch(settled(3, "parts"), core.BatchOptions(shard=shard), None).count == 2 - int(shard[0])
    assert tree("parts") == tree("whole")


def test_lines_of_json_are_rendered_and_answered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    lines = ['{"prompt": "a lamp", "name": "one"}', "", '{"prompt": "a lamp", "stepz": 2}', "[", "\x00"]
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO("\n".join(lines).encode())))
    with pytest.raises(core.BatchError, match="3 of 4 jobs failed"):
        serve_lines(Display(), dict(FLAGS), None, TAKES)
    assert Path("one.mp4").exists()
    assert "error: line 3: unknown key stepz" in capsys.readouterr().err


def test_a_line_that_is_too_long_is_no_job_and_takes_no_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    read = []

    def kept(text: bytes, *rest: Any) -> None:
        read.append(len(text))
        raise core.RequestError("no job")

    monkeypatch.setattr(batch_view, "LONGEST_LINE", 10)
    monkeypatch.setattr(core, "job_of_line", kept)
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"a" * 95 + b"\n" + b"b" * 10 + b"\n")))
    with pytest.raises(core.BatchError, match="2 of 2 jobs failed"):
        serve_lines(Display(), dict(FLAGS), None, TAKES)
    assert read == [11, 11]
    assert capsys.readouterr().err.count("no job") == 2


def test_a_mistake_of_ours_in_one_line_ends_no_other_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(
        "sys.stdin", TextIOWrapper(BytesIO(b'{"prompt": "a", "name": "one"}\n{"prompt": "b", "name": "two"}'))
    )

    def breaks(resolved: core.Resolved, *rest: Any) -> core.Result:
        if resolved.target.stem == "two":
            return run(resolved, *rest)
        raise RuntimeError("a mistake")

    monkeypatch.setattr(worker_module, "run", breaks)
    with pytest.raises(core.BatchError, match="1 of 2 jobs failed"):
        serve_lines(Display(), dict(FLAGS), None, TAKES)
    assert Path("two.mp4").exists()
    assert "one: internal error: RuntimeError: a mistake" in capsys.readouterr().err


def test_a_begun_render_goes_on_only_where_it_is_the_one_that_is_asked_for():
    first, other = (settled(2, "s", {**FLAGS, "crf": crf}).jobs[0].resolved for crf in ("20", "30"))
    assert unfinished(first) is None
    begun = Job.create(first.job_dir, first.task, {})
    found = unfinished(first)
    assert found is not None
    assert (found.folder, found.task) == (begun.folder, begun.task)
    assert unfinished(other) is None


def test_a_worker_keeps_no_model_of_a_job_that_broke_down(monkeypatch: pytest.MonkeyPatch):
    def breaks(*given: object) -> core.Result:
        raise RuntimeError("a mistake")

    worker, resolved = Worker(), settled(1, "s").jobs[0].resolved
    monkeypatch.setattr(worker_module, "run", breaks)
    with pytest.raises(RuntimeError, match="a mistake"):
        worker.finish(resolved)
    assert worker._models is None


def test_a_damaged_record_is_refused_and_left():
    write_jobs(1)
    Path("s").mkdir()
    Path("s", RECORD).write_text('{"schema": 1}')
    refused = batch()
    assert refused.exit_code == 7
    assert "batch.json cannot be read" in refused.stderr
    assert Path("s", RECORD).read_text() == '{"schema": 1}'


def test_events_of_a_batch_carry_its_job():
    write_jobs(1)
    told = [json.loads(line) for line in batch("--json").stdout.splitlines()]
    about = [event for event in told if event["event"] in ("job", "phase", "step", "output")]
    assert {event["job"] for event in about} == {"j0"}
    assert [event["state"] for event in about if event["event"] == "job"] == ["started", "done"]
    assert [event["is_new"] for event in about if event["event"] == "output"] == [True]


def test_a_record_changes_only_under_its_lock():
    settled(1, "s")
    core.run_batch(settled(1, "s"), core.BatchOptions(), None)
    before = read_record(Path("s"))
    assert change_record(Path("s"), lambda record: record) == before  # type: ignore[arg-type, return-value]
