"""The vocoder: a generator that turns a log-mel spectrogram into a stereo waveform.

If the config has a bandwidth extension, a second generator reads the spectrogram of that waveform and adds the upper
band to it at a higher rate. In shapes, `s` are samples, `T M` mel frames and bins, `k` rows of a spectrum.
Source: docs/reference/audio.md, "Vocoder".
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config.audio import ExtensionConfig, GeneratorConfig, VocoderConfig
from .activations import Antialiased
from .mel import FLOOR, ROLLOFF, ZEROS

SIDES = 2
SLOPE, LAST_SLOPE = 0.1, 0.01  # slopes of LeakyReLU; the one before the last convolution differs


class ResBlock(nn.Module):
    """Residual pairs of convolutions (b c s): a dilated one, then a dense one, each after an activation."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], *, is_antialiased: bool) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding="same") for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding="same") for _ in dilations)
        self.acts1 = nn.ModuleList(_activation(channels, is_antialiased, SLOPE) for _ in dilations)
        self.acts2 = nn.ModuleList(_activation(channels, is_antialiased, SLOPE) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for act1, dilated, act2, dense in zip(self.acts1, self.convs1, self.acts2, self.convs2, strict=True):
            x = x + dense(act2(dilated(act1(x))))
        return x


class Generator(nn.Module):
    """Log-mel (b 2 T M) to samples (b 2 s), s = T * config.samples_per_frame."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.final = config.final
        self.blocks_per_stage = len(config.block_kernels)
        widths = config.widths
        stages = zip(pairwise(widths), config.kernels, config.rates, strict=True)
        blocks = tuple(zip(config.block_kernels, config.block_dilations, strict=True))
        self.conv_pre = nn.Conv1d(SIDES * config.mel_bins, config.channels, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(*pair, kernel, stride=rate, padding=(kernel - rate) // 2)
            for pair, kernel, rate in stages
        )
        self.resblocks = nn.ModuleList(
            ResBlock(width, *block, is_antialiased=config.is_antialiased) for width in widths[1:] for block in blocks
        )
        # Antialiased blocks begin with an activation, so there is none before a stage.
        self.act_up = nn.Identity() if config.is_antialiased else nn.LeakyReLU(SLOPE)
        self.act_post = _activation(widths[-1], config.is_antialiased, LAST_SLOPE)
        self.conv_post = nn.Conv1d(widths[-1], SIDES, 7, padding=3, bias=config.has_final_bias)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.conv_pre(rearrange(mel, "b side T M -> b (side M) T"))
        for stage, up in enumerate(self.ups):
            x = up(self.act_up(x))
            first, *others = self.resblocks[stage * self.blocks_per_stage : (stage + 1) * self.blocks_per_stage]
            total = first(x)
            for block in others:
                total = total + block(x)
            x = total / self.blocks_per_stage
        return _bounded(self.conv_post(self.act_post(x)), self.final)


class Vocoder(Generator):
    """A vocoder with one generator: log-mel (b 2 T M) to a waveform (b 2 s) in [-1, 1].

    It computes in the dtype of its weights; load them as float32, because bf16 costs about 2 % here.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__(config.generator)
        self.config = config


class ExtendedVocoder(nn.Module):
    """A vocoder with a bandwidth extension: log-mel (b 2 T M) to a waveform (b 2 s) in [-1, 1] at the higher rate.

    It computes in the dtype of its weights; load them as float32, because bf16 damages the sound audibly.
    """

    def __init__(self, config: VocoderConfig, extension: ExtensionConfig) -> None:
        super().__init__()
        self.config, self.hop = config, extension.hop
        self.ratio = config.sample_rate_hz // config.generator.sample_rate_hz
        self.vocoder = Generator(config.generator)
        self.bwe_generator = Generator(extension.generator)
        self.mel_stft = StoredMel(extension)

    def forward(self, mel: Tensor) -> Tensor:
        wave = self.vocoder(mel)
        length = wave.shape[-1] * self.ratio
        wave = F.pad(wave, (0, -wave.shape[-1] % self.hop))
        upper = self.bwe_generator(self.mel_stft(wave))
        return (upper + upsample(wave, self.ratio)).clamp(-1, 1)[..., :length]


class StoredMel(nn.Module):
    """Waveform (b c s) to log-mel (b c T M), T = s / hop, with the bases of the checkpoint; it is causal."""

    mel_basis: Tensor

    def __init__(self, config: ExtensionConfig) -> None:
        super().__init__()
        self.stft_fn = StoredFourier(config)
        self.register_buffer("mel_basis", torch.empty(config.generator.mel_bins, config.n_fft // 2 + 1))

    def forward(self, wave: Tensor) -> Tensor:
        magnitudes = self.stft_fn(rearrange(wave, "b c s -> (b c) 1 s"))
        log_mel = (self.mel_basis @ magnitudes).clamp(min=FLOOR).log()
        return rearrange(log_mel, "(b c) M T -> b c T M", b=len(wave))


class StoredFourier(nn.Module):
    """Waveform (b 1 s) to the magnitudes of its spectrum (b k T)."""

    forward_basis: Tensor

    def __init__(self, config: ExtensionConfig) -> None:
        super().__init__()
        self.hop, self.before = config.hop, config.n_fft - config.hop
        shape = (2 * (config.n_fft // 2 + 1), 1, config.n_fft)
        self.register_buffer("forward_basis", torch.empty(shape))
        self.register_buffer("inverse_basis", torch.empty(shape))  # stored in files, but not used

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = F.conv1d(F.pad(wave, (self.before, 0)), self.forward_basis, stride=self.hop)
        real, imaginary = spectrum.chunk(2, dim=1)
        return torch.sqrt(real.square() + imaginary.square())


def build_vocoder(config: VocoderConfig) -> Vocoder | ExtendedVocoder:
    """The vocoder for a config."""
    if config.extension is None:
        return Vocoder(config)
    return ExtendedVocoder(config, config.extension)


def upsample(wave: Tensor, ratio: int) -> Tensor:
    """Raise the rate of (b c s) by an integer ratio with a Hann-windowed sinc; the ends are repeated."""
    reach = math.ceil(ZEROS / ROLLOFF)
    taps = upsampling_filter(ratio, wave.device)
    padded = F.pad(rearrange(wave, "b c s -> (b c) 1 s"), (reach, reach), mode="replicate")
    raised = ratio * F.conv_transpose1d(padded, taps, stride=ratio)
    before, after = 2 * reach * ratio, taps.shape[-1] - ratio
    return rearrange(raised[..., before:-after], "(b c) 1 s -> b c s", b=len(wave))


def upsampling_filter(ratio: int, device: torch.device | str = "cpu") -> Tensor:
    """The taps (1 1 tap) of `upsample`. They are not in the checkpoint, and always float32."""
    reach = math.ceil(ZEROS / ROLLOFF)
    t = (torch.arange(2 * reach * ratio + 1, dtype=torch.float32, device=device) / ratio - reach) * ROLLOFF
    window = torch.cos(t.clamp(-ZEROS, ZEROS) * math.pi / ZEROS / 2) ** 2
    return rearrange(torch.sinc(t) * window * (ROLLOFF / ratio), "tap -> 1 1 tap")


def _activation(channels: int, is_antialiased: bool, slope: float) -> nn.Module:
    return Antialiased(channels) if is_antialiased else nn.LeakyReLU(slope)


def _bounded(wave: Tensor, final: str | None) -> Tensor:
    if final is None:
        return wave
    return torch.tanh(wave) if final == "tanh" else wave.clamp(-1, 1)
