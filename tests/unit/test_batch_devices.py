"""Which devices get a worker in a batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ltx2_core.errors import RequestError
from ltx2_core.pipeline.batch import local
from ltx2_core.pipeline.batch.jobs import BatchJob
from ltx2_core.pipeline.resolve.machine import Device


def job(found: str, **settings: Any) -> BatchJob:
    """A job with some settings, and the device that was selected for it."""
    resolved = SimpleNamespace(task=SimpleNamespace(machine=SimpleNamespace(device=found)))
    return cast(BatchJob, SimpleNamespace(resolved=resolved, line=SimpleNamespace(settings=settings)))


@pytest.fixture(autouse=True)
def _three_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "devices", lambda: [*(Device(f"cuda:{number}") for number in range(3)), Device("cpu")])


def test_every_card_gets_a_worker_unless_jobs_name_theirs():
    assert local.devices_for([job("cuda:0")], None) == ["cuda:0", "cuda:1", "cuda:2"]
    assert local.devices_for([job("cuda:0", device="cuda")], (2, 0)) == ["cuda:2", "cuda:0"]
    assert local.devices_for([job("cuda:0", device="cuda:0")], None) == ["cuda:0"]
    assert local.devices_for([job("cuda:1", device="cuda:1"), job("cpu")], None) == ["cpu", "cuda:1"]
    assert local.devices_for([job("cuda:0"), job("cpu")], (1,)) == ["cuda:1", "cpu"]
    assert local.devices_for([job("cpu")], None) == ["cpu"]
    assert local.devices_for([], None) == []


@pytest.mark.parametrize(
    ("device", "gpus", "why"),
    [("cuda:0", (0, 7), "this machine has no card 7 that torch can use"), ("cpu", (0,), "every job names a device")],
)
def test_cards_that_are_not_there_or_not_used_are_refused(device: str, gpus: tuple[int, ...], why: str):
    with pytest.raises(RequestError) as failure:
        local.devices_for([job(device)], gpus)
    assert why in failure.value.why
