"""`--until`: clips in windows, through the real command line on tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ltx2_core.costs.host import MOST_WAITING_BYTES
from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import read_audio
from ltx2_core.media.inputs import AudioSource
from ltx2_core.media.probe import probe
from ltx2_core.pipeline.job import Job
from ltx2_core.pipeline.render.seams import first_new_step
from ltx2_core.pipeline.render.stages import StageRun
from ltx2_core.pipeline.windows import runs_of, windows_of
from tests.commands import UNGUIDED, VIDEO_UNGUIDED, ltx2, refused, rendered
from tests.synthetic_media import RATE_HZ, tone, write_sound, write_video

pytestmark = pytest.mark.usefixtures("kept_models")

FPS = Fraction(24)
SMALL = ("--res", "64x64", "--steps", 2, "--seed", 3)
CHAIN = ("--until", "2s", "--window", "1s", "--overlap", "0.33s")  # 49 frames in windows of 25, of which 8 overlap
STARTS = {"t2v": ("t2v", "a bell"), "v2a": ("v2a", "clip.mp4"), "v2v": ("v2v", "clip.mp4"), "a2v": ("a2v", "bell.wav")}


@pytest.fixture
def model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """The name of the tiny model, in a separate folder with inputs."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", frames=17, fps=FPS, size=(64, 64), sound="aac")
    write_sound(tmp_path / "bell.wav", samples=tone(int(2.3 * RATE_HZ)))
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(tmp_path / "photo.png")
    return "--model", tiny


def job_of(path: Path) -> Job:
    return Job.open(path)


def check_chain(path: Path) -> Job:
    """Check that a finished file and its latents are those of a long clip. Returns: the job."""
    job = job_of(path)
    windows, made = windows_of(job.request), probe(path)
    assert made.video is not None
    assert made.video.frames == job.request.file_frames
    assert made.audio is not None
    assert abs(made.audio.duration_s - job.request.duration_s) <= 1 / job.request.fps
    latents = [load_file(file) for file in (job.folder / f"latents-{n}.safetensors" for n in range(1, job.stages + 1))]
    assert len(latents) == len(windows) * len(job.request.recipe.stages)
    for run, (before, now) in zip(runs_of(job.request)[1:], pairwise(latents), strict=True):
        if not run.request.place.number:
            continue
        cells = int(run.request.place.carried * run.stage.rate) // 8
        assert now["video"][:, :, 1 : 1 + cells].equal(before["video"][:, :, -cells:])
        if job.request.audio == "generate":
            steps = first_new_step(run.request) - 1
            assert now["audio"][:, :, 1 : 1 + steps].equal(before["audio"][:, :, -steps:])
    return job


def test_clip_that_fits_into_one_window_is_the_plain_render(model: tuple[object, ...]) -> None:
    words = ("t2v", "a bell", *model, *SMALL, *UNGUIDED)
    plain = rendered(*words, "--frames", 17, "-o", "a.mp4").read_bytes()
    assert rendered(*words, "--until", "0.7s", "-o", "b.mp4").read_bytes() == plain
    assert rendered(*words, "--until", "0.7s", "--window", "0.7s", "-o", "c.mp4").read_bytes() == plain


def test_chain_goes_on_from_latents_and_is_resumed_between_windows_to_the_same_bytes(model: tuple[object, ...]) -> None:
    path = rendered("t2v", "a bell", *model, *SMALL, *UNGUIDED, *CHAIN, "--keep-latents", "-o", "a.mp4")
    job, made = check_chain(path), path.read_bytes()
    assert job.stages == 3
    assert "stages 3 of 3 finished" in " ".join(ltx2("inspect", job.folder).stdout.split())
    latents = ltx2("inspect", job.folder / "latents-2.safetensors").stdout
    assert "1 of 1, window 2 of 3" in " ".join(latents.split())
    assert rendered("decode", job.folder, "-o", "b.mp4").read_bytes() == made
    for number in (3, 2):
        path.unlink()
        for later in range(number, 4):
            (job.folder / f"latents-{later}.safetensors").unlink()
        assert f"window {number} of 3 is not finished" in ltx2("inspect", job.folder).stdout
        assert rendered("resume", job.folder).read_bytes() == made
    assert rendered("rerun", path, "-o", "c.mp4").read_bytes() == made


