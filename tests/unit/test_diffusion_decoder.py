"""The diffusion decoder: attention in boxes, tiles, noise, small latents, and valid configs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ltx2_core.config.video_vae import VideoVAEConfig
from ltx2_core.diffusion_tiles import auto, cut, grown, least_overlap, of_sizes, pixels
from ltx2_core.errors import CheckpointError, RequestError
from ltx2_core.grids import Factors, VideoGrid
from ltx2_core.models.diffusion_layers import axis_widths
from ltx2_core.models.neighbours import Neighbourhood, Windows
from ltx2_core.tiles import Cut, Interval, TilePlan
from ltx2_core.tiling import diffusion
from ltx2_core.tiling.diffusion import decode_diffused
from ltx2_core.tiling.video import decode_video
from scripts.golden.report import relative_error
from tests.diffusion_vae import random_decoder, vae_metadata
from tests.tolerances import ATTENTION_IN_BOXES

CONFIG = VideoVAEConfig.from_metadata(vae_metadata())
TILES = TilePlan(frames=Cut(16, 8), height=Cut(64, 32), width=Cut(64, 32))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decoded(latent: Tensor, seed: int = 1, plan: TilePlan = TILES, **changes: Any) -> Tensor:
    decoder = random_decoder(vae_metadata(**changes))
    with torch.inference_mode():
        return torch.cat(list(decode_diffused(latent, decoder, plan, seeded(seed))), dim=2)


def with_full_mask(q: Tensor, k: Tensor, v: Tensor, windows: tuple[Windows, Windows, Windows]) -> Tensor:
    """Neighbourhood attention of one head (t y x d), computed from the scores of all positions with all keys."""
    seen = torch.ones(1, 1, dtype=torch.bool)
    for one in windows:
        keys = torch.arange(one.keys)
        axis = torch.stack([(keys >= start) & (keys < start + one.size) for start in one.starts])
        seen = torch.kron(seen, axis)
    flat = [tensor.reshape(-1, tensor.shape[-1]) for tensor in (q, k, v)]
    scores = (flat[0] @ flat[1].mT * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ flat[2]).reshape(q.shape)


@pytest.mark.parametrize("across", [Windows.shifted, Windows.centred])
@pytest.mark.parametrize("box", [Factors(4, 8, 8), Factors(1, 1, 1), Factors(2, 3, 4), Factors(64, 64, 64)])
def test_attention_in_boxes_is_attention_with_a_mask(box: Factors, across: Any) -> None:
    windows = Windows.shifted(6, 3), Windows.shifted(7, 5), across(11, 5)
    keys = [one.keys for one in windows]
    q, k, v = noise(1, 6, 7, 11, 2, 4), noise(1, *keys, 2, 4, seed=1), noise(1, *keys, 2, 4, seed=2)
    near = Neighbourhood(*windows, box)
    made = [near.attend(q[:, one.queries], k[:, one.keys], v[:, one.keys], one) for one in near.frame_boxes]
    whole = torch.cat(made, dim=1)
    for head in range(2):
        expected = with_full_mask(q[0, ..., head, :], k[0, ..., head, :], v[0, ..., head, :], windows)
        assert relative_error(whole[0, ..., head, :], expected) < ATTENTION_IN_BOXES


def test_windows_move_inwards_at_the_ends_and_are_never_cut() -> None:
    assert Windows.shifted(7, 3).starts == (0, 0, 1, 2, 3, 4, 4)
    assert Windows.shifted(3, 3).starts == (0, 0, 0)


@pytest.mark.parametrize(("head_dim", "widths"), [(64, (16, 24, 24)), (16, (4, 6, 6)), (8, (0, 4, 4))])
def test_channels_of_a_head_turn_with_frame_row_and_column(head_dim: int, widths: tuple[int, int, int]) -> None:
    assert sum(axis_widths(head_dim)) == head_dim
    assert all(width % 2 == 0 for width in axis_widths(head_dim))


def test_one_tile_is_the_plain_decoder_bit_for_bit() -> None:
    latent, decoder = noise(1, 4, 3, 3, 3), random_decoder()
    with torch.inference_mode():
        plain = decoder(latent, seeded(5))
        for plan in (TilePlan(), TilePlan(frames=Cut(80, 40), height=Cut(128, 64), width=Cut(128, 64))):
            (tiled,) = decode_diffused(latent, decoder, plan, seeded(5))
            assert torch.equal(plain, tiled)


def test_a_seed_gives_one_video_and_another_seed_another() -> None:
    latent = noise(1, 4, 3, 2, 3)
    first, again, other = (decoded(latent, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("steps", [1, 2])
def test_tiles_of_several_steps_share_one_noise(steps: int) -> None:
    latent, drawn = noise(1, 4, 3, 3, 3), []
    decoder = random_decoder(vae_metadata(default_num_inference_steps=steps))
    decoder.noise = lambda shape, generator: drawn.append(tuple(shape)) or torch.zeros(shape)  # type: ignore[method-assign]
    with torch.inference_mode():
        list(decode_diffused(latent, decoder, TILES, seeded(1)))
    assert drawn == [(1, 3, 17, 96, 96)] if steps == 2 else len(drawn) > 4


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 3, 2), (2, 1, 4)])
@pytest.mark.parametrize("plan", [TilePlan(), TILES])
def test_a_latent_smaller_than_the_windows_is_decoded_at_its_size(size: tuple[int, int, int], plan: TilePlan) -> None:
    frames, rows, columns = size
    video = decoded(noise(1, 4, *size), plan=plan)
    assert video.shape == (1, 3, 8 * (frames - 1) + 1, 32 * rows, 32 * columns)
    assert video.isfinite().all()


def test_a_latent_smaller_than_the_windows_lies_in_the_middle_of_copies_of_its_edges() -> None:
    decoder = random_decoder()
    frames, rows, columns = decoder.decoder.least_latent
    latent = noise(1, 4, frames, rows - 2, columns)
    with torch.inference_mode():
        found = decoder.features(latent)
        whole = decoder.features(functional.pad(latent, (0, 0, 1, 1, 0, 0), mode="replicate"))
    assert (found.top, found.left, whole.top, whole.left) == (1, 0, 0, 0)
    assert torch.equal(found.volume, whole.volume)


@pytest.mark.parametrize(
    ("dtype", "sums"), [(torch.float32, torch.float32), (torch.bfloat16, torch.float16), (torch.float64, torch.float64)]
)
def test_tiles_are_added_up_as_in_the_official_code(
    dtype: torch.dtype, sums: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[torch.dtype] = []
    blend = diffusion.blend

    def noted(work: Any, cells: Any, places: Any, blank: Tensor, **how: Any) -> Any:
        added.append(blank.dtype)
        return blend(work, cells, places, blank, **how)

    monkeypatch.setattr(diffusion, "blend", noted)
    with torch.inference_mode():
        next(decode_diffused(noise(1, 4, 3, 3, 3).to(dtype), random_decoder().to(dtype), TILES, seeded(1)))
    assert added == [sums]


def test_the_rule_for_edges_matters_near_them_alone() -> None:
    latent, decoder = noise(1, 4, 3, 3, 4), random_decoder()
    videos = []
    with torch.inference_mode():
        for repeats_edges in (True, False):
            decoder.repeats_edges = repeats_edges
            videos.append(decoder(latent, seeded(1)))
    near = 4 * 2  # pixels: half a window of one block
    inside = [video[..., near:-near] for video in videos]
    assert relative_error(*inside) < ATTENTION_IN_BOXES
    assert relative_error(videos[0][..., :near], videos[1][..., :near]) > 1e-3


def test_frames_for_display_lie_between_0_and_1() -> None:
    with torch.inference_mode():
        frames = torch.cat(list(decode_video(noise(1, 4, 2, 2, 2), random_decoder(), TilePlan(), seeded(1))))
    assert frames.shape == (9, 3, 64, 64)
    assert frames.dtype == torch.float32
    assert 0 <= frames.min() < frames.max() <= 1


def test_a_short_last_tile_begins_earlier() -> None:
    pieces = [Interval(0, 8, 0, 2), Interval(6, 9, 2, 0)]
    assert grown(pieces, 6) == [Interval(0, 8, 0, 5), Interval(3, 9, 5, 0)]
    assert grown(pieces, 3) == pieces


def test_tiles_cover_the_clip_from_its_single_first_frame_on() -> None:
    grid = VideoGrid(frames=33, height=96, width=96, factors=CONFIG.factors)
    frames, rows, _ = pixels(cut(TILES, grid, CONFIG.decoder), CONFIG.decoder)
    assert (frames[0].start, frames[-1].stop, rows[-1].stop) == (0, 33, 96)
    assert all(before.stop - after.start == before.right for before, after in pairwise(frames))


def test_tiles_that_share_too_little_are_refused() -> None:
    config, factors = CONFIG.decoder, CONFIG.factors
    overlap = least_overlap(config, factors)
    assert of_sizes((16, 64, 64), config, factors).frames == Cut(16, overlap[0])
    with pytest.raises(RequestError, match="height"):
        of_sizes((16, overlap[1], 64), config, factors)


def test_the_automatic_plan_works_least_twice_of_those_that_fit() -> None:
    grid = VideoGrid(frames=33, height=256, width=256, factors=CONFIG.factors)
    one = auto(grid, CONFIG.decoder, lambda plan: True)
    assert one is not None
    assert all(len(axis) == 1 for axis in cut(one, grid, CONFIG.decoder))
    assert auto(grid, CONFIG.decoder, lambda plan: False) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stage_channels": [32, 16, 16, 16, 16]}, "stage_channels"),
        ({"head_dim": 12}, "stage_channels"),
        ({"stage_depths": [1, 1]}, "stage_depths"),
        ({"upsamples": [[1, 2, 2]]}, "upsamples"),
        ({"stage5_kernel": [5, 5]}, "stage5_kernel"),
        ({"stage5_channels": 16}, "stage5_channels"),
        ({"in_channels": 8}, "in_channels"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        VideoVAEConfig.from_metadata(vae_metadata(**changes))


@pytest.mark.parametrize("key", ["timestep_scale_multiplier", "default_num_inference_steps", "stage5_kernel"])
def test_settings_whose_official_default_is_wrong_must_be_there(key: str) -> None:
    metadata = vae_metadata()
    del metadata["vae"]["decoder"][key]
    with pytest.raises(CheckpointError, match=key):
        VideoVAEConfig.from_metadata(metadata)
    without = vae_metadata()
    del without["vae"]["model_output_type"]
    with pytest.raises(CheckpointError, match="model_output_type"):
        VideoVAEConfig.from_metadata(without)


def test_velocity_of_one_step_is_subtracted_from_the_noise() -> None:
    decoder = random_decoder()
    decoder.decoder = replace(decoder.decoder, predicts="v")
    context, drawn = noise(1, 5, 8, 8, 8), noise(1, 3, 5, 32, 32, seed=3)
    with torch.inference_mode():
        velocity = decoder.denoise(drawn, context, 1.0)
        assert torch.equal(decoder.sample(drawn, context), drawn - velocity)
