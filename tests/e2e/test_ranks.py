"""`--ranks`: several processes render the same clip as one process, end together, and leave no partial files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import product
from multiprocessing import active_children
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

import ltx2_core as core
from ltx2_core.cards import Card
from ltx2_core.parallel import Ranks
from ltx2_core.pipeline.events import Event, StepDone, Watch
from ltx2_core.pipeline.job import Job
from ltx2_core.pipeline.render import launch
from ltx2_core.pipeline.render.follow import follow
from ltx2_core.pipeline.request import RenderTask
from ltx2_core.pipeline.resolve import machine
from ltx2_core.pipeline.resolve.plan import GIB, Row
from ltx2_core.pipeline.windows import windows_of
from ltx2_core.tiles import Cut, TilePlan
from scripts import tiny_versions
from scripts.make_tiny_checkpoint import make_tiny_checkpoint
from tests.commands import ROOT, UNGUIDED, ltx2, made_in, rendered
from tests.ranks import on_ranks
from tests.synthetic_media import RATE_HZ, tone, write_sound, write_video
from tests.tolerances import RANKS

STYLE = "ltx-2-tiny-lora-style.safetensors"
TWO_STAGES = {"preset": "two-stage", "res": "128x128"}
PLAIN = {f"{stream}_{name}": 1 - (name == "stg") for stream in ("video", "audio") for name in ("st", "sm", "stg")}
CHAIN = {**PLAIN, "frames": None, "until": "1s", "window": "0.71s"}  # 25 frames in two windows of 17
CASES: dict[str, dict[str, Any]] = {
    "guided": {},
    "one pass": PLAIN,
    "kept audio": {"mode": "a2v"},
    "given images": {**PLAIN, "mode": "i2v", "image": "IMAGE@last:0.5"},
    "kept video": {"mode": "v2a"},
    "restyled": {**PLAIN, "mode": "v2v", "strength": 0.5, "preset": "restyle-guided"},
    "two stages": TWO_STAGES,
    "chain": CHAIN,
    "chain whose first windows are given": {**CHAIN, "mode": "v2v", "until": "1.71s"},
    "lora": {"lora": STYLE},
    "streamed": {**PLAIN, "memory": "streamed", "lora": STYLE},
    "lean": {"memory": "lean"},
    "tiled stage": {**TWO_STAGES, "res": "640x192", "tiles": "2x1"},
}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "TIMEOUT_S", 60.0)


def settled(model: Path | str, target: Path, ranks: int = 1, **flags: Any) -> core.Resolved:
    """A small clip with an uneven number of tokens."""
    given = {"model": str(model), "output": str(target), "res": "96x160", "frames": 9, "seed": 7, "keep_latents": True}
    mode, main = flags.pop("mode", "t2v"), flags.pop("main", None)
    if "lora" in flags:
        flags["lora"] = f"{Path(model) / flags['lora']}:0.7"
    gathered = core.gather({**given, "steps": 2, "ranks": ranks, **flags})
    return core.resolve(mode, "a bell rings", gathered.layers, main=main)


def given_to(flags: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The input of a mode, and its images."""
    found: dict[str, Any] = {}
    if flags.get("mode") == "a2v":
        found["main"] = write_sound(folder / "tone.wav", samples=tone(RATE_HZ // 2))
    if flags.get("mode") in ("v2v", "v2a"):
        sound, frames = ("aac", 25) if "until" in flags else (None, 9)
        found["main"] = write_video(folder / "clip.mp4", frames=frames, fps=Fraction(24), size=(160, 96), sound=sound)
    if flags.get("mode") == "i2v":
        found["main"] = folder / "still.png"
        Image.linear_gradient("L").resize((160, 96)).convert("RGB").save(found["main"])
        found["image"] = flags["image"].replace("IMAGE", str(found["main"]))
    return found


def difference(one: Path, other: Path) -> float:
    """The largest difference between any latents of two renders, relative to the largest value of each latent."""
    found = sorted(path.name for path in Job.open(one).folder.glob("*.safetensors"))
    assert found == sorted(path.name for path in Job.open(other).folder.glob("*.safetensors"))
    pairs = [(load_file(Job.open(one).folder / name), load_file(Job.open(other).folder / name)) for name in found]
    assert all((a["generator"] == b["generator"]).all() for a, b in pairs)
    return max(
        ((a[name] - b[name]).abs().max() / a[name].abs().max()).item()
        for a, b in pairs
        for name in a.keys() - {"generator"}
    )


def part(ranks: Ranks, resolved: core.Resolved) -> None:
    """The work of a rank in a render."""
    if ranks.is_first:
        core.run(resolved, ranks=ranks)
        ranks.from_first()
    else:
        follow(ranks)


def test_two_ranks_render_two_stages_to_what_one_renders(tiny: Path, tmp_path: Path) -> None:
    """The ranks share the passes in the first stage, and the video tokens in the second."""
    words = ("t2v", "a bell rings", "--model", tiny, "--preset", "two-stage", "--res", "128x128", "--frames", 9)
    words = (*words, "--steps", 2, "--seed", 7, "--keep-latents")
    alone = rendered(*words, "-o", tmp_path / "alone.mp4")
    both = rendered(*words, "--ranks", 2, "-o", tmp_path / "both.mp4")
    assert difference(alone, both) <= RANKS
    assert made_in(both).machine.ranks == 2
    assert not active_children()


def test_two_ranks_make_the_windows_of_a_chain_that_one_makes(tiny: Path, tmp_path: Path) -> None:
    alone, shared = (settled(tiny, tmp_path / f"{count}.mp4", count, **CHAIN) for count in (1, 2))
    assert len(windows_of(alone.request)) == 2
    core.run(alone)
    on_ranks(2, part, tmp_path, shared)
    assert difference(tmp_path / "1.mp4", tmp_path / "2.mp4") <= RANKS


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        (["--ranks", 5], "--ranks 5 cannot be used", "--ranks 2 or --ranks 4 or --ranks 8"),
        (["--ranks", 3, *UNGUIDED], "--ranks 3 cannot be used", "--ranks 2 or --ranks 4"),
        (["--ranks", 2, "--compile"], "--ranks 2 cannot be used with --compile", "leave one out"),
        (["--ranks", 2, "--device", "cuda:1"], "--device cuda:1 cannot be used with --ranks", "--gpus names the cards"),
        (["--gpus", "0,1"], "--gpus 0,1 cannot be used with 1 rank", "--ranks 2 renders the clip on all of them"),
        (["--gpus", "0,1", "--ranks", 2, "--device", "cpu"], "cannot be used with --device cpu", "leave one out"),
        (["--gpus", "0"], "--gpus 0 cannot be used", "ltx2 doctor lists the cards"),
        (["--ranks", 0], "--ranks 0 cannot be used", ""),
    ],
)
def test_ranks_that_cannot_share_a_clip_are_refused(words: list[object], what: str, hint: str) -> None:
    result = ltx2("t2v", "a bell rings", "--model", "toy", "--res", "64x64", "--frames", 9, *words)
    assert result.exit_code == 2
    assert what in result.stderr
    assert hint in result.stderr


