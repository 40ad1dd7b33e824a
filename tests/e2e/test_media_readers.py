"""Reading input files: pixels, frames and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av import VideoStream
from einops import rearrange
from PIL import Image, ImageCms
from torch import Tensor

from ltx2_core.errors import MediaError
from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import at_rate_of, at_workable_rate, read_audio
from ltx2_core.media.image import compress, image_to_look_at, prepare_image, read_image
from ltx2_core.media.inputs import AudioSource, ImageSource, VideoSource
from ltx2_core.media.resize import cover, to_clip
from ltx2_core.media.video import frames_by_time
from ltx2_core.media.waveform import Waveform
from tests.given_media import FPS, LOSSY, UNEVEN_S, all_frames, clip, joined, sound, with_early_audio
from tests.odd_media import CASES
from tests.synthetic_media import RATE_HZ, encode_sound, picture, tone

# Images


def image(path: Path, pixels: Image.Image, **options: Any) -> ImageSource:
    pixels.save(path, **options)
    return check_input(path, ImageSource)


def as_tensor(pixels: np.ndarray) -> Tensor:
    return rearrange(torch.from_numpy(pixels.copy()), "H W c -> 1 c H W")


STORED_AS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # position of the first row and column, by the standard
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, 3),
    9: lambda upright: upright,
}


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_a_photo_is_shown_upright_however_it_is_stored(orientation: int, suffix: str, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    stored = np.ascontiguousarray(STORED_AS[orientation](picture(3)))
    source = image(tmp_path / f"photo.{suffix}", Image.fromarray(stored), exif=exif, **options)
    assert torch.equal(read_image(source), as_tensor(picture(3)))
    assert (source.height, source.width) == picture(3).shape[:2]


def test_transparency_is_dropped_and_what_lies_behind_it_shows(tmp_path: Path):
    clear = np.zeros((32, 48, 1), np.uint8)
    rgba = Image.fromarray(np.concatenate([picture(3), clear], -1))
    grey = Image.merge("LA", (Image.fromarray(picture(3)[..., 0]), Image.fromarray(clear[..., 0])))
    for pixels in (rgba, grey):
        assert torch.equal(read_image(image(tmp_path / "photo.png", pixels)), as_tensor(picture(3)))


def test_sixteen_bits_of_grey_become_eight(tmp_path: Path):
    deep = Image.fromarray(picture(3)[..., 0].astype(np.uint16) * 257)
    assert torch.equal(read_image(image(tmp_path / "photo.png", deep)), as_tensor(picture(3)))


def test_colours_follow_their_profile_and_ignore_a_broken_one(tmp_path: Path):
    lab = Image.fromarray(picture(3)).convert("LAB")
    to_lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    managed = read_image(image(tmp_path / "photo.tiff", lab, icc_profile=to_lab))
    assert (managed.int() - as_tensor(picture(3)).int()).abs().max() <= 3
    broken = read_image(image(tmp_path / "photo.png", Image.fromarray(picture(3)), icc_profile=b"no profile"))
    assert torch.equal(broken, as_tensor(picture(3)))


def test_the_colours_of_a_palette_follow_its_profile(tmp_path: Path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red_is_blue = srgb.replace(b"rXYZ", b"____").replace(b"bXYZ", b"rXYZ").replace(b"____", b"bXYZ")
    blue = Image.new("RGB", (48, 32), (0, 0, 255)).quantize(2)
    seen = read_image(image(tmp_path / "photo.png", blue, icc_profile=red_is_blue))
    red = as_tensor(np.full((32, 48, 3), (255, 0, 0), np.uint8))
    assert (seen.int() - red.int()).abs().max() <= 1


def test_the_first_picture_of_an_animation_is_used(tmp_path: Path):
    frames = [Image.fromarray(picture(number)) for number in (3, 9)]
    frames[0].save(tmp_path / "photo.gif", save_all=True, append_images=frames[1:])
    assert torch.equal(read_image(check_input(tmp_path / "photo.gif", ImageSource)), as_tensor(picture(3)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
def test_a_photo_that_breaks_off_is_no_crash(suffix: str, tmp_path: Path):
    path = tmp_path / f"photo.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    source = image(path, Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"cannot be read\nits data is damaged"):
        read_image(source)


def test_compression_keeps_even_sizes_and_takes_more_with_a_higher_crf():
    noise = torch.randint(256, (1, 3, 33, 47), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    errors = []
    for crf in (1, 18, 33):
        left = compress(noise, crf)
        assert left.shape == (1, 3, 32, 46)
        errors.append((left.float() - noise[..., :32, :46]).square().mean())
    assert errors == sorted(errors)
    assert torch.equal(compress(noise, 0), noise)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (2, 2), (3, 200)])
def test_a_still_of_any_size_fills_the_frame(width: int, height: int, tmp_path: Path):
    source = image(tmp_path / "photo.png", Image.new("RGB", (width, height), (255, 255, 255)))
    pixels = prepare_image(source, 32, 64, 33)
    assert pixels.shape == (1, 3, 1, 32, 64)
    assert pixels.min() > 0.97
    assert pixels.max() <= 1


def test_covering_cuts_evenly_and_covering_the_own_size_changes_nothing():
    wide = torch.randint(256, (2, 3, 8, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cover(wide, 8, 30), wide.float())
    assert torch.equal(cover(wide, 8, 10), wide[..., 10:20].float())
    assert torch.equal(cover(wide.mT, 10, 8), wide.mT[..., 10:20, :].float())
    assert torch.equal(to_clip([wide], 4, 4), to_clip(wide.split(1), 4, 4))


# Clips


def numbers(frames: Iterable[Tensor]) -> list[int]:
    """The numbers of the synthetic frames, read from the grey of their lower right part."""
    return [round((frame[..., -8:, -8:].float().mean().item() - 16) / 7) for frame in frames]


CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "fragmented.mp4": {"options": {"movflags": "+frag_keyframe+empty_moov"}},
    "ntsc.mkv": {"fps": Fraction(60000, 1001), "sound": "aac"},
    "broadcast.ts": {"sound": "aac"},
    "old.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "b-frames.avi": {},
    "ten-bits.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "web.webm": {"codec": "libvpx"},
}


@pytest.mark.parametrize(("name", "options"), CLIPS.items(), ids=CLIPS)
def test_a_clip_of_constant_rate_gives_its_own_frames_also_from_within(
    name: str, options: dict[str, Any], tmp_path: Path
):
    source = clip(tmp_path / name, frames=20, **options)
    whole = joined(all_frames(source))
    assert numbers(whole.split(1)) == list(range(20))
    assert not source.is_variable
    assert source.notes == ()
    assert torch.equal(joined(frames_by_time(source, 7, source.fps)), whole[:7])
    for start_s in (13 / source.fps, 13 / source.fps - Fraction(1, 100)):
        assert torch.equal(joined(frames_by_time(source, 5, source.fps, start_s)), whole[13:18])


def test_the_last_frame_is_repeated_where_a_clip_is_too_short(tmp_path: Path):
    source = clip(tmp_path / "clip.mp4", frames=11)
    assert numbers(frames_by_time(source, 17, source.fps)) == [*range(11), *[10] * 6]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_clip_of_variable_rate_is_shown_by_its_timestamps(suffix: str, tmp_path: Path):
    source = clip(tmp_path / f"clip.{suffix}", times_s=UNEVEN_S)
    assert source.fps == 6
    assert "average of 6 fps" in source.notes[0]
    seen = [max(n for n, time_s in enumerate(UNEVEN_S) if time_s < (tick + 0.5) / 25) for tick in range(25)]
    assert numbers(frames_by_time(source, 25, FPS)) == seen
    assert numbers(frames_by_time(source, 6, source.fps)) == [2, 2, 2, 4, 4, 4]


HOLES = (3, 7, 8, 20)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_holes_in_a_constant_rate_repeat_the_frame_before(suffix: str, tmp_path: Path):
    times_s = [number / 24 for number in range(27) if number not in HOLES]
    source = clip(tmp_path / f"clip.{suffix}", times_s=times_s)
    assert (source.fps, source.frames, source.holes, source.is_variable) == (24, 27, 4, False)
    assert "lacks 4 of 27 frames at its rate of 24 fps; the frame before is repeated" in source.notes[0]
    kept = [number for number in range(27) if number not in HOLES]
    seen = [max(n for n, number in enumerate(kept) if number <= slot) for slot in range(27)]
    assert numbers(all_frames(source)) == seen


def test_the_clip_with_eight_holes_has_its_own_rate():
    source = check_input(CASES / "vfr.mp4", VideoSource)
    assert (source.fps, source.frames, source.holes, source.duration_s) == (24, 49, 8, Fraction(49, 24))


@pytest.mark.parametrize("fps", ["24000/1001", "24", "25", "30000/1001", "48", "60000/1001", "60", "12"])
@pytest.mark.parametrize("frames", [9, 49])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_rounded_times_give_the_true_rate(fps: str, frames: int, suffix: str, tmp_path: Path):
    source = clip(tmp_path / f"clip.{suffix}", fps=Fraction(fps), frames=frames, preset="ultrafast")
    assert (source.fps, source.frames, source.holes) == (Fraction(fps), frames, 0)


def test_what_is_seen_for_long_is_also_seen_by_one_who_comes_late(tmp_path: Path):
    source = clip(tmp_path / "clip.mp4", times_s=UNEVEN_S)
    assert numbers(frames_by_time(source, 8, FPS, Fraction("0.3"))) == [2, 2, 2, 2, 2, 3, 4, 4]
    assert numbers(frames_by_time(source, 3, FPS, Fraction("0.98"))) == [5, 5, 5]


def test_another_rate_drops_or_repeats_frames(tmp_path: Path):
    source = clip(tmp_path / "clip.mp4", frames=12)
    assert numbers(frames_by_time(source, 6, source.fps / 2)) == [0, 2, 4, 6, 8, 10]
    repeated = [*frames_by_time(source, 8, source.fps * 2)]
    assert numbers(repeated) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len({*map(id, repeated)}) == 4  # a frame is converted once


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_clip_is_turned_upright(rotation: int, tmp_path: Path):
    source = clip(tmp_path / "clip.mp4", rotation=rotation, frames=2)
    (frame, _) = all_frames(source)
    assert frame.shape == (1, 3, source.height, source.width)
    assert (frame.int() - as_tensor(np.rot90(picture(0), rotation // 90)).int()).abs().max() < 9


def test_only_what_is_asked_for_is_decoded(tmp_path: Path):
    path = tmp_path / "clip.mkv"
    source = clip(path, frames=60)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    assert numbers(islice(frames_by_time(source, 60, source.fps), 9)) == list(range(9))


def test_there_is_nothing_after_the_end_of_a_clip(tmp_path: Path):
    source = clip(tmp_path / "clip.mp4", frames=12)
    with pytest.raises(MediaError, match=r"it lasts 0\.48 s, so there is nothing at 0\.50 s"):
        list(frames_by_time(source, 9, source.fps, Fraction("0.5")))


def test_a_clip_is_joined_at_its_new_size_only(tmp_path: Path):
    source = clip(tmp_path / "clip.mp4", frames=9)
    pixels = to_clip(all_frames(source), 32, 32)
    assert pixels.shape == (1, 3, 9, 32, 32)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, to_clip([joined(all_frames(source))], 32, 32))


# Audio


LOSSLESS = {"a.wav": "pcm_s16le", "b.wav": "pcm_s24le", "c.wav": "pcm_f32le", "d.flac": "flac", "e.m4a": "alac"}


@pytest.mark.parametrize(("name", "codec"), LOSSLESS.items())
def test_samples_without_loss_are_the_numbers_that_were_given(name: str, codec: str, tmp_path: Path):
    given = read_audio(sound(tmp_path / name, codec))
    assert given.sample_rate_hz == RATE_HZ
    assert given.samples.dtype == torch.float32
    assert torch.equal(given.samples, torch.from_numpy(tone(RATE_HZ)) / 32768)


@pytest.mark.parametrize(("name", "codec"), [*LOSSLESS.items(), *LOSSY.items()])
def test_a_part_of_a_sound_is_that_part_of_the_whole(name: str, codec: str, tmp_path: Path):
    source = sound(tmp_path / name, codec)
    whole, part = read_audio(source), read_audio(source, Fraction("0.5"), Fraction("0.3"))
    assert part.samples.shape == (2, 14400)
    tolerance = 1e-4 if name in LOSSY else 0  # some codecs add noise
    torch.testing.assert_close(part.samples, whole.samples[:, 24000:38400], atol=tolerance, rtol=0)


def test_eight_bit_silence_is_silent(tmp_path: Path):
    silence = np.zeros((2, 4800), np.int16)
    assert not read_audio(sound(tmp_path / "silence.wav", "pcm_u8", samples=silence)).samples.any()


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("5.1", 6), ("7.1", 8)])
def test_channels_come_as_they_are(layout: str, channels: int, tmp_path: Path):
    given = read_audio(sound(tmp_path / "song.wav", layout=layout, rate_hz=44100))
    assert given.sample_rate_hz == 44100
    assert torch.equal(given.samples, torch.from_numpy(tone(44100, channels, 44100)) / 32768)


def test_eight_channels_of_a_codec_with_planes_come_as_they_are(tmp_path: Path):
    given = read_audio(sound(tmp_path / "song.m4a", "alac", layout="7.1(wide)"))
    assert torch.equal(given.samples, torch.from_numpy(tone(RATE_HZ, 8)) / 32768)


@pytest.mark.parametrize("has_header", [False, True])
@pytest.mark.parametrize("bit_rates", [(32_000, 320_000), (320_000, 32_000)])
def test_an_mp3_is_heard_to_its_end_whatever_its_beginning_says(
    bit_rates: tuple[int, int], has_header: bool, tmp_path: Path
):
    path, data = tmp_path / "song.mp3", b""
    for bit_rate in bit_rates:
        with av.open(path, "w", options={"write_xing": str(int(has_header)), "id3v2_version": "0"}) as container:
            track = container.add_stream("libmp3lame", rate=RATE_HZ, layout="stereo")
            track.bit_rate = bit_rate
            encode_sound(container, track, tone(2 * RATE_HZ))
        data += path.read_bytes()
    path.write_bytes(data)
    source = check_input(path, AudioSource)
    assert 4 <= source.duration_s < Fraction(17, 4)
    assert abs(read_audio(source).duration_s - source.duration_s) < Fraction(1, 10)


def test_a_sound_that_is_over_is_refused_and_a_short_one_stays_short(tmp_path: Path):
    source = sound(tmp_path / "song.wav")
    assert read_audio(source, Fraction("0.9"), Fraction(5)).samples.shape == (2, 4800)
    with pytest.raises(MediaError, match=r"there is no audio at 3\.00 s"):
        read_audio(source, Fraction(3), Fraction(1))


def test_a_sound_that_breaks_off_is_refused_unless_what_is_there_is_enough(tmp_path: Path):
    path = tmp_path / "song.mp3"
    source = sound(path, "libmp3lame", samples=tone(4 * RATE_HZ))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert read_audio(source, Fraction(0), Fraction(1)).samples.shape == (2, RATE_HZ)
    with pytest.raises(MediaError, match="breaks off"):
        read_audio(source)


def test_sound_and_picture_of_a_clip_share_a_clock_that_begins_anywhere(tmp_path: Path):
    source = clip(tmp_path / "clip.ts", frames=25, sound="aac")
    assert source.zero_s > 0
    assert source.audio
    assert source.audio.zero_s == source.zero_s
    part = read_audio(source.audio, Fraction("0.4"), Fraction("0.2")).samples
    expected = torch.from_numpy(tone(RATE_HZ))[:, 19200:28800] / 32768
    assert (part - expected).abs().max() < 0.02


def test_a_sound_that_begins_later_than_its_picture_is_silent_until_then(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    late = 12000
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        track = container.add_stream("alac", rate=RATE_HZ, layout="stereo")
        for number in range(25):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode(None))
        encode_sound(container, track, tone(RATE_HZ - late), begin=late)
    source = check_input(path, AudioSource)
    given = read_audio(source).samples
    assert source.duration_s == 1
    assert not given[:, :late].any()
    assert torch.equal(given[:, late:], torch.from_numpy(tone(RATE_HZ - late)) / 32768)
    assert torch.equal(read_audio(source, Fraction("0.2"), Fraction("0.5")).samples, given[:, 9600:33600])


@pytest.mark.parametrize("lost_s", [Fraction(1, 10), Fraction(2, 5)])
@pytest.mark.parametrize("suffix", ["m4a", "ts"])
def test_audio_after_missing_packets_is_heard_when_it_was(suffix: str, lost_s: Fraction, tmp_path: Path):
    whole = sound(tmp_path / f"whole.{suffix}", "aac")
    begin_s = Fraction(3, 10)
    with av.open(whole.path) as given, av.open(tmp_path / f"song.{suffix}", "w") as container:
        (stream,) = given.streams.audio
        track = container.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.size and not begin_s < (packet.pts or 0) * packet.time_base - whole.zero_s < begin_s + lost_s:
                packet.stream = track
                container.mux(packet)
    expected, seen = (
        read_audio(whole).samples,
        read_audio(check_input(tmp_path / f"song.{suffix}", AudioSource)).samples,
    )
    after = round((begin_s + lost_s) * RATE_HZ) + 3072  # samples, where the codec has recovered
    assert seen.shape == expected.shape
    assert (seen[:, after : after + 4800] - expected[:, after : after + 4800]).abs().max() < 0.05
    assert not seen[:, round(begin_s * RATE_HZ) + 3072 : after - 6144].any()


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("early_s", [Fraction(1, 50), Fraction(9, 5)])
def test_audio_that_begins_before_its_video_is_heard_from_the_first_frame_on(
    suffix: str, early_s: Fraction, tmp_path: Path
):
    path = with_early_audio(tmp_path / f"clip.{suffix}", early_s)
    video, source = check_input(path, VideoSource), check_input(path, AudioSource)
    assert source == video.audio
    samples = read_audio(source).samples[0]
    assert int((samples > 0.25).nonzero()[0]) < RATE_HZ // 400  # times in MKV are rounded to milliseconds
    assert abs(source.duration_s - video.duration_s) < 1 / FPS
    assert float(samples[RATE_HZ // 50 :].abs().max()) < 0.05


@pytest.mark.parametrize("name", ["yt.webm", "again.mkv"])
def test_the_skipped_beginning_of_opus_moves_its_audio_once(name: str, tmp_path: Path):
    """The clip flashes and beeps at 0.5 s; FFmpeg wrote it."""
    path = CASES / "yt.webm"
    if name != path.name:
        path = remuxed(path, tmp_path / name)
    video = check_input(path, VideoSource)
    assert video.audio
    assert video.zero_s == Fraction(7, 1000)
    beep = read_audio(video.audio).samples[0].abs()
    start = beep[: RATE_HZ * 2 // 5].max()
    assert abs(int((beep > 1.5 * start).nonzero()[0]) - RATE_HZ // 2) < RATE_HZ // 500


def remuxed(path: Path, new: Path) -> Path:
    with av.open(path) as given, av.open(new, "w") as container:
        streams = {stream.index: container.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                container.mux(packet)
    return new


def test_a_sound_of_which_a_sample_is_no_number_is_refused(tmp_path: Path):
    samples = np.full((1, 200), np.nan, np.float32)
    with av.open(tmp_path / "song.wav", "w") as container:
        track = container.add_stream("pcm_f32le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = 8000
        container.mux([*track.encode(frame), *track.encode(None)])
    with pytest.raises(MediaError, match="no numbers"):
        read_audio(check_input(tmp_path / "song.wav", AudioSource))


@pytest.mark.parametrize("rate_hz", [44099, 47999, 96001])
def test_a_rate_without_a_common_divisor_takes_a_step_in_between(rate_hz: int):
    given = Waveform(torch.from_numpy(tone(rate_hz, 1, rate_hz)) / 32768, rate_hz)
    workable = at_workable_rate(given, 16000)
    assert workable.sample_rate_hz == RATE_HZ
    expected = torch.from_numpy(tone(RATE_HZ, 1)) / 32768
    assert (workable.samples - expected)[:, 500:-500].abs().max() < 1e-3
    assert workable.samples.shape == expected.shape


def test_a_usual_rate_is_left_alone():
    for rate_hz in (8000, 11025, 22050, 44056, 44100, 48000, 88200, 192000):
        given = Waveform(torch.zeros(2, 9), rate_hz)
        assert at_workable_rate(given, 16000) is given


def test_an_encoder_gets_a_rate_that_it_takes():
    for rate_hz, taken_hz in {44100: 44100, 44099: 44100, 192000: 96000}.items():
        given = Waveform(torch.zeros(2, rate_hz // 100), rate_hz)
        assert at_rate_of("aac", given).sample_rate_hz == taken_hz
        assert at_rate_of("alac", given) is given


@pytest.mark.parametrize(
    ("size", "looked_at"),
    [((300, 200), (896, 597)), ((200, 300), (597, 896)), ((3000, 2), (896, 1)), ((64, 64), (896, 896))],
)
def test_a_language_model_looks_at_an_image_whose_longer_side_has_896_pixels(
    size: tuple[int, int], looked_at: tuple[int, int], tmp_path: Path
) -> None:
    seen = image_to_look_at(image(tmp_path / "a.png", Image.new("RGB", size, (10, 200, 30))))
    assert (seen.shape, seen.dtype) == ((3, looked_at[1], looked_at[0]), torch.uint8)
    assert seen.flatten(1).unique(dim=1).flatten().tolist() == [10, 200, 30]
