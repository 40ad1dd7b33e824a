"""The convolutional video VAE: pixels to normalised latents and back.

Source: docs/reference/video-vae.md, "Encoder" and "Decoder".
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config.video_vae import ConvDecoderConfig, ResBlocks, VideoVAEConfig
from ..errors import RequestError
from .video_layers import (
    CausalConv3d,
    Downsample,
    PixelNorm,
    ResBlockRow,
    TimeEmbedder,
    Upsample,
    activate_,
    modulations,
)

DECODE_NOISE = 0.025  # of a conditioned decoder: the level of noise in its input,
DECODE_TIMESTEP = 0.05  # and its timestep input


class ChannelStatistics(nn.Module):
    """Mean and standard deviation of each latent channel, as stored once in a file for encoder and decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean-of-means", torch.empty(channels))
        self.register_buffer("std-of-means", torch.empty(channels))

    def _of(self, name: str, x: Tensor) -> Tensor:
        return rearrange(self.get_buffer(name), "c -> c 1 1 1").to(x.dtype)

    def normalize(self, x: Tensor) -> Tensor:
        """Bring a latent (b c f h w) to mean 0 and deviation 1."""
        return (x - self._of("mean-of-means", x)) / self._of("std-of-means", x)

    def unnormalize(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return x * self._of("std-of-means", x) + self._of("mean-of-means", x)


class VideoEncoder(nn.Module):
    """Pixels to normalised latent means. No output frame depends on later frames."""

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.config = config
        conv = {"is_causal": True, "padding": config.encoder_padding}
        channels = config.latent_channels
        self.conv_in = CausalConv3d(config.patch_channels, channels, **conv)
        self.down_blocks = nn.ModuleList()
        for block in config.encoder_blocks:
            if isinstance(block, ResBlocks):
                self.down_blocks.append(ResBlockRow(channels, block.layers, **conv))
            else:
                self.down_blocks.append(Downsample(channels, block, **conv))
                channels *= block.multiplier
        self.conv_norm_out = PixelNorm()
        self.conv_out = CausalConv3d(channels, config.moments, **conv)
        self.per_channel_statistics = ChannelStatistics(config.latent_channels)

    def patchify(self, video: Tensor) -> Tensor:
        """Fold the patches of a video (b 3 F H W) into channels (b c F h w), their rows fastest."""
        p = self.config.patch_size
        return rearrange(video, "b c f (h q) (w r) -> b (c r q) f h w", q=p, r=p)

    def forward(self, video: Tensor) -> Tensor:
        """Encode a video.

        Args: video: (b 3 F H W) in [-1, 1], height and width multiples of the factors; F is cropped to 8k + 1 frames.
        Returns: (b c f h w), normalised, in the dtype of the video.
        """
        frames, factor = video.shape[2], self.config.factors.time
        x = self.patchify(video[:, :, : frames - (frames - 1) % factor].to(self.conv_in.conv.weight.dtype))
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.conv_out(activate_(self.conv_norm_out(x), None))
        means = x[:, : self.config.latent_channels]  # the rest is the log-variance, which is not used
        return self.per_channel_statistics.normalize(means).to(video.dtype)


class VideoDecoder(nn.Module):
    """Normalised latents to pixels. Every output frame depends on earlier and later latents."""

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        decoder = config.decoder
        assert isinstance(decoder, ConvDecoderConfig)
        self.config, self.decoder = config, decoder
        conv = {"is_causal": decoder.is_causal, "padding": decoder.padding}
        channels = decoder.width
        self.conv_in = CausalConv3d(config.latent_channels, channels, **conv)
        self.up_blocks = nn.ModuleList()
        for block in decoder.blocks:
            if isinstance(block, ResBlocks):
                row = ResBlockRow(channels, block.layers, is_conditioned=decoder.timestep_conditioning, **conv)
                self.up_blocks.append(row)
            else:
                self.up_blocks.append(Upsample(channels, block, **conv))
                channels //= block.multiplier
        self.conv_norm_out = PixelNorm()
        self.conv_out = CausalConv3d(channels, config.patch_channels, **conv)
        if decoder.timestep_conditioning:
            self.timestep_scale_multiplier = nn.Parameter(torch.empty(()))
            self.last_time_embedder = TimeEmbedder(2 * channels)
            self.last_scale_shift_table = nn.Parameter(torch.empty(2, channels))
        self.per_channel_statistics = ChannelStatistics(config.latent_channels)

    def unpatchify(self, x: Tensor) -> Tensor:
        """Unfold channels (b c F h w) into a video (b 3 F H W): the inverse of the encoder's `patchify`."""
        p = self.config.patch_size
        return rearrange(x, "b (c r q) f h w -> b c f (h q) (w r)", q=p, r=p)

    def forward(self, latent: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Decode a latent.

        Args: latent: (b c f h w), normalised. generator: for the noise that a conditioned decoder adds; others draw
        none.
        Returns: (b 3 F H W) in the dtype of the latent, about [-1, 1] and not clamped; F = 8 (f − 1) + 1.
        Raises: RequestError if the latent is a single row or column and the decoder mirrors it at its edges.
        """
        x = latent.to(self.conv_in.conv.weight.dtype)
        if self.decoder.timestep_conditioning:
            device = latent.device if generator is None else generator.device
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device)
            x = self.add_noise(x, noise.to(x.device))
        return self.decode(x).to(latent.dtype)

    def add_noise(self, latent: Tensor, noise: Tensor) -> Tensor:
        """Mix a normalised latent with standard normal noise of its shape, for a conditioned decoder."""
        return DECODE_NOISE * noise + (1 - DECODE_NOISE) * latent

    def decode(self, latent: Tensor, timestep: float = DECODE_TIMESTEP) -> Tensor:
        """Decode a latent (b c f h w) without adding noise, in the dtype of the weights. timestep: for a conditioned
        decoder.
        """
        if self.decoder.padding == "reflect" and min(latent.shape[-2:]) < 2:
            raise RequestError(
                "a video this small cannot be decoded",
                f"the decoder needs two latent rows and columns, the latent has {latent.shape[-2]}×{latent.shape[-1]}",
                f"use a height and width of at least {2 * self.config.factors.height}",
            )
        scaled, last = None, None
        if self.decoder.timestep_conditioning:
            scaled = latent.new_full(latent.shape[:1], timestep) * self.timestep_scale_multiplier
            (last,) = modulations(self.last_scale_shift_table, self.last_time_embedder(scaled))
        x = self.conv_in(self.per_channel_statistics.unnormalize(latent))
        for block in self.up_blocks:
            x = block(x, scaled)
        x = self.conv_out(activate_(self.conv_norm_out(x), last))
        return self.unpatchify(x)
