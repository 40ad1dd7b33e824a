"""Shapes of the audio path: the mel front end, the audio VAE and the vocoder.

Source: docs/reference/audio.md, "Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Self

from ..errors import CheckpointError
from ..grids import MEL_FRAMES_PER_AUDIO_LATENT, MEL_HOP_SAMPLES, MEL_SAMPLE_RATE_HZ
from .section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class MelConfig:
    """The spectrogram that the audio VAE reads: bins from 0 Hz to half the sample rate, one frame per hop."""

    sample_rate_hz: int
    n_fft: int
    hop: int
    bins: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioVAEConfig:
    """The convolutional audio VAE. `multipliers`: width of each level in units of `channels`, finest level first."""

    mel: MelConfig
    in_channels: int
    out_channels: int
    latent_channels: int
    channels: int
    multipliers: tuple[int, ...]
    blocks: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest level first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def latent_bins(self) -> int:
        """Frequency bins of a latent frame: each level but the last halves them."""
        return self.mel.bins // 2 ** (len(self.multipliers) - 1)

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read `config["audio_vae"]`. Raises: CheckpointError that names a setting that is not implemented."""
        params = Section(config, "audio_vae", "model", "params")
        network = Section(config, "audio_vae", "model", "params", "ddconfig")
        stft = Section(config, "audio_vae", "preprocessing", "stft")
        mel = Section(config, "audio_vae", "preprocessing", "mel")
        network.expect("double_z", True, default=True)
        network.expect("norm_type", "pixel", default="pixel")
        network.expect("causality_axis", "height", default="height")
        network.expect("resamp_with_conv", True, default=True)
        network.expect("attn_resolutions", [], default=[8, 16, 32])
        network.expect("mid_block_add_attention", False, default=True)
        stft.expect("causal", True, default=True)
        multipliers = network.wholes("ch_mult", (1, 2, 4))
        if 2 ** (len(multipliers) - 1) != MEL_FRAMES_PER_AUDIO_LATENT:
            raise CheckpointError(
                f"the checkpoint has an unknown architecture: {network.name}.ch_mult is {list(multipliers)}",
                f"only latent frames of {MEL_FRAMES_PER_AUDIO_LATENT} mel frames are implemented",
            )
        return cls(
            mel=MelConfig(
                sample_rate_hz=params.whole("sampling_rate", MEL_SAMPLE_RATE_HZ),
                n_fft=stft.whole("filter_length", 1024),
                hop=stft.whole("hop_length", MEL_HOP_SAMPLES),
                bins=network.whole("mel_bins", mel.whole("n_mel_channels")),
            ),
            in_channels=network.whole("in_channels", 2),
            out_channels=network.whole("out_ch", 2),
            latent_channels=network.whole("z_channels", 8),
            channels=network.whole("ch", 128),
            multipliers=multipliers,
            blocks=network.whole("num_res_blocks", 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderConfig:
    """The HiFi-GAN vocoder. `rates`, `kernels`: one per upsampling stage; `block_*`: one per residual block of it."""

    sample_rate_hz: int
    channels: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    block_dilations: tuple[tuple[int, ...], ...]

    @property
    def samples_per_frame(self) -> int:
        """Samples of the waveform for each mel frame."""
        return prod(self.rates)

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read `config["vocoder"]`. Raises: CheckpointError that names a setting that is not implemented."""
        section = Section(config, "vocoder")
        if "bwe" in section.values:
            raise CheckpointError(
                "the checkpoint's vocoder has a bandwidth extension (vocoder.bwe), which is not implemented"
            )
        section.expect("resblock", "1")
        section.expect("stereo", True)
        section.expect("use_tanh_at_final", True, default=True)
        section.expect("use_bias_at_final", True, default=True)
        rates = section.wholes("upsample_rates", (6, 5, 2, 2, 2))
        kernels = section.wholes("upsample_kernel_sizes", (16, 15, 8, 4, 4))
        block_kernels = section.wholes("resblock_kernel_sizes", (3, 7, 11))
        block_dilations = section.lists_of_wholes("resblock_dilation_sizes", ((1, 3, 5),) * 3)
        if len(kernels) != len(rates):
            section.refuse("upsample_kernel_sizes", f"there must be {len(rates)}, one for each of upsample_rates")
        if len(block_dilations) != len(block_kernels):
            why = f"there must be {len(block_kernels)}, one for each of resblock_kernel_sizes"
            section.refuse("resblock_dilation_sizes", why)
        return cls(
            sample_rate_hz=section.whole("output_sampling_rate", 24000),
            channels=section.whole("upsample_initial_channel", 1024),
            rates=rates,
            kernels=kernels,
            block_kernels=block_kernels,
            block_dilations=block_dilations,
        )
