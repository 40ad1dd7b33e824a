"""The cost of decoding a video with the decoder of a model, and the tiles for it."""

from __future__ import annotations

from collections.abc import Sequence

from .. import diffusion_tiles
from ..config.diffusion_decoder import DiffusionDecoderConfig
from ..config.video_vae import VideoVAEConfig
from ..grids import VideoGrid
from ..tiles import TilePlan
from . import diffusion_decoder, video_vae


def decode_bytes(vae: VideoVAEConfig, grid: VideoGrid, plan: TilePlan, itemsize: int) -> int:
    """Peak memory while a latent is decoded."""
    if isinstance(vae.decoder, DiffusionDecoderConfig):
        return diffusion_decoder.decode_bytes(vae, grid, plan, itemsize)
    return video_vae.decode_bytes(vae, grid, plan, itemsize)


def decode_flops(vae: VideoVAEConfig, grid: VideoGrid, plan: TilePlan) -> float:
    """FLOPs of all tiles of a latent; overlaps count twice."""
    if isinstance(vae.decoder, DiffusionDecoderConfig):
        return diffusion_decoder.decode_flops(vae, grid, plan)
    return video_vae.decode_flops(vae, grid, plan)


def decode_workspace_bytes(
    vae: VideoVAEConfig, grid: VideoGrid, plan: TilePlan, itemsize: int, *, on_cpu: bool = False
) -> int:
    """Additional memory of convolution kernels, which a GPU may need; the diffusion decoder has none."""
    if isinstance(vae.decoder, DiffusionDecoderConfig):
        return 0
    return video_vae.decode_workspace_bytes(vae, grid, plan, itemsize, on_cpu=on_cpu)


def auto_plan(vae: VideoVAEConfig, grid: VideoGrid, itemsize: int, nbytes: int | None) -> TilePlan:
    """The tiles in which a clip is decoded. nbytes: the memory for activations, which the diffusion decoder uses fully;
    None if unknown, which gives the smallest tiles.
    """
    if isinstance(vae.decoder, DiffusionDecoderConfig):
        return diffusion_decoder.auto_plan(vae, grid, itemsize, nbytes or 0)
    return TilePlan.auto(grid.latent, vae.factors)


def plan_of_sizes(vae: VideoVAEConfig, sizes: Sequence[int]) -> TilePlan:
    """Tiles of so many frames, rows and columns. Raises: RequestError if they are not possible."""
    if isinstance(vae.decoder, DiffusionDecoderConfig):
        return diffusion_tiles.of_sizes(sizes, vae.decoder, vae.factors)
    return TilePlan.of_sizes(sizes, vae.factors)


def smaller_sizes(vae: VideoVAEConfig, grid: VideoGrid, plan: TilePlan) -> tuple[int, ...] | None:
    """Frames, rows and columns of tiles that need less memory than those of a plan; None if there are none."""
    halves = plan.halved(grid.latent, vae.factors)
    if halves is None or not isinstance(vae.decoder, DiffusionDecoderConfig):
        return halves
    return diffusion_tiles.at_least_twice(halves, grid, plan, vae.decoder)