def test_audio_alone_can_only_share_passes() -> None:
    given = {"model": "toy", "video": "off", "output": "a.wav"}
    layers = core.gather({**given, "ranks": 4}).layers
    with pytest.raises(core.RequestError, match="--ranks 4") as refused:
        core.resolve("t2v", "a bell rings", layers)
    assert "no video tokens to share out" in refused.value.why
    assert core.resolve("t2v", "a bell rings", core.gather({**given, "ranks": 2}).layers).task.machine.ranks == 2


def test_a_batch_refuses_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_RANKS", "2")
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("a bell rings\n")
    result = ltx2("batch", jobs, "--model", "toy", "--plan")
    assert result.exit_code == 2
    assert "--ranks cannot be used in a batch" in result.stderr


def test_cards_are_the_first_ones_or_those_that_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ["H100", "H100", "H100", "L4"]
    cards = [Card(name=name, nbytes=80 * 2**30, capability=(9, 0), free_bytes=79 * 2**30) for name in names]
    monkeypatch.setattr(machine, "find_card", lambda number: cards[number] if number < len(cards) else None)
    monkeypatch.setattr(machine, "has_cuda_build", lambda: True)
    found = settled("toy", tmp_path / "a.mp4", 2).task.machine
    assert (found.device, found.gpus, found.devices) == ("cuda:0", (0, 1), ("cuda:0", "cuda:1"))
    found = settled("toy", tmp_path / "a.mp4", 2, gpus="2,1").task.machine
    assert (found.device, found.gpus) == ("cuda:2", (2, 1))
    with pytest.raises(core.RequestError, match="alike"):
        settled("toy", tmp_path / "a.mp4", 4)
    with pytest.raises(core.RequestError, match="cannot be used here"):
        settled("toy", tmp_path / "a.mp4", 2, gpus="0,9")


def test_a_plan_divides_what_is_divided_and_counts_the_weights_for_each_card() -> None:
    def planned(ranks: int) -> dict[str, Row]:
        layers = core.gather({"model": "ltx-2-distilled", "res": "4k", "duration": "20s", "ranks": ranks}).layers
        return {row.name: row for row in core.plan_render("t2v", "", layers, vram_gb=80).plan.rows}

    alone, shared = planned(1), planned(8)
    assert alone.keys() == shared.keys()
    assert all(row.flops == alone[name].flops for name, row in shared.items())
    whole, divided = ((plan["stage 2"].vram or 0) / GIB for plan in (alone, shared))
    assert whole - 1 > divided > 35  # the transformer on each GPU
    assert shared["text"].vram == alone["text"].vram


