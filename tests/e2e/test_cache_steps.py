"""`--cache-steps` through the real command line: what it skips, that the result is reproducible, and what is
refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ltx2_core.models.block_cache import BlockCache
from ltx2_core.pipeline.render import stages
from ltx2_core.streaming import StreamedBlocks
from tests.commands import UNGUIDED, ltx2, rendered

pytestmark = pytest.mark.usefixtures("kept_models")
SMALL = ("--res", "64x64", "--frames", 9, "--steps", 6, "--seed", 3)


def test_only_what_changes_within_the_bound_is_skipped(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("t2v", "a bell", "--model", tiny, *SMALL, "--no-metadata")
    plain = rendered(*words, "-o", tmp_path / "a.mp4")
    told = ltx2(*words, "-o", tmp_path / "b.mp4", "--cache-steps", "1e-9", "-v").stderr
    assert "0 of 6 evaluations skipped all blocks but the first" in told
    assert (tmp_path / "b.mp4").read_bytes() == plain.read_bytes()
    monkeypatch.setattr(BlockCache, "is_close", lambda *_: True)
    told = ltx2(*words, "-o", tmp_path / "c.mp4", "--cache-steps", 1, "-v").stderr
    assert "5 of 6 evaluations skipped all blocks but the first" in told
    assert (tmp_path / "c.mp4").read_bytes() != plain.read_bytes()


def test_blocks_that_are_skipped_are_not_read_and_a_recipe_repeats(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    usual = StreamedBlocks._loaded

    def noted(self: StreamedBlocks, number: int, tensors: Any) -> Any:
        if hasattr(self[number], "exchange"):  # a block of the denoiser
            read.append(number)
        return usual(self, number, tensors)

    monkeypatch.setattr(BlockCache, "is_close", lambda *_: True)
    words = ("t2v", "a bell", "--model", tiny, *SMALL, "--cache-steps", 1)
    one = rendered(*words, "-o", tmp_path / "a.mp4", "--memory", "resident")
    again = rendered("rerun", one, "-o", tmp_path / "b.mp4")
    assert again.read_bytes() == one.read_bytes()
    plain = ("--no-metadata", "--overwrite")
    one = rendered(*words, *plain, "-o", tmp_path / "a.mp4", "--memory", "resident")
    ltx2("t2v", "a bell", "--model", tiny, *SMALL, "-o", tmp_path / "c.mp4", "--memory", "streamed")  # encodes the text
    monkeypatch.setattr(StreamedBlocks, "_loaded", noted)
    other = rendered(*words, *plain, "-o", tmp_path / "b.mp4", "--memory", "streamed")
    assert other.read_bytes() == one.read_bytes()
    texts = 2  # two prompts, whose keys and values are computed in separate passes over the blocks
    assert [read.count(number) for number in range(4)] == [texts + 6, texts + 1, texts + 1, texts + 1]


def test_a_stop_waits_for_an_evaluation_that_needs_no_cache(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockCache, "is_close", lambda self, _: self.evaluations % 3 != 1)  # computes every third step
    words = ("t2v", "a bell", "--model", tiny, *SMALL, *UNGUIDED, "--cache-steps", 0.1)
    plain = rendered(*words, "-o", tmp_path / "a.mp4")
    usual, asked = stages.StageRun._guarded, []

    def stopping(self: stages.StageRun, denoise: Any, watch: stages.Watch, done: int, total: int) -> Any:
        stop = stages.Watch(on_event=watch.on_event, should_stop=lambda: bool(asked.append(1) or True))
        return usual(self, denoise, stop, done, total)

    with monkeypatch.context() as patch:
        patch.setattr(stages.StageRun, "_guarded", stopping)
        stopped = ltx2(*words, "-o", tmp_path / "b.mp4")
    assert stopped.exit_code == 130
    assert "stopped after step 3 of 6" in stopped.stderr
    assert len(asked) == 3  # the decisions before the steps 2, 3 and 4
    assert ltx2("resume", tmp_path / "b.mp4.job").exit_code == 0
    assert (tmp_path / "b.mp4").read_bytes() == plain.read_bytes()


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--ranks", 2), "ranks would have to agree on each evaluation"),
        (("--attention", "b.mp4"), "skipped blocks compute no attention"),
        (("--preset", "distilled-one-stage"), "has no guidance"),
        (("--cache-steps", 2), "it must be at most 1"),
    ],
)
def test_what_cannot_be_skipped_is_refused(
    flags: tuple[object, ...], why: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = ltx2("t2v", "a bell", "--model", tiny, "-o", "a.mp4", "--cache-steps", 0.1, *flags)
    assert result.exit_code == 2
    assert why in result.stderr


def test_a_plan_counts_what_is_kept(tmp_path: Path) -> None:
    def peak(*words: object) -> int:
        size = ("--res", "768x512", "--frames", 121, "--vram", 80)
        told = ltx2("plan", "t2v", "a bell", "--model", "ltx-2", *size, "--json", *words).stdout.splitlines()
        (plan,) = (one for one in map(json.loads, told) if one.get("title") == "plan")
        return next(row["vram"] for row in plan["phases"] if row["kind"] == "denoise")

    tokens, audio = 16 * 16 * 24, 126  # for 121 frames at 768x512
    kept = 3 * 3 * 2 * (4096 * tokens + 2048 * audio)  # three passes through the first block; one follows later
    assert peak("--cache-steps", 0.1) - peak() == pytest.approx(kept, rel=0.01)
    attention = peak("--attention", tmp_path / "b.mp4") - peak()
    assert attention == pytest.approx(4 * tokens * audio, rel=0.01)
