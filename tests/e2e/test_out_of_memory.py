"""A render that runs out of memory: exit code 5, the phase, and a command that continues with less memory; and tiles of
`decode`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2_core.models.transformer import AVBlock
from ltx2_core.pipeline.job import Job
from ltx2_core.pipeline.render import engine
from ltx2_core.pipeline.render.ran_out import ran_out
from ltx2_core.tiles import Cut, TilePlan
from tests.commands import UNGUIDED, ltx2, made_in, rendered

STAGE_2_TOKENS = 2 * 4 * 4
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.fixture
def words(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """The words of a render of two stages, in its own folder."""
    monkeypatch.chdir(tmp_path)
    size = ["--preset", "two-stage", "--res", "128x128", "--frames", 9, "--steps", 2, "--seed", 7, *UNGUIDED]
    return lambda *more: ["t2v", "a bell rings", "--model", tiny, *size, *more]


def hinted(stderr: str) -> list[str]:
    """The words of the command at the end of an error."""
    program, *others = shlex.split(stderr.splitlines()[-1].removeprefix("hint: "))
    assert program == "ltx2"
    return others


def runs_out(error: Exception, what: list[object]) -> str:
    """The message of a render whose second stage runs out of memory."""
    plain = AVBlock.forward

    def forward(self: AVBlock, hidden: Any, *others: Any, **more: Any) -> Any:
        if hidden.video.shape[-2] == STAGE_2_TOKENS:
            raise error
        return plain(self, hidden, *others, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AVBlock, "forward", forward)
        result = ltx2(*what)
    assert (result.exit_code, result.stdout) == (5, ""), result.stderr
    return result.stderr


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "torch on the cpu", "python"])
def test_it_says_the_phase_and_the_mode_that_needs_less_and_keeps_finished_stages(
    error: Exception, words: Callable[..., list[object]]
) -> None:
    told = runs_out(error, words("--memory", "resident", "-o", "a.mp4"))
    assert "error: memory ran out while denoising, stage 2 of 2" in told
    assert hinted(told) == ["resume", "a.mp4.job", "--memory", "streamed"]
    assert Job.open(Path("a.mp4.job")).finished_stages == 1


def test_a_convolution_that_finds_no_kernel_within_the_memory_counts_as_well() -> None:
    assert ran_out(RuntimeError("GET was unable to find an engine to execute this computation"))
    assert not ran_out(RuntimeError("The size of tensor a (4) must match the size of tensor b (3)"))


def test_hints_lead_to_the_leanest_mode_which_gives_what_it_gives_undisturbed(
    words: Callable[..., list[object]],
) -> None:
    told = runs_out(ERRORS[0], words("--memory", "resident", "-o", "a.mp4"))
    told = runs_out(ERRORS[0], hinted(told))
    assert hinted(told) == ["resume", "a.mp4.job", "--memory", "lean"]
    told = runs_out(ERRORS[0], hinted(told))
    assert "hint: a smaller --res, or a shorter --duration" in told
    assert Job.open(Path("a.mp4.job")).task.machine.memory == "resident"  # settings of an attempt are not stored
    whole = rendered("resume", "a.mp4.job", "--memory", "lean")
    assert whole.read_bytes() == rendered(*words("--memory", "lean", "-o", "b.mp4")).read_bytes()


def test_decoding_that_runs_out_goes_on_with_smaller_tiles(
    words: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode_video(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine, "decode_video", decode_video)
        result = ltx2(*words("-o", "a.mp4"))
    assert result.exit_code == 5
    assert "memory ran out while decoding and encoding" in result.stderr
    assert hinted(result.stderr) == ["decode", "a.mp4.job", "--tiles", "16x64x64"]
    assert rendered(*hinted(result.stderr)).name == "a.mp4"


@pytest.fixture
def finished(words: Callable[..., list[object]]) -> Path:
    """A render with stored latents."""
    rendered(*words("-o", "a.mp4", "--keep-latents"))
    return Path("a.mp4.job")


def test_tiles_of_a_decode_are_the_ones_that_were_asked_for_and_stand_in_the_recipe(finished: Path) -> None:
    def plan(tiles: str) -> TilePlan:
        path = rendered("decode", finished, "--tiles", tiles, "-o", f"{tiles}.mp4")
        return made_in(path).machine.decode_tiles

    before = Job.open(finished).task.machine.decode_tiles
    assert plan("auto") == before
    assert plan("off") == TilePlan()
    assert plan("16x64x96") == TilePlan(frames=Cut(16, 8), height=Cut(64, 32), width=Cut(96, 32))
    assert Job.open(finished).task.machine.decode_tiles == before


@pytest.mark.parametrize(
    ("tiles", "why"),
    [
        ("40", "it is off, auto, or frames, height and width of a tile"),
        ("16x64x70", "both must be multiples of 32"),
        ("8x64x64", "the tile at least 16"),
    ],
)
def test_tiles_that_cannot_be_made_are_refused(tiles: str, why: str, finished: Path) -> None:
    result = ltx2("decode", finished, "--tiles", tiles, "-o", "b.mp4")
    assert result.exit_code == 2
    assert why in result.stderr
