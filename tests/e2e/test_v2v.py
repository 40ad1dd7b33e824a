"""Edits of clips, through the real command line on the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ltx2_core.checkpoint import load_component
from ltx2_core.latents import States
from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import read_audio
from ltx2_core.media.inputs import AudioSource, VideoSource
from ltx2_core.media.probe import MediaInfo, open_media, probe
from ltx2_core.media.resize import to_clip
from ltx2_core.media.video import frames_by_time
from ltx2_core.models.mel import mel_from_waveform
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.types import Streams
from tests.commands import ltx2
from tests.synthetic_media import write_video

pytestmark = pytest.mark.usefixtures("kept_models")

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
CONTROL = "ltx-2-tiny-ic-lora-ref0.5.safetensors"
FPS = Fraction(24)
SIZE = (96, 64)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 28 frames with audio, and one of 17 frames without audio."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "clip.mp4", frames=28, fps=FPS, size=SIZE, sound="aac")
    write_video(folder / "silent.mp4", frames=17, fps=FPS, size=SIZE)
    return folder


@pytest.fixture
def v2v(tiny: Path, clips: Path, tmp_path: Path) -> Callable[..., tuple[dict, Streams[Tensor]]]:
    """Run `ltx2 v2v` at a small size. Returns: the request, and the latents of the last stage."""

    def run(name: str, *words: object, size: str = "96x64", target: str = "out.mp4") -> tuple[dict, Streams[Tensor]]:
        path = tmp_path / target
        steps = ["--steps", 2] if "--preset" not in words else []
        common = ["--model", tiny, "--res", size, "--seed", 3, "--keep-latents", "-o", path, *steps]
        result = ltx2("v2v", clips / name, "a bell rings", *common, *words)
        assert result.exit_code == 0, result.stderr
        assert result.stdout == f"{path}\n"
        comment = probe(path).comment
        assert comment is not None
        assert str(clips) not in comment
        saved = load_file(sorted((tmp_path / f"{target}.job").glob("latents-*"))[-1])
        return json.loads(comment)["request"], Streams(saved["video"], saved["audio"])

    return run


@pytest.fixture
def made(tmp_path: Path) -> Callable[[], MediaInfo]:
    """The content of the file of the last run."""
    return lambda: probe(tmp_path / "out.mp4")


def picture(tiny: Path, clip: Path, frames: int, start_s: Fraction = Fraction(0)) -> Tensor:
    """The latent (1 c f h w) of the first frames of a clip."""
    pixels = to_clip(frames_by_time(check_input(clip, VideoSource), frames, FPS, start_s), SIZE[1], SIZE[0])
    with torch.inference_mode():
        return load_component("video_encoder", tiny / CHECKPOINT, dtype=torch.float32)(pixels)


def sound(tiny: Path, clip: Path, duration_s: Fraction, start_s: Fraction = Fraction(0)) -> Tensor:
    """The latent (1 c t m) of a part of the audio of a clip, followed by a little silence."""
    given = read_audio(check_input(clip, AudioSource), start_s, duration_s)
    encoder = load_component("audio_encoder", tiny / CHECKPOINT, dtype=torch.float32)
    with torch.inference_mode():
        return encoder(mel_from_waveform(given.samples.unsqueeze(0), given.sample_rate_hz, encoder.config.mel))


def distance(made: Tensor, given: Tensor) -> float:
    return float((made - given[:, :, : made.shape[2]]).square().mean())


# restyle


def test_the_weaker_a_restyling_the_nearer_it_stays_to_the_clip(v2v: Callable, tiny: Path, clips: Path) -> None:
    source = Streams(picture(tiny, clips / "clip.mp4", 25), sound(tiny, clips / "clip.mp4", 25 / FPS))
    request, weak = v2v("clip.mp4", "--strength", 0.1, target="weak.mp4")
    _, usual = v2v("clip.mp4")
    assert (request["preset"], request["strength"], request["frames"]) == ("restyle-guided", 0.1, 25)
    for stream, latent in source._asdict().items():
        assert distance(getattr(weak, stream), latent) < distance(getattr(usual, stream), latent)


def test_sound_that_is_kept_is_the_clip_s_own_and_no_reconstruction(v2v: Callable, clips: Path, tmp_path: Path) -> None:
    request, _ = v2v("clip.mp4", "--sound", "keep", "--audio-codec", "alac", "--start", "0.1s")
    given, heard = (check_input(path, AudioSource) for path in (clips / "clip.mp4", tmp_path / "out.mp4"))
    expected = read_audio(given, Fraction(1, 10), Fraction(25, 24)).samples
    assert (read_audio(heard).samples - expected).abs().max() < 2**-22
    assert (request["guidance"][0]["sm"], request["guidance"][1]["st"]) == (3, 1)


def test_restyling_at_full_strength_makes_what_t2v_makes(v2v: Callable, tiny: Path, tmp_path: Path) -> None:
    _, restyled = v2v("clip.mp4", "--strength", 1)
    words = ["--model", tiny, "--res", "96x64", "--frames", 25, "--steps", 2, "--seed", 3, "--keep-latents"]
    result = ltx2("t2v", "a bell rings", *words, "-o", tmp_path / "new.mp4")
    assert result.exit_code == 0, result.stderr
    new = load_file(tmp_path / "new.mp4.job" / "latents-1.safetensors")
    assert restyled.video.allclose(new["video"], atol=1e-4)
    assert restyled.audio.allclose(new["audio"], atol=1e-4)


def test_sound_from_nothing_takes_all_steps_while_the_picture_stays_on_its_way_to_the_source(
    v2v: Callable, tiny: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[States, float]] = []
    call = GuidedDenoiser.__call__

    def follow(self: GuidedDenoiser, states: States, sigma: float, step: int) -> Streams[Tensor]:
        seen.append((states, sigma))
        return call(self, states, sigma, step)

    monkeypatch.setattr(GuidedDenoiser, "__call__", follow)
    request, _ = v2v("silent.mp4", "--preset", "restyle", "--strength", 0.7)
    assert request["audio_source"] is None
    levels = [round(sigma, 6) for _, sigma in seen]
    assert levels == [1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.7, 0.421875]
    (begin, _), (at_strength, _) = seen[0], seen[7]
    assert begin.video is not None
    assert at_strength.video is not None
    source = picture(tiny, clips / "silent.mp4", 17).flatten(2).mT
    assert at_strength.video.latent.allclose(torch.lerp(source, begin.video.latent, 0.7), atol=1e-5)


# extend


@pytest.mark.parametrize(
    ("words", "before", "after"),
    [
        (("--extend", "0.3s"), 0, 8),
        (("--extend-before", "0.7s"), 16, 0),
        (("--extend", "0.4s", "--extend-before", "0.3s"), 8, 8),
    ],
)
def test_the_kept_part_of_an_extended_clip_is_the_encoded_clip_exactly(
    words: tuple[str, ...], before: int, after: int, v2v: Callable, tiny: Path, clips: Path
) -> None:
    request, latents = v2v("clip.mp4", *words)
    assert (request["preset"], request["frames"]) == ("one-stage", 25 + before + after)
    first = 1 if before else 0  # its first latent frame stands for one pixel frame, which is only correct at 0
    kept = picture(tiny, clips / "clip.mp4", 25)[:, :, first:]
    begin = before // 8 + first
    assert latents.video[:, :, begin : begin + kept.shape[2]].equal(kept)
    assert latents.video.shape[2] == begin + kept.shape[2] + after // 8

    steps = range(-(-before * 25 // 24), (before + 25) * 25 // 24 if after else latents.audio.shape[2])
    heard = sound(tiny, clips / "clip.mp4", Fraction(len(steps), 25), Fraction(steps.start, 25) - before / FPS)
    assert latents.audio[:, :, steps.start + first : steps.stop].equal(heard[:, :, first : len(steps)])


def test_a_silent_clip_is_extended_with_sound_all_along(v2v: Callable, made: Callable[[], MediaInfo]) -> None:
    request, _ = v2v("silent.mp4", "--extend", "0.3s")
    assert request["audio_source"] is None
    assert made().audio is not None


def test_an_extension_takes_presets_of_two_stages(v2v: Callable, tiny: Path, clips: Path) -> None:
    _, latents = v2v("silent.mp4", "--extend", "0.3s", "--preset", "distilled", size="192x128")
    pixels = to_clip(frames_by_time(check_input(clips / "silent.mp4", VideoSource), 17, FPS), 128, 192)
    with torch.inference_mode():
        kept = load_component("video_encoder", tiny / CHECKPOINT, dtype=torch.float32)(pixels)
    assert latents.video[:, :, :3].equal(kept)


# retake


def test_a_retake_leaves_everything_outside_its_span_as_it_was(v2v: Callable, tiny: Path, clips: Path) -> None:
    request, latents = v2v("clip.mp4", "--retake", "0.4s-0.6s")
    assert (request["preset"], request["window"]) == ("retake-guided", {"start_s": "2/5", "end_s": "3/5"})
    old = picture(tiny, clips / "clip.mp4", 25)
    assert latents.video[:, :, [0, 1, 3]].equal(old[:, :, [0, 1, 3]])  # frames 9 to 16 are 0.375 to 0.708 s
    assert not latents.video[:, :, 2].allclose(old[:, :, 2], atol=0.1)
    heard = sound(tiny, clips / "clip.mp4", 25 / FPS)
    outside = [step for step in range(26) if not (40 * step + 10 > 400 and 40 * step - 30 < 600)]  # milliseconds
    assert latents.audio[:, :, outside].equal(heard[:, :, outside])
    assert not latents.audio[:, :, 12].allclose(heard[:, :, 12], atol=0.1)


def test_times_of_a_span_are_those_of_the_given_clip(v2v: Callable, tiny: Path, clips: Path) -> None:
    request, latents = v2v("clip.mp4", "--start", "0.25s", "--retake", "0.9s-1s")
    assert (request["frames"], request["window"]) == (17, {"start_s": "13/20", "end_s": "3/4"})
    assert latents.video[:, :, :2].equal(picture(tiny, clips / "clip.mp4", 17, Fraction(1, 4))[:, :, :2])


# control


def test_a_reference_is_looked_at_as_its_lora_says(v2v: Callable, clips: Path, tiny: Path) -> None:
    request, followed = v2v("clip.mp4", "--control", f"{tiny / CONTROL}:0.9", size="128x128")
    assert request["preset"] == "control-guided"
    assert request["loras"] == [{"role": "lora-1", "name": CONTROL, "strength": 0.9}]
    (reference,) = request["references"]
    assert (reference["name"], reference["spatial_scale"], reference["temporal_scale"]) == ("clip.mp4", 2, 1)
    _, later = v2v("clip.mp4", "--control", tiny / CONTROL, "--frames", 25, size="128x128", target="b.mp4")
    assert not followed.video.allclose(later.video, atol=1e-3)


def test_a_distilled_model_controls_in_two_stages(v2v: Callable, made: Callable[[], MediaInfo], tiny: Path) -> None:
    request, latents = v2v("silent.mp4", "--control", tiny / CONTROL, "--preset", "control", size="256x256")
    assert (request["strength"], request["source"]) == (None, None)
    assert latents.video.shape == (1, 128, 3, 8, 8)
    assert made().audio is not None


# what does not change


def packets(path: Path, kind: str) -> list[bytes]:
    with open_media(path) as container:
        (stream,) = getattr(container.streams, kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize("words", [(), ("--retake", "0.4s-0.6s"), ("--control",)])
def test_a_kept_sound_is_copied_packet_by_packet(
    words: tuple[str, ...], v2v: Callable, tiny: Path, clips: Path, tmp_path: Path
) -> None:
    write_video(clips / "whole.mp4", frames=25, fps=FPS, size=SIZE, sound="aac")
    lora = (tiny / CONTROL,) if "--control" in words else ()
    request, latents = v2v("whole.mp4", "--sound", "keep", *words, *lora, size="128x128")
    assert request["audio"] == "keep"
    assert packets(tmp_path / "out.mp4", "audio") == packets(clips / "whole.mp4", "audio")
    assert latents.audio.equal(sound(tiny, clips / "whole.mp4", 25 / FPS)[:, :, : latents.audio.shape[2]])


def test_a_kept_sound_of_which_a_part_is_used_is_cut_with_the_picture(
    v2v: Callable, clips: Path, tmp_path: Path
) -> None:
    v2v("clip.mp4", "--sound", "keep", "--start", "0.25s", "--audio-codec", "flac")
    written = read_audio(check_input(tmp_path / "out.mp4", AudioSource)).samples
    given = read_audio(check_input(clips / "clip.mp4", AudioSource), Fraction(1, 4), 17 / FPS).samples
    assert written.shape == given.shape
    assert written.allclose(given, atol=2**-15)


def test_a_retake_of_the_sound_alone_copies_the_picture(v2v: Callable, tiny: Path, clips: Path, tmp_path: Path) -> None:
    request, latents = v2v("clip.mp4", "--video", "keep", "--retake", "0.4s-0.6s")
    assert (request["video"], request["frames"]) == ("keep", 33)
    assert packets(tmp_path / "out.mp4", "video") == packets(clips / "clip.mp4", "video")
    heard = sound(tiny, clips / "clip.mp4", 33 / FPS)
    assert latents.audio[:, :, :10].equal(heard[:, :, :10])
    assert latents.audio[:, :, 16:28].equal(heard[:, :, 16:28])
    assert not latents.audio[:, :, 12].allclose(heard[:, :, 12], atol=0.1)


# which part of the clip is used


def test_the_rate_of_the_clip_is_kept_unless_another_is_asked_for(
    v2v: Callable, made: Callable[[], MediaInfo], clips: Path
) -> None:
    write_video(clips / "ntsc.mp4", frames=10, fps=Fraction(30000, 1001), size=SIZE)
    request, _ = v2v("ntsc.mp4")
    video = made().video
    assert video is not None
    assert (request["fps"], video.fps, video.frames) == ("30000/1001", Fraction(30000, 1001), 9)
    request, _ = v2v("ntsc.mp4", "--fps", 60, target="fast.mp4")
    assert (request["fps"], request["frames"]) == ("60", 17)


def test_what_the_clip_decides_is_said_to_come_from_it(tiny: Path, clips: Path, tmp_path: Path) -> None:
    words = ["--model", tiny, "--res", "96x64", "--steps", 2, "--frames", 9, "-o", tmp_path / "out.mp4", "--json"]
    plan, *_ = ltx2("v2v", clips / "clip.mp4", *words).stdout.splitlines()
    sources = json.loads(plan)["sources"]
    assert [sources[name] for name in ("fps", "frames", "res")] == ["clip.mp4", *2 * ["the command line"]]
    assert "duration" not in sources


def test_frames_of_a_variable_rate_are_read_by_their_times(v2v: Callable, clips: Path) -> None:
    write_video(clips / "uneven.mp4", times_s=(0, 0.04, 0.08, 0.5, 0.54, 0.96), size=SIZE)
    request, _ = v2v("uneven.mp4", "--fps", 12)
    assert (request["fps"], request["frames"]) == ("12", 9)


def test_a_standing_clip_stays_standing(tiny: Path, clips: Path, tmp_path: Path) -> None:
    write_video(clips / "phone.mp4", frames=1, size=SIZE, rotation=90)
    words = ["--model", tiny, "--steps", 2, "--res", "480p", "-o", tmp_path / "out.mp4"]
    result = ltx2("v2v", clips / "phone.mp4", *words)
    assert result.exit_code == 0, result.stderr
    video = probe(tmp_path / "out.mp4").video
    assert video is not None
    assert video.width < video.height
    assert "phone.mp4 is scaled up from 64x96" in result.stderr


# what is refused after the clip has been read


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("clip.mp4", "--retake", "2s-3s"), 2, "the used part of clip.mp4 is 0.00 to 1.17 s"),
        (("clip.mp4", "--retake", "0.5s-1.3s"), 2, "--retake 0.5s-1.3s cannot be used"),
        (("clip.mp4", "--start", "0.5s", "--retake", "0.2s-0.8s"), 2, "is 0.50 to 1.17 s"),
        (("clip.mp4", "--start", "2s"), 2, "clip.mp4 lasts 1.17 s"),
        (("clip.mp4", "--duration", "2s"), 2, "clip.mp4 lasts 1.17 s, which is 25 frames at 24 fps"),
        (("clip.mp4", "--frames", "33"), 2, "--frames 33 cannot be used"),
        (("clip.mp4", "--frames", "20"), 2, "--frames 17 or --frames 25"),
        (("clip.mp4", "--extend", "0.1s"), 2, "steps of 8 frames, here 0.33 s"),
        (("clip.mp4", "--start", "1s", "--extend", "1s"), 3, "and the used part has 1"),
        (("silent.mp4", "--sound", "keep"), 2, "silent.mp4 has no audio"),
        (("clip.mp4", "--res", "100x64"), 2, "hint: --res 96x64 or --res 128x64"),
    ],
)
def test_what_the_clip_is_too_short_for_is_refused(
    words: tuple[str, ...],
    code: int,
    says: str,
    tiny: Path,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(clips)
    before = sorted(clips.iterdir())
    result = ltx2("v2v", words[0], "a bell rings", "--model", tiny, "-o", tmp_path / "out.mp4", *words[1:])
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert says in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 3
    assert "\nhint: " in result.stderr
    assert (sorted(clips.iterdir()), [*tmp_path.iterdir()]) == (before, [])


# how it resumes


def test_a_render_from_a_clip_is_resumed_and_decoded_to_the_same_bytes(v2v: Callable, tmp_path: Path) -> None:
    v2v("clip.mp4", "--retake", "0.4s-0.6s", "--codec", "h265")
    target, job = tmp_path / "out.mp4", tmp_path / "out.mp4.job"
    made = target.read_bytes()
    result = ltx2("decode", job, "-o", tmp_path / "again.mp4")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "again.mp4").read_bytes() == made
    target.unlink()
    (job / "latents-1.safetensors").unlink()
    result = ltx2("resume", job)
    assert result.exit_code == 0, result.stderr
    assert target.read_bytes() == made
