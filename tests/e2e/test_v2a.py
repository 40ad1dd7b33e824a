"""Audio for given clips, through the real command line on the tiny model."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from av.stream import Disposition
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner, Result

from ltx2_cli.app import app
from ltx2_core.checkpoint import load_component
from ltx2_core.media.accept import check_input
from ltx2_core.media.inputs import VideoSource
from ltx2_core.media.probe import MediaInfo, probe
from ltx2_core.media.resize import to_clip
from ltx2_core.media.video import frames_by_time
from tests.commands import AUDIO_UNGUIDED
from tests.stopping import stopped_when
from tests.synthetic_media import contents, packets, write_video

pytestmark = pytest.mark.usefixtures("kept_models")

ROOT = Path(__file__).parents[2]
NTSC = Fraction(30000, 1001)
SMALL = ("--res", "64x64", "--steps", "2", "--seed", "3", *AUDIO_UNGUIDED)


@pytest.fixture
def ltx2(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `ltx2 v2a` at a small size in its own folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Result:
        given = [str(word) for word in words]
        return CliRunner().invoke(app, ["v2a", *given, *([] if "--res" in given else SMALL), "--model", str(tiny)])

    return run


def made(result: Result) -> Path:
    """The file that a command has written."""
    assert result.exit_code == 0, result.stderr
    return Path(result.stdout.strip()).relative_to(Path.cwd())


def samples(path: Path, number: int = 0) -> int:
    """The number of samples between the beginning and the end of a track, by the edit list of its file."""
    with av.open(path) as container:
        stream = container.streams.audio[number]
        assert stream.duration is not None
        assert stream.time_base is not None
        return round(stream.duration * stream.time_base * stream.codec_context.sample_rate)


def joined(path: Path) -> Tensor:
    source = check_input(path, VideoSource)
    return torch.cat(list(frames_by_time(source, source.frames, source.fps)))


def recipe(info: MediaInfo) -> dict[str, Any]:
    assert info.comment is not None
    return json.loads(info.comment)


# What is copied, and what is generated


def test_picture_keeps_its_packets_and_gets_a_sound_of_its_length(ltx2: Callable[..., Result], tiny: Path) -> None:
    source = check_input(write_video(Path("clip.mp4"), frames=20, sound="aac"), VideoSource)
    result = ltx2("clip.mp4", "a bell rings", "--keep-latents")
    path = made(result)
    assert path == Path("v2a-a-bell-rings-3.mp4")
    assert packets(path, "video") == packets(Path("clip.mp4"), "video")
    assert samples(path) == round(Fraction(20, 25) * 24000)
    with av.open(path) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    latents = load_file(Path(f"{path}.job") / "latents-1.safetensors")
    pixels = to_clip(frames_by_time(source, 25, Fraction(25)), 64, 64)
    with torch.inference_mode():
        encoder = load_component("video_encoder", tiny / "ltx-2-tiny-dev.safetensors", dtype=torch.float32)
        assert latents["video"].equal(encoder(pixels))
    assert latents["audio"].shape[2] == 25
    told = result.stderr.splitlines()
    assert told[2:5] == [
        "the video, 48x32, is copied as it is; the model sees it at 64x64",
        "the old audio is left out; --old-sound second-track keeps it",
        "25 frames: 20 of clip.mp4, and the last frame 5 times more",
    ]


def test_clip_of_a_phone_keeps_its_packets_their_times_and_its_rotation(ltx2: Callable[..., Result]) -> None:
    shown = [number for number in range(101) if number % 7 != 3]
    times_s = [number / float(NTSC) for number in shown]
    path = write_video(Path("phone.mp4"), times_s=times_s, size=(320, 180), rotation=90, preset="ultrafast")
    source = check_input(path, VideoSource)
    assert (source.width, source.height, source.is_variable, source.fps) == (180, 320, False, NTSC)
    assert abs(float(source.duration_s) - 3.37) < 0.01
    result = ltx2("phone.mp4")
    dubbed = made(result)
    again = check_input(dubbed, VideoSource)
    assert packets(dubbed, "video") == packets(path, "video")
    assert (again.reading.rotation, again.duration_s, again.is_variable) == (90, source.duration_s, False)
    assert samples(dubbed) == round(source.duration_s * 24000)
    assert "phone.mp4 lacks 14 of 101 frames at its rate of 29.97 fps" in result.stderr
    assert recipe(probe(dubbed))["request"]["frames"] == 105


@pytest.mark.parametrize(
    ("name", "suffix", "options"),
    [
        ("ntsc.mkv", ".mp4", {"fps": NTSC}),
        ("broadcast.ts", ".mp4", {"sound": "aac"}),
        ("studio.mov", ".mov", {"codec": "prores_ks", "pixels": "yuv422p10le"}),
        ("web.webm", ".mkv", {"codec": "libvpx", "sound": "libopus"}),
        ("odd.avi", ".avi", {"codec": "huffyuv", "pixels": "yuv422p", "size": (46, 31)}),
        ("b-frames.avi", ".avi", {}),
    ],
)
def test_container_is_that_of_the_input_where_an_mp4_cannot_hold_the_picture(
    ltx2: Callable[..., Result], name: str, suffix: str, options: dict[str, Any]
) -> None:
    write_video(Path(name), frames=9, **options)
    result = ltx2(name)
    path = made(result)
    assert path.suffix == suffix
    if not name.endswith(".ts"):  # TS divides packets differently
        assert contents(packets(path, "video")) == contents(packets(Path(name), "video"))
    assert joined(path).equal(joined(Path(name)))
    assert (f"the result is a {suffix} file" in result.stderr) == (suffix != ".mp4")
    assert recipe(probe(path))["request"]["mode"] == "v2a"
    other = ".mp4" if suffix != ".mp4" else ".mov"
    refused = ltx2(name, "-o", f"other{other}")
    assert refused.exit_code == 2
    assert f"this video goes into a file that ends in {suffix}\nhint: -o other{suffix}" in refused.stderr
    assert CliRunner().invoke(app, ["inspect", str(path)]).exit_code == 0


@pytest.mark.parametrize("codec", ["aac", "alac", "flac"])
def test_new_sound_is_stored_as_asked(ltx2: Callable[..., Result], codec: str) -> None:
    write_video(Path("clip.mp4"), frames=9)
    audio = probe(made(ltx2("clip.mp4", "--audio-codec", codec))).audio
    assert audio is not None
    assert (audio.codec, audio.sample_rate_hz, audio.channels) == (codec, 24000, 2)


def test_old_sound_comes_second_packet_by_packet(ltx2: Callable[..., Result]) -> None:
    write_video(Path("clip.mp4"), frames=20, sound="aac")
    path = made(ltx2("clip.mp4", "--old-sound", "second-track", "--sheet"))
    assert packets(path, "audio", 1) == packets(Path("clip.mp4"), "audio")
    with av.open(path) as container:
        dispositions = [stream.disposition & Disposition.default for stream in container.streams.audio]
    assert dispositions == [Disposition.default, Disposition(0)]
    with Image.open(path.with_suffix(".png")) as sheet:
        assert sheet.width > sheet.height


def test_part_of_a_clip_begins_with_its_frame(ltx2: Callable[..., Result]) -> None:
    source = check_input(write_video(Path("clip.mp4"), frames=40, sound="aac"), VideoSource)
    result = ltx2("clip.mp4", "--start", "0.5s", "--duration", "0.6s", "--old-sound", "second-track")
    path = made(result)
    assert joined(path).equal(torch.cat(list(frames_by_time(source, 15, source.fps, Fraction("0.52")))))
    assert contents(packets(path, "video")) == contents(packets(Path("clip.mp4"), "video"))[: 13 + 15]
    assert samples(path) == 14400
    assert "clip.mp4 is cut to 0.52 to 1.12 s; the 0.52 s before that are stored, but not shown" in result.stderr
    assert "17 frames: 15 of clip.mp4, and 2 frames that follow" in result.stderr
    stored = recipe(probe(path))["request"]["source"]
    assert stored.pop("reading")["height"] == source.height
    assert stored == {
        "role": "clip",
        "name": "clip.mp4",
        "start_s": "13/25",
        "duration_s": "3/5",
    }


def test_model_looks_at_the_part_that_is_used(ltx2: Callable[..., Result]) -> None:
    write_video(Path("clip.mp4"), frames=34, codec="mpeg4")
    for name, words in (("part", ["--start", "0.36s", "--frames", "9"]), ("whole", [])):
        made(ltx2("clip.mp4", *words, "-o", f"{name}.mp4", "--keep-latents"))
    part, whole = (load_file(f"{name}.mp4.job/latents-1.safetensors")["video"] for name in ("part", "whole"))
    assert part.shape[2] == 2
    assert not part.equal(whole[:, :, :2])
    made(ltx2("part.mp4", "-o", "again.mp4", "--keep-latents"))
    assert load_file("again.mp4.job/latents-1.safetensors")["video"].equal(part)


def test_sound_depends_on_what_is_seen(ltx2: Callable[..., Result]) -> None:
    sounds = []
    for name, rotation in (("a", 0), ("b", 180)):
        write_video(Path(f"{name}.mp4"), frames=9, rotation=rotation)
        path = made(ltx2(f"{name}.mp4", "a bell", "-o", f"{name}-dubbed.mp4", "--keep-latents"))
        sounds.append(load_file(Path(f"{path}.job") / "latents-1.safetensors")["audio"])
    assert not sounds[0].allclose(sounds[1], atol=1e-3)


def test_file_says_which_clip_it_was_made_for_but_not_where_it_lay(ltx2: Callable[..., Result], tmp_path: Path) -> None:
    write_video(Path("clip.mp4"), frames=9)
    info = probe(made(ltx2("clip.mp4", "--res", "64x64", "--steps", "2")))
    found = recipe(info)
    assert (found["request"]["video"], found["request"]["audio"]) == ("keep", "generate")
    assert [scales["st"] for scales in found["request"]["guidance"]] == [1, 7]
    assert found["model"]["files"]["clip"]["name"] == "clip.mp4"
    assert str(tmp_path) not in (info.comment or "")
    assert probe(made(ltx2("clip.mp4", "-o", "bare.mp4", "--no-metadata"))).comment is None


def test_json_tells_phases_and_the_path(ltx2: Callable[..., Result]) -> None:
    write_video(Path("clip.mp4"), frames=9)
    told = [json.loads(line) for line in ltx2("clip.mp4", "--json").stdout.splitlines()]
    assert (told[0]["event"], told[0]["mode"], told[0]["request"]["video"]) == ("plan", "v2a", "keep")
    started = [event["phase"] for event in told if event.get("state") == "started"]
    assert started == ["text", "inputs", "denoise", "sound", "video"]
    assert (told[-2]["event"], told[-2]["path"], told[-1]["exit_code"]) == ("output", told[0]["path"], 0)


# How it resumes


def test_kept_latents_are_decoded_again_and_otherwise(ltx2: Callable[..., Result]) -> None:
    write_video(Path("clip.mp4"), frames=9, sound="aac")
    first = made(ltx2("clip.mp4", "-o", "a.mp4", "--keep-latents"))

    def decoded(*words: str) -> Path:
        return made(CliRunner().invoke(app, ["decode", "a.mp4.job", "--overwrite", *words]))

    assert decoded("-o", "b.mp4").read_bytes() == first.read_bytes()
    both = decoded("-o", "c.mp4", "--audio-codec", "flac", "--old-sound", "second-track")
    with av.open(both) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ["flac", "aac"]
    for words, why in {
        ("--codec", "h265"): "the given video stays as it is",
        ("-o", "b.mov"): "this video goes into a file that ends in .mp4",
        ("-o", "clip.mp4"): "it is what the render starts from",
    }.items():
        result = CliRunner().invoke(app, ["decode", "a.mp4.job", *words, "--overwrite"])
        assert (result.exit_code, why in result.stderr) == (2, True)
    other = CliRunner().invoke(app, ["t2v", "x", "--video", "off", "--old-sound", "drop"])
    assert (other.exit_code, "no such option: --old-sound" in other.stderr) == (2, True)


def test_stopped_render_goes_on_to_the_same_bytes(ltx2: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(Path("clip.mp4"), frames=12)
    words = ("clip.mp4", "-o", "a.mp4", "--start", "0.1s", "--steps", "4", "--res", "64x64", "--seed", "3")
    undisturbed = made(ltx2(*words)).read_bytes()
    Path("a.mp4").unlink()
    with stopped_when(monkeypatch, False, True):
        assert ltx2(*words).exit_code == 130
    write_video(Path("clip.mp4"), frames=13)
    changed = CliRunner().invoke(app, ["resume", "a.mp4.job"])
    assert (changed.exit_code, "clip.mp4 has changed since this render began" in changed.stderr) == (7, True)
    write_video(Path("clip.mp4"), frames=12)
    assert made(CliRunner().invoke(app, ["resume", "a.mp4.job"])).read_bytes() == undisturbed


# What is refused


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("gone.mp4", 3, ("gone.mp4 cannot be used as a video", "there is no such file")),
        ("text.mp4", 3, ("text.mp4 cannot be used as a video", "give an MP4")),
        ("song.wav", 3, ("song.wav cannot be used as a video", "there is no video in it")),
        ("clip.mp4 --codec h265", 2, ("--codec cannot be used here", "stays as it is")),
        ("clip.mp4 --fps 24", 2, ("--fps cannot be used here", "stays as it is")),
        ("clip.mp4 --no-crop", 2, ("--no-crop cannot be used here", "stays as it is")),
        ("clip.mp4 --video-sm 2", 2, ("--video-sm cannot be used here", "stays as it is")),
        ("clip.mp4 --image x.png", 2, ("no such option: --image",)),
        ("clip.mp4 --old-sound second-track", 2, ("--old-sound second-track", "clip.mp4 has no audio")),
        ("clip.mp4 --old-sound both", 2, ("--old-sound both", "drop or second-track")),
        ("b-frames.avi --duration 0.2s", 3, ("does not say when its frames are shown", "hint: ffmpeg -i")),
        ("clip.mp4 --audio-codec copy", 2, ("--audio-codec copy", "the audio is generated", "hint: --audio-codec aac")),
        ("clip.mp4 --start 0.35s", 2, ("--start 0.35s", "the last frame of clip.mp4 starts at 0.32s", "--start 0.32s")),
        ("older.avi --audio-codec alac", 2, ("--audio-codec alac", "needs a .avi file", "--audio-codec aac")),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    ltx2: Callable[..., Result], words: str, code: int, says: tuple[str, ...]
) -> None:
    write_video(Path("clip.mp4"), frames=9)
    write_video(Path("b-frames.avi"), frames=9)
    write_video(Path("older.avi"), codec="wmv2", frames=9)
    Path("text.mp4").write_text("a cat")
    with av.open("song.wav", "w") as container:
        track = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(track.encode(frame))
    before = sorted(Path.cwd().iterdir())
    result = ltx2(*shlex.split(words))
    assert (result.exit_code, result.stdout) == (code, "")
    for fragment in says:
        assert fragment in result.stderr
    assert "hint: " in result.stderr
    assert sorted(Path.cwd().iterdir()) == before


def test_refusals_do_not_wait_for_torch(tiny: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", frames=600)
    script = """
import sys
from typer.testing import CliRunner
from ltx2_cli.app import app
for words in (["v2a", "long.mp4"], ["v2a", "long.mp4", "--duration", "1s", "-o", "a.mov"], ["a2v", "long.mp4"]):
    result = CliRunner().invoke(app, [*words, "--model", sys.argv[1]])
    assert result.exit_code in (2, 3), result.stderr
    assert "torch" not in sys.modules, words
"""
    environment = {"PYTHONPATH": str(ROOT), "LTX2_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny)], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