@pytest.mark.parametrize(
    "machine",
    [{"ranks": 65}, {"ranks": 0}, {"ranks": 2, "device": "cuda:0"}, {"gpus": (1,)}, {"ranks": 2, "gpus": (0, 1)}],
)
def test_a_job_whose_ranks_have_not_a_card_each_is_refused(machine: dict[str, Any], tmp_path: Path) -> None:
    task = settled("toy", tmp_path / "a.mp4").task
    changed = task.model_copy(update={"machine": replace(task.machine, **machine)})
    with pytest.raises(ValidationError, match="a card each"):
        RenderTask.model_validate_json(changed.model_dump_json(), strict=True)  # as a record is read


def is_for(model: str, count: int, flags: Mapping[str, Any]) -> bool:
    """Whether a case can be rendered: the style LoRA belongs to the tiny model, and the ranks divide the toy's four
    heads.
    """
    shares_heads = flags.get("preset") == "two-stage" or "video_st" in flags  # too few passes for three ranks
    return model == "tiny" or not ("lora" in flags or (count == 3 and shares_heads))


MATRIX = [
    (count, model, case)
    for count, model, case in product((2, 3), ("tiny", "toy"), CASES)
    if is_for(model, count, CASES[case])
]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "model", "case"), MATRIX)
def test_ranks_render_what_one_does(count: int, model: str, case: str, tmp_path: Path, six_heads: Path) -> None:
    flags = dict(CASES[case])
    if model == "toy":
        kept = {"a2v": "audio_sm", "v2a": "video_sm"}.get(flags.get("mode", ""))
        flags = {name: 3 for name in ("video_sm", "audio_sm") if name != kept} | flags  # a third pass
    name = model if model == "toy" else six_heads
    flags |= given_to(flags, tmp_path)
    alone, shared = (settled(name, tmp_path / f"{n}.mp4", n, **flags) for n in (1, count))
    core.run(alone)
    on_ranks(count, part, tmp_path, shared)
    assert difference(tmp_path / "1.mp4", tmp_path / f"{count}.mp4") <= RANKS


@pytest.mark.slow
@pytest.mark.parametrize("form", ["fp8", "int8", "mixed", "gguf-q4_k"])
def test_ranks_render_with_quantised_weights_what_one_does(
    form: str, tiny_in: Callable[[str], Path], tmp_path: Path
) -> None:
    alone, shared = (settled(tiny_in(form), tmp_path / f"{n}.mp4", n, lora=STYLE, **PLAIN) for n in (1, 2))
    core.run(alone)
    on_ranks(2, part, tmp_path, shared)
    assert difference(tmp_path / "1.mp4", tmp_path / "2.mp4") <= RANKS


@pytest.mark.slow
def test_tiles_that_ranks_decode_in_turn_make_the_bytes_of_one(tiny: Path, tmp_path: Path) -> None:
    cut = TilePlan(frames=Cut(16, 8), height=Cut(64, 32), width=Cut(64, 32))

    def in_tiles(ranks: int) -> core.Resolved:
        resolved = settled(tiny, tmp_path / f"{ranks}.mp4", ranks, frames=25, metadata=False)
        machine = replace(resolved.task.machine, decode_tiles=cut)
        return replace(resolved, task=resolved.task.model_copy(update={"machine": machine}))

    core.run(in_tiles(1))
    on_ranks(2, part, tmp_path, in_tiles(2))
    assert (tmp_path / "1.mp4").read_bytes() == (tmp_path / "2.mp4").read_bytes()


