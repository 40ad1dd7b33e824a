"""Settings that depend on the machine: determined without torch, stored with the request, and never left open."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx2_core import machine as records
from ltx2_core.cards import Card, TorchBuild
from ltx2_core.errors import RequestError
from ltx2_core.machine import Machine, cpu_threads, ram_bytes
from ltx2_core.pipeline.resolve import machine, plan
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
CARD = Card(name="a card", nbytes=24 * 2**30, capability=(8, 9))


def settled(tiny: Path, **flags: object) -> Machine:
    given = {"model": str(tiny), "output": f"{tiny}/none.mp4", "res": "128x128", "frames": 9}
    return resolve("t2v", "a bell rings", [(COMMAND_LINE, given | flags)]).task.machine


def show(monkeypatch: pytest.MonkeyPatch, *cards: Card, is_cuda_build: bool = True, has_mps: bool = False) -> None:
    """A machine with these GPUs."""
    monkeypatch.setattr(machine, "find_card", lambda number: cards[number] if number < len(cards) else None)
    monkeypatch.setattr(machine, "has_cuda_build", lambda: is_cuda_build)
    monkeypatch.setattr(machine, "has_mps", lambda: has_mps)


@pytest.mark.parametrize(
    ("asked", "cards", "has_mps", "name"),
    [
        ("auto", (CARD,), False, "cuda:0"),
        ("cuda", (CARD,), False, "cuda:0"),
        ("cuda:1", (CARD, CARD), False, "cuda:1"),
        ("cpu", (CARD,), False, "cpu"),
        ("auto", (), False, "cpu"),
        ("auto", (), True, "mps"),
        ("mps", (), True, "mps"),
        ("cpu", (), True, "cpu"),
    ],
)
def test_device_is_the_best_that_there_is_unless_one_is_named(
    asked: str, cards: tuple[Card, ...], has_mps: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(monkeypatch, *cards, has_mps=has_mps)
    assert machine.choose_device(asked).name == name


@pytest.mark.parametrize(
    ("asked", "is_cuda_build", "why"),
    [
        ("cuda", True, "the driver shows no NVIDIA card"),
        ("cuda:3", True, "no NVIDIA card with the number 3"),
        ("cuda", False, "a build for the CPU only"),
        ("mps", True, "Apple silicon"),
    ],
)
def test_device_that_is_not_there_is_refused_with_the_reason(
    asked: str, is_cuda_build: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(monkeypatch, is_cuda_build=is_cuda_build)
    with pytest.raises(RequestError, match=f"--device {asked} cannot be used\n.*{why}.*\nhint: --device cpu"):
        machine.choose_device(asked)


def test_a_build_for_rocm_misses_a_card_of_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch)
    monkeypatch.setattr(machine, "torch_build", lambda: TorchBuild("2.13.0+rocm7.1", hip="7.1"))
    with pytest.raises(RequestError, match="the driver shows no AMD card"):
        machine.choose_device("cuda")


def test_nothing_is_left_open(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, CARD)
    assert (settled(tiny).device, settled(tiny).precision) == ("cuda:0", "bf16")
    assert (settled(tiny, device="cpu").device, settled(tiny, device="cpu").precision) == ("cpu", "fp32")
    assert settled(tiny, precision="fp32").precision == "fp32"


def test_weights_may_fill_a_part_of_the_total_memory_of_the_card(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, CARD)
    assert 0 < settled(tiny).kept_bytes < CARD.nbytes
    monkeypatch.setattr(machine, "ram_bytes", lambda: 8 * 2**30)
    assert 0 < settled(tiny, device="cpu").kept_bytes < 8 * 2**30


def test_a_card_streams_a_transformer_that_it_cannot_hold(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, CARD)
    assert settled(tiny).memory == "resident"
    assert settled(tiny, memory="lean").memory == "lean"
    free = limits = 10**10
    seen = set()
    monkeypatch.setattr(plan, "class_bytes", lambda device: limits)
    monkeypatch.setattr(plan, "free_bytes", lambda device: free)
    while limits > 10**6:
        limits = limits * 6 // 10
        seen.add(settled(tiny).memory)
    assert seen >= {"resident", "lean"}  # streaming saves little, because there are so few blocks
    assert settled(tiny, device="cpu").memory == "lean"


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("2,4", 2), (" 5 ", 5)])
def test_threads_are_those_that_openmp_is_told(asked: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert cpu_threads() == threads


@pytest.mark.parametrize("asked", [None, "", "0", "many"])
def test_threads_are_else_the_cpus_of_this_process(asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(records.os, "sched_getaffinity", lambda process: {1, 4, 7}, raising=False)
    assert cpu_threads() == 3


def test_memory_of_a_container_is_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(records, "CGROUP_LIMITS", (limit, tmp_path / "none"))
    whole = ram_bytes()
    limit.write_text("max\n")
    assert ram_bytes() == whole
    limit.write_text("1000000\n")
    assert ram_bytes() == 1_000_000
