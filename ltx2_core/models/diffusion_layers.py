"""The layers of the diffusion decoder: neighbourhood attention with its rotary positions, SwiGLU, blocks, enlargement.

Volumes are channels-last, (b t y x c). They are large, so blocks add to them in place, some frames at a time, and keep
queries, keys and values only of the frames that are still needed.
Source: docs/reference/video-diffusion-decoder.md, "Layers".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config.diffusion_decoder import AttentionStage, Growth
from .neighbours import QUERY_BOX, AxisBox, Neighbourhood, Windows, fused_attention

NORM_EPS = 1e-6
ROPE_BASE = 10_000
TOKENS_AT_A_TIME = 16_384
WIDTH_MULTIPLE = 16  # the inner width of a feed-forward is a multiple of this
FREQUENCIES = 128  # frequencies of the timestep embedding
FUSED_WIDTH, FUSED_WIDEST = 16, 64  # the kernel supports head widths that are multiples of this, up to that
Prepare = Callable[[Tensor], Tensor]
Made = tuple[Tensor, Tensor, Tensor]  # queries, keys and values


class Modulated(NamedTuple):
    """The modulation of the two norms of a block by a timestep, each (c)."""

    scale_attention: Tensor
    shift_attention: Tensor
    scale_mlp: Tensor
    shift_mlp: Tensor


class RotaryTables(NamedTuple):
    """Cosines and sines of the pairs of channels along one axis, each (n r)."""

    cos: Tensor
    sin: Tensor


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """How many channels of a head encode the frame, the row and the column: 16, 24, 24 of 64."""
    time = head_dim // 4 // 2 * 2
    if (head_dim - time) // 2 % 2:
        time -= 2
    across = (head_dim - time) // 2
    return time, across, across


def rotary_tables(positions: range, width: int, device: torch.device) -> RotaryTables:
    """Tables for some positions. Frequencies are computed in float64, and rounded once."""
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width
    frequencies = (ROPE_BASE**-exponents).float().to(device)
    places = torch.arange(positions.start, positions.stop, dtype=torch.float32, device=device)
    angles = rearrange(places, "n -> n 1") * frequencies
    return RotaryTables(angles.cos(), angles.sin())


def rotate(x: Tensor, tables: tuple[RotaryTables, RotaryTables, RotaryTables]) -> Tensor:
    """Rotate queries or keys (b t y x h d) by their frame, row and column, in float32."""
    patterns = ("n r -> n 1 1 1 r", "n r -> n 1 1 r", "n r -> n 1 r")
    parts = x.split([2 * table.cos.shape[-1] for table in tables], dim=-1)
    turned = []
    for part, table, pattern in zip(parts, tables, patterns, strict=True):
        even, odd = rearrange(part.float(), "... (r two) -> two ... r", two=2)
        cos, sin = (rearrange(one, pattern) for one in table)
        pair = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
        turned.append(rearrange(pair, "... r two -> ... (r two)").to(x.dtype))
    return torch.cat(turned, dim=-1)


class NeighbourhoodAttention(nn.Module):
    """Attention from every position to a box of `kernel` positions around it. The result is added to the input.

    is_fused: whether the kernel of comfy-kitchen is used, which computes the same and rounds differently.
    """

    is_fused: bool = False

    def __init__(self, stage: AttentionStage, head_dim: int) -> None:
        super().__init__()
        self.kernel, self.head_dim = stage.kernel, head_dim
        self.qkv = nn.Linear(stage.channels, 3 * stage.channels)
        self.q_norm = nn.RMSNorm(head_dim, eps=NORM_EPS)
        self.k_norm = nn.RMSNorm(head_dim, eps=NORM_EPS)
        self.proj = nn.Linear(stage.channels, stage.channels)

    def add_to(self, x: Tensor, prepare: Prepare, *, repeats_edges: bool = False) -> Tensor:
        """Add attention to x (b t y x c), in place.

        Args: prepare: from frames of x to the input of attention. repeats_edges: copies of the first and the last
        column are used beyond the edges, so that windows are centred along rows; else windows move inwards at the
        edges.
        """
        frames, rows, columns = x.shape[1:4]
        across = Windows.centred if repeats_edges else Windows.shifted
        kernel = self.kernel
        border = kernel.width // 2 if repeats_edges else 0
        near = Neighbourhood(
            Windows.shifted(frames, kernel.time),
            Windows.shifted(rows, kernel.height),
            across(columns, kernel.width),
        )
        widths, device = axis_widths(self.head_dim), x.device
        down = rotary_tables(range(rows), widths[1], device)
        along = rotary_tables(range(-border, columns + border), widths[2], device)

        def read(number: int) -> Made:
            in_time = rotary_tables(range(number, number + 1), widths[0], device)
            return self._read(x[:, number : number + 1], prepare, border, (in_time, down, along))

        if self.is_fused:
            return self._add_fused(x, read, near.frames, border)
        made: dict[int, Made] = {}  # results by frame number
        for box in near.frame_boxes:
            for number in range(max(made, default=-1) + 1, box.keys.stop):
                made[number] = read(number)
            made = {number: tensors for number, tensors in made.items() if number >= box.base}
            x[:, box.queries] += self._mixed(made, near, box)
        return x

    def _add_fused(self, x: Tensor, read: Callable[[int], Made], frames: Windows, border: int) -> Tensor:
        """The same with a kernel that requires queries, keys and values at the same positions.

        It computes a box of frames together with the frames around it that they attend to. With as many frames per box
        as here it needs no more memory than boxes of queries do. read: the prepared input of a frame, by its number.
        """
        batch, _, rows, columns, width = x.shape
        boxes = frames.boxes(max(QUERY_BOX.time, self.kernel.time // 2 + 1))
        shape = batch, boxes[0].span, rows, columns + 2 * border, width // self.head_dim, self.head_dim
        queries, keys, values = held = x.new_zeros(shape), x.new_zeros(shape), x.new_zeros(shape)
        inside = slice(border, border + columns)  # the columns with queries
        base, done = 0, 0
        for box in boxes:
            for number in range(box.base, done):  # reused entries move to the front
                for volume in held:
                    volume[:, number - box.base] = volume[:, number - base]
            for number in range(done, box.keys.stop):
                q, k, v = read(number)
                at = number - box.base
                queries[:, at, :, inside], keys[:, at], values[:, at] = q[:, 0], k[:, 0], v[:, 0]
            base, done = box.base, box.keys.stop
            mixed = fused_attention(queries, keys, values, self.kernel)[
                :, box.first - base : box.last - base, :, inside
            ]
            x[:, box.queries] += self.proj(rearrange(mixed, "b t y x h d -> b t y x (h d)"))
        return x

    def _mixed(self, made: Mapping[int, Made], near: Neighbourhood, box: AxisBox) -> Tensor:
        """What attention adds to the frames of a box (b t y x c). made: of all frames that they attend to."""
        k, v = (torch.cat([made[n][i] for n in range(box.base, box.keys.stop)], dim=1) for i in (1, 2))
        q = torch.cat([made[n][0] for n in range(box.first, box.last)], dim=1)
        return self.proj(rearrange(near.attend(q, k, v, box), "b t y x h d -> b t y x (h d)"))

    def _read(
        self,
        x: Tensor,
        prepare: Prepare,
        border: int,
        tables: tuple[RotaryTables, RotaryTables, RotaryTables],
    ) -> Made:
        """Queries, keys and values of frames; keys and values include the copies at the edges."""
        columns = x.shape[3]
        if border:
            x = torch.cat([*[x[:, :, :, :1]] * border, x, *[x[:, :, :, -1:]] * border], dim=3)
        qkv = rearrange(self.qkv(prepare(x)), "b t y x (three h d) -> three b t y x h d", three=3, d=self.head_dim)
        q, k, v = qkv
        q = rotate(self.q_norm(q), tables)[:, :, :, border : border + columns]
        return q, rotate(self.k_norm(k), tables), v.contiguous()  # a view would keep the memory of all three


def fuse_neighbourhoods(module: nn.Module) -> None:
    """Use the kernel of comfy-kitchen wherever it supports the width of the heads."""
    for layer in module.modules():
        if isinstance(layer, NeighbourhoodAttention):
            layer.is_fused = layer.head_dim % FUSED_WIDTH == 0 and layer.head_dim <= FUSED_WIDEST


class SwiGLU(nn.Module):
    """Feed-forward with a gate. The result is added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = -(-4 * channels // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        self.w_up = nn.Linear(channels, inner, bias=False)
        self.w_gate = nn.Linear(channels, inner, bias=False)
        self.w_down = nn.Linear(inner, channels, bias=False)

    def add_to(self, x: Tensor, prepare: Prepare) -> Tensor:
        """Add to x (b t y x c), in place. prepare: from tokens of x to the input."""
        for tokens in token_parts(x):
            read = prepare(tokens)
            tokens += self.w_down(F.silu(self.w_gate(read)).mul_(self.w_up(read)))
        return x


def token_parts(x: Tensor) -> Iterator[Tensor]:
    """Views of some tokens (n c) of a volume (b t y x c) after the other."""
    yield from x.view(-1, x.shape[-1]).split(TOKENS_AT_A_TIME)


class Block(nn.Module):
    """Neighbourhood attention and a feed-forward, each after a norm and around a skip."""

    def __init__(self, stage: AttentionStage, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(stage.channels, eps=NORM_EPS)
        self.attn = NeighbourhoodAttention(stage, head_dim)
        self.norm2 = nn.RMSNorm(stage.channels, eps=NORM_EPS)
        self.mlp = SwiGLU(stage.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (b t y x c), in place, to the same shape."""
        return self.mlp.add_to(self.attn.add_to(x, self.norm1), self.norm2)


class DenoisingBlock(nn.Module):
    """A block with the context as a second input, and with norms modulated by the timestep."""

    def __init__(self, stage: AttentionStage, head_dim: int) -> None:
        super().__init__()
        self.context_proj = nn.Linear(stage.channels, stage.channels)
        self.norm1 = nn.RMSNorm(stage.channels, eps=NORM_EPS)
        self.attn = NeighbourhoodAttention(stage, head_dim)
        self.norm2 = nn.RMSNorm(stage.channels, eps=NORM_EPS)
        self.mlp = SwiGLU(stage.channels)
        self.scale_shift_table = nn.Parameter(torch.empty(7, stage.channels))

    def forward(self, x: Tensor, context: Tensor, modulation: Tensor, *, repeats_edges: bool) -> Tensor:
        """Map x (b t y x c), in place, to the same shape. context: of its shape. modulation: (7 c), of the timestep."""
        for tokens, read in zip(token_parts(x), token_parts(context), strict=True):
            tokens += self.context_proj(read)
        # Rows: scale, shift, gate of attention; the same for the feed-forward; gate of the context. The gates are not
        # used; separate gates in a file have already been fused into the weights.
        rows = (modulation + self.scale_shift_table).unbind()
        of = Modulated(rows[0], rows[1], rows[3], rows[4])
        self.attn.add_to(
            x,
            lambda part: torch.addcmul(of.shift_attention, self.norm1(part), 1 + of.scale_attention),
            repeats_edges=repeats_edges,
        )
        return self.mlp.add_to(x, lambda part: torch.addcmul(of.shift_mlp, self.norm2(part), 1 + of.scale_mlp))


class Grow(nn.Module):
    """Unfold the channels of a linear layer into frames, rows and columns."""

    def __init__(self, channels: int, growth: Growth) -> None:
        super().__init__()
        self.stride = growth.stride
        self.channels = channels // growth.reduction
        self.proj = nn.Linear(channels, self.channels * math.prod(growth.stride))

    def forward(self, x: Tensor, *, is_start: bool = True) -> Tensor:
        """Map (b t y x c) to (b t' y' x' c'); in time, n frames become 2n − 1.

        is_start: whether the frames begin with the first of the clip, which represents one frame; else they become 2n.
        """
        p1, p2, p3 = self.stride
        batch, frames, rows, columns, _ = x.shape
        dropped = (p1 - 1) * is_start
        out = x.new_empty(batch, frames * p1 - dropped, rows * p2, columns * p3, self.channels)
        for number in range(frames):
            made = self.proj(x[:, number : number + 1])
            made = rearrange(made, "b t y x (c p1 p2 p3) -> b (t p1) (y p2) (x p3) c", p1=p1, p2=p2, p3=p3)
            start = number * p1 - dropped
            out[:, max(0, start) : start + p1] = made[:, max(0, -start) :]
        return out


class TimestepEmbedder(nn.Module):
    """Embed a scaled timestep () as (d): cosines, sines, and a two-layer network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timestep: float) -> Tensor:
        weight = next(self.mlp.parameters())
        exponents = torch.arange(FREQUENCIES, dtype=torch.float32, device=weight.device) / FREQUENCIES
        angles = timestep * torch.exp(-math.log(ROPE_BASE) * exponents)
        return self.mlp(torch.cat([angles.cos(), angles.sin()]).to(weight.dtype))


class SharedModulation(nn.Module):
    """From the embedded timestep (d) to the base of all blocks' modulation (7 c)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 7 * channels)

    def forward(self, embedding: Tensor) -> Tensor:
        return rearrange(self.proj(F.silu(embedding)), "(k c) -> k c", k=7)
