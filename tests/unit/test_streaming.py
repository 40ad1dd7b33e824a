"""Blocks that are loaded one after another: their content, the memory that they take, and damaged files."""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2_core import streaming
from ltx2_core.checkpoint import assign_streamed, build_component, load_component
from ltx2_core.costs.weights import block_bytes
from ltx2_core.errors import StorageError
from ltx2_core.headers import read_header
from ltx2_core.log import warn_once
from ltx2_core.streaming import SLOTS, StreamedBlocks, pinnable_bytes

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
CPU = torch.device("cpu")


def streamed(file: Path, dtype: torch.dtype = torch.float32, resident: int = 0, device: torch.device = CPU) -> Any:
    header = read_header(file)
    module = build_component("transformer", header)
    return assign_streamed(module, "transformer", [header], device=device, dtype=dtype, resident=resident)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("resident", [0, 1, 100])
def test_every_block_has_its_weights_while_it_is_visited_and_none_afterwards(
    tiny: Path, dtype: torch.dtype, resident: int
) -> None:
    whole = load_component("transformer", tiny / CHECKPOINT, dtype=dtype)
    model = streamed(tiny / CHECKPOINT, dtype, resident)
    for _ in range(2):
        for block, expected in zip(model.blocks, whole.get_submodule("blocks"), strict=True):
            state = expected.state_dict()
            assert block.state_dict().keys() == state.keys()
            assert all(x.equal(state[name]) and x.dtype == dtype for name, x in block.state_dict().items())
        assert [i for i, block in enumerate(model.blocks.children()) if not next(block.parameters()).is_meta] == list(
            range(min(resident, len(model.blocks)))
        )


@pytest.mark.parametrize("resident", [0, 1])
def test_memory_of_a_device_is_filled_in_inference_mode(tiny: Path, resident: int) -> None:
    """The reader is a separate thread, which does not inherit inference mode."""
    with torch.inference_mode():
        model = streamed(tiny / CHECKPOINT, resident=resident, device=torch.device("meta"))
        visited = [{name: x.shape for name, x in block.state_dict().items()} for block in model.blocks]
    assert visited == [{name: x.tensor.shape for name, x in source.items()} for source in model.blocks.sources]


def test_block_that_stays_arrives_once(tiny: Path) -> None:
    model = streamed(tiny / CHECKPOINT, resident=1)
    arrived: list[int] = []
    model.blocks.arrived = arrived.append
    for _ in range(2):
        list(model.blocks)
    numbers = [*range(len(model.blocks))]
    assert arrived == numbers + numbers[1:]
    model.blocks.let_go()
    list(model.blocks)
    assert arrived[-len(numbers) :] == numbers


@pytest.mark.parametrize("precision", ["bf16", "fp8", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_takes_as_many_bytes_as_are_counted(
    precision: str, dtype: torch.dtype, tiny_in: Callable[[str], Path]
) -> None:
    (file,) = tiny_in(precision).glob("ltx-2-tiny-dev*")
    model = streamed(file, dtype, resident=1)
    sizes = block_bytes(read_header(file), "transformer", dtype.itemsize)
    list(model.blocks)
    assert sizes.blocks == tuple(streaming._block_bytes(block) for block in model.blocks.sources)
    assert {slot.memory.nbytes for slot in model.blocks._slots} == {max(sizes.blocks[1:])}
    outside = [x for name, x in model.state_dict().items() if not name.startswith("blocks.")]
    assert sizes.outside == sum(x.nbytes for x in outside)


def test_no_more_than_two_blocks_are_alive(tiny: Path) -> None:
    model = streamed(tiny / CHECKPOINT)
    blocks: StreamedBlocks = model.blocks
    places = {next(iter(block.state_dict().values())).untyped_storage().data_ptr() for block in blocks}
    assert len(blocks) > SLOTS == len(places)


def test_a_model_that_is_emptied_lets_go_of_what_it_has_loaded(tiny: Path) -> None:
    model = streamed(tiny / CHECKPOINT, resident=1)
    list(model.blocks)
    slots = [weakref.ref(slot) for slot in model.blocks._slots]
    assert len(slots) == SLOTS
    model.to("meta")
    assert all(slot() is None for slot in slots)
    assert len(list(model.blocks)) == len(model.blocks)  # the second iteration loads the blocks again


def test_file_that_was_cut_off_meanwhile_is_an_error_and_ends_the_reader(tiny: Path, tmp_path: Path) -> None:
    file = shutil.copy(tiny / CHECKPOINT, tmp_path / CHECKPOINT)
    model = streamed(file)
    list(model.blocks)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(StorageError, match="has changed since it was checked") as caught:
        list(model.blocks)
    assert caught.value.exit_code == 7
    assert not [thread for thread in threading.enumerate() if thread.name == "weights"]


def test_walk_that_is_left_early_ends_the_reader(tiny: Path) -> None:
    model = streamed(tiny / CHECKPOINT)
    walk = iter(model.blocks)
    next(walk)
    walk.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "weights"]
    assert len(list(model.blocks)) == len(model.blocks)


def test_error_in_a_walk_ends_the_reader_as_soon_as_the_model_is_emptied(tiny: Path) -> None:
    model = streamed(tiny / CHECKPOINT)

    def broken() -> None:
        for _ in model.blocks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        broken()
    assert caught.tb is not None  # the traceback keeps the iterator alive
    model.to("meta")
    assert not [thread for thread in threading.enumerate() if thread.name == "weights"]
    assert all(x.is_meta for x in model.blocks.state_dict().values())


def test_next_walk_ends_one_that_was_not_finished(tiny: Path) -> None:
    model = streamed(tiny / CHECKPOINT)
    walk = iter(model.blocks)
    next(walk)
    assert len(list(model.blocks)) == len(model.blocks)
    assert list(walk) == []


GB = 1_000_000_000


@pytest.mark.parametrize(
    ("ram", "container", "used", "kernel", "expected"),
    [
        (64 * GB, None, 9 * GB, "Linux version 6.8", 32 * GB),
        (64 * GB, None, 9 * GB, "Linux version 5.15-microsoft-standard-WSL2", 16 * GB),
        (20 * GB, 20 * GB, 9 * GB, "Linux version 6.8", 7 * GB),
        (20 * GB, 20 * GB, 18 * GB, "Linux version 6.8", 0),
    ],
)
def test_memory_that_may_be_pinned(
    ram: int, container: int | None, used: int, kernel: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"ram_bytes": ram, "container_bytes": container, "_used_bytes": used, "_kernel": kernel}
    for name, value in found.items():
        monkeypatch.setattr(streaming, name, lambda value=value: value)
    assert pinnable_bytes() == expected


def test_memory_that_cannot_be_pinned_is_pageable_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_more(*_: Any, **options: Any) -> torch.Tensor:
        if options.get("pin_memory"):
            raise RuntimeError("CUDA error: out of memory")
        return torch.zeros(1)

    warn_once.cache_clear()
    monkeypatch.setattr(streaming.torch, "empty", no_more)
    for _ in range(SLOTS):
        streaming._host_memory(1000, pinned=True)
    assert [record.message for record in caplog.records] == [
        "weights are loaded through pageable memory, which is slower"
    ]
