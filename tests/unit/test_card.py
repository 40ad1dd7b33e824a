"""The simulated GPU: it notices errors that a real GPU would reveal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.card import OnCard, State, Stream, card_of


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    with torch.inference_mode(), card_of(monkeypatch) as card:
        yield card


def test_what_is_computed_there_is_what_the_cpu_computes(card: State) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    there = x.to("cuda")
    made = (there @ there.mT + torch.tensor([1.0, 2.0], device="cuda"))[:, 1:]
    assert isinstance(made, OnCard)
    assert made.device == torch.device("cuda:0")
    assert made.cpu().equal((x @ x.mT + torch.tensor([1.0, 2.0]))[:, 1:])


def test_tensors_of_two_places_are_refused(card: State) -> None:
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    for mixed in (lambda: there + here, lambda: there[torch.tensor([0, 1])], lambda: here.mul_(there)):
        with pytest.raises(RuntimeError, match="mixes the CPU and the card"):
            mixed()
    with pytest.raises((RuntimeError, TypeError), match="numpy"):
        there.numpy()
    assert (there + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]  # a single number may come from any device


def test_what_cards_lack_is_refused(card: State) -> None:
    codes = torch.ones(3, 3, dtype=torch.int8, device="cuda")
    with pytest.raises(NotImplementedError, match="of integers"):
        codes @ codes
    with pytest.raises(NotImplementedError, match="of fp8"):
        codes.to(torch.float8_e4m3fn) + 1


def test_copies_come_as_late_as_they_may(card: State) -> None:
    memory, host, stream = torch.zeros(3, device="cuda"), torch.ones(3), torch.cuda.Stream()
    ready, filled = torch.cuda.Event(), torch.cuda.Event()
    ready.record()
    with torch.cuda.stream(stream):
        stream.wait_event(ready)
        memory.copy_(host, non_blocking=True)
        filled.record(stream)
    assert memory.cpu().tolist() == [0, 0, 0]
    torch.cuda.current_stream().wait_event(filled)
    assert memory.cpu().tolist() == [1, 1, 1]


def test_memory_that_is_in_use_is_not_overwritten(card: State) -> None:
    memory, stream = torch.zeros(3, device="cuda"), Stream()
    with torch.cuda.stream(stream), pytest.raises(AssertionError, match="may still be in use"):  # pyright: ignore
        memory.copy_(torch.ones(3), non_blocking=True)
