"""How the frames of unusual clips are read: with their colours, at their aspect ratio, complete and upright, with a
note about it.

The files in tests/media show (200, 40, 40), (40, 180, 40), (50, 50, 200) and grey 128 in their quarters.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av import VideoStream
from einops import rearrange
from torch import Tensor

from ltx2_core.media.accept import check_input
from ltx2_core.media.frames import BT2020_TO_BT709, TO_BT709, linear_light, to_bt709
from ltx2_core.media.inputs import VideoSource
from ltx2_core.media.reading import BT601, BT709, FULL, HLG, PQ, Colour, FrameReading, guessed
from ltx2_core.media.sheet import thumbnails
from ltx2_core.media.shown import deinterlaced
from ltx2_core.media.video import frames_by_number, frames_by_time
from ltx2_core.pipeline.describe.describe import describe
from tests.odd_media import CASES
from tests.synthetic_media import picture

pytestmark = pytest.mark.usefixtures("kept_models")

FIELDS = torch.tensor([[200, 40, 40], [40, 180, 40], [50, 50, 200], [128, 128, 128]])


def frames_of(path: Path) -> Tensor:
    source = check_input(path, VideoSource)
    return torch.cat(list(frames_by_time(source, source.frames, source.fps)))


def quarters(frame: Tensor) -> Tensor:
    """The mean colours (4 3) in the middles of the four quarters of a frame (3 H W)."""
    height, width = frame.shape[-2:]
    middles = [(y, x) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return torch.stack([frame[:, y - 4 : y + 4, x - 4 : x + 4].float().mean((1, 2)) for y, x in middles])


@pytest.mark.parametrize(
    ("name", "codes", "notes"),
    [
        ("ten709.mp4", 1, ()),
        ("hd_untagged709.mp4", 3, ()),  # 8 bits are rounded as the official reader rounds them
        ("hlg.mov", 6, ("hlg.mov is HLG HDR; it is read as BT.709 SDR, with diffuse white at 203 nits",)),
    ],
)
def test_a_clip_has_the_colours_that_it_was_made_with(name: str, codes: int, notes: tuple[str, ...]) -> None:
    assert (quarters(frames_of(CASES / name)[3]) - FIELDS).abs().max() <= codes
    assert check_input(CASES / name, VideoSource).notes == notes


def as_hdr(rgb: Tensor, transfer: int) -> Tensor:
    """BT.709 values (1 3 H W) in [0, 1] as BT.2020 values with white at 203 nits."""
    nits = 203 * torch.einsum("rc,bcHW->brHW", torch.tensor(BT2020_TO_BT709).double().inverse(), rgb.double() ** 2.4)
    if transfer == PQ:
        power = (nits / 10_000) ** (2610 / 16384)
        return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    scene = (nits / 1000) ** (1 / 1.2)
    bright = 0.17883277 * (12 * scene - 0.28466892).clamp(min=1e-9).log() + 0.55991073
    return torch.where(scene <= 1 / 12, (3 * scene).sqrt(), bright)


def hdr(transfer: int) -> Colour:
    return Colour(9, transfer, 9, 1)


def from_hdr(values: Tensor, transfer: int) -> Tensor:
    return to_bt709(linear_light(values, hdr(transfer)), hdr(transfer))


@pytest.mark.parametrize("transfer", [HLG, PQ])
def test_high_dynamic_range_comes_back_as_the_values_it_was_made_from(transfer: int) -> None:
    rgb = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(from_hdr(as_hdr(rgb, transfer).float(), transfer), rgb, atol=2e-3, rtol=0)


@pytest.mark.parametrize("transfer", [HLG, PQ])
def test_what_is_brighter_than_diffuse_white_is_white(transfer: int) -> None:
    assert torch.equal(from_hdr(torch.ones(1, 3, 1, 1), transfer), torch.ones(1, 3, 1, 1))
    assert torch.equal(from_hdr(torch.zeros(1, 3, 1, 1), transfer), torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize(("primaries", "name"), [(9, "BT.2020"), (12, "Display P3")])
def test_a_wide_gamut_is_read_as_the_colours_it_was_made_from(primaries: int, name: str, tmp_path: Path) -> None:
    fields = torch.linalg.solve(torch.tensor(TO_BT709[primaries]), (FIELDS.T / 255) ** 2.4) ** (1 / 2.4)
    stored = (255 * fields.T).round().to(torch.uint8).reshape(2, 2, 3)
    pixels = stored.repeat_interleave(32, 0).repeat_interleave(32, 1).numpy()
    with av.open(tmp_path / "clip.mp4", "w") as container:
        stream = container.add_stream("libx264rgb", rate=25, options={"crf": "0"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        stream.codec_context.color_primaries = primaries
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    assert (quarters(frames_of(tmp_path / "clip.mp4")[0]) - FIELDS).abs().max() <= 2
    note = f"clip.mp4 has the wide gamut of {name}; it is read as BT.709"
    assert check_input(tmp_path / "clip.mp4", VideoSource).notes == (note,)
    assert describe(tmp_path / "clip.mp4")["gamut"] == f"{name}, read as BT.709"


def test_pq_is_known_by_its_tag(tmp_path: Path) -> None:
    path = tmp_path / "pq.mp4"
    field = as_hdr(torch.tensor([200, 40, 40]).reshape(1, 3, 1, 1) / 255, PQ).flatten()
    red, green, blue = field.tolist()
    luma = 0.2627 * red + 0.678 * green + 0.0593 * blue
    values = (64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746)
    with av.open(path, "w") as container:
        options = {"x265-params": "log-level=none:colorprim=9:transfer=16:colormatrix=9", "crf": "4"}
        stream = container.add_stream("libx265", rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        frame = av.VideoFrame(64, 64, "yuv420p10le")
        for plane, value in zip(frame.planes, values, strict=True):
            plane.update(np.full(plane.buffer_size // 2, round(value), np.uint16).tobytes())
        for number in range(3):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert check_input(path, VideoSource).notes == (
        "pq.mp4 is PQ HDR; it is read as BT.709 SDR, with diffuse white at 203 nits",
    )
    assert (quarters(frames_of(path)[0]) - FIELDS[0]).abs().max() <= 6


@pytest.mark.parametrize(
    ("coded", "height", "is_full", "expected"),
    [
        (Colour(2, 2, 2, 0), 719, False, (BT601, 1)),
        (Colour(2, 2, 2, 0), 720, False, (BT709, 1)),
        (Colour(2, 2, BT601, 0), 1080, False, (BT601, 1)),
        (Colour(2, 2, 2, 0), 480, True, (BT601, FULL)),
        (Colour(2, 2, 2, FULL), 1080, False, (BT709, FULL)),
    ],
)
def test_colours_that_a_file_does_not_tell_are_guessed_by_its_height(
    coded: Colour, height: int, is_full: bool, expected: tuple[int, int]
) -> None:
    assert guessed(coded, height, is_full=is_full)[2:] == expected


def test_a_clip_is_seen_at_its_display_size() -> None:
    source = check_input(CASES / "circle_sar43.mp4", VideoSource)
    frame = frames_of(source.path)[0].float().mean(0)
    rows, columns = (frame > 130).nonzero(as_tuple=True)
    assert (source.width, source.height) == (480, 270)
    assert abs((rows.max() - rows.min()) - (columns.max() - columns.min())) <= 2
    assert "its display size of 480x270, not 360x270" in source.notes[0]


@pytest.mark.parametrize(
    ("aspect", "rotation", "size"),
    [("4/3", 0, (96, 48)), ("3/4", 0, (72, 64)), ("4/3", 90, (48, 96)), ("1/1", 270, (48, 72))],
)
def test_no_side_becomes_shorter_for_square_pixels(aspect: str, rotation: int, size: tuple[int, int]) -> None:
    reading = FrameReading(width=72, height=48, sample_aspect=Fraction(aspect), rotation=rotation)
    assert reading.upright_size == size


def combing(frames: Tensor) -> float:
    """How much rows differ from the rows above and below them."""
    frames = frames.float()
    return float((2 * frames[..., 1:-1, :] - frames[..., :-2, :] - frames[..., 2:, :]).abs().mean())


def test_an_interlaced_clip_is_deinterlaced_and_has_all_its_frames() -> None:
    path = CASES / "il25.mp4"
    with av.open(path) as container:
        decoded = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    stored = torch.stack(decoded)
    frames = frames_of(path)
    assert len(frames) == len(stored) == 24
    assert combing(rearrange(stored, "F H W c -> F c H W")) > 20
    assert combing(frames) < 1
    assert check_input(path, VideoSource).notes == ("il25.mp4 is interlaced; it is read deinterlaced",)


def test_a_clip_that_becomes_interlaced_is_deinterlaced_from_there_on() -> None:
    with av.open(CASES / "il25.mp4") as container:
        interlaced = [*container.decode(video=0)]
    plain = av.VideoFrame.from_ndarray(interlaced[0].to_ndarray(), format=interlaced[0].format.name)
    frames = [*deinterlaced([plain, *interlaced])]
    assert len(frames) == len(interlaced) + 1
    assert frames[0] is plain
    pixels = torch.stack([torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in frames[1:]])
    assert combing(rearrange(pixels, "F H W c -> F c H W")) < 1


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrors", [(False, False), (True, False), (False, True), (True, True)])
def test_a_clip_is_turned_and_mirrored_by_its_matrix(rotation: int, mirrors: tuple[bool, bool], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.set_display_rotation(rotation, *mirrors)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        container.mux(stream.encode(None))
    expected = np.rot90(picture(0), rotation // 90)
    expected = np.fliplr(expected) if mirrors[0] else expected
    expected = np.flipud(expected) if mirrors[1] else expected
    (frame,) = frames_of(path)
    assert frame.shape[-2:] == expected.shape[:2]
    seen = rearrange(frame, "c H W -> H W c").int()
    assert (seen - torch.from_numpy(expected.copy()).int()).abs().max() < 9


def test_a_contact_sheet_shows_frames_as_they_are_read() -> None:
    for _, image in thumbnails(check_input(CASES / "hlg.mov", VideoSource)):
        pixels = rearrange(torch.from_numpy(np.asarray(image).copy()), "H W c -> c H W")
        assert (quarters(pixels) - FIELDS).abs().max() <= 8


@pytest.mark.parametrize("name", ["hlg.mov", "il25.mp4", "circle_sar43.mp4"])
def test_frames_by_number_are_those_by_time(name: str) -> None:
    source = check_input(CASES / name, VideoSource)
    some = dict(frames_by_number(source, {2, 5}))
    assert list(some) == [2 / source.fps, 5 / source.fps]
    assert torch.equal(torch.stack([*some.values()]), frames_of(CASES / name)[[2, 5]])


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("hlg.mov", {"colours": "BT.2020, limited range", "dynamic range": "HLG HDR, read as BT.709 SDR"}),
        ("il25.mp4", {"fields": "interlaced, read deinterlaced", "display size": "192x128"}),
        ("circle_sar43.mp4", {"pixels": "4:3, read as square ones", "display size": "480x270"}),
    ],
)
def test_inspecting_a_clip_tells_how_it_is_read(name: str, lines: dict[str, str]) -> None:
    told = describe(CASES / name)
    assert {key: told[key] for key in lines} == lines


def test_orientation_is_told_in_words() -> None:
    assert (
        FrameReading(width=2, height=2, rotation=90, is_mirrored=True).facts["orientation"]
        == "mirrored, turned by 90 degrees"
    )
    assert "orientation" not in FrameReading(width=2, height=2).facts
