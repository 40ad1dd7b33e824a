"""The vocoder: a HiFi-GAN that turns a log-mel spectrogram into a stereo waveform.

Source: docs/reference/audio.md, "Vocoder".
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ..config.audio import VocoderConfig

SIDES, MEL_BINS = 2, 64
SLOPE, LAST_SLOPE = 0.1, 0.01  # of the leaky rectifiers; the one before the last convolution differs


class ResBlock(nn.Module):
    """Residual pairs of convolutions (b c s): a dilated one, then a dense one."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding="same") for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding="same") for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for dilated, dense in zip(self.convs1, self.convs2, strict=True):
            x = x + dense(F.leaky_relu(dilated(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class Vocoder(nn.Module):
    """Log-mel (b 2 T M) to a waveform (b 2 s) in [-1, 1], with s = T * config.samples_per_frame.

    It computes in the dtype of its weights; load them as float32, because bf16 costs about 2 % here.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels // 2**stage for stage in range(len(config.rates) + 1)]
        stages = zip(pairwise(widths), config.kernels, config.rates, strict=True)
        blocks = tuple(zip(config.block_kernels, config.block_dilations, strict=True))
        self.conv_pre = nn.Conv1d(SIDES * MEL_BINS, config.channels, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(*pair, kernel, stride=rate, padding=(kernel - rate) // 2)
            for pair, kernel, rate in stages
        )
        self.resblocks = nn.ModuleList(ResBlock(width, *block) for width in widths[1:] for block in blocks)
        self.conv_post = nn.Conv1d(widths[-1], SIDES, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.conv_pre(rearrange(mel, "b side T M -> b (side M) T"))
        per_stage = len(self.config.block_kernels)
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            blocks = self.resblocks[stage * per_stage : (stage + 1) * per_stage]
            x = reduce([block(x) for block in blocks], "block b c s -> b c s", "mean")
        return torch.tanh(self.conv_post(F.leaky_relu(x, LAST_SLOPE)))
