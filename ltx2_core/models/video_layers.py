"""The layers of the convolutional video VAE: convolution, norm, residual blocks, changes of resolution, time embedding.

Activations are large, so layers work in place on tensors that they created themselves, unless gradients need the
values.
Source: docs/reference/video-vae.md, "Encoder" and "Decoder".
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ..config.video_vae import Resample

NORM_EPS = 1e-8
TIME_FREQUENCIES = 128
Modulation = tuple[Tensor, Tensor]  # shift and scale, each (b c 1 1 1)


def spare(x: Tensor) -> Tensor | None:
    """The output tensor for a result that replaces x: x itself, or a new one (None) if gradients need its values."""
    return None if x.requires_grad else x


class CausalConv3d(nn.Module):
    """A 3×3×3 convolution that keeps the size: frames repeated at the ends in time, zeros or mirrored pixels in space.

    Args: is_causal: no output frame depends on a later input frame. padding: "zeros" or "reflect", in space.
    """

    def __init__(self, c_in: int, c_out: int, *, is_causal: bool, padding: str) -> None:
        super().__init__()
        self.frames_before = 2 if is_causal else 1
        self.is_mirrored = padding == "reflect"
        self.conv = nn.Conv3d(c_in, c_out, kernel_size=3, padding=(0, 0, 0) if self.is_mirrored else (0, 1, 1))

    def pad(self, x: Tensor) -> Tensor:
        """Copy x (b c f h w), once, with the padding frames and mirrored pixels for the kernel."""
        b, c, f, h, w = x.shape
        first, border = self.frames_before, int(self.is_mirrored)
        padded = x.new_empty(b, c, f + 2, h + 2 * border, w + 2 * border)
        padded[:, :, first : first + f, border : border + h, border : border + w] = x
        if self.is_mirrored:
            padded[..., 0, :], padded[..., -1, :] = padded[..., 2, :], padded[..., -3, :]
            padded[..., 0], padded[..., -1] = padded[..., 2], padded[..., -3]
        padded[:, :, :first] = padded[:, :, first : first + 1]
        padded[:, :, first + f :] = padded[:, :, first + f - 1 : first + f]
        return padded

    def forward(self, x: Tensor) -> Tensor:
        """Map (b c f h w) to (b c' f h w)."""
        return self.conv(self.pad(x))


class PixelNorm(nn.Module):
    """Divide every position by the root mean square of its channels, in place: the input must not be used elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        mean_square = reduce(x.square(), "b c f h w -> b 1 f h w", "mean")
        return torch.div(x, mean_square.add_(NORM_EPS).sqrt_(), out=spare(x))


def activate_(x: Tensor, modulation: Modulation | None) -> Tensor:
    """Modulation, if there is one, and SiLU, in place."""
    if modulation is not None:
        shift, scale = modulation
        x = torch.addcmul(shift, x, 1 + scale, out=spare(x))
    return F.silu(x, inplace=not x.requires_grad)


def modulations(table: Tensor, embedding: Tensor) -> list[Modulation]:
    """Shifts and scales from a learned table (2k c), rows in turn shift and scale, plus an embedding (b 2k*c)."""
    rows = table + rearrange(embedding, "b (k c) -> b k c", k=len(table))
    shifts, scales = rearrange(rows, "b (k two) c -> two k b c 1 1 1", two=2)
    return list(zip(shifts, scales, strict=True))


class TimeEmbedder(nn.Module):
    """Embed a scaled timestep (b) as (b d): cosines, sines, and a two-layer network."""

    def __init__(self, d: int) -> None:
        super().__init__()
        layers = {"linear_1": nn.Linear(2 * TIME_FREQUENCIES, d), "linear_2": nn.Linear(d, d)}
        self.timestep_embedder = nn.ModuleDict(layers)

    def forward(self, timestep: Tensor) -> Tensor:
        exponents = torch.arange(TIME_FREQUENCIES, dtype=torch.float32, device=timestep.device) / TIME_FREQUENCIES
        angles = rearrange(timestep.float(), "b -> b 1") * torch.exp(-math.log(10000) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(timestep.dtype)
        hidden = F.silu(self.timestep_embedder["linear_1"](waves))
        return self.timestep_embedder["linear_2"](hidden)


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a skip. Conditioned blocks shift and scale after each norm."""

    def __init__(self, channels: int, *, is_causal: bool, padding: str, is_conditioned: bool) -> None:
        super().__init__()
        self.norm = PixelNorm()
        self.conv1 = CausalConv3d(channels, channels, is_causal=is_causal, padding=padding)
        self.conv2 = CausalConv3d(channels, channels, is_causal=is_causal, padding=padding)
        if is_conditioned:
            self.scale_shift_table = nn.Parameter(torch.empty(4, channels))

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Add to x (b c f h w), in place. embedding: (b 4*c) of the timestep, in conditioned blocks."""
        first, second = (None, None) if embedding is None else modulations(self.scale_shift_table, embedding)
        # Norm and SiLU act on single positions, so they can follow the padding and overwrite its copy.
        h = self.conv1.pad(x)
        h = self.conv1.conv(activate_(self.norm(h), first))
        h = self.conv2.pad(h)
        h = self.conv2.conv(activate_(self.norm(h), second))
        return x.add_(h)


class ResBlockRow(nn.Module):
    """A row of residual blocks of one width, with their own time embedding if they are conditioned."""

    def __init__(
        self, channels: int, layers: int, *, is_causal: bool, padding: str, is_conditioned: bool = False
    ) -> None:
        super().__init__()
        self.time_embedder = TimeEmbedder(4 * channels) if is_conditioned else None
        self.res_blocks = nn.ModuleList(
            ResBlock(channels, is_causal=is_causal, padding=padding, is_conditioned=is_conditioned)
            for _ in range(layers)
        )

    def forward(self, x: Tensor, timestep: Tensor | None = None) -> Tensor:
        """Map x (b c f h w), in place, to the same shape. timestep: (b), scaled, in conditioned blocks."""
        embedding = None if self.time_embedder is None else self.time_embedder(timestep)
        for block in self.res_blocks:
            x = block(x, embedding)
        return x


class Downsample(nn.Module):
    """Fold a stride into the channels of a convolution, and add the input folded and averaged to as many channels."""

    def __init__(self, channels: int, spec: Resample, *, is_causal: bool, padding: str) -> None:
        super().__init__()
        self.stride = spec.stride
        self.channels = channels * spec.multiplier
        folded = self.channels // math.prod(spec.stride)
        self.conv = CausalConv3d(channels, folded, is_causal=is_causal, padding=padding)

    def fold(self, x: Tensor) -> Tensor:
        p1, p2, p3 = self.stride
        return rearrange(x, "b c (f p1) (h p2) (w p3) -> b (c p1 p2 p3) f h w", p1=p1, p2=p2, p3=p3)

    def forward(self, x: Tensor, timestep: Tensor | None = None) -> Tensor:
        """Map (b c f h w) to (b c' f' h' w'), n odd frames to (n + 1) / 2. timestep: not used by this block."""
        if self.stride.time == 2:
            x = torch.cat([x[:, :, :1], x], dim=2)
        skip = reduce(self.fold(x), "b (c g) f h w -> b c f h w", "mean", c=self.channels)
        return skip.add_(self.fold(self.conv(x)))


class Upsample(nn.Module):
    """Unfold the channels of a convolution into frames, rows and columns; in time, n frames become 2n − 1."""

    def __init__(self, channels: int, spec: Resample, *, is_causal: bool, padding: str) -> None:
        super().__init__()
        self.stride = spec.stride
        self.is_residual = spec.is_residual
        self.channels = channels // spec.multiplier
        folded = self.channels * math.prod(spec.stride)
        self.conv = CausalConv3d(channels, folded, is_causal=is_causal, padding=padding)

    def unfold(self, x: Tensor) -> Tensor:
        p1, p2, p3 = self.stride
        x = rearrange(x, "b (c p1 p2 p3) f h w -> b c (f p1) (h p2) (w p3)", p1=p1, p2=p2, p3=p3)
        return x[:, :, self.stride.time - 1 :]  # the first latent frame stands for a single frame

    def forward(self, x: Tensor, timestep: Tensor | None = None) -> Tensor:
        """Map (b c f h w) to (b c' f' h' w'). timestep: not used by this block."""
        y = self.unfold(self.conv(x))
        if self.is_residual:
            skip = self.unfold(x)  # there are too few channels, so all of them are repeated
            copies = rearrange(y, "b (copy c) f h w -> b copy c f h w", c=skip.shape[1])
            copies += rearrange(skip, "b c f h w -> b 1 c f h w")
        return y
