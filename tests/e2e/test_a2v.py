"""Videos for given audio, through the real command line on the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner, Result

from ltx2_cli.app import app
from ltx2_core.checkpoint import load_component
from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import read_audio
from ltx2_core.media.image import prepare_image
from ltx2_core.media.inputs import AudioSource, ImageSource
from ltx2_core.media.probe import AudioInfo, MediaInfo, probe
from tests.commands import VIDEO_UNGUIDED
from tests.stopping import stopped_when
from tests.synthetic_media import RATE_HZ, contents, packets, tone, write_sound, write_video

pytestmark = pytest.mark.usefixtures("kept_models")

SMALL = ("--res", "128x64", "--steps", "2", "--seed", "3", *VIDEO_UNGUIDED)


@pytest.fixture
def ltx2(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `ltx2 a2v` at a small size, to clip.mp4 in its own folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Result:
        given = [str(word) for word in words]
        size = [] if "--res" in given else SMALL
        target = [] if "-o" in given else ["-o", "clip.mp4"]
        return CliRunner().invoke(app, ["a2v", *given, *size, *target, "--model", str(tiny)])

    return run


def made(result: Result) -> MediaInfo:
    """The content of the file that a command has written."""
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{Path.cwd() / 'clip.mp4'}\n"
    return probe(Path("clip.mp4"))


def audio_of(info: MediaInfo) -> AudioInfo:
    assert info.audio is not None
    return info.audio


def frames_of(info: MediaInfo) -> int:
    assert info.video is not None
    return info.video.frames


def heard(path: str | Path) -> Tensor:
    return read_audio(check_input(Path(path), AudioSource)).samples


def latents(stage: int = 1) -> dict[str, Tensor]:
    return load_file(Path("clip.mp4.job") / f"latents-{stage}.safetensors")


def recipe(info: MediaInfo) -> dict[str, Any]:
    assert info.comment is not None
    return json.loads(info.comment)


COPIED = {"a.m4a": "aac", "b.mp3": "libmp3lame", "c.m4a": "alac"}
COPIED_IF_ASKED = {"d.ac3": "ac3", "e.ogg": "libopus"}


@pytest.mark.parametrize(
    ("name", "codec", "words"),
    [(*one, ()) for one in COPIED.items()] + [(*one, ("--audio-codec", "copy")) for one in COPIED_IF_ASKED.items()],
)
def test_packets_that_an_mp4_can_hold_are_those_that_were_given(
    ltx2: Callable[..., Result], name: str, codec: str, words: tuple[str, ...]
) -> None:
    source = check_input(write_sound(Path(name), codec), AudioSource)
    result = ltx2(name, "a bell rings", *words)
    info = made(result)
    assert contents(packets(Path("clip.mp4"), "audio")) == contents(packets(Path(name), "audio"))
    assert heard("clip.mp4")[:, :RATE_HZ].equal(heard(name)[:, :RATE_HZ])
    assert (audio_of(info).codec, frames_of(info)) == (source.codec, 25)
    assert f"the {source.codec} audio of {name} is copied as it is" in result.stderr


def test_sound_of_a_clip_is_a_sound_too(ltx2: Callable[..., Result]) -> None:
    write_video(Path("film.mp4"), frames=25, sound="aac")
    made(ltx2("film.mp4"))
    assert contents(packets(Path("clip.mp4"), "audio")) == contents(packets(Path("film.mp4"), "audio"))


@pytest.mark.parametrize(
    ("layout", "channels", "stored", "rate_hz"),
    [
        ("mono", 1, 1, 44100),
        ("stereo", 2, 2, RATE_HZ),
        ("stereo", 2, 2, 44100),
        ("5.1", 6, 6, RATE_HZ),
        ("quad", 4, 2, 44100),
        ("7.1", 8, 2, RATE_HZ),
    ],
)
def test_samples_without_loss_are_those_that_were_given_and_then_silence(
    ltx2: Callable[..., Result], layout: str, channels: int, stored: int, rate_hz: int
) -> None:
    write_sound(Path("song.wav"), layout=layout, rate_hz=rate_hz, samples=tone(rate_hz // 2, channels, rate_hz))
    audio = audio_of(made(ltx2("song.wav", "--audio-codec", "alac")))
    assert (audio.codec, audio.sample_rate_hz, audio.channels) == ("alac", rate_hz, stored)
    assert audio.duration_s == Fraction(round(Fraction(17, 24) * rate_hz), rate_hz)
    samples = heard("clip.mp4")
    assert not samples[:, rate_hz // 2 :].any()
    if stored == channels:
        assert samples[:, : rate_hz // 2].equal(heard("song.wav"))


def test_aac_that_somebody_wants_otherwise_is_encoded_anew(ltx2: Callable[..., Result]) -> None:
    write_sound(Path("song.m4a"), "aac")
    assert audio_of(made(ltx2("song.m4a", "--audio-codec", "flac"))).codec == "flac"
    difference = heard("clip.mp4")[:, :RATE_HZ] - heard("song.m4a")[:, :RATE_HZ]
    assert difference.abs().max() < 2**-22


def test_rate_that_an_encoder_does_not_take_is_announced(ltx2: Callable[..., Result]) -> None:
    write_sound(Path("song.wav"), rate_hz=192000)
    result = ltx2("song.wav")
    assert audio_of(made(result)).sample_rate_hz == 96000
    assert "song.wav (192000 Hz, stereo) is stored as aac (96000 Hz, stereo)" in result.stderr


def test_model_hears_what_was_given_in_every_stage(ltx2: Callable[..., Result], tiny: Path) -> None:
    write_sound(Path("song.wav"), samples=tone(RATE_HZ // 3))
    made(ltx2("song.wav", "--preset", "two-stage", "--res", "128x128", "--steps", "4", "--keep-latents"))
    first, second = latents(1), latents(2)
    assert first["audio"].shape[2] == round(Fraction(9, 24) * 25)
    assert first["audio"].equal(second["audio"])
    made(ltx2("song.wav", "--overwrite", "--res", "128x64", "--steps", "2", "--seed", "9", "--keep-latents"))
    assert latents()["audio"].equal(first["audio"])


def test_silence_makes_a_clip(ltx2: Callable[..., Result]) -> None:
    write_sound(Path("silence.wav"), samples=np.zeros((2, RATE_HZ // 3), np.int16))
    assert frames_of(made(ltx2("silence.wav", "--audio-codec", "flac"))) == 9
    assert not heard("clip.mp4").any()


def test_part_of_a_sound_is_heard_from_its_beginning(ltx2: Callable[..., Result]) -> None:
    write_sound(Path("song.wav"))
    result = ltx2("song.wav", "--start", "0.2s", "--duration", "0.5s", "--audio-codec", "alac")
    assert frames_of(made(result)) == 17
    end = 9600 + 34000  # the end of 17 frames: the audio is longer, and fills them
    assert heard("clip.mp4")[:, :34000].equal(heard("song.wav")[:, 9600:end])
    assert "17 frames: 0.71 s of song.wav\n" in result.stderr


def test_part_of_aac_is_encoded_since_something_is_cut(ltx2: Callable[..., Result]) -> None:
    write_sound(Path("song.m4a"), "aac")
    result = ltx2("song.m4a", "--frames", "9")
    assert audio_of(made(result)).duration_s == Fraction(9, 24)
    assert "song.m4a (48000 Hz, stereo) is stored as aac" in result.stderr


def test_more_time_than_the_sound_takes_is_silent_at_the_end(ltx2: Callable[..., Result]) -> None:
    write_sound(Path("song.m4a"), "aac")
    assert frames_of(made(ltx2("song.m4a", "--duration", "2s", "--fps", "12"))) == 25
    assert contents(packets(Path("clip.mp4"), "audio")) == contents(packets(Path("song.m4a"), "audio"))


def test_image_is_the_first_frame(ltx2: Callable[..., Result], tiny: Path) -> None:
    write_sound(Path("song.wav"), samples=tone(RATE_HZ // 3))
    Image.linear_gradient("L").resize((60, 90)).convert("RGB").save("still.png")
    made(ltx2("song.wav", "--image", "still.png", "--keep-latents"))
    pixels = prepare_image(check_input(Path("still.png"), ImageSource), 64, 128, 33)
    with torch.inference_mode():
        encoder = load_component("video_encoder", tiny / "ltx-2-tiny-dev.safetensors", dtype=torch.float32)
        assert latents()["video"][:, :, :1].equal(encoder(pixels))


def test_file_says_which_sound_it_was_made_for_but_not_where_it_lay(
    ltx2: Callable[..., Result], tmp_path: Path
) -> None:
    write_sound(Path("song.wav"), samples=tone(RATE_HZ // 3))
    info = made(ltx2("song.wav", "--start", "0.1s", "--res", "128x64", "--steps", "2"))
    request = recipe(info)["request"]
    assert (request["mode"], request["video"], request["audio"]) == ("a2v", "generate", "keep")
    assert request["audio_source"] == {"role": "sound", "name": "song.wav", "start_s": "1/10", "duration_s": None}
    assert (request["guidance"][0]["sm"], request["guidance"][1]["sm"], request["guidance"][1]["st"]) == (3, 1, 1)
    assert recipe(info)["model"]["files"]["sound"]["name"] == "song.wav"
    assert str(tmp_path) not in (info.comment or "")


def test_kept_latents_are_decoded_with_the_given_sound_as_it_was_or_otherwise(ltx2: Callable[..., Result]) -> None:
    write_sound(Path("song.m4a"), "aac", samples=tone(RATE_HZ // 3))
    made(ltx2("song.m4a", "--keep-latents"))

    def decoded(*words: str) -> bytes:
        result = CliRunner().invoke(app, ["decode", "clip.mp4.job", "-o", "again.mp4", "--overwrite", *words])
        assert result.exit_code == 0, result.stderr
        return Path("again.mp4").read_bytes()

    assert decoded() == Path("clip.mp4").read_bytes()
    decoded("--audio-codec", "alac")
    assert audio_of(probe(Path("again.mp4"))).codec == "alac"
    assert (heard("again.mp4")[:, :16000] - heard("song.m4a")[:, :16000]).abs().max() < 2**-22


def test_stopped_render_goes_on_to_the_same_bytes_while_its_sound_is_there(
    ltx2: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sound(Path("song.m4a"), "aac", samples=tone(RATE_HZ // 3))
    made(ltx2("song.m4a", "--steps", "4", "--res", "128x64", "--seed", "3"))
    undisturbed = Path("clip.mp4").read_bytes()
    Path("clip.mp4").unlink()
    with stopped_when(monkeypatch, False, True):
        assert ltx2("song.m4a", "--steps", "4", "--res", "128x64", "--seed", "3").exit_code == 130
    Path("song.m4a").rename("elsewhere.m4a")
    lost = CliRunner().invoke(app, ["resume", "clip.mp4.job"])
    assert (lost.exit_code, "song.m4a does not exist any more" in lost.stderr) == (7, True)
    Path("elsewhere.m4a").rename("song.m4a")
    assert CliRunner().invoke(app, ["resume", "clip.mp4.job"]).exit_code == 0
    assert Path("clip.mp4").read_bytes() == undisturbed


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("long.wav", 2, ("25.0 s of long.wav are more than 20 s", "hint: --start 0s --duration 20s")),
        ("long.wav --start 4s", 2, ("21.0 s", "--start 4s --duration 20s")),
        ("long.wav --start 25s", 2, ("--start 25s cannot be used", "long.wav lasts 25.00 s")),
        ("long.wav --frames 50", 2, ("--frames 50", "--frames 49 or --frames 57")),
        ("long.wav --start soon", 2, ("--start soon", "such as 5s")),
        ("gone.wav", 3, ("gone.wav cannot be used as audio", "there is no such file")),
        ("text.wav", 3, ("text.wav cannot be used as audio", "give a file with audio")),
        ("silent.mp4", 3, ("silent.mp4 cannot be used as audio", "there is no audio in it")),
        ("long.wav --duration 1s --image gone.png", 3, ("gone.png cannot be used as an image",)),
        ("long.wav --audio-st 3", 2, ("--audio-st cannot be used here", "the given audio stays as it is")),
        ("long.wav --duration 1s -o clip.mov", 2, ("ends in .mp4", "hint: -o clip.mp4")),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    ltx2: Callable[..., Result], words: str, code: int, says: tuple[str, ...]
) -> None:
    write_sound(Path("long.wav"), rate_hz=8000, samples=tone(8000 * 25, 2, 8000))
    write_video(Path("silent.mp4"))
    Path("text.wav").write_text("la la la")
    before = sorted(Path.cwd().iterdir())
    result = ltx2(*words.split())
    assert (result.exit_code, result.stdout) == (code, "")
    for fragment in says:
        assert fragment in result.stderr
    assert "hint: " in result.stderr
    assert sorted(Path.cwd().iterdir()) == before


def test_packets_that_cannot_be_copied_are_not_copied_by_decode_either(ltx2: Callable[..., Result]) -> None:
    write_sound(Path("part.m4a"), "aac")
    write_sound(Path("whole.wav"), samples=tone(RATE_HZ // 3))
    for words, why in (
        (("part.m4a", "--start", "0.5s"), "only a part of it is used"),
        (("part.m4a", "--frames", 9), "only a part of it is used"),
        (("whole.wav",), "an MP4 cannot hold its packets (pcm_s16le)"),
    ):
        made(ltx2(*words, "--keep-latents", "--overwrite"))
        again = CliRunner().invoke(app, ["decode", "clip.mp4.job", "-o", "b.mp4", "--audio-codec", "copy"])
        assert again.exit_code == 2
        assert f"--audio-codec copy cannot be used with {words[0]}\n{why}" in again.stderr
    write_sound(Path("whole.m4a"), "aac", samples=tone(RATE_HZ // 3))
    made(ltx2("whole.m4a", "--keep-latents", "--overwrite", "--audio-codec", "aac"))
    again = CliRunner().invoke(app, ["decode", "clip.mp4.job", "-o", "b.mp4", "--audio-codec", "copy"])
    assert again.exit_code == 0, again.stderr
    assert contents(packets(Path("b.mp4"), "audio")) == contents(packets(Path("whole.m4a"), "audio"))


def test_generated_audio_has_no_packets_that_decode_could_copy(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("t2v", "a bell", "--model", str(tiny), "--preset", "smoke", "--seed", "7", "--keep-latents", "-o", "a.mp4")
    assert CliRunner().invoke(app, words).exit_code == 0
    again = CliRunner().invoke(app, ["decode", "a.mp4.job", "-o", "b.mp4", "--audio-codec", "copy"])
    assert (again.exit_code, Path("b.mp4").exists()) == (2, False)
    assert "--audio-codec copy cannot be used\nthe audio is generated" in again.stderr
