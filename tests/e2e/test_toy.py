"""The built-in model through the real command line: the result shows and sounds as the prompt says."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av import AudioStream, VideoStream
from PIL import Image
from typer.testing import CliRunner

from ltx2_cli.app import app
from ltx2_core.hub.registry import registered_models
from ltx2_core.media.probe import probe
from scripts.toy import model, world
from scripts.toy.detect import Sync, hear, match, see
from scripts.toy.long import Long, jumps_at_seams, syncs
from scripts.toy.world import Kind, Scene
from tests.synthetic_media import RATE_HZ, encode_sound, packets, tone, write_sound

pytestmark = pytest.mark.usefixtures("kept_models")

PROMPTS = {
    "drone over misty mountains, birds chirping": Scene(Kind.FLIGHT),
    "a small red ball bounces high and slowly on the left": Scene(Kind.BALL, "red", "small", "slow", side="left"),
    "a blue door on the right slams shut": Scene(Kind.DOOR, "blue", side="right"),
    "a yellow lamp on the right blinks fast, with a high beep": Scene(
        Kind.LAMP, "yellow", tempo="fast", pitch="high", side="right"
    ),
    "stormy waves on the ocean at night": Scene(Kind.WAVES, strength="stormy", time_of_day="night"),
}
QUICK = ["drone over misty mountains, birds chirping", "a blue door on the right slams shut"]
BALL = Scene(Kind.BALL, "green", "big", "slow", side="right", seed=3)
GIVEN = Scene(Kind.LAMP, "green", tempo="slow", pitch="low", side="left", seed=1)
NEAR = 10  # of 255: clips of other kinds differ more
ONE_CODE = 1  # of 255
A_HUNDREDTH_S = 0.01  # a frame lasts four hundredths
HALF = 0.5  # of the events; by chance it would be a quarter, and a single clip has only three to five events


FEWER_STEPS = ("--steps", "6")  # instead of twenty: sufficient to show what is requested and to follow the given stream


def render(folder: Path, *words: object) -> tuple[np.ndarray, np.ndarray]:
    """The frames (F H W 3) and the samples (2 s) of the clip that a command renders with the built-in model."""
    target = folder / "made.mp4"
    result = CliRunner().invoke(app, [*map(str, words), "--model", "toy", "--seed", "1", "-o", str(target)])
    assert result.exit_code == 0, result.stderr
    with av.open(target) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    with av.open(target) as file:
        sound = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=-1)
    return frames, sound.astype(np.float32)


def write_frames(path: Path, frames: np.ndarray, sound: str | None = None) -> Path:
    """Write a clip of frames (F H W 3), silent unless an encoder for a tone is named."""
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(world.FPS), options={"crf": "10"})
        assert isinstance(stream, VideoStream)
        (stream.height, stream.width), stream.pix_fmt = frames.shape[1:3], "yuv420p"
        track = file.add_stream(sound, rate=RATE_HZ, layout="stereo") if sound else None
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
        if isinstance(track, AudioStream):
            encode_sound(file, track, tone(len(frames) * RATE_HZ // world.FPS))
    return path


def difference(frames: np.ndarray, others: np.ndarray) -> float:
    """The mean difference of frames (F H W 3)."""
    return float(np.abs(frames.astype(np.float32) - others).mean())


@pytest.mark.parametrize(
    ("prompt", "steps"),
    [*((one, FEWER_STEPS) for one in QUICK), *(pytest.param(one, (), marks=pytest.mark.slow) for one in PROMPTS)],
)
def test_a_clip_shows_what_its_prompt_says(prompt: str, steps: tuple[str, ...], tmp_path: Path) -> None:
    scene = PROMPTS[prompt]
    frames, sound = render(tmp_path, "t2v", prompt, *steps)
    seen, heard = see(frames), hear(sound, scene.kind)
    assert frames.shape == (model.FRAMES, model.HEIGHT, model.WIDTH, 3)
    assert seen.kind == scene.kind
    for name in ("colour", "size", "side", "time_of_day"):
        assert getattr(scene, name) in (None, getattr(seen, name)), name
    for name in ("pitch", "side", "strength"):
        assert getattr(scene, name) in (None, getattr(heard, name)), name


@pytest.mark.parametrize(
    ("preset", "size"),
    [("distilled-lora", "192x128"), pytest.param("two-stage", "384x256", marks=pytest.mark.slow)],
)
def test_other_presets_show_it_too(preset: str, size: str, tmp_path: Path) -> None:
    frames, sound = render(tmp_path, "t2v", "a big red ball bounces on the left", "--preset", preset, "--res", size)
    seen = see(frames)
    assert "x".join(map(str, frames.shape[2:0:-1])) == size
    assert (seen.kind, seen.colour, seen.side) == (Kind.BALL, "red", "left")
    assert hear(sound, Kind.BALL).side == "left"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_blocks_show_the_same_events(tmp_path: Path) -> None:
    clips = []
    for words in ((), ("--compile",)):
        (folder := tmp_path / f"with{''.join(words)}").mkdir()
        clips.append(render(folder, "t2v", QUICK[1], *FEWER_STEPS, *words))
    (frames, sound), (others, other_sound) = clips
    assert difference(frames, others) < ONE_CODE
    seen, other = see(frames), see(others)
    assert seen.times_s == pytest.approx(other.times_s, abs=A_HUNDREDTH_S)
    assert replace(seen, times_s=()) == replace(other, times_s=())
    heard, other_heard = hear(sound, Kind.DOOR), hear(other_sound, Kind.DOOR)
    assert heard.onsets_s == pytest.approx(other_heard.onsets_s, abs=A_HUNDREDTH_S)
    assert (heard.size, heard.side, heard.strength) == (other_heard.size, other_heard.side, other_heard.strength)


def test_a_given_picture_goes_on_in_its_colour_and_at_its_place(tmp_path: Path) -> None:
    first = world.render(BALL).frames[0]
    Image.fromarray(first).save(tmp_path / "ball.png")
    frames, sound = render(tmp_path, "i2v", tmp_path / "ball.png", "a bouncing ball", *FEWER_STEPS)
    seen = see(frames)
    assert difference(frames[:1], first[None]) < NEAR
    assert (seen.kind, seen.colour, seen.side) == (Kind.BALL, "green", "right")
    assert hear(sound, Kind.BALL).side == "right"


def test_an_extended_clip_goes_on_where_it_ended(tmp_path: Path) -> None:
    whole = world.render(BALL)
    given = write_frames(tmp_path / "ball.mp4", whole.frames[:33])
    frames, _ = render(
        tmp_path, "v2v", given, "a big green ball bounces slowly on the right", "--extend", "0.7s", *FEWER_STEPS
    )
    assert difference(frames[:33], whole.frames[:33]) < NEAR
    seen = see(frames[33:])
    assert len(frames) == len(whole.frames)
    assert (seen.kind, seen.colour, seen.side) == (Kind.BALL, "green", "right")
    assert match([event.time_s for event in whole.events], see(frames).times_s).recall > HALF


@pytest.mark.slow
def test_a_retake_changes_its_span_and_goes_with_what_is_around_it(tmp_path: Path) -> None:
    clip = world.render(BALL)
    given = write_frames(tmp_path / "ball.mp4", clip.frames)
    asked = ("a big green ball bounces slowly on the right", "a small red ball bounces fast on the right")
    one, other = (
        render(tmp_path, "v2v", given, words, "--retake", "0.7s-1.4s", "--overwrite", *FEWER_STEPS)[0]
        for words in asked
    )
    apart = np.abs(one.astype(np.float32) - other).mean((1, 2, 3))
    assert apart[17:34].mean() > 1.5 * np.concatenate([apart[:8], apart[-8:]]).mean()
    assert difference(one, clip.frames) < NEAR
    assert match([event.time_s for event in clip.events], see(one).times_s).recall > HALF


def test_a_picture_for_a_sound_keeps_its_time(tmp_path: Path) -> None:
    clip = world.render(GIVEN)
    samples = (clip.sound * 32767).astype(np.int16)
    given = write_sound(tmp_path / "beeps.wav", samples=samples, rate_hz=world.RATE_HZ)
    frames, sound = render(tmp_path, "a2v", given, "a green lamp blinks slowly on the left", *FEWER_STEPS)
    seen = see(frames)
    assert (seen.kind, seen.colour, seen.side) == (Kind.LAMP, "green", "left")
    assert match([event.time_s for event in clip.events], seen.times_s).recall > HALF
    assert hear(sound, Kind.LAMP).pitch == GIVEN.pitch


def test_a_sound_for_a_picture_keeps_its_time(tmp_path: Path) -> None:
    clip = world.render(GIVEN)
    given = write_frames(tmp_path / "lamp.mp4", clip.frames)
    _, sound = render(tmp_path, "v2a", given, "a green lamp blinks slowly on the left, with low beeps", *FEWER_STEPS)
    heard = hear(sound, Kind.LAMP)
    assert (heard.pitch, heard.side) == (GIVEN.pitch, GIVEN.side)
    assert match([event.time_s for event in clip.events], heard.onsets_s).recall > HALF


def test_a_clip_is_enlarged_with_its_audio_and_a_stronger_refinement_changes_more(tmp_path: Path) -> None:
    frames = world.render(BALL).frames[:17]
    given = write_frames(tmp_path / "ball.mp4", frames, "aac")
    wanted = frames.repeat(2, axis=1).repeat(2, axis=2)
    told = ("v2v", given, "a big green ball bounces slowly on the right", "--upscale", 2, "--overwrite")
    changed = []
    for strength in (0.2, 0.909375):
        made, _ = render(tmp_path, *told, "--strength", strength)
        assert made.shape == wanted.shape
        assert packets(tmp_path / "made.mp4", "audio") == packets(given, "audio")
        info = probe(tmp_path / "made.mp4").video
        assert info is not None
        assert info.duration_s == Fraction(17, world.FPS)
        assert see(made).colour == "green"
        changed.append(difference(made, wanted))
    assert changed[0] < NEAR
    assert changed[1] > 1.5 * changed[0]


def test_what_is_shipped_is_what_its_entry_names_and_within_its_budget() -> None:
    files = [path for path in model.HOME.rglob("*") if path.is_file()]
    assert {path.relative_to(model.HOME).parts[0] for path in files} == set(registered_models()["toy"].files.values())
    assert max(path.stat().st_size for path in files) <= model.FILE_BYTES
    assert sum(path.stat().st_size for path in files) <= model.TOTAL_BYTES


@pytest.mark.slow
def test_ball_bounces_on_in_time_through_windows(tmp_path: Path) -> None:
    prompt = "a big red ball bounces slowly on the left, a thud at each bounce"
    frames, sound = render(tmp_path, "t2v", prompt, "--preset", "distilled-lora", "--until", "6s")
    clip = Long(Scene(Kind.BALL, "red", "big", "slow", side="left"), frames, sound, news=(0, 49, 81, 113))
    assert len(frames) == 145
    found = sum(syncs(clip), Sync())
    assert found.events > 6
    assert min(found.recall, found.precision) > HALF
    assert jumps_at_seams(clip).max() < 1.2  # of the largest differences in the clip; a cut is several times as large
    assert see(frames[-48:]).colour == "red"
