"""The diffusion decoder of a video VAE: normalised latents to pixels, by denoising them.

Four stages enlarge the latent into a context; a fifth denoises pixels that start as noise, and reads the context. The
last of the four and the denoiser work on tiles of the third stage's output, which `diffusion_tiles.py` cuts.
Source: docs/reference/video-diffusion-decoder.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config.diffusion_decoder import DiffusionDecoderConfig
from ..config.video_vae import IMAGE_CHANNELS, VideoVAEConfig
from ..grids import VideoGrid
from .diffusion_layers import (
    NORM_EPS,
    Block,
    DenoisingBlock,
    Grow,
    SharedModulation,
    TimestepEmbedder,
)
from .video_vae import ChannelStatistics


class Features(NamedTuple):
    """A latent, enlarged as far as this is done in one piece.

    Args: volume: (b t y x c), with its ghost frames at the end. top, left: latent rows and columns that were added
    before its content. latent: frames, rows and columns including the added ones.
    """

    volume: Tensor
    latent: tuple[int, int, int]
    top: int
    left: int


class DiffusionDecoder(nn.Module):
    """Normalised latents to pixels, which depend on noise. Names of submodules are those of the files.

    repeats_edges: whether the denoiser sees copies of the first and last column beyond the edges, as in the official
    command line; else its windows move inwards, as everywhere else. The results differ near the left and the right
    edge.
    """

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        decoder = config.decoder
        assert isinstance(decoder, DiffusionDecoderConfig)
        self.config, self.decoder = config, decoder
        self.repeats_edges = True
        head_dim, stages, last = decoder.head_dim, decoder.stages, decoder.denoiser
        self.conv_in = nn.Linear(config.latent_channels, stages[0].channels)
        self.det_stages = nn.ModuleList(
            nn.Sequential(*(Block(stage, head_dim) for _ in range(stage.depth))) for stage in stages
        )
        self.upsamples = nn.ModuleList(
            Grow(stage.channels, growth) for stage, growth in zip(stages, decoder.growths, strict=True)
        )
        self.t_embedder = TimestepEmbedder(decoder.embedding_width)
        self.shared_adaln = SharedModulation(decoder.embedding_width, last.channels)
        self.conv_in_x_t = nn.Linear(config.patch_channels, last.channels)
        self.diff_blocks = nn.ModuleList(DenoisingBlock(last, head_dim) for _ in range(last.depth))
        self.norm_out = nn.RMSNorm(last.channels, eps=NORM_EPS)
        self.conv_out = nn.Linear(last.channels, config.patch_channels)
        self.per_channel_statistics = ChannelStatistics(config.latent_channels)

    def features(self, latent: Tensor) -> Features:
        """Enlarge a whole latent (b c f h w), normalised, by all stages except the last two.

        A latent that is smaller than the attention windows is enlarged by repeating its edges, and the last frame is
        repeated, so that the window of the last real frame stays centred.
        """
        decoder = self.decoder
        needs = decoder.least_latent
        added = [max(0, need - length) for need, length in zip(needs, latent.shape[2:], strict=True)]
        top, left = added[1] // 2, added[2] // 2
        size = [length + more for length, more in zip(latent.shape[2:], added, strict=True)]
        x = repeated(latent, 2, 0, added[0] + decoder.ghost_frames)
        x = repeated(repeated(x, 3, top, added[1] - top), 4, left, added[2] - left)
        x = self.per_channel_statistics.unnormalize(x.to(self.conv_in.weight.dtype))
        x = self.conv_in(rearrange(x, "b c t y x -> b t y x c"))
        for stage, grow in list(zip(self.det_stages, self.upsamples, strict=True))[:-1]:
            x = grow(stage(x))
        return Features(x, (size[0], size[1], size[2]), top, left)

    def context(self, features: Tensor, *, is_start: bool, ghosts: int) -> Tensor:
        """Enlarge a piece of the features (b t y x c) by the last stage, to the input of the denoiser.

        Args: is_start: whether it contains the first frame. ghosts: frames at its end that are removed afterwards, as
        far as the denoiser's window leaves enough.
        """
        x = features.clone(memory_format=torch.contiguous_format)  # a copy, because blocks add to it in place
        x = self.upsamples[-1](self.det_stages[-1](x), is_start=is_start)
        kept = max(self.decoder.denoiser.kernel.time, x.shape[1] - ghosts * self.decoder.growths[-1].stride.time)
        return x[:, :kept].clone() if kept < x.shape[1] else x  # the removed part is freed

    def denoise(self, noisy: Tensor, context: Tensor, timestep: float) -> Tensor:
        """One call of the network: from noisy pixels (b 3 F H W) and their context to its prediction, (b 3 F H W)."""
        p = self.config.patch_size
        embedding = self.t_embedder(timestep * self.decoder.timestep_scale)
        modulation = self.shared_adaln(embedding)
        x = self.conv_in_x_t(rearrange(noisy, "b c t (y q) (x r) -> b t y x (c r q)", q=p, r=p))
        for block in self.diff_blocks:
            x = block(x, context, modulation, repeats_edges=self.repeats_edges)
        made = x.new_empty(*x.shape[:4], self.config.patch_channels)
        for number in range(x.shape[1]):
            made[:, number] = self.conv_out(self.norm_out(x[:, number]))
        return rearrange(made, "b t y x (c r q) -> b c t (y q) (x r)", q=p, r=p)

    def sample(self, noise: Tensor, context: Tensor) -> Tensor:
        """Denoise a canvas (b 3 F H W) in the number of steps in the config. A single step that predicts the result is
        returned directly.
        """
        decoder = self.decoder
        times = torch.linspace(1, 1 / decoder.steps, decoder.steps).tolist()
        x = noise
        for t, after in pairwise([*times, 0.0]):
            made = self.denoise(x, context, t)
            if decoder.predicts == "x0" and after == 0:
                return made
            velocity = made.float() if decoder.predicts == "v" else (x.float() - made.float()) / t
            x = (x.float() - (t - after) * velocity).to(noise.dtype)
        return x

    def canvas(self, context: Tensor) -> tuple[int, ...]:
        """The shape of the pixels for a context."""
        batch, frames, rows, columns, _ = context.shape
        return batch, IMAGE_CHANNELS, frames, rows * self.config.patch_size, columns * self.config.patch_size

    @property
    def ghost_cells(self) -> int:
        """Frames of the features that come from repeated latent frames."""
        return self.decoder.ghost_frames * prod(growth.stride.time for growth in self.decoder.growths[:-1])

    def forward(self, latent: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Decode a latent in one piece.

        Args: latent: (b c f h w), normalised. generator: for the initial noise of the pixels.
        Returns: (b 3 F H W) in the dtype of the latent, about [-1, 1] and not clamped.
        """
        features = self.features(latent)
        context = self.context(features.volume, is_start=True, ghosts=self.ghost_cells)
        made = self.sample(self.noise(self.canvas(context), generator), context)
        return self.cropped(made, features, latent)[:, :, : self.frames_of(latent)].to(latent.dtype)

    def grid(self, features: Features) -> VideoGrid:
        """The size of the video for features, including what was added to their latent."""
        time, height, width = self.config.factors
        frames, rows, columns = features.latent
        size = 1 + (frames - 1) * time, rows * height, columns * width
        return VideoGrid(frames=size[0], height=size[1], width=size[2], factors=self.config.factors)

    def frames_of(self, latent: Tensor) -> int:
        """The number of frames that a latent (b c f h w) decodes to."""
        return 1 + (latent.shape[2] - 1) * self.config.factors.time

    def cropped(self, video: Tensor, features: Features, latent: Tensor) -> Tensor:
        """The rows and columns of a video (b 3 F H W) that belong to the original latent, before it was enlarged."""
        _, height, width = self.config.factors
        rows, columns = latent.shape[3:]
        top, left = features.top * height, features.left * width
        return video[..., top : top + rows * height, left : left + columns * width]

    def noise(self, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Noise for pixels, in the dtype of the weights; drawn on the device of the generator."""
        weight = self.conv_in_x_t.weight
        device = weight.device if generator is None else generator.device
        return torch.randn(tuple(shape), generator=generator, dtype=weight.dtype, device=device).to(weight.device)


def repeated(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Copies of the first and the last slice of an axis at its ends."""
    if not before and not after:
        return x
    first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
    return torch.cat([*[first] * before, x, *[last] * after], dim=dim)
