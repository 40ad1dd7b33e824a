"""Engines of a batch: what is refused, and which workers a cluster has resources for. Without Ray."""

from __future__ import annotations

from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ltx2_core.errors import DoesNotFitError, RequestError, StorageError
from ltx2_core.pipeline import processes
from ltx2_core.pipeline.batch import cluster, options
from ltx2_core.pipeline.batch.actor import Probe, Surroundings, look
from ltx2_core.pipeline.batch.begin import Order
from ltx2_core.pipeline.batch.cluster import ClusterWorkers, passed_on, require_same_kind, taken_seats, wanted_seats
from ltx2_core.pipeline.batch.driver import Connected, Imported, Ready, Seat, Seen
from ltx2_core.pipeline.batch.jobs import Batch, BatchJob, JobLine
from ltx2_core.pipeline.batch.loop import NOBODY, BatchLoop, Queued
from ltx2_core.pipeline.batch.options import BatchOptions
from ltx2_core.pipeline.batch.outcome import BatchWatch, Gone, Outcome
from ltx2_core.pipeline.batch.record import Failure, Fingerprint
from ltx2_core.pipeline.events import Message
from tests.commands import ltx2

GIB = 2**30
RAY = {"engine": "ray", "address": "head:6379"}


def job(found: str, ram: int = 0, threads: int = 4, **settings: Any) -> BatchJob:
    """A job that is settled for a device, and needs this much memory of its machine."""
    task = SimpleNamespace(machine=SimpleNamespace(device=found, threads=threads))
    resolved = SimpleNamespace(task=task, plan=SimpleNamespace(rows=[SimpleNamespace(ram=ram)]))
    line = SimpleNamespace(settings=settings, place="s.txt, line 1")
    return cast(BatchJob, SimpleNamespace(resolved=resolved, line=line))


@pytest.fixture
def _has_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: object())


@pytest.mark.usefixtures("_has_ray")
@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "head.cluster.local:6379", "[fe80::1]:6379"])
def test_addresses_of_heads_are_taken(address: str):
    assert BatchOptions.of({"engine": "ray", "address": address}).address == address


@pytest.mark.usefixtures("_has_ray")
@pytest.mark.parametrize(
    ("given", "what", "hint"),
    [
        ({"engine": "ray"}, "--engine ray needs an address", "--address HOST:6379"),
        ({"address": "auto"}, "--address has no effect", "--engine ray"),
        ({"engine": "local", "address": "auto"}, "--address has no effect", "--engine ray"),
        ({"engine": "slurm"}, "--engine slurm cannot be used", ""),
        ({**RAY, "gpus": "0,1"}, "--gpus cannot be used with --engine ray", "ray start --num-gpus N"),
        ({**RAY, "address": "ray://head:10001"}, "--address ray://head:10001 cannot be used", "--address auto"),
        ({**RAY, "address": "head"}, "--address head cannot be used", "HOST:6379"),
        ({**RAY, "address": ""}, "--address '' cannot be used", "HOST:6379"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, str], what: str, hint: str):
    with pytest.raises(RequestError) as failure:
        BatchOptions.of(given)
    assert failure.value.what == what
    assert hint in failure.value.hint


def test_without_ray_the_hint_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    done = ltx2("batch", "s.txt", "--engine", "ray", "--address", "auto")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == 'hint: pip install "ltx2[ray]"'


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--max-time", "1h"), "--max-time"),
        (("--fail-fast",), "--keep-going or --fail-fast"),
        (("--shard", "0/2"), "--shard"),
        (("--seeds", "1-2"), "--seeds"),
    ],
)
def test_options_for_many_jobs_are_refused_where_jobs_are_read(words: tuple[str, ...], option: str):
    done = ltx2("batch", "-", *words)
    assert done.exit_code == 2
    assert f"error: {option} cannot be used with -" in done.stderr


def test_cards_get_a_worker_each_and_cpus_as_many_as_they_have_room_for():
    nodes = [{"CPU": 64.0, "GPU": 8.0, "memory": 100.0 * GIB}, {"CPU": 10.0, "memory": 100.0 * GIB}]
    mixed = [job("cuda:0", 30 * GIB)] * 9 + [job("cpu", GIB, device="cpu")] * 20
    wanted = wanted_seats(mixed)
    assert wanted == [
        (Seat(device="cuda:0", cpus=0, gpus=1, memory=30 * GIB), 9),
        (Seat(device="cpu", cpus=4, gpus=0, memory=GIB), 20),
    ]
    assert [seat.device for seat in taken_seats(wanted, nodes)] == ["cuda:0"] * 3 + ["cpu"] * 18
    assert len(taken_seats([(wanted[1][0], 5)], nodes)) == 5


def test_a_cluster_without_room_does_not_fit():
    with pytest.raises(DoesNotFitError) as failure:
        taken_seats(wanted_seats([job("cuda:0", 30 * GIB)]), [{"CPU": 4.0, "GPU": 1.0, "memory": 20.0 * GIB}])
    assert "1 GPU and 32.2 GB of memory" in failure.value.why


@pytest.mark.parametrize(("device", "asked"), [("cuda:1", "cuda:1"), ("cuda:0", "cuda:0"), ("mps", "auto")])
def test_jobs_that_name_a_card_are_refused(device: str, asked: str):
    with pytest.raises(RequestError, match="cannot be used with --engine ray"):
        wanted_seats([job(device, device=asked)])


