"""Reading the next weights during a computation: which bytes, how many, and when it ends."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from ltx2_core import read_ahead
from ltx2_core.components import COMPONENTS
from ltx2_core.headers import read_header
from ltx2_core.pipeline.render import models
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from ltx2_core.read_ahead import PIECE, Part, parts_of, reading_ahead
from tests.commands import UNGUIDED, rendered

Advised = list[tuple[int, int]]


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> Advised:
    """The offsets and lengths that are requested from the system; enough memory is free."""
    found: Advised = []
    monkeypatch.setattr(read_ahead, "_advise", lambda: lambda file, offset, length: found.append((offset, length)))
    monkeypatch.setattr(read_ahead, "available_bytes", lambda: 2**40)
    return found


def readers() -> list[Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


def wait() -> None:
    """Wait until everything has been requested."""
    for thread in readers():
        thread.join()


def test_a_component_is_a_range_or_a_few_of_its_file(tiny: Path) -> None:
    header = read_header(next(tiny.glob("*-tiny-dev*.safetensors")))
    for name in ("transformer", "video_decoder", "vocoder"):
        names = COMPONENTS[name].names_in(header)
        parts = parts_of(header, names)
        assert sum(part.end - part.start for part in parts) == sum(header.tensors[one].nbytes for one in names)
        assert all(first.end < second.start for first, second in itertools.pairwise(parts))
        inside = {one for one, info in header.tensors.items() for part in parts if part.start <= info.start < part.end}
        assert inside == {one for one in names if header.tensors[one].nbytes}


def test_ranges_are_asked_for_piece_by_piece_in_their_order(advised: Advised, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with reading_ahead([Part(tmp_path / "a", 10, 2 * PIECE + 15), Part(tmp_path / "a", 9 * PIECE, 9 * PIECE + 1)]):
        wait()
    assert advised == [(10, PIECE), (10 + PIECE, PIECE), (10 + 2 * PIECE, 5), (9 * PIECE, 1)]


def test_half_of_the_memory_that_is_free_and_not_needed_is_the_most(
    advised: Advised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch()
    part = Part(tmp_path / "a", 0, 100 * PIECE)
    monkeypatch.setattr(read_ahead, "available_bytes", lambda: 20 * PIECE)
    with reading_ahead([part], beside=10 * PIECE):
        wait()
    assert len(advised) == 5
    with reading_ahead([part], beside=20 * PIECE):
        assert readers() == []


def test_it_ends_with_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    begun, count = Event(), 0

    def advise(file: int, offset: int, length: int) -> None:
        nonlocal count
        count += 1
        begun.set()

    monkeypatch.setattr(read_ahead, "_advise", lambda: advise)
    monkeypatch.setattr(read_ahead, "available_bytes", lambda: 2**62)
    with suppress(ValueError), reading_ahead([Part(tmp_path / "a", 0, 2**60)]):
        begun.wait()
        raise ValueError("the work fails")
    assert readers() == []
    assert count < 2**60 // PIECE


def test_a_file_that_cannot_be_read_is_left_to_whoever_needs_it(advised: Advised, tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    with reading_ahead([Part(tmp_path / "a", 0, 9), Part(tmp_path / "b", 0, 9)]):
        wait()
    assert advised == [(0, 9)]


@pytest.mark.parametrize("free", [None, 2**40])
def test_nothing_is_read_where_the_system_has_no_such_call_or_tells_nothing(
    free: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "available_bytes", lambda: free)
    if free:
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
    with reading_ahead([Part(tmp_path / "a", 0, 9)]):
        assert readers() == []


def test_a_render_reads_its_denoiser_behind_the_text_and_its_decoders_behind_the_last_stage(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[Part], int]] = []

    @contextmanager
    def note(parts: list[Part], beside: int) -> Iterator[None]:
        asked.append((parts, beside))
        yield

    monkeypatch.setattr(models, "reading_ahead", note)
    shape = ("--res", "128x128", "--frames", 9, "--preset", "two-stage", "--steps", 2)
    words = ("t2v", "a bell that no other test has rung", "--model", tiny, *shape)
    rendered(*words, *UNGUIDED, "--seed", 1, "-o", tmp_path / "a.mp4")
    header = read_header(next(tiny.glob("*-tiny-dev*.safetensors")))

    def of(*names: str) -> list[Part]:
        return [part for name in names for part in parts_of(header, COMPONENTS[name].names_in(header))]

    assert [parts for parts, _ in asked] == [of("transformer"), [], of("audio_decoder", "vocoder", "video_decoder")]
    assert all(beside > 0 for _, beside in asked)
    asked.clear()
    rendered(*words, "--video-st=1", "--video-stg=0", "--seed", 1, "--sound", "off", "-o", tmp_path / "b.mp4")
    assert [parts for parts, _ in asked] == [[], of("video_decoder")], "the text was known"


def test_what_is_loaded_already_is_not_read_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Part]] = []
    monkeypatch.setattr(models, "reading_ahead", lambda parts, beside: asked.append(parts) or nullcontext())
    given = {"model": str(tiny), "res": "128x128", "frames": 9, "seed": 1}
    task = resolve("t2v", "a bell rings", [(COMMAND_LINE, given)]).task
    loaded = models.Models(task.files, task.machine)
    with loaded.component("audio_decoder"), loaded.component("vocoder", torch.float32):
        loaded.ahead_of_decoders(task.request)
        loaded.ahead_of_decoders(None)
    header = loaded.headers.header("video_decoder")
    assert asked == [parts_of(header, COMPONENTS["video_decoder"].names_in(header)), []]
    loaded.clear()
