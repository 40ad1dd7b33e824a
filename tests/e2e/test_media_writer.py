"""Finished files: their content, when they appear, and what never gets a final name."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ltx2_core.errors import LTX2Error, MediaError, NotFiniteError, OutputError, RequestError, StorageError
from ltx2_core.media import writer
from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import read_audio
from ltx2_core.media.check import VideoCheck, check_file, count_decoded, require_finite
from ltx2_core.media.clip import VIDEO_CODECS, ClipShape, Encoding, Output
from ltx2_core.media.copy import Copy
from ltx2_core.media.inputs import AudioSource
from ltx2_core.media.pixels import to_i420
from ltx2_core.media.probe import probe
from ltx2_core.media.sheet import contact_sheet
from ltx2_core.media.waveform import Waveform, fit_waveform, to_pcm16
from ltx2_core.media.writer import Report, write_audio, write_clip
from tests.synthetic_media import packets

RATES = [Fraction(text) for text in ("24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")]
LENGTHS = (9, 25, 241)
SHAPE = ClipShape(width=64, height=64, frames=9, fps=Fraction(24))
FFPROBE = shutil.which("ffprobe")
COMMENT = json.dumps({"prompt": "drone über 山\n\x1b[31m " + "x" * 70_000, "seed": 7}, ensure_ascii=False)


def moving(shape: ClipShape, chunk: int = 8) -> Iterator[Tensor]:
    """Frames in which a random image moves sideways."""
    picture = torch.rand(3, shape.height, shape.width, generator=torch.Generator().manual_seed(0))
    for first in range(0, shape.frames, chunk):
        numbers = range(first, min(first + chunk, shape.frames))
        yield torch.stack([picture.roll(number, -1) for number in numbers])


def tone(seconds: float = 0.4, rate: int = 24000, volume: float = 0.5) -> Waveform:
    time = torch.arange(round(seconds * rate)) / rate
    return Waveform(volume * torch.stack([torch.sin(2000 * time), torch.sin(3000 * time)]), rate)


def write(
    path: Path,
    shape: ClipShape = SHAPE,
    encoding: Encoding = Encoding(),  # noqa: B008
    chunks: Iterator[Tensor] | list[Tensor] | None = None,
    sound: Waveform | None = tone(),  # noqa: B008
    **output: Any,
) -> Report:
    chunks = moving(shape) if chunks is None else chunks
    return write_clip(Output(path=path, **output), shape, chunks, sound, encoding)


def hidden(path: Path) -> Path:
    """The file that a failed self-check leaves, or the target if there is none."""
    return next(path.parent.glob(f".{path.name}.*.part"), path.with_name("no hidden file"))


@dataclass
class Stream:
    """One stream as another program reads it."""

    codec: str
    end_s: Fraction
    frames: int
    rate: Fraction
    about: dict[str, Any]


def streams(path: Path) -> dict[str, Stream]:
    """Video and audio as read by ffprobe, or by PyAV if there is no ffprobe."""
    if FFPROBE is None:
        return _streams_by_pyav(path)
    command = [FFPROBE, "-v", "error", "-show_streams", "-of", "json", path]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"]
    return {
        one["codec_type"]: Stream(
            codec=one["codec_name"],
            end_s=(one["start_pts"] + one["duration_ts"]) * Fraction(one["time_base"]),
            frames=int(one["nb_frames"]),
            rate=Fraction(one.get("sample_rate") or one["avg_frame_rate"]),
            about=one,
        )
        for one in found
    }


def _streams_by_pyav(path: Path) -> dict[str, Stream]:
    info = probe(path)
    assert info.video
    colour = ("color_primaries", "color_transfer", "color_space")
    about = {
        name: "bt709" if number == 1 else "other" for name, number in zip(colour, info.video.colour[:3], strict=True)
    }
    about |= {"color_range": "tv" if info.video.colour.range == 1 else "pc", "codec_tag_string": info.video.tag}
    about |= {"pix_fmt": info.video.pixels}
    found = {
        "video": Stream(info.video.codec, info.video.duration_s, info.video.frames, info.video.fps, about),
    }
    if info.audio:
        rate = Fraction(info.audio.sample_rate_hz)
        channels = {"channels": info.audio.channels}
        found["audio"] = Stream(info.audio.codec, info.audio.duration_s, 0, rate, channels)
    return found


def decoded_sound(path: Path) -> Tensor:
    """All samples (2 s) of the decoder, as floats."""
    as_float = av.AudioResampler(format="fltp", layout="stereo")
    with av.open(str(path)) as container:
        pieces = [piece for frame in container.decode(audio=0) for piece in as_float.resample(frame)]
    return torch.from_numpy(np.concatenate([piece.to_ndarray() for piece in pieces], axis=-1))


# One clock


@pytest.mark.parametrize("fps", RATES, ids=str)
@pytest.mark.parametrize("frames", LENGTHS)
def test_picture_and_sound_end_within_one_frame(tmp_path: Path, fps: Fraction, frames: int):
    shape, path = replace(SHAPE, fps=fps, frames=frames), tmp_path / "a.mp4"
    rate = 24000 if frames % 3 else 48000
    write(path, shape, sound=tone(float(shape.duration_s) - 0.03, rate))
    found = streams(path)
    assert abs(found["video"].end_s - found["audio"].end_s) <= 1 / fps
    assert (found["video"].frames, found["video"].rate, found["audio"].rate) == (frames, fps, rate)
    assert found["video"].end_s == shape.duration_s
    frames_decoded, samples_decoded = count_decoded(path)
    assert frames_decoded == frames
    assert 0 <= samples_decoded - round(shape.duration_s * rate) <= 1024


@pytest.mark.parametrize("video", VIDEO_CODECS)
@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_the_shortest_clips_have_their_length_too(tmp_path: Path, video: str, frames: int):
    shape = replace(SHAPE, frames=frames, fps=Fraction(30000, 1001))
    write(tmp_path / "a.mp4", shape, Encoding(video=video))
    found = streams(tmp_path / "a.mp4")
    assert found["video"].end_s == shape.duration_s
    assert abs(found["audio"].end_s - shape.duration_s) < Fraction(1, 24000)


@pytest.mark.parametrize("audio", ["aac", "alac", "flac"])
def test_sound_is_heard_when_it_happens(tmp_path: Path, audio: str):
    click = torch.zeros(2, 24000)
    click[:, 7000:7100] = torch.rand(100, generator=torch.Generator().manual_seed(0))
    write(tmp_path / "a.mp4", replace(SHAPE, frames=25), Encoding(audio=audio), sound=Waveform(click, 24000))
    heard = decoded_sound(tmp_path / "a.mp4")[0, :24000]
    shifts = range(-1100, 1100)
    match = [float(heard @ click[0].roll(shift)) for shift in shifts]
    assert shifts[int(np.argmax(match))] == 0


def test_streams_lie_beside_each_other_in_the_file(tmp_path: Path):
    shape = replace(SHAPE, frames=121, fps=Fraction(2))  # the look-ahead of AV1 is half a minute of these frames
    write(tmp_path / "a.mp4", shape, Encoding(video="av1"), sound=tone(60))
    reached = {"video": 0.0, "audio": 0.0}
    with av.open(str(tmp_path / "a.mp4"), container_options={"ignore_editlist": "1"}) as container:
        for packet in sorted(container.demux(), key=lambda packet: packet.pos or 0):
            if packet.dts is not None:
                reached[packet.stream.type] = float(packet.dts * packet.time_base)
                assert abs(reached["video"] - reached["audio"]) < 1


# The content of a file


@pytest.mark.parametrize("video", VIDEO_CODECS)
def test_a_clip_says_what_it_is(tmp_path: Path, video: str):
    report = write(tmp_path / "a.mp4", encoding=Encoding(video=video), comment=COMMENT)
    picture = streams(tmp_path / "a.mp4")["video"]
    assert picture.codec == VIDEO_CODECS[video].name
    assert picture.about["codec_tag_string"] == VIDEO_CODECS[video].tag
    assert picture.about["pix_fmt"] == "yuv420p"
    assert {picture.about[name] for name in ("color_primaries", "color_transfer", "color_space")} == {"bt709"}
    assert picture.about["color_range"] == "tv"
    assert streams(tmp_path / "a.mp4")["audio"].about["channels"] == 2
    assert report.info == probe(tmp_path / "a.mp4")


def test_the_index_stands_before_the_data(tmp_path: Path):
    write(tmp_path / "a.mp4")
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("suffix", [".mp4", ".wav", ".flac"])
def test_a_comment_comes_back_and_nothing_else_is_told(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    if suffix == ".mp4":
        write(path, comment=COMMENT)
    else:
        write_audio(Output(path=path, comment=COMMENT), tone())
    assert probe(path).comment == COMMENT
    with av.open(str(path)) as container:
        assert container.metadata.keys() <= {"major_brand", "minor_version", "compatible_brands", "comment"}


def test_without_a_comment_there_is_none(tmp_path: Path):
    assert write(tmp_path / "a.mp4").info.comment is None
    assert probe(tmp_path / "a.mp4").comment is None


@pytest.mark.parametrize(("video", "audio"), [("h264", "aac"), ("h265", "alac"), ("av1", "flac")])
def test_the_same_frames_give_the_same_bytes_however_they_come(tmp_path: Path, video: str, audio: str):
    shape, encoding = ClipShape(width=320, height=192, frames=33, fps=Fraction(25)), Encoding(video=video, audio=audio)
    for name, chunk in (("a.mp4", 8), ("b.mp4", 8), ("c.mp4", 33)):
        write(tmp_path / name, shape, encoding, chunks=moving(shape, chunk), comment="{}")
    first, second, third = ((tmp_path / name).read_bytes() for name in ("a.mp4", "b.mp4", "c.mp4"))
    assert first == second == third


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sound_alone_gives_the_same_bytes_twice(tmp_path: Path, suffix: str):
    for name in "ab":
        write_audio(Output(path=tmp_path / f"{name}{suffix}", comment="{}"), tone())
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["alac.mp4", "flac.mp4", "a.wav", "a.flac", "A.WAV"])
def test_sound_without_loss_comes_back_bit_for_bit(tmp_path: Path, name: str):
    path, sound = tmp_path / name, fit_waveform(tone(), SHAPE.duration_s)
    if name.endswith(".mp4"):
        write(path, encoding=Encoding(audio=name.removesuffix(".mp4")), sound=sound)
    else:
        write_audio(Output(path=path), sound)
    assert torch.equal((decoded_sound(path) * 32768).to(torch.int16), to_pcm16(sound.samples))


@pytest.mark.parametrize("codec", ["alac", "flac"])
@pytest.mark.parametrize("bits", [8, 16, 24])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_given_sound_comes_back_bit_for_bit_however_many_it_has(tmp_path: Path, codec: str, bits: int, channels: int):
    half, generator = 2 ** (bits - 1), torch.Generator().manual_seed(0)
    codes = torch.randint(-half, half, (channels, 9000), generator=generator)
    given = Waveform((codes / half).float(), 24000, is_given=True)
    write(tmp_path / "a.mp4", encoding=Encoding(audio=codec), sound=given)
    read = read_audio(check_input(tmp_path / "a.mp4", AudioSource)).samples
    assert torch.equal(read, fit_waveform(given, SHAPE.duration_s).samples)


def test_a_given_sound_may_be_silent_quiet_or_clipped(tmp_path: Path):
    for number, volume in enumerate((0, 1e-4, 9)):
        samples = (volume * tone().samples).clamp(-1, 1)
        assert write(tmp_path / f"{number}.mp4", sound=Waveform(samples, 24000, is_given=True)).warnings == ()


def test_pixels_reach_the_encoder_as_they_are(tmp_path: Path):
    write(tmp_path / "a.mp4", encoding=Encoding(crf=0))  # lossless in H.264
    with av.open(str(tmp_path / "a.mp4")) as container:
        read = np.stack([frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)])
    assert np.array_equal(read, to_i420(torch.cat([*moving(SHAPE)])).numpy())


def test_a_lower_crf_keeps_more(tmp_path: Path):
    for crf in (10, 40):
        write(tmp_path / f"{crf}.mp4", encoding=Encoding(crf=crf))
    assert (tmp_path / "10.mp4").stat().st_size > (tmp_path / "40.mp4").stat().st_size


def test_a_clip_may_be_silent(tmp_path: Path):
    assert write(tmp_path / "a.mp4", sound=None).info.audio is None
    assert streams(tmp_path / "a.mp4").keys() == {"video"}


# When it appears


def test_frames_are_encoded_as_they_come_under_a_hidden_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "MOST_WAITING_BYTES", 0)
    seen: list[int] = []

    def chunks() -> Iterator[Tensor]:
        for number, chunk in enumerate(moving(SHAPE, chunk=3)):
            assert len(seen) >= 3 * number - 1, "the last frame may be on its way"
            assert not (tmp_path / "a.mp4").exists()
            yield chunk

    write_clip(Output(path=tmp_path / "a.mp4"), SHAPE, chunks(), tone(), Encoding(), seen.append)
    assert seen == [*range(1, 10)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_existing_file_is_refused_before_any_frame_is_asked_for(tmp_path: Path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"mine")
    chunks = moving(SHAPE)
    with pytest.raises(RequestError, match="already exists") as refusal:
        write(path, chunks=chunks)
    assert "--overwrite" in refusal.value.hint
    assert path.read_bytes() == b"mine"
    assert len([*chunks]) == 2
    write(path, overwrite=True)
    assert probe(path).video


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path):
    path = tmp_path / "a.mp4"

    def chunks() -> Iterator[Tensor]:
        yield from moving(SHAPE)
        path.write_bytes(b"mine")

    with pytest.raises(RequestError, match="already exists") as refusal:
        write(path, chunks=chunks())
    assert path.read_bytes() == b"mine"
    assert str(hidden(path)) in refusal.value.why
    assert probe(hidden(path)).video


@pytest.mark.parametrize("name", ["folder", "nowhere/a.mp4"])
def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path: Path, name: str):
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError, match="cannot be written"):
        write(tmp_path / name, overwrite=True)


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_when_encoding_breaks_off(tmp_path: Path, failure: type[BaseException]):
    def chunks() -> Iterator[Tensor]:
        yield from moving(SHAPE)
        raise failure

    with pytest.raises(failure):
        write(tmp_path / "a.mp4", chunks=chunks())
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["a.mp4", "a.wav"])
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path: Path, name: str):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            write(tmp_path / name) if name == "a.mp4" else write_audio(Output(path=tmp_path / name), tone())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*tmp_path.iterdir()]


# The self-check

STILL = next(moving(SHAPE))[:1].expand(9, -1, -1, -1)
FLAT = torch.linspace(0, 1, 9).reshape(9, 1, 1, 1).expand(9, 3, 64, 64)
WITH_NAN = torch.cat([*moving(SHAPE)]).index_fill(0, torch.tensor([6]), float("nan"))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"chunks": [FLAT]}, "flat colour"),
        ({"chunks": [WITH_NAN[:5], WITH_NAN[5:]]}, "frame 6 .*not finite"),
        ({"sound": Waveform(torch.zeros(2, 9000), 24000)}, "zeros"),
        ({"chunks": [*moving(replace(SHAPE, frames=8))]}, "frames is 8, not 9"),
        ({"chunks": [*moving(replace(SHAPE, frames=17))]}, "frames is 17, not 9"),
        ({"chunks": [STILL], "strict": True}, "static"),
    ],
)
def test_a_file_that_fails_its_check_is_kept_without_its_name(tmp_path: Path, what: dict, words: str):
    path = tmp_path / "a.mp4"
    with pytest.raises(OutputError, match=words) as failure:
        write(path, **what)
    assert not path.exists()
    assert str(hidden(path)) in failure.value.hint
    assert hidden(path).stat().st_size > 0


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"chunks": []}, "not a single frame"),
        ({"sound": Waveform(torch.full((2, 9000), float("inf")), 24000)}, "audio .*not finite"),
    ],
)
def test_what_cannot_be_written_at_all_leaves_nothing(tmp_path: Path, what: dict, words: str):
    with pytest.raises(OutputError, match=words):
        write(tmp_path / "a.mp4", **what)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({}, None),
        ({"chunks": [next(moving(SHAPE, chunk=9)) / 50]}, "dark"),
        ({"chunks": [STILL]}, "static"),
        ({"sound": tone(volume=1e-4)}, "very quiet"),
        ({"sound": Waveform((tone().samples * 4).clamp(-1, 1), 24000)}, "clipped"),
    ],
)
def test_what_looks_or_sounds_wrong_is_a_warning(tmp_path: Path, what: dict, words: str | None):
    warnings = write(tmp_path / "a.mp4", **what).warnings
    assert [words in one for one in warnings] == [True] if words else warnings == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_stops_a_clip(value: float):
    samples = torch.zeros(2, 100)
    require_finite(samples, "the audio")
    samples[1, 50] = value
    with pytest.raises(NotFiniteError, match="the audio holds values that are not finite"):
        require_finite(samples, "the audio")


def test_every_value_that_differs_from_what_was_asked_is_named(tmp_path: Path):
    info, sound = write(tmp_path / "a.mp4").info, fit_waveform(tone(), SHAPE.duration_s)
    assert check_file(tmp_path / "a.mp4", info, sound).errors == ()
    assert info.video
    assert info.audio
    other = replace(info, video=replace(info.video, fps=Fraction(25), codec="av1"), comment="other")
    assert [error.split(" is ")[0] for error in check_file(tmp_path / "a.mp4", other, sound).errors] == [
        "video codec",
        "video fps",
        "comment",
    ]


def test_frames_and_samples_that_are_not_there_are_counted(tmp_path: Path):
    info, sound = write(tmp_path / "a.mp4").info, fit_waveform(tone(), SHAPE.duration_s)
    assert info.video
    frames, samples = count_decoded(tmp_path / "a.mp4")
    longer = replace(info, video=replace(info.video, frames=frames + 1))
    assert f"{frames} frames can be decoded, not {frames + 1}" in check_file(tmp_path / "a.mp4", longer, sound).errors
    more = replace(sound, samples=functional.pad(sound.samples, (0, samples)))
    wanted = f"{samples} samples can be decoded, not {more.samples.shape[-1]}"
    assert check_file(tmp_path / "a.mp4", info, more).errors == (wanted,)


def test_a_stream_that_is_missing_or_too_much_is_named(tmp_path: Path):
    whole, sound = write(tmp_path / "a.mp4").info, fit_waveform(tone(), SHAPE.duration_s)
    silent = write(tmp_path / "silent.mp4", sound=None).info
    assert "there is no audio" in check_file(tmp_path / "silent.mp4", whole, sound).errors
    assert check_file(tmp_path / "a.mp4", silent, None).errors[0].startswith("audio is ")


def test_a_copy_of_which_a_packet_is_missing_is_named(tmp_path: Path):
    write(tmp_path / "song.mp4", encoding=Encoding(audio="alac"))
    source = check_input(tmp_path / "song.mp4", AudioSource)
    info = write(tmp_path / "a.mp4", sound=source).info
    expected = replace(info, audio=None)
    copy = Copy("audio", 1, len(packets(tmp_path / "song.mp4", "audio")))
    assert check_file(tmp_path / "a.mp4", expected, None, [copy]).errors == ()
    more = copy._replace(packets=copy.packets + 1)
    assert check_file(tmp_path / "a.mp4", expected, None, [more]).errors == ("its audio is not complete",)


def test_a_damaged_file_does_not_pass(tmp_path: Path):
    info, sound = write(tmp_path / "a.mp4").info, fit_waveform(tone(), SHAPE.duration_s)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "c.mp4").write_bytes(content[:100])
    assert check_file(tmp_path / "b.mp4", info, sound).errors
    assert check_file(tmp_path / "c.mp4", info, sound).errors


# Silence, reading, sheets


@pytest.mark.skipif(FFPROBE is None, reason="ffprobe is not installed: PyAV alone reads the files back in these tests")
def test_another_program_reads_what_we_read(tmp_path: Path):
    write(tmp_path / "a.mp4")
    theirs, ours = streams(tmp_path / "a.mp4"), _streams_by_pyav(tmp_path / "a.mp4")
    assert theirs.keys() == ours.keys()
    for name, stream in ours.items():
        assert (stream.codec, stream.end_s, stream.rate) == (theirs[name].codec, theirs[name].end_s, theirs[name].rate)
        assert stream.about.items() <= theirs[name].about.items()


@pytest.mark.parametrize("video", VIDEO_CODECS)
def test_encoders_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str], video: str):
    write(tmp_path / "a.mp4", ClipShape(width=320, height=192, frames=25, fps=Fraction(24)), Encoding(video=video))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile secret.mp4\n",
        "just text",
        "",
    ],
)
def test_a_playlist_under_another_name_is_not_opened(tmp_path: Path, content: str):
    write(tmp_path / "secret.mp4")
    (tmp_path / "a.mp4").write_text(content)
    with pytest.raises(MediaError, match=r"a\.mp4 cannot be read"):
        probe(tmp_path / "a.mp4")


def test_only_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(Path("a.mp4"))
    for name in ("concat:a.mp4", "subfile,,start,0,end,0,,:a.mp4", "missing.mp4", "."):
        with pytest.raises(MediaError, match=r"cannot be read\n(there is no such file|it is a folder)"):
            probe(Path(name))


def test_a_name_that_looks_like_a_protocol_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(Path("concat:a%d.mp4"))
    assert probe(Path("concat:a%d.mp4")).video


def test_an_unknown_codec_is_said_to_be_one(tmp_path: Path):
    write(tmp_path / "a.mp4")
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(content.replace(b"avc1", b"xyz1"))
    with pytest.raises(MediaError, match="no decoder for its video"):
        probe(tmp_path / "b.mp4")


def test_a_sheet_replaces_nothing_unasked(tmp_path: Path):
    write(tmp_path / "a.mp4")
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(LTX2Error, match="already exists"):
        contact_sheet(tmp_path / "a.mp4", tmp_path / "a.png", prompt="x", seed=0)
    assert (tmp_path / "a.png").read_bytes() == b"mine"


def test_a_single_frame_is_no_static_video() -> None:
    frame = torch.randint(16, 235, (1, 96, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = VideoCheck(64)
    found.add(frame)
    assert "static" not in found.findings().marks
    found.add(frame)
    assert "static" in found.findings().marks