def test_chain_in_two_stages_finishes_the_first_of_all_windows_before_the_second(model: tuple[object, ...]) -> None:
    words = ("t2v", "a bell", *model, "--res", "128x128", "--preset", "distilled", "--seed", 3, *CHAIN)
    path = rendered(*words, "--keep-latents", "-o", "a.mp4")
    assert check_chain(path).stages == 6
    draft = rendered(*words, "--draft", "--config", _written("draft_steps: 8\n"), "--keep-latents", "-o", "b.mp4")
    first = [load_file(job_of(made).folder / "latents-3.safetensors")["video"] for made in (path, draft)]
    assert first[0].equal(first[1])


def _written(text: str) -> Path:
    path = Path("own.yaml")
    path.write_text(text)
    return path


def test_map_and_keyframes_of_a_file_for_all_renders_are_left_out_of_a_chain(model: tuple[object, ...]) -> None:
    _written("attention: map.mp4\ngenerated_keyframes: 2\nkeyframe_stills: true\n")
    words = ("t2v", "a bell", *model, *SMALL, *UNGUIDED, *CHAIN)
    made = rendered(*words, "--config", "own.yaml", "-o", "a.mp4")
    assert made.read_bytes() == rendered(*words, "-o", "b.mp4").read_bytes()
    assert not Path("map.mp4").exists()


