"""Reading a clip's properties, and converting its pixels and samples before they are encoded."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

from ltx2_core.errors import RequestError
from ltx2_core.media.check import VideoCheck
from ltx2_core.media.clip import ClipShape, Encoding
from ltx2_core.media.pixels import to_i420
from ltx2_core.media.resize import fit
from ltx2_core.media.waveform import Waveform, fit_waveform, to_pcm16
from ltx2_core.media.writer import _seen

RATES = [Fraction(text) for text in ("24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")]


def random_frames(frames: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_frames_converted_together_are_frames_converted_alone():
    frames = random_frames(5, 8, 12)
    assert torch.equal(to_i420(frames), torch.cat([to_i420(frame) for frame in frames.split(1)]))


def test_only_codes_of_eight_bits_leave_the_device_of_the_frames(monkeypatch: pytest.MonkeyPatch):
    moved: list[tuple[torch.dtype, tuple[int, ...]]] = []
    to_cpu = torch.Tensor.cpu

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        moved.append((tensor.dtype, tuple(tensor.shape)))
        return to_cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    frames = random_frames(3, 8, 12)
    codes = list(_seen(frames.split([2, 1]), VideoCheck(8)))
    assert moved == [(torch.uint8, (1, 12, 12))] * 3
    assert torch.equal(torch.cat(codes), to_i420(frames))


def test_fitted_frames_are_filled_up_with_their_mirror_image():
    frames = random_frames(1, 5, 4)
    fitted = fit(frames, 8, 6)
    assert torch.equal(fitted[..., :5, :4], frames)
    assert torch.equal(fitted[..., 5:, :4], frames.flip(-2)[..., 1:4, :])
    assert torch.equal(fitted[..., 4:], fitted[..., :4].flip(-1)[..., 1:3])
    assert torch.equal(fit(frames, 5, 9)[..., 3:], frames[..., -1:].expand(-1, -1, -1, 6))
    assert fit(random_frames(1, 20, 10), 10, 10).shape[-2:] == (10, 10)


@pytest.mark.parametrize("height", [8, 10])
def test_planes_read_as_limited_bt709_give_the_colours_back(height: int):
    colours = random_frames(1, height // 2, 6)
    frames = colours.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # at the resolution of the colour planes
    planes = av.VideoFrame.from_ndarray(to_i420(frames)[0].numpy(), format="yuv420p")
    planes.colorspace, planes.color_range = 1, 1
    read = planes.to_ndarray(format="rgb24", interpolation="POINT")
    expected = rearrange(frames, "1 c H W -> H W c").numpy() * 255
    assert np.abs(read - expected).max() < 6  # of 255: each plane is truncated to integers


def test_brighter_frames_have_higher_luma_and_the_same_colour():
    frames = random_frames(1, 4, 4)
    grey = frames.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    dark, bright = to_i420(grey / 2).int(), to_i420(grey).int()
    assert (bright[:, :4] > dark[:, :4]).all()
    assert torch.equal(bright[:, 4:], dark[:, 4:])


@pytest.mark.parametrize(("width", "height"), [(63, 64), (64, 63)])
def test_odd_sizes_are_refused_by_name(width: int, height: int):
    with pytest.raises(RequestError, match=f"{width}x{height}"):
        ClipShape(width=width, height=height, frames=9, fps=Fraction(24))


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=50))
def test_samples_are_clipped_and_cut_towards_zero(values: list[float]):
    samples = torch.tensor(values)
    codes = to_pcm16(samples)
    assert torch.equal(to_pcm16(-samples), -codes)
    assert torch.equal(codes, to_pcm16(samples.clamp(-1, 1)))
    assert (codes.abs() <= samples.abs() * 32767).all()
    assert ((samples.clamp(-1, 1).abs() * 32767 - codes.abs()) < 1).all()


@pytest.mark.parametrize("given_samples", [0, 100, 200_000])
def test_fitted_sound_has_its_length_and_keeps_its_beginning(given_samples: int):
    shape = ClipShape(width=64, height=64, frames=121, fps=Fraction(24))
    sound = Waveform(torch.rand(2, given_samples), 24000)
    fitted = fit_waveform(sound, shape.duration_s)
    wanted = round(shape.duration_s * 24000)
    kept = min(given_samples, wanted)
    assert fitted.samples.shape == (2, wanted)
    assert torch.equal(fitted.samples[:, :kept], sound.samples[:, :kept])
    assert not fitted.samples[:, kept:].any()


@pytest.mark.parametrize("fps", RATES, ids=str)
def test_samples_of_a_clip_end_within_half_a_sample_of_its_frames(fps: Fraction):
    for frames in (1, 9, 25, 121, 241, 961):
        shape = ClipShape(width=64, height=64, frames=frames, fps=fps)
        for rate in (24000, 44100, 48000):
            sound = fit_waveform(Waveform(torch.zeros(2, 0), rate), shape.duration_s)
            assert abs(sound.duration_s - shape.duration_s) <= Fraction(1, 2 * rate)


@pytest.mark.parametrize(("codec", "crf"), [("h264", 52), ("h265", 60), ("av1", 64), ("h264", -1)])
def test_a_quality_outside_the_scale_of_its_codec_is_refused(codec: str, crf: int):
    with pytest.raises(RequestError, match=f"--crf {crf}"):
        Encoding(video=codec, crf=crf)
