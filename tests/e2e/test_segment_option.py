"""`--segment`: spans of a clip with their own prompts, through the real command line on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import ltx2_core as core
from ltx2_core.pipeline.request import Request
from tests.commands import AUDIO_UNGUIDED, UNGUIDED, VIDEO_UNGUIDED, ltx2, made_in, refused, rendered
from tests.synthetic_media import RATE_HZ, tone, write_sound, write_video

pytestmark = pytest.mark.usefixtures("kept_models")

SMALL = ("--res", "64x64", "--frames", 25, "--steps", 2, "--seed", 7)
SPANS = ("--segment", "0s-0.5s=a red lamp", "--segment", "0.5s-1s=a green lamp")


def latents(path: Path, stage: int = 1) -> dict[str, Tensor]:
    return load_file(path.with_name(path.name + ".job") / f"latents-{stage}.safetensors")


def made(model: Path, path: Path, prompt: str, *words: object) -> Path:
    return rendered("t2v", prompt, "--model", model, *SMALL, "--keep-latents", "-o", path, *words)


def settled(mode: str, model: Path, main: Path | None = None, **flags: object) -> Request:
    given = core.gather({"model": str(model), "res": "64x64", **flags})
    return core.resolve(mode, "a bell", given.layers, main=main).request


@pytest.mark.parametrize("version", ["2.0", pytest.param("2.3", marks=pytest.mark.slow), "2.5"])
def test_spans_read_their_own_texts(version: str, tiny_of: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny_of(version)
    red = latents(made(model, tmp_path / "red.mp4", "a red lamp", *UNGUIDED))
    spans = made(model, tmp_path / "spans.mp4", "a lamp", *UNGUIDED, *SPANS)
    other = latents(spans)
    whole = latents(made(model, tmp_path / "whole.mp4", "a lamp", *UNGUIDED, "--segment", "0s-1s=a red lamp"))
    for stream in ("video", "audio"):
        assert whole[stream].equal(red[stream]), "a span of the whole clip is the clip of its prompt"
        assert not other[stream].equal(red[stream])
    segments = made_in(spans).request.segments
    assert [(one.name, one.prompt) for one in segments] == [
        ("0s-0.5s", "a red lamp"),
        ("0.5s-1.04s", "a green lamp"),
    ]


def test_guided_stages_read_segments_and_rerun_gives_the_same_latents(tiny: Path, tmp_path: Path) -> None:
    words = ("--preset", "two-stage", "--res", "128x128", *SPANS)
    first = made(tiny, tmp_path / "a.mp4", "a lamp", *words)
    rendered("rerun", first, "--set", "keep_latents=true", "-o", tmp_path / "b.mp4", "--yes")
    for stage in (1, 2):
        one, other = (latents(tmp_path / name, stage) for name in ("a.mp4", "b.mp4"))
        assert all(one[name].equal(other[name]) for name in one)
    plain = latents(made(tiny, tmp_path / "plain.mp4", "a lamp", *words[:4]), 2)
    assert not plain["video"].equal(one["video"])


@pytest.mark.parametrize(
    "words",
    [
        ("i2v", "still.png", "a bell", *UNGUIDED, "--frames", 25),
        ("a2v", "song.wav", "a bell", *VIDEO_UNGUIDED),
        ("v2a", "clip.mp4", "a bell", *AUDIO_UNGUIDED),
        ("v2v", "clip.mp4", "a bell", *UNGUIDED, "--strength", "0.5"),
        ("v2v", "clip.mp4", "a bell", *UNGUIDED, "--extend", "0.4s"),
    ],
)
def test_every_mode_reads_segments(words: tuple[object, ...], tiny: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames=25, sound="aac")
    write_sound(tmp_path / "song.wav", samples=tone(RATE_HZ))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "still.png")
    mode, given, *rest = words
    common = ("--model", tiny, "--res", "64x64", "--steps", 2, "--seed", 7, "--keep-latents")
    plain, spans = (
        latents(rendered(mode, tmp_path / str(given), *rest, *common, "-o", tmp_path / name, *more))
        for name, more in (("plain.mp4", ()), ("spans.mp4", ("--segment", "0.3s-0.8s=a drum")))
    )
    generated = {"a2v": ["video"], "v2a": ["audio"]}.get(str(mode), ["video", "audio"])
    assert all(not plain[stream].equal(spans[stream]) for stream in generated)


def test_segments_are_set_in_files_and_jobs(tiny: Path, tmp_path: Path) -> None:
    config = tmp_path / "spans.yaml"
    config.write_text("segment:\n  1s-2s: a drum\n  0s-1s: 'a lamp = red'\n")
    gathered = core.gather({"model": str(tiny), "res": "64x64"}, config)
    read = core.resolve("t2v", "a bell", gathered.layers).request.segments
    listed = settled("t2v", tiny, segment=["0s-1s=a lamp = red", "1s-2s=a drum"]).segments
    assert [(one.name, one.prompt) for one in read] == [("0s-1s", "a lamp = red"), ("1s-2s", "a drum")]
    assert read == listed
    jobs = tmp_path / "jobs.yaml"
    jobs.write_text("- prompt: a bell\n  segment: {0s-1s: a drum}\n- prompt: a bell\n  segment: {0s-9s: a drum}\n")
    told = ltx2("batch", jobs, "--plan", "--model", tiny, "--res", "64x64", "--frames", 25, "-o", tmp_path / "out")
    assert told.exit_code == 2
    assert "segment 0s-9s=a drum cannot be used" in " ".join(told.stderr.split())


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--segment", "0s-2s=a", "--segment", "1s-3s=b"], "--segment 0s-2s and --segment 1s-3s overlap"),
        (["--segment", "0s-2s=a", "--segment", "0s-2s=b"], "leave one of them out"),
        (["--segment", "4s-6s=a"], "the clip lasts 5.04 s"),
        (["--segment", "1s-1.2s=a"], "a segment lasts one latent frame or more, here 0.33 s"),
        (["--segment", "1s-2s"], "it is not a span and a prompt such as 0s-3s=a red lamp"),
        (["--segment", "3s-=a"], "it is not a span such as 2.0s-4.5s"),
        (["--segment", "2s-1s=a"], "it must end after it begins"),
        (["--segment", "1s-2s= "], "its prompt is empty"),
        (["--segment", "1s-2s=a\0lamp"], "it holds bytes that are not text"),
        (["--segment", "1s-2s=a", "--enhance"], "--segment and --enhance cannot be used together"),
    ],
)
def test_segments_that_cannot_be_used_are_refused(words: list[str], what: str, tiny: Path) -> None:
    assert what in refused(2, "t2v", "a bell", "--model", tiny, "--res", "64x64", "--duration", "5s", *words)


def test_the_plan_counts_every_text(tiny: Path) -> None:
    spans = {"segment": ["0s-1s=a lamp", "1s-2s=a drum"]}
    plans = [
        core.resolve("t2v", "a bell", core.gather({"model": str(tiny), "res": "64x64", **more}).layers).plan
        for more in ({}, spans)
    ]
    texts, flops = zip(*(({row.name: row for row in plan.rows}, plan.flops) for plan in plans if plan), strict=True)
    assert all(flops[1][kind] > flops[0][kind] for kind in ("text", "denoise"))
    assert texts[0].keys() == texts[1].keys()


def test_advice_and_warnings_name_the_segment(tiny: Path, tmp_path: Path) -> None:
    words = ("--segment", "0s-0.5s=a lamp without a shade", "--segment", f"0.5s-1s={'a drum beats ' * 300}")
    told = ltx2("t2v", "a bell rings", "--model", tiny, *SMALL, *UNGUIDED, "-v", "-o", tmp_path / "a.mp4", *words)
    assert told.exit_code == 0
    assert 'the prompt of 0s-0.5s says what is not there ("without a shade")' in told.stderr
    assert "the prompt of 0.5s-1.04s is too long: its last " in told.stderr
    assert "the prompt is too long" not in told.stderr
