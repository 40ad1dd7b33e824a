"""Neighbourhood attention by the kernel of comfy-kitchen against our boxes of queries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ltx2_core.config.diffusion_decoder import AttentionStage
from ltx2_core.config.video_vae import VideoVAEConfig
from ltx2_core.costs.decoding import decode_bytes
from ltx2_core.grids import Factors, VideoGrid
from ltx2_core.models.diffusion_decoder import DiffusionDecoder
from ltx2_core.models.diffusion_layers import NeighbourhoodAttention, fuse_neighbourhoods
from ltx2_core.tiles import TilePlan
from ltx2_core.tiling.video import decode_video
from scripts.benchmarks.meta import LiveBytes
from scripts.golden.report import relative_error
from tests.diffusion_vae import random_decoder, randomise, vae_metadata
from tests.tolerances import FUSED_NEIGHBOURS

pytest.importorskip("comfy_kitchen", reason="comfy-kitchen is missing; `make parity` installs it")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attending(kernel: Factors, head_dim: int = 16) -> NeighbourhoodAttention:
    layer = NeighbourhoodAttention(AttentionStage(channels=2 * head_dim, depth=1, kernel=kernel), head_dim)
    randomise(layer, seed=1)
    return layer.requires_grad_(False)


def both(module: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """The outputs of a module with boxes of queries, and with the kernel."""
    with torch.inference_mode():
        boxes = run()
        fuse_neighbourhoods(module)
        return boxes, run()


@pytest.mark.parametrize("repeats_edges", [False, True])
@pytest.mark.parametrize("frames", [3, 4, 5, 14])  # less than a box, one box, one frame more, several boxes
def test_the_kernel_attends_as_boxes_do(frames: int, repeats_edges: bool) -> None:
    layer, x = attending(Factors(3, 5, 7)), noise(1, frames, 6, 9, 32)
    boxes, fused = both(layer, lambda: layer.add_to(x.clone(), nn.Identity(), repeats_edges=repeats_edges))
    assert layer.is_fused
    assert relative_error(fused, boxes) < FUSED_NEIGHBOURS


def test_windows_longer_than_a_box_are_held_whole() -> None:
    layer, x = attending(Factors(11, 3, 3)), noise(1, 27, 3, 4, 32)
    boxes, fused = both(layer, lambda: layer.add_to(x.clone(), nn.Identity()))
    assert relative_error(fused, boxes) < FUSED_NEIGHBOURS


def test_a_whole_decoder_gives_the_same_video() -> None:
    wide = {"head_dim": 16, "stage_channels": [64, 32, 32, 32, 16]}
    decoder, latent = random_decoder(vae_metadata(**wide)), noise(1, 4, 2, 2, 1)
    boxes, fused = both(decoder, lambda: decoder(latent, torch.Generator().manual_seed(1)))
    assert relative_error(fused, boxes) < 10 * FUSED_NEIGHBOURS


def test_the_kernel_needs_no_more_memory_than_is_planned_for_boxes() -> None:
    changes = {"head_dim": 32, "stage_channels": [512, 256, 256, 256, 128], "stage5_kernel": [11, 11, 11]}
    config = VideoVAEConfig.from_metadata(vae_metadata(**changes))
    grid = VideoGrid(frames=17, height=128, width=160, factors=config.factors)
    with torch.device("meta"):
        decoder = DiffusionDecoder(config).requires_grad_(False).bfloat16()
        latent = torch.empty(1, 4, *grid.latent, dtype=torch.bfloat16)
    fuse_neighbourhoods(decoder)
    with torch.inference_mode(), LiveBytes([latent, *decoder.parameters(), *decoder.buffers()]) as memory:
        for _ in decode_video(latent, decoder):
            pass
    assert 0.7 < memory.peak / decode_bytes(config, grid, TilePlan(), 2) <= 1


def test_heads_that_the_kernel_does_not_take_stay_with_boxes() -> None:
    layer = attending(Factors(3, 3, 3), head_dim=8)
    fuse_neighbourhoods(layer)
    assert not layer.is_fused


@pytest.mark.gpu
def test_on_a_card_the_kernel_attends_as_boxes_do_in_bfloat16() -> None:
    layer = attending(Factors(11, 11, 11), head_dim=64).cuda().bfloat16()
    x = noise(1, 27, 40, 50, 128).cuda().bfloat16()
    boxes, fused = both(layer, lambda: layer.add_to(x.clone(), nn.Identity(), repeats_edges=True))
    assert relative_error(fused.float(), boxes.float()) < 2e-2  # two roundings of bfloat16
