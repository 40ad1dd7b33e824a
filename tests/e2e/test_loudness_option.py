"""`--loudness` through the real command line: its effect, its record in the recipe, and where it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import ltx2_core as core
from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import read_audio
from ltx2_core.media.inputs import AudioSource
from ltx2_core.media.loudness import measure_level
from tests.commands import UNGUIDED, ltx2, rendered
from tests.synthetic_media import write_sound, write_video

pytestmark = pytest.mark.usefixtures("kept_models")

SHORT = ("--frames", "17", "--steps", "2", "--seed", "3")
SMALL = ("--res", "64x64", *SHORT)


@pytest.fixture
def words(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    monkeypatch.chdir(tmp_path)
    return lambda *more: ["t2v", "a bell", "--model", tiny, *SMALL, *UNGUIDED, *more]


def lufs(path: Path) -> float | None:
    return measure_level(read_audio(check_input(path, AudioSource))).lufs


def facts(path: Path) -> dict[str, str]:
    return json.loads(ltx2("inspect", path, "--json").stdout.splitlines()[0])["facts"]


def test_a_render_comes_to_the_loudness_and_latents_are_decoded_to_the_same_bytes(
    words: Callable[..., list[object]],
) -> None:
    plain = rendered(*words("-o", "plain.mp4"))
    result = ltx2(*words("-o", "loud.mp4", "--loudness", "-16", "--audio-codec", "flac", "--keep-latents", "-v"))
    assert result.exit_code == 0, result.stderr
    assert "→ -16.0 LUFS, gain " in result.stderr
    loud = Path("loud.mp4")
    measured = lufs(loud)
    assert measured is not None
    assert abs(measured + 16) <= 0.5
    assert facts(loud)["loudness"] == "-16 LUFS"
    assert "loudness" not in facts(plain)
    assert rendered("decode", "loud.mp4.job", "-o", "again.mp4").read_bytes() == loud.read_bytes()
    off = rendered("decode", "loud.mp4.job", "-o", "off.mp4", "--loudness", "off", "--audio-codec", "aac")
    assert off.read_bytes() == plain.read_bytes()
    quieter = lufs(rendered("decode", "loud.mp4.job", "-o", "quieter.mp4", "--loudness", "-23"))
    assert quieter is not None
    assert abs(quieter + 23) <= 0.5


def test_a_stopped_render_goes_on_to_the_same_bytes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {"model": str(tiny), "frames": "9", "steps": "3", "seed": "5", "video": "off", "loudness": "-16"}

    def resolved(name: str) -> core.Resolved:
        return core.resolve("t2v", "a bell", core.gather({**flags, "output": name}).layers)

    undisturbed = core.run(resolved("a.wav")).path.read_bytes()
    steps: list[core.StepDone] = []
    watch = core.Watch(
        on_event=lambda event: steps.append(event) if isinstance(event, core.StepDone) else None,
        should_stop=lambda: bool(steps),
    )
    with pytest.raises(core.Interrupted):
        core.run(resolved("b.wav"), watch)
    assert core.resume(core.Job.open(Path("b.wav.job"))).path.read_bytes() == undisturbed


def test_audio_alone_and_audio_for_a_clip_come_to_the_loudness(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sound = ("t2v", "a bell", "--model", tiny, *SHORT, "--video", "off")
    alone = lufs(rendered(*sound, "-o", "a.wav", "--loudness", "-20"))
    write_video(Path("clip.mp4"), frames=25)
    dubbed = lufs(
        rendered("v2a", "clip.mp4", "--model", tiny, "--steps", 2, "--seed", 1, "-o", "b.mp4", "--loudness", "-20")
    )
    assert alone is not None
    assert dubbed is not None
    assert abs(alone + 20) <= 0.5
    assert abs(dubbed + 20) <= 0.5


def test_given_audio_is_made_louder_only_where_it_is_encoded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sound(Path("song.m4a"), "aac")
    start = ("a2v", "song.m4a", "--model", tiny, "--res", "64x64", "--steps", 2, "--seed", 1, *UNGUIDED[:3])
    refused = ltx2(*start, "-o", "a.mp4", "--loudness", "-16")
    assert refused.exit_code == 2
    assert refused.stderr.splitlines() == [
        "error: --loudness -16 cannot be used here",
        "the given audio is copied as it is",
        "hint: --audio-codec aac encodes it",
    ]
    encoded = lufs(rendered(*start, "-o", "a.mp4", "--loudness", "-30", "--audio-codec", "aac"))
    assert encoded is not None
    assert abs(encoded + 30) <= 0.5
    Path("ltx2.yaml").write_text("loudness: -16\n")  # applies to renders that encode audio; this one copies it
    assert rendered(*start, "-o", "b.mp4").exists()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("-3", "it must be between -50 and -5 LUFS, or off"),
        ("loud", "it must be a number such as -16, or off"),
        ("nan", "it must be a number such as -16, or off"),
    ],
)
def test_a_loudness_that_makes_no_sense_is_refused(given: str, why: str, words: Callable[..., list[object]]) -> None:
    refused = ltx2(*words("--loudness", given))
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[:2] == [f"error: --loudness {given} cannot be used", why]


def test_without_audio_a_loudness_is_refused(tiny: Path) -> None:
    refused = ltx2("t2v", "a bell", "--model", tiny, *SMALL, "--sound", "off", "--loudness", "-16")
    assert refused.exit_code == 2
    assert "--loudness cannot be used here" in refused.stderr
