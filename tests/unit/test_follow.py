"""The length and the size of a render that follows given audio or a given clip."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ltx2_core.errors import LTX2Error, MediaError, RequestError
from ltx2_core.media.accept import check_input
from ltx2_core.media.inputs import VideoSource
from ltx2_core.pipeline.request import ClipInput
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from ltx2_core.pipeline.resolved import Resolved
from tests.places import A_FILE
from tests.synthetic_media import tone, write_sound, write_video

RATES = [Fraction(text) for text in ("24", "25", "24000/1001", "30000/1001", "60")]


def resolved(mode: str, tiny: Path, main: Path, **flags: object) -> Resolved:
    set_by_hand = {"model": str(tiny), "output": f"{main.parent}/none{{seed}}"} | flags
    if mode == "a2v":
        set_by_hand["output"] += ".mp4"
    else:
        del set_by_hand["output"]
    return resolve(mode, "", [(A_FILE, set_by_hand)], main=main)


def silence(path: Path, samples: int, rate_hz: int = 8000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(bytes(2 * samples))
    return path


# Audio


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(samples=st.integers(1, 8000 * 20), fps=st.sampled_from(RATES))
@example(samples=334, fps=Fraction(24000, 1001))  # longer than a frame by less than half a sample
def test_clip_has_the_fewest_frames_that_cover_its_sound(
    tiny: Path, tmp_path: Path, samples: int, fps: Fraction
) -> None:
    assume(samples * fps > 8000 or fps < 50)  # otherwise a single frame is shorter than an audio step
    found = resolved("a2v", tiny, silence(tmp_path / "a.wav", samples), fps=str(fps)).request
    assert found.frames % 8 == 1
    assert round(found.frames / fps * 8000) >= samples
    assert found.frames == 1 or round((found.frames - 8) / fps * 8000) < samples
    assert found.audio_source is not None
    assert found.audio_source.duration_s is None


@pytest.mark.parametrize("fps", RATES, ids=str)
@pytest.mark.parametrize("frames", [9, 121, 241])
def test_sound_of_a_finished_clip_makes_one_of_the_same_length(
    tiny: Path, tmp_path: Path, fps: Fraction, frames: int
) -> None:
    path = silence(tmp_path / "a.wav", round(frames / fps * 24000), 24000)
    assert resolved("a2v", tiny, path, fps=str(fps)).request.frames == frames


def test_20_seconds_of_sound_are_not_too_long_and_a_second_more_takes_a_wish(tiny: Path, tmp_path: Path) -> None:
    path = silence(tmp_path / "a.wav", 8000 * 20)
    assert resolved("a2v", tiny, path).request.frames == 481
    assert not resolved("a2v", tiny, path).warnings
    path = silence(tmp_path / "a.wav", 8000 * 21)
    with pytest.raises(RequestError, match=r"21\.0 s of a\.wav are more than 20 s\n.*\n.*--start 0s --duration 20s"):
        resolved("a2v", tiny, path)
    assert "21.0 s is longer" in resolved("a2v", tiny, path, duration="21s").warnings[0]
    assert resolved("a2v", tiny, path, start="1s").request.frames == 481


def test_image_gives_a_clip_its_aspect(tiny: Path, tmp_path: Path) -> None:
    Image.new("RGB", (90, 160)).save(tmp_path / "tall.png")
    path = silence(tmp_path / "a.wav", 800)
    tall = resolved("a2v", tiny, path, image=(str(tmp_path / "tall.png"),), res="480p").request
    assert tall.file_size == (480, 832)
    assert resolved("a2v", tiny, path, res="480p").request.file_size == (832, 480)


def test_file_is_called_after_its_sound(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    silence(tmp_path / "My Song.wav", 800)
    found = resolve("a2v", " ", [(A_FILE, {"model": str(tiny), "seed": 7})], main=Path("My Song.wav"))
    assert found.target == Path("a2v-my-song-7.mp4")


# Clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.mark.parametrize(
    ("size", "res", "looked_at"),
    [
        ((1920, 1080), None, (832, 480)),
        ((1080, 1920), None, (480, 832)),
        ((1920, 1080), "480p", (832, 480)),
        ((1920, 1080), "720p", (1280, 736)),
        ((1280, 720), "1080p", (1280, 704)),
        ((320, 240), None, (320, 256)),
        ((48, 32), None, (64, 64)),
        ((1920, 1080), "256x256", (256, 256)),
    ],
)
def test_clip_is_looked_at_in_its_own_aspect_and_not_larger_than_it_is(
    tiny: Path, clips: Path, size: tuple[int, int], res: str | None, looked_at: tuple[int, int]
) -> None:
    path = clips / f"{size[0]}x{size[1]}.mp4"
    if not path.exists():
        write_video(path, frames=2, size=size)
    found = resolved("v2a", tiny, path, **({"res": res} if res else {}))
    assert (found.request.width, found.request.height) == looked_at
    assert any(f"{size[0]}x{size[1]}, is copied as it is" in note for note in found.notes)


@pytest.mark.parametrize(
    ("frames", "looked_at", "repeated"),
    [(1, 1, ""), (2, 9, "7 times"), (8, 9, "once"), (9, 9, ""), (10, 17, "7 times"), (60, 65, "5 times")],
)
def test_last_frame_is_repeated_to_the_next_legal_length(
    tiny: Path, tmp_path: Path, frames: int, looked_at: int, repeated: str
) -> None:
    path = write_video(tmp_path / "a.mp4", frames=frames, fps=Fraction(30000, 1001))
    found = resolved("v2a", tiny, path)
    assert (found.request.frames, found.request.fps) == (looked_at, Fraction(30000, 1001))
    told = [note for note in found.notes if "the last frame" in note]
    assert told == [f"{looked_at} frames: {frames} of a.mp4, and the last frame {repeated} more"] * bool(repeated)


def test_a_single_frame_is_told_in_the_singular(tiny: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=5)
    notes = resolved("a2v", tiny, silence(tmp_path / "a.wav", 320), fps="24").notes
    assert any(note.startswith("1 frame: 0.04 s of a.wav") for note in notes)
    assert "a.mp4: the first of 5 frames is used" in resolved("v2v", tiny, path, strength="0.5").notes
    assert "0.02 s at 25 fps: 1 frame" in resolved("v2v", tiny, path, strength="0.5", duration="0.02s").notes


@pytest.mark.parametrize(("codec", "rest"), [(None, "which ends 0.5"), ("alac", "then 0.5")])
def test_kept_audio_that_ends_before_its_video_is_told(
    tiny: Path, tmp_path: Path, codec: str | None, rest: str
) -> None:
    whole, path = write_video(tmp_path / "whole.mp4", frames=25, sound="aac"), tmp_path / "a.mp4"
    with av.open(whole) as old, av.open(path, "w") as container:
        tracks = {stream: container.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.size and (packet.stream.type == "video" or (packet.dts or 0) * packet.time_base < 0.45):
                packet.stream = tracks[packet.stream]
                container.mux(packet)
    settings = {"audio_codec": codec} if codec else {}
    found = resolved("v2v", tiny, path, sound="keep", strength="0.5", **settings)
    assert any(note.startswith("a.mp4: 0.4") and f"s of audio, {rest}" in note for note in found.notes)
    found = resolved("v2v", tiny, whole, sound="keep", strength="0.5", **settings)
    assert not any("s of audio" in note for note in found.notes)


def test_variable_rate_is_read_at_its_average(tiny: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", times_s=[*(n / 30 for n in range(20)), 1.5, 1.9, 2.0])
    found, source = resolved("v2a", tiny, path), check_input(path, VideoSource)
    assert found.request.frames == 25
    assert abs(found.request.fps - 23 / source.duration_s) < Fraction(1, 1000)
    assert any("variable frame rate" in note for note in found.notes)


def test_one_stage_is_enough_where_no_picture_is_made(tiny: Path, clips: Path) -> None:
    path = write_video(clips / "a.mp4", frames=9)
    found = resolved("v2a", tiny, path, preset="distilled")
    (stage,) = found.request.recipe.stages
    assert (stage.scale, stage.sigmas, found.request.steps_of_stages) == (1, "distilled-8", [8])
    assert "distilled: only its first stage is run, as no video is generated" in found.notes
    guidance = resolved("v2a", tiny, path, skip_step=1).request.guidance
    assert guidance.video is not None
    assert guidance.audio is not None
    assert (guidance.video.st, guidance.video.sm, guidance.video.stg, guidance.video.skip_step) == (1, 1, 0, 1)
    assert (guidance.audio.st, guidance.audio.sm, guidance.audio.stg) == (7, 3, 1)


def test_settings_for_other_modes_do_not_disturb(tiny: Path, clips: Path) -> None:
    path = write_video(clips / "b.mp4", frames=9)
    usual = {"sound": "off", "codec": "av1", "fps": "60", "aspect": "1:1", "video_st": 2, "old_sound": "second-track"}
    layers = [(A_FILE, {"model": str(tiny)} | usual)]
    found = resolve("v2a", "", layers, main=path).request
    assert (found.video, found.audio, found.fps, found.guidance[0].st) == ("keep", "generate", 25, 1)


@pytest.mark.parametrize(
    ("flags", "error", "says"),
    [
        ({}, RequestError, r"28\.0 s of long\.mp4 are more than 20 s\n.*\n.*--start 0s --duration 20s"),
        ({"start": "3s"}, RequestError, r"25\.0 s of .*\n.*\n.*--start 3s --duration 20s"),
        ({"duration": "25s"}, RequestError, r"25\.0 s of .*\n.*\n.*--duration 20s"),
        ({"start": "28s"}, RequestError, r"start 28s cannot be used\nlong\.mp4 lasts 28\.00 s"),
    ],
)
def test_clip_that_is_too_long_is_refused_with_what_to_use(
    tiny: Path, clips: Path, flags: dict, error: type[LTX2Error], says: str
) -> None:
    path = clips / "long.mp4"
    if not path.exists():
        write_video(path, frames=700)
    with pytest.raises(error, match=says):
        resolved("v2a", tiny, path, **flags)


def test_more_than_there_is_left_is_what_there_is(tiny: Path, clips: Path) -> None:
    path = write_video(clips / "c.mp4", frames=25)
    whole = resolved("v2a", tiny, path, duration="9s").request.source
    assert whole is not None
    assert whole.duration_s is None
    part = resolved("v2a", tiny, path, start="0.5s", duration="9s").request.source
    assert part is not None
    assert (part.start_s, part.duration_s) == (Fraction(13, 25), Fraction(12, 25))


def test_rate_that_nothing_can_be_made_for_is_refused(tiny: Path, clips: Path) -> None:
    path = write_video(clips / "slides.mp4", frames=3, fps=Fraction(1, 2))
    with pytest.raises(
        RequestError, match=r"slides\.mp4 has 0\.5 frames a second\nthey must be 1 to 240\nhint: change"
    ):
        resolved("v2a", tiny, path)


def test_container_of_a_part_must_be_able_to_hide_what_comes_before_it(tiny: Path, clips: Path) -> None:
    path = write_video(clips / "web.webm", frames=25, codec="libvpx")
    with pytest.raises(RequestError, match=r"start 0\.5s cannot be used with web\.webm\n.*keyframe .*\n.*--start 0s"):
        resolved("v2a", tiny, path, start="0.5s")
    assert resolved("v2a", tiny, path, duration="0.5s").target.suffix == ".mkv"


def test_old_sound_that_cannot_come_along_is_refused(tiny: Path, clips: Path) -> None:
    path = write_video(clips / "old.avi", codec="mpeg4", frames=9, sound="pcm_mulaw")
    with pytest.raises(MediaError, match=r"\(pcm_mulaw\) cannot be copied into a \.mp4 file\nhint: --old-sound drop"):
        resolved("v2a", tiny, path, old_sound="second-track")
    silent = write_video(clips / "silent.mp4", frames=9)
    layers = [(COMMAND_LINE, {"model": str(tiny), "old_sound": "second-track"})]
    with pytest.raises(RequestError, match=r"--old-sound second-track cannot be used\nsilent\.mp4 has no audio"):
        resolve("v2a", "", layers, main=silent)


def test_result_does_not_replace_what_it_is_made_from(tiny: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=9, sound="aac")
    for mode in ("v2a", "a2v"):
        with pytest.raises(RequestError, match="it is what the render starts from"):
            resolve(mode, "", [(A_FILE, {"model": str(tiny), "output": str(path), "overwrite": True})], main=path)


def test_sound_without_a_file_is_called_by_its_name(tiny: Path, tmp_path: Path) -> None:
    for mode, noun in (("a2v", "audio"), ("v2a", "a video")):
        with pytest.raises(MediaError, match=rf"gone\.wav cannot be used as {noun}\nthere is no such file"):
            resolved(mode, tiny, tmp_path / "gone.wav")


def test_packets_are_copied_unless_another_codec_is_wanted(tiny: Path, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.m4a", "aac")
    codecs = {"flac": "flac", "aac": "aac", "copy": "copy", None: "copy"}
    for wanted, used in codecs.items():
        assert resolved("a2v", tiny, path, audio_codec=wanted).task.output.audio_codec == used
    assert resolved("a2v", tiny, path, duration="0.5s").task.output.audio_codec == "aac"


@pytest.mark.parametrize("codec", ["libopus", "ac3", "eac3", "flac"])
def test_audio_that_many_players_cannot_play_in_mp4_is_copied_only_where_that_is_asked_for(
    codec: str, tiny: Path, tmp_path: Path
) -> None:
    path = write_sound(tmp_path / "a.mka", codec, rate_hz=48000)
    usual = resolved("a2v", tiny, path)
    assert usual.task.output.audio_codec == "aac"
    assert "stored as aac" in usual.notes[2]
    assert "--audio-codec copy keeps it as it is" in usual.notes[2]
    assert resolved("a2v", tiny, path, audio_codec="copy").task.output.audio_codec == "copy"


def test_what_cannot_be_copied_is_refused_before_the_render(tiny: Path, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", "adpcm_ms")
    with pytest.raises(
        RequestError, match=r"copy cannot be used with a\.wav\nan MP4 cannot hold its packets \(adpcm_ms\)"
    ):
        resolved("a2v", tiny, path, audio_codec="copy")
    whole = write_sound(tmp_path / "a.m4a", "aac")
    with pytest.raises(RequestError, match=r"copy cannot be used with a\.m4a\nonly a part of it is used"):
        resolved("a2v", tiny, whole, audio_codec="copy", start="0.2s")
    with pytest.raises(RequestError, match=r"audio_codec copy cannot be used\nthe audio is generated"):
        resolve("t2v", "x", [(A_FILE, {"model": str(tiny), "audio_codec": "copy"})])


def test_copied_audio_ends_where_it_ends_and_encoded_audio_is_filled_up(tiny: Path, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.m4a", "aac", samples=tone(43200, 2, 48000), rate_hz=48000)
    assert resolved("a2v", tiny, path).notes[1] == "25 frames: 0.90 s of a.m4a, which ends 0.14 s before the video"
    encoded = resolved("a2v", tiny, path, audio_codec="flac")
    assert encoded.notes[1] == "25 frames: 0.90 s of a.m4a, then 0.14 s of silence"


def test_audio_that_goes_on_fills_the_last_frames(tiny: Path, tmp_path: Path) -> None:
    path = silence(tmp_path / "a.wav", 24000)
    task = resolved("a2v", tiny, path, start="0.5s", duration="1s")
    assert task.request.frames == 25
    given = task.request.audio_source
    assert given is not None
    assert given.duration_s == Fraction(25, 24)
    assert task.notes[1] == "25 frames: 1.04 s of a.wav"
    last = resolved("a2v", tiny, path, start="2.5s", duration="1s")
    given = last.request.audio_source
    assert given is not None
    assert given.duration_s is None
    assert last.notes[1].endswith("then 0.54 s of silence")


@pytest.mark.parametrize("mode", ["v2a", "v2v"])
def test_the_request_holds_how_a_clip_is_read(mode: str, tiny: Path, clips: Path) -> None:
    path = write_video(clips / "turned.mp4", frames=25, rotation=90)
    source = resolved(mode, tiny, path).request.source
    assert source is not None
    assert source.reading == check_input(path, VideoSource).reading
    assert source.reading.rotation == 90
    assert ClipInput.model_validate_json(source.model_dump_json()) == source


@pytest.mark.parametrize(
    ("flags", "is_read"),
    [({}, True), ({"sound": "keep"}, True), ({"sound": "off"}, False), ({"sound": "off", "retake": "0s-0.5s"}, False)],
)
def test_audio_of_a_clip_is_read_where_it_is_used(
    flags: dict[str, str], is_read: bool, tiny: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=25, sound="aac")
    assert (resolved("v2v", tiny, clip, **flags).request.audio_source is not None) is is_read