def test_a_machine_without_a_card_starts_no_batch_on_cards():
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}]
    require_same_kind([job("cuda:0"), job("cpu", device="cpu")], nodes)
    require_same_kind([job("cpu")], nodes[1:])
    with pytest.raises(RequestError, match="the cards of the Ray cluster cannot be used"):
        require_same_kind([job("cpu")], nodes)


def test_workers_get_settings_and_the_number_of_threads():
    given = {"LTX2_HOME": "/shared/ltx2", "PATH": "/bin", "OMP_NUM_THREADS": "1"}
    assert passed_on(given, 8) == {"LTX2_HOME": "/shared/ltx2", "OMP_NUM_THREADS": "8"}


def test_a_machine_looks_before_it_is_used(tmp_path: Path):
    path = tmp_path / "probe"
    path.write_text("new")
    around = Surroundings(folder=tmp_path, config=None, environment={})
    assert look(around, Probe(path=path, content="new")) is None
    other = Surroundings(folder=tmp_path, config=None, environment={}, version="0.0.0")
    away = Surroundings(folder=tmp_path / "away", config=None, environment={})
    found = [look(around, Probe(path=path, content="old")), look(around, Probe(path=tmp_path / "b", content="new"))]
    found += [look(other, Probe(path=path, content="new")), look(away, Probe(path=path, content="new"))]
    whats = [failure.what.rpartition(" ")[2] if failure else "" for failure in found]
    assert whats == ["storage", "storage", "used", "storage"]


def workers_of(monkeypatch: pytest.MonkeyPatch, folder: Path, *told: object) -> tuple[ClusterWorkers, Connection]:
    """Workers on a cluster whose messages come from a script, and the other end of the pipe to it."""
    ours, its = Pipe()
    for message in told:
        its.send((NOBODY, message))
    process = SimpleNamespace(join=lambda *seconds: None, kill=lambda: None)
    monkeypatch.setattr(processes, "start", lambda *given: (process, ours))
    batch = Batch(folder=folder, jobs=(), seed=1)
    return ClusterWorkers(batch, [job("cpu", threads=1)] * 3, BatchOptions(**RAY), None), its


NODES = Connected(nodes=({"CPU": 2.0, "memory": 1.0 * GIB},))


def test_a_cluster_that_starts_no_worker_is_waited_for_and_a_person_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    workers, its = workers_of(monkeypatch, tmp_path, Imported(version="2.60"), NODES, Seen())
    assert list(workers.devices) == ["cpu", "cpu"]
    monkeypatch.setattr(cluster, "WAIT_S", -1.0)
    ((number, message),) = workers.listen(0)
    assert number == NOBODY
    assert isinstance(message, Message)
    assert "has started none of 2 workers yet" in message.message
    its.send((1, Ready()))
    assert list(workers.listen(1)) == []
    assert [workers.is_ready(number) for number in range(2)] == [False, True]
    its.send((1, Gone(how="worker 1 on node died")))
    assert list(workers.listen(1)) == [(1, Gone(how="worker 1 on node died"))]
    assert not workers.is_ready(1)
    assert list(tmp_path.iterdir()) == []  # no probe file is left
    its.close()
    with pytest.raises(StorageError, match="the connection to the Ray cluster at head:6379 was lost"):
        list(workers.listen(1))


def test_what_a_machine_says_of_the_folder_ends_the_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    failure = Failure(code=7, what="it is not on shared storage", hint="move it")
    with pytest.raises(StorageError, match="it is not on shared storage"):
        workers_of(monkeypatch, tmp_path, Imported(version="2.60"), NODES, failure)
    assert list(tmp_path.iterdir()) == []


class OneWorker:
    """A worker that sends scripted messages for each job, after a message that concerns no particular worker."""

    devices = ("cpu",)

    def __init__(self, *answers: object) -> None:
        self.told: list[tuple[int, Any]] = [(NOBODY, Message(message="waiting"))]
        self.answers = iter(answers)

    def device_of(self, job: BatchJob) -> str | None:
        return "cpu"

    def is_ready(self, number: int) -> bool:
        return True

    def give(self, number: int, order: Order) -> None:
        self.told.append((number, next(self.answers)))

    def stop(self, number: int) -> None: ...

    def listen(self, seconds: float) -> list[tuple[int, Any]]:
        told, self.told = self.told, []
        return told

    def close(self) -> None: ...


def test_a_loop_tries_a_job_once_more_and_says_what_concerns_nobody(tmp_path: Path):
    order = Order(folder=tmp_path, job="a", fingerprint=Fingerprint(settings="", inputs=""), line=JobLine())
    said, ended = [], []
    watch = BatchWatch(say=said.append, on_outcome=lambda worker, outcome: ended.append(outcome.state))
    workers = OneWorker(Gone(how="worker 0 on node died"), Outcome(job="a", state="done"))
    BatchLoop([Queued(order=order, device="cpu")], workers, BatchOptions(), watch).run()
    assert said == ["waiting", "a: worker 0 on node died; the job is tried once more"]
    assert ended == ["stopped", "done"]
