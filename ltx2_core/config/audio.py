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
        """Frequency bins of a latent frame: each level except the last halves them."""
        return self.mel.bins // 2 ** (len(self.multipliers) - 1)

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read `config["audio_vae"]`. Raises: CheckpointError that names a setting that is not implemented."""
        params = Section(config, "audio_vae", "model", "params")
        network = Section(config, "audio_vae", "model", "params", "ddconfig")
        stft = Section(config, "audio_vae", "preprocessing", "stft")
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
                bins=_mel_bins(config),
            ),
            in_channels=network.whole("in_channels", 2),
            out_channels=network.whole("out_ch", 2),
            latent_channels=network.whole("z_channels", 8),
            channels=network.whole("ch", 128),
            multipliers=multipliers,
            blocks=network.whole("num_res_blocks", 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorConfig:
    """A network from a log-mel spectrogram to samples.

    Args: rates, kernels: one per upsampling stage. block_*: one per residual block of a stage. is_antialiased: whether
    its activations are SnakeBeta at twice the rate instead of leaky ReLU. final: the function that limits the samples
    to [-1, 1], "tanh" or "clamp"; None leaves them unlimited.
    """

    sample_rate_hz: int
    mel_bins: int
    channels: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    block_dilations: tuple[tuple[int, ...], ...]
    is_antialiased: bool
    final: str | None
    has_final_bias: bool

    @property
    def samples_per_frame(self) -> int:
        """Samples of the waveform for each mel frame."""
        return prod(self.rates)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels before the first stage and after each stage: every stage halves them."""
        return tuple(self.channels // 2**stage for stage in range(len(self.rates) + 1))

    @classmethod
    def from_section(cls, section: Section, *, sample_rate_hz: int, mel_bins: int, is_residual: bool = False) -> Self:
        """Read one generator. is_residual: whether its samples are added to others, so that no function limits them.

        Raises: CheckpointError that names a setting that is not implemented.
        """
        is_antialiased = section.expect("resblock", "1", "AMP1") == "AMP1"
        if is_antialiased:
            section.expect("activation", "snakebeta")
        section.expect("stereo", True)
        rates = section.wholes("upsample_rates", (6, 5, 2, 2, 2))
        kernels = section.wholes("upsample_kernel_sizes", (16, 15, 8, 4, 4))
        block_kernels = section.wholes("resblock_kernel_sizes", (3, 7, 11))
        block_dilations = section.lists_of_wholes("resblock_dilation_sizes", ((1, 3, 5),) * 3)
        if len(kernels) != len(rates):
            section.refuse("upsample_kernel_sizes", f"there must be {len(rates)}, one for each of upsample_rates")
        if len(block_dilations) != len(block_kernels):
            why = f"there must be {len(block_kernels)}, one for each of resblock_kernel_sizes"
            section.refuse("resblock_dilation_sizes", why)
        bound = "tanh" if section.switch("use_tanh_at_final", True) else "clamp"
        return cls(
            sample_rate_hz=sample_rate_hz,
            mel_bins=mel_bins,
            channels=section.whole("upsample_initial_channel", 1024),
            rates=rates,
            kernels=kernels,
            block_kernels=block_kernels,
            block_dilations=block_dilations,
            is_antialiased=is_antialiased,
            final=None if is_residual else bound,
            has_final_bias=section.switch("use_bias_at_final", True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionConfig:
    """A second generator that adds the upper band. `n_fft`, `hop`: of the spectrogram that it reads."""

    generator: GeneratorConfig
    n_fft: int
    hop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderConfig:
    """The vocoder: one generator, or two where a bandwidth extension follows."""

    generator: GeneratorConfig
    extension: ExtensionConfig | None = None

    @property
    def last(self) -> GeneratorConfig:
        """The generator that makes the final samples."""
        return self.extension.generator if self.extension else self.generator

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the finished waveform."""
        return self.last.sample_rate_hz

    @property
    def samples_per_frame(self) -> int:
        """Samples of the finished waveform for each mel frame."""
        return self.generator.samples_per_frame * self.sample_rate_hz // self.generator.sample_rate_hz

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read `config["vocoder"]`. Raises: CheckpointError that names a setting that is not implemented."""
        section = Section(config, "vocoder")
        bins = _mel_bins(config)
        if "bwe" not in section.values:
            rate = section.whole("output_sampling_rate", 24000)
            return cls(generator=GeneratorConfig.from_section(section, sample_rate_hz=rate, mel_bins=bins))
        extension = Section(config, "vocoder", "bwe")
        rate = extension.whole("input_sampling_rate")
        first = Section(config, "vocoder", "vocoder")
        return cls(
            generator=GeneratorConfig.from_section(first, sample_rate_hz=rate, mel_bins=bins),
            extension=_extension(extension, rate),
        )


def _extension(section: Section, rate_hz: int) -> ExtensionConfig:
    """The bandwidth extension of a waveform of a rate. Raises: CheckpointError where the rates do not fit together."""
    target_hz, hop = section.whole("output_sampling_rate", 24000), section.whole("hop_length")
    generator = GeneratorConfig.from_section(
        section, sample_rate_hz=target_hz, mel_bins=section.whole("num_mels"), is_residual=True
    )
    if target_hz % rate_hz:
        section.refuse("output_sampling_rate", f"it must be a multiple of input_sampling_rate, {rate_hz}")
    wanted = hop * target_hz // rate_hz
    if generator.samples_per_frame != wanted:
        section.refuse("upsample_rates", f"their product must be {wanted}, the samples of one hop at the higher rate")
    n_fft = section.whole("n_fft")
    if n_fft < hop:
        section.refuse("n_fft", f"it must be at least hop_length, {hop}")
    return ExtensionConfig(generator=generator, n_fft=n_fft, hop=hop)


def _mel_bins(config: Mapping[str, Any]) -> int:
    """Bins of the spectrogram that the audio VAE passes to the vocoder."""
    network = Section(config, "audio_vae", "model", "params", "ddconfig")
    if "mel_bins" in network.values:
        return network.whole("mel_bins")
    return Section(config, "audio_vae", "preprocessing", "mel").whole("n_mel_channels")