def test_stop_inside_a_window_is_gone_on_with_to_the_same_bytes(
    model: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ltx2_core as core

    words = ("t2v", "a bell", *model, *SMALL, *UNGUIDED, *CHAIN)
    made = rendered(*words, "-o", "a.mp4").read_bytes()
    steps: list[object] = []

    def on_event(event: core.Event) -> None:
        steps.extend([event] if isinstance(event, core.StepDone) and event.phase == "denoise" else [])

    gathered = core.gather({name.strip("-").replace("-", "_"): str(value) for name, value in _pairs(words[2:])})
    resolved = core.resolve("t2v", "a bell", [*gathered.layers[:1], *core.gather({"output": "b.mp4"}).layers[:1]])
    with pytest.raises(core.Interrupted, match="after step 1 of 2"):
        core.run(resolved, core.Watch(on_event=on_event, should_stop=lambda: len(steps) == 3))
    assert sorted(path.name for path in Path("b.mp4.job").iterdir()) == [
        "job.json",
        "latents-1.safetensors",
        "stopped-2.safetensors",
    ]
    assert rendered("resume", "b.mp4.job").read_bytes() == made


def _pairs(words: tuple[object, ...]) -> list[tuple[str, object]]:
    flat = [part for word in map(str, words) for part in word.split("=")]
    return [*zip(flat[::2], flat[1::2], strict=True)]


def test_image_stands_in_the_window_that_makes_its_frame(model: tuple[object, ...]) -> None:
    words = ("i2v", "photo.png", *model, *SMALL, *UNGUIDED, *CHAIN, "--image", "photo.png@45", "--keep-latents")
    job = check_chain(rendered(*words, "-o", "a.mp4"))
    assert [len(window.images) for window in windows_of(job.request)] == [1, 0, 1]


def test_audio_of_any_length_is_kept_as_it_is(model: tuple[object, ...]) -> None:
    words = ("a2v", "bell.wav", "a bell", *model, *SMALL, *VIDEO_UNGUIDED, "--window", "1s", "--overlap", "0.33s")
    path = rendered(*words, "--until", "2.3s", "--audio-codec", "flac", "--keep-latents", "-o", "a.mp4")
    job = check_chain(path)
    given, heard = (read_audio(check_input(Path(name), AudioSource)).samples for name in ("bell.wav", "a.mp4"))
    assert heard[:, : given.shape[1]].equal(given[:, : heard.shape[1]])
    latents = [load_file(job.folder / f"latents-{n}.safetensors")["audio"] for n in range(1, job.stages + 1)]
    for window, (before, now) in zip(windows_of(job.request)[1:], pairwise(latents), strict=True):
        both = first_new_step(window)
        assert now[:, :, :both].equal(before[:, :, -both:])  # the same span of the same audio


def test_clip_goes_on_until_a_time(model: tuple[object, ...]) -> None:
    words = ("v2v", "clip.mp4", "a bell", *model, *SMALL, *UNGUIDED)
    chain = check_chain(rendered(*words, *CHAIN, "--keep-latents", "-o", "a.mp4"))
    assert (chain.request.frames, chain.stages) == (49, 3)
    plain = job_of(rendered(*words, "--extend", "0.33s", "--keep-latents", "-o", "b.mp4"))
    first, whole = (load_file(job.folder / "latents-1.safetensors")["video"] for job in (chain, plain))
    assert first.equal(whole)  # the first window is the clip, extended
    assert rendered("rerun", "a.mp4", "-o", "c.mp4").read_bytes() == Path("a.mp4").read_bytes()


@pytest.mark.parametrize(
    "more", [(), pytest.param(("--preset", "two-stage", "--res", "128x128"), marks=pytest.mark.slow)]
)
def test_windows_that_the_clip_fills_are_not_denoised_and_the_result_is_the_same(
    more: tuple[object, ...], model: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input clip has 49 frames, and windows of 25 frames begin at 0, 16, 32 and 40."""
    write_video(Path("clip.mp4"), frames=49, fps=FPS, size=(64, 64), sound="aac")
    words = ("v2v", "clip.mp4", "a bell", *model, *SMALL, *UNGUIDED, *CHAIN[2:], "--until", "2.7s", *more)
    denoised: list[int] = []
    sample = StageRun.sample

    def counted(self: StageRun, *given: Any) -> Any:
        denoised.append(self.request.place.number)
        return sample(self, *given)

    monkeypatch.setattr(StageRun, "sample", counted)
    path = rendered(*words, "--keep-latents", "-o", "a.mp4")
    runs = runs_of(check_chain(path).request)
    assert [run.request.place.number for run in runs if not run.is_given] == denoised
    assert denoised == [2, 3] * (len(runs) // 4)
    monkeypatch.setattr(StageRun, "is_given", lambda self, states: False)
    assert rendered(*words, "-o", "b.mp4").read_bytes() == path.read_bytes()
    assert len(denoised) == len(runs) + len(runs) // 2


def test_audio_alone_goes_on_too(model: tuple[object, ...]) -> None:
    words = ("t2v", "a bell", *model, "--steps", 2, "--seed", 3, "--video", "off", "--audio-st=1")
    path = rendered(*words, *CHAIN, "-o", "a.wav")
    assert abs(read_audio(check_input(path, AudioSource)).duration_s - 49 / FPS) < Fraction(1, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.3", "2.5"])
def test_other_generations_make_chains(version: str, tiny_of: Callable[[str], Path], tmp_path: Path) -> None:
    words = ("t2v", "a bell", "--model", tiny_of(version), "--res", "128x128", "--preset", "distilled", "--seed", 3)
    path = rendered(*words, *CHAIN, "--keep-latents", "-o", tmp_path / "a.mp4")
    job, made = check_chain(path), path.read_bytes()
    for number in range(1, job.stages + 1):
        path.unlink()
        for later in range(number, job.stages + 1):
            (job.folder / f"latents-{later}.safetensors").unlink()
        assert rendered("resume", job.folder).read_bytes() == made


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--cache-steps", 0.5), ("--skip-step", 1), ("--preview", 1, *UNGUIDED)])
def test_chains_skip_work_and_are_looked_at_like_other_clips(
    more: tuple[object, ...], model: tuple[object, ...]
) -> None:
    words = ("t2v", "a bell", *model, "--res", "64x64", "--steps", 4, "--seed", 3, *CHAIN, "--keep-latents")
    path = rendered(*words, *more, "-o", "a.mp4")
    job = check_chain(path)
    assert rendered("rerun", path, "-o", "b.mp4").read_bytes() == path.read_bytes()
    path.unlink()
    (job.folder / "latents-3.safetensors").unlink()
    assert rendered("resume", job.folder).read_bytes() == Path("b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("mode", "more", "told"),
    [
        ("t2v", ["--until", "3s", "--duration", "1s"], "--duration and --until set the same value"),
        ("t2v", ["--until", "3s", "--frames", 9], "--frames and --until set the same value"),
        ("t2v", ["--window", "1s"], "no --until is given"),
        ("t2v", ["--until", "60s", "--window", "30s"], "--window 20s"),
        ("t2v", ["--until", "60s", "--overlap", "11s"], "--overlap 11s cannot be used"),
        ("t2v", ["--until", "3s", "--overlap", "11s"], "--overlap 11s cannot be used"),
        ("t2v", ["--until", "3s", "--window", "1s", "--overlap", "1s"], "with an overlap of 24 has no new frames"),
        ("t2v", ["--until", "3s", "--window", "0.3s"], "has 17 frames or more, and this has 9 hint: --window 0.71s"),
        ("t2v", ["--until", "0"], "it must be above 0"),
        ("t2v", ["--until", "90m"], "at most 3600 seconds"),
        ("t2v", ["--until", "60m", "--window", "1s"], "it needs more than 500 windows"),
        ("t2v", [*CHAIN, "--loop"], "leave --until out"),
        ("t2v", [*CHAIN, "--attention", "b.mp4"], "--attention cannot be used with a clip of 3 windows"),
        ("v2a", ["--until", "3s"], "the given video stays as it is"),
        ("v2v", ["--until", "3s", "--extend", "1s"], "--until cannot be used with --extend"),
        ("v2v", ["--until", "3s", "--strength", 0.5], "--strength and --until cannot be used together"),
        ("v2v", ["--until", "3s", "--retake", "0s-0.3s"], "cannot be used together"),
        ("v2v", ["--until", "0.5s"], "the used part of clip.mp4 lasts 0.71 s"),
        ("v2v", ["--until", "3s", "--sound", "keep"], "--sound keep cannot be used when a clip is extended"),
    ],
)
def test_what_cannot_go_on_is_refused(mode: str, more: list[object], told: str, model: tuple[object, ...]) -> None:
    assert told in refused(2, *STARTS[mode], *model, "--seed", 3, "-o", "a.mp4", *more)


def test_long_chains_are_warned_about_and_long_windows_lead_to_them(model: tuple[object, ...]) -> None:
    def told(*more: object) -> str:
        result = ltx2("plan", "t2v", "a bell", *model, "--res", "64x64", *more)
        assert result.exit_code == 0, result.stderr
        return " ".join((result.stdout + result.stderr).split())

    assert "quality is known to decay" in told("--until", "26s")
    assert "quality is known to decay" not in told("--until", "24s")
    assert "--until 30.04s makes it in windows" in told("--duration", "30s")
    assert "makes it in windows" not in told("--duration", "30s", "--loop")


@pytest.mark.parametrize("preset", ["one-stage", "distilled-lora"])
def test_memory_of_a_minute_is_planned_as_that_of_a_window(preset: str) -> None:
    def planned(*more: object) -> dict[str, dict]:
        words = ("--model", "ltx-2", "--preset", preset, "--res", "720p", "--vram", 80, "--json")
        result = ltx2("plan", "t2v", "a bell", *words, *more)
        assert result.exit_code == 0, result.stderr
        events = [json.loads(line) for line in result.stdout.splitlines()]
        return {row["name"]: row for event in events for row in event.get("phases", ())}

    def most(what: str, rows: dict[str, dict]) -> int:
        return max(row[what] for row in rows.values())

    window, minute = planned("--duration", "10s"), planned("--until", "60s")
    assert most("vram", minute) <= 1.1 * most("vram", window)
    assert most("ram", minute) <= most("ram", window) + MOST_WAITING_BYTES
    flops = [sum(row["flops"] for row in rows.values() if row["kind"] == "denoise") for rows in (window, minute)]
    assert flops[1] == pytest.approx(8 * flops[0], rel=0.01)
    assert "denoising, 8 times" in minute


def test_windows_read_the_texts_of_their_own_time(model: tuple[object, ...]) -> None:
    words = ("t2v", "a bell", *model, *SMALL, *UNGUIDED, *CHAIN, "--keep-latents", "--segment", "0s-0.5s=a drum")
    two = rendered(*words, "--segment", "0.5s-2s=a horn", "-o", "two.mp4")
    three = rendered(*words, "--segment", "0.5s-1.6s=a horn", "--segment", "1.6s-2s=rain", "-o", "three.mp4")

    def latents(path: Path, number: int) -> dict[str, Tensor]:
        return load_file(job_of(path).folder / f"latents-{number}.safetensors")

    for stream in ("video", "audio"):
        first, other = latents(two, 1)[stream], latents(three, 1)[stream]
        assert (first - other).abs().max() <= 1e-5 * first.abs().max(), "the first second has the same texts"
        assert (latents(two, 3)[stream] - latents(three, 3)[stream]).abs().max() > 1e-3