@pytest.fixture(scope="session")
def six_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose heads can be divided among two and three ranks."""
    folder = tmp_path_factory.mktemp("six-heads")
    heads = {"num_attention_heads": 6, "cross_attention_dim": 120}
    heads |= {"audio_num_attention_heads": 6, "audio_cross_attention_dim": 60}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in heads.items():
            patch.setitem(tiny_versions.TRANSFORMER, key, value)
        make_tiny_checkpoint(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_all_and_the_render_goes_on_from_its_latents(
    victim: int, tiny: Path, tmp_path: Path
) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, StepDone) and event.phase == "denoise" and (event.done, event.total) == (1, 3):
            ranks = sorted(active_children(), key=lambda child: child.pid or 0)
            os.kill(ranks[victim].pid or 0, signal.SIGKILL)

    target = tmp_path / "killed.mp4"
    resolved = settled(tiny, target, 2, **TWO_STAGES)
    with pytest.raises(core.LTX2Error, match=f"rank {victim} of 2 ended with signal 9") as died:
        core.run(resolved, Watch(on_event=kill))
    assert died.value.exit_code == 128 + signal.SIGKILL
    assert died.value.hint == resolved.resume_command
    assert not active_children()
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["killed.mp4.job"]
    assert (tmp_path / "killed.mp4.job" / "latents-1.safetensors").exists()
    assert rendered("resume", tmp_path / "killed.mp4.job") == target
    core.run(settled(tiny, tmp_path / "whole.mp4", 2, **TWO_STAGES))
    assert difference(target, tmp_path / "whole.mp4") == 0


@pytest.mark.slow
def test_a_stop_is_kept_after_its_step_and_goes_on(tiny: Path, tmp_path: Path) -> None:
    done: list[StepDone] = []
    watch = Watch(
        on_event=lambda event: done.append(event) if isinstance(event, StepDone) and event.phase == "denoise" else None,
        should_stop=lambda: bool(done),
    )
    target = tmp_path / "stopped.mp4"
    resolved = settled(tiny, target, 2, steps=20)
    with pytest.raises(core.Interrupted, match="after step") as stopped:
        core.run(resolved, watch)
    assert stopped.value.command == resolved.resume_command
    assert not active_children()
    assert not target.exists()
    assert (tmp_path / "stopped.mp4.job" / "stopped-1.safetensors").exists()
    assert rendered("resume", tmp_path / "stopped.mp4.job") == target
    core.run(settled(tiny, tmp_path / "whole.mp4", 2, steps=20))
    assert difference(target, tmp_path / "whole.mp4") == 0


@pytest.mark.slow
def test_a_rerun_takes_as_many_ranks_to_the_same_bytes(tmp_path: Path) -> None:
    words = ("t2v", "a bell rings", "--model", "toy", "--res", "64x64", "--frames", 9, "--steps", 2, "--seed", 7)
    first = rendered(*words, "--ranks", 2, "-o", tmp_path / "first.mp4")
    assert rendered("rerun", first, "-o", tmp_path / "again.mp4").read_bytes() == first.read_bytes()


def test_a_fault_of_a_rank_reaches_the_one_that_waits(tmp_path: Path) -> None:
    """Errors for the user arrive unchanged, other errors with their traceback."""
    hearing = launch.Hearing(launch.Launcher(2, tmp_path, ()), [], [], Watch())
    lost = launch.Failed(launch.PeerLostError("connection closed"), "")
    hearing.failures = [lost, launch.Failed(core.StorageError("the disk is full", "no space left"), "")]
    with pytest.raises(core.StorageError, match="the disk is full"):
        hearing.outcome("ltx2 resume a.mp4.job")
    hearing.failures = [lost, launch.Failed(ValueError("odd"), "in line 7")]
    with pytest.raises(ValueError, match="odd") as fault:
        hearing.outcome("ltx2 resume a.mp4.job")
    assert "in line 7" in str(fault.value.__cause__)


@contextmanager
def begun(model: Path, target: Path) -> Iterator[tuple[subprocess.Popen[str], list[Path]]]:
    """A long render of the real command, in its own process group, after its first step, and the /proc folders of its
    ranks.
    """
    words = ("t2v", "a bell rings", "--model", model, "--res", "96x160", "--frames", 9, "--steps", 500, "--ranks", 2)
    with subprocess.Popen(
        [sys.executable, "-m", "ltx2_cli", *map(str, words), "-o", str(target), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={"PYTHONPATH": str(ROOT), "LTX2_HOME": os.environ["LTX2_HOME"], "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            assert any('"step"' in line and '"denoise"' in line for line in process.stdout)
            threads = Path(f"/proc/{process.pid}/task").glob("*/children")
            children = [Path("/proc", pid) for file in threads for pid in file.read_text().split()]
            ranks = [child for child in children if b"spawn_main" in (child / "cmdline").read_bytes()]
            assert len(ranks) == 2
            yield process, ranks
        finally:
            process.kill()


@pytest.mark.slow
def test_ranks_end_with_the_command_that_is_killed(tiny: Path, tmp_path: Path) -> None:
    with begun(tiny, tmp_path / "a.mp4") as (process, ranks):
        process.kill()
        process.communicate(timeout=30)
    end = monotonic() + 30
    while any(rank.exists() for rank in ranks) and monotonic() < end:
        sleep(0.1)
    assert not [rank for rank in ranks if rank.exists()]
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_stops_the_render_after_its_step(
    asked: signal.Signals, code: int, tiny: Path, tmp_path: Path
) -> None:
    with begun(tiny, tmp_path / "a.mp4") as (process, ranks):
        os.killpg(process.pid, asked)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
    assert "; the latents are kept" in output
    assert "ltx2 resume" in output
    assert (tmp_path / "a.mp4.job" / "stopped-1.safetensors").exists()
    assert not [rank for rank in ranks if rank.exists()]
