"""Run the video VAE tile by tile and blend the results, so that memory does not grow with the clip.

Source: docs/reference/video-vae.md, "Tiles".
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor

from ..config.video_vae import IMAGE_CHANNELS
from ..models.diffusion_decoder import DiffusionDecoder
from ..models.video_vae import VideoDecoder, VideoEncoder
from ..parallel import Dealt, Ranks
from ..tiles import ENCODE_LEAST_OVERLAP, FRAMES_PER_CHUNK, TilePlan, pixels
from .blending import Tile, blend, in_order
from .diffusion import decode_diffused
from .streamed_clip import StreamedClip

Decoder = VideoDecoder | DiffusionDecoder


def decode_video(
    latent: Tensor,
    decoder: Decoder,
    tiles: TilePlan | None = None,
    generator: torch.Generator | None = None,
    ranks: Ranks | None = None,
) -> Iterator[Tensor]:
    """Decode a video latent into RGB frames, chunk by chunk.

    Args: latent: (1 c f h w), normalised. tiles: how to cut the grid; None decodes in one piece. generator: for a
    decoder that draws noise. ranks: those that decode tiles in turn, if `can_be_dealt` returns True.
    Yields: (F 3 H W) float32 frames in [0, 1], in display order; 8 * (f - 1) + 1 frames in all.
    Raises: RequestError if tiles of these sizes are not possible.
    Source: docs/reference/video-vae.md, "Frames for display".
    """
    for video in _decoded(latent, decoder, tiles or TilePlan(), generator, ranks):
        yield from _shown(video)
        del video  # freed before the next chunk: large frames take gigabytes


def _decoded(
    latent: Tensor, decoder: Decoder, plan: TilePlan, generator: torch.Generator | None, ranks: Ranks | None
) -> Iterator[Tensor]:
    """The video from either decoder, in pieces."""
    if isinstance(decoder, DiffusionDecoder):
        return decode_diffused(latent, decoder, plan, generator)
    return decode_tiled(latent, decoder, plan, generator, ranks)


def _shown(video: Tensor) -> Iterator[Tensor]:
    """A decoded video (1 3 F H W), as frames for display."""
    frames = rearrange(video, "1 c f h w -> f c h w")
    for chunk in frames.split(FRAMES_PER_CHUNK):
        pixels_01 = (chunk + 1).mul_(0.5)  # a bfloat16 clip rounds here, as the reference frames do
        yield pixels_01.clamp_(0, 1).float()


def decode_tiled(
    latent: Tensor,
    decoder: VideoDecoder,
    plan: TilePlan,
    generator: torch.Generator | None = None,
    ranks: Ranks | None = None,
) -> Iterator[Tensor]:
    """Decode a latent tile by tile; frames are yielded as soon as no later tile changes them.

    Args: latent: (b c f h w), normalised. generator: for a decoder that draws noise; it draws for each tile in turn.
    ranks: those that decode tiles in turn; this is the first of them.
    Yields: (b 3 F H W) in display order, about [-1, 1], not clamped. One tile equals the plain decoder.
    Raises: RequestError if tiles of these sizes are not possible.
    """
    factors = decoder.config.factors
    plan.check(factors)
    cells = plan.cells(latent.shape[2:], factors)

    def decode(source: Tile, target: Tile) -> Tensor:
        return decoder(_cut_out(latent, source), generator)

    blank = latent.new_empty(len(latent), IMAGE_CHANNELS, 0, 0, 0)
    make = decode if ranks is None else dealt(latent, decoder, ranks)
    yield from blend(make, cells, pixels(cells, factors), blank, from_zero=True)


def can_be_dealt(latent: Tensor, decoder: Decoder, plan: TilePlan) -> bool:
    """Whether ranks can share the tiles of a latent: there are several, and none draws noise."""
    if isinstance(decoder, DiffusionDecoder) or decoder.decoder.timestep_conditioning:
        return False
    return any(len(axis) > 1 for axis in plan.cells(latent.shape[2:], decoder.config.factors))


def dealt(latent: Tensor, decoder: VideoDecoder, ranks: Ranks) -> Dealt:
    """The tiles of a latent, decoded by ranks in turn."""

    def blank(source: Tile, target: Tile) -> Tensor:
        return latent.new_empty(len(latent), IMAGE_CHANNELS, *(piece.length for piece in target))

    return Dealt(ranks, lambda source, _: decoder(_cut_out(latent, source)), blank)


def serve_tiles(latent: Tensor, decoder: VideoDecoder, plan: TilePlan, ranks: Ranks) -> None:
    """Decode the tiles of a rank that is not the first, and send them to the first."""
    factors = decoder.config.factors
    cells = plan.cells(latent.shape[2:], factors)
    dealt(latent, decoder, ranks).serve(in_order(cells, pixels(cells, factors)))


def encode_tiled(video: Tensor | StreamedClip, encoder: VideoEncoder, plan: TilePlan) -> Tensor:
    """Encode a video tile by tile.

    Args: video: (b 3 F H W) in [-1, 1], which may still be read from its file; F is cropped to 8k + 1 frames.
    Returns: (b c f h w), normalised. One tile equals the plain encoder.
    Raises: RequestError if tiles of these sizes are not possible, or overlap by less than 16 frames or 64 pixels.
    """
    factors = encoder.config.factors
    plan.check(factors, least_overlap=ENCODE_LEAST_OVERLAP)
    frames, height, width = video.shape[2:]
    latent = (frames - 1) // factors.time + 1, height // factors.height, width // factors.width
    cells = plan.cells(latent, factors)

    def encode(source: Tile, target: Tile) -> Tensor:
        return encoder(video.cut_out(source) if isinstance(video, StreamedClip) else _cut_out(video, source))

    blank = video.new_empty(video.shape[0], encoder.config.latent_channels, 0, 0, 0)
    return torch.cat(list(blend(encode, pixels(cells, factors), cells, blank, from_zero=True)), dim=2)


def _cut_out(x: Tensor, tile: Tile) -> Tensor:
    """The part of x (b c f h w) in a tile."""
    frames, rows, columns = tile
    return x[:, :, frames.slice, rows.slice, columns.slice]
