from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ltx2_core.config.upsampler import UpsamplerConfig
from ltx2_core.errors import CheckpointError
from ltx2_core.models.upsampler import BlurDown, LatentUpsampler, upsample_latent
from ltx2_core.models.video_vae import ChannelStatistics

METADATA = {"_class_name": "LatentUpsampler", "in_channels": 2, "mid_channels": 32, "num_blocks_per_stage": 1}
TIME = {"temporal_upsample": True, "spatial_upsample": False}
BINOMIAL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
BLUR = (torch.outer(BINOMIAL, BINOMIAL) / 256).reshape(1, 1, 5, 5)


def config(**changes: Any) -> UpsamplerConfig:
    return UpsamplerConfig.from_metadata(METADATA | changes)


def upsampler(**changes: Any) -> LatentUpsampler:
    torch.manual_seed(0)
    model = LatentUpsampler(config(**changes)).requires_grad_(False).eval()
    if model.config.ratio:
        model.get_submodule("upsampler.blur_down").load_state_dict({"kernel": BLUR})
    return model


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (3, 8, 12)),
        ({"rational_resampler": True}, (3, 8, 12)),
        ({"rational_resampler": True, "spatial_scale": 1.5}, (3, 6, 9)),
        ({"rational_resampler": True, "spatial_scale": 4.0}, (3, 16, 24)),
        ({"rational_resampler": True, "spatial_scale": 0.75}, (3, 3, 5)),
        (TIME, (5, 4, 6)),
        ({"temporal_upsample": True}, (5, 8, 12)),
    ],
)
def test_latent_grows_by_the_scale(changes: dict[str, Any], size: tuple[int, int, int]):
    assert upsampler(**changes)(noise(1, 2, 3, 4, 6)).shape == (1, 2, *size)


@pytest.mark.parametrize("changes", [{}, {"rational_resampler": True, "spatial_scale": 1.5}, TIME])
def test_gradients_reach_every_parameter_and_change_no_value(changes: dict[str, Any]):
    model, latent = upsampler(**changes), noise(1, 2, 3, 4, 6)
    expected = model(latent)
    result = model.requires_grad_(True)(latent)
    result.square().mean().backward()
    assert torch.equal(result, expected)
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_odd_sizes_round_up_at_one_and_a_half():
    small = upsampler(rational_resampler=True, spatial_scale=1.5)(noise(1, 2, 1, 3, 5))
    assert small.shape == (1, 2, 1, 5, 8)


def test_rational_doubling_equals_the_plain_one():
    plain, rational = upsampler(), upsampler(rational_resampler=True)
    names = {"upsampler.0.weight": "upsampler.conv.weight", "upsampler.0.bias": "upsampler.conv.bias"}
    state = {names.get(name, name): tensor for name, tensor in plain.state_dict().items()}
    rational.load_state_dict(state | {"upsampler.blur_down.kernel": BLUR})
    x = noise(1, 2, 2, 4, 4)
    assert torch.equal(plain(x), rational(x))


def test_rational_resampler_is_ignored_where_time_grows():
    assert config(rational_resampler=True, spatial_scale=3.0, **TIME) == config(**TIME)


def test_spatial_resize_works_frame_by_frame():
    model, x = upsampler(rational_resampler=True, spatial_scale=1.5), noise(2, 32, 3, 4, 4)
    frames = [model.resize(x[:, :, i : i + 1]) for i in range(3)]
    torch.testing.assert_close(model.resize(x), torch.cat(frames, dim=2))


def test_blur_keeps_an_even_area():
    blur = BlurDown(stride=2)
    blur.load_state_dict({"kernel": BLUR})
    result = blur(torch.full((1, 3, 12, 12), 0.5))
    torch.testing.assert_close(result[..., 1:-1, 1:-1], torch.full((1, 3, 4, 4), 0.5))


def test_normalised_latents_pass_through_the_plain_space_of_the_vae():
    statistics = ChannelStatistics(2)
    statistics.load_state_dict({"mean-of-means": torch.tensor([1.0, -2.0]), "std-of-means": torch.tensor([0.5, 3.0])})
    model, plain = upsampler(), noise(1, 2, 2, 4, 4)
    result = upsample_latent(statistics.normalize(plain), model, statistics)
    torch.testing.assert_close(statistics.unnormalize(result), model(plain))


def test_input_stays_as_it_is_and_lends_its_dtype():
    x = noise(1, 2, 1, 4, 4)
    before = x.clone()
    assert upsampler().bfloat16()(x).dtype == torch.float32
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dims": 2}, "dims"),
        ({"_class_name": "SomethingElse"}, "SomethingElse"),
        ({"rational_resampler": True, "spatial_scale": 3.0}, "spatial_scale"),
        ({"spatial_upsample": False}, "neither time nor space"),
    ],
)
def test_unknown_settings_are_refused_by_name(changes: dict[str, Any], named: str):
    with pytest.raises(CheckpointError, match=named):
        config(**changes)
