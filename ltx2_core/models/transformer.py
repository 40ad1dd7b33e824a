"""The denoiser: two streams of tokens, video and audio, joined in every block by attention across.

Video and audio are the same code with two configs. The model is three parts, `prepare`, `blocks` and `finish`;
`run_passes` takes one pass or several through them. Every product and every sum is rounded on its own, as in the
official code: fused operations would give other bits in bfloat16.
Source: docs/reference/transformer.md, "Forward pass".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, fields, replace
from operator import methodcaller
from typing import Self

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.transformer import StreamConfig, TransformerConfig
from ..types import Streams
from .attention import MLP, Attention, KeysValues, rms_norm
from .modulation import AdaLN, Modulation
from .rope import Rope, StreamRope, rope_tables

ALL_BLOCKS: Container[int] = range(sys.maxsize)
NO_BLOCKS: Container[int] = frozenset()
SCALES = slice(1, None, 3)  # rows of a block's table: shift, scale, gate of each step
EXCHANGE_SCALES = slice(0, 4, 2)  # scale and shift of each direction, then the gate
TextMemory = tuple[KeysValues, ...]  # of one stream, an entry for each block


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInput:
    """What one stream gives to the denoiser.

    Args: latent: (b n c) noisy tokens. sigma: (b) noise level of the stream, 0 where it is frozen.
    unique_timesteps: (b k) the distinct timesteps of its tokens, sigma × mask. timestep_index: (b n), which of them a
    token has; None if k is 1. positions: (b a n 2) float32 bounds, in seconds and pixels, or the tables that
    `rotary_tables` made of them. context: (b l d) text features, or the keys and values that `text_memory` made of
    them. context_mask: additive bias if floating, or (b l) with 1 = keep if integer. attention_mask: (b n n)
    self-attention strengths in [0, 1]. keyframes_mask: (b n 1), > 0 on tokens that hold one single pixel frame.
    is_enabled: False leaves the stream as it is; the other still reads it.
    """

    latent: Tensor
    sigma: Tensor
    unique_timesteps: Tensor
    positions: Tensor | StreamRope
    context: Tensor | TextMemory
    timestep_index: Tensor | None = None
    context_mask: Tensor | None = None
    attention_mask: Tensor | None = None
    keyframes_mask: Tensor | None = None
    is_enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """What one sample leaves out, and in which blocks: attention of a stream to itself, or across in one direction."""

    video_self: Container[int] = NO_BLOCKS
    audio_self: Container[int] = NO_BLOCKS
    audio_to_video: Container[int] = NO_BLOCKS
    video_to_audio: Container[int] = NO_BLOCKS

    def touches(self, block: int) -> bool:
        return any(block in getattr(self, kind) for kind in self.__slots__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassMask:
    """What a batch keeps of one block: True all, False nothing, (b 1 1) ones and zeros where the samples differ."""

    video_self: Tensor | bool = True
    audio_self: Tensor | bool = True
    audio_to_video: Tensor | bool = True
    video_to_audio: Tensor | bool = True

    @property
    def has_exchange(self) -> bool:
        """Whether any sample keeps attention across, in any direction."""
        return self.audio_to_video is not False or self.video_to_audio is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockInputs:
    """What the blocks and the head need of one stream beside its hidden states; all but the text is the same for all.

    Args: modulation: a shift, a scale and a gate for each of two or three steps. exchange: a scale and a shift for each
    direction, and the gate of what the other stream gives, which all tokens share. embedded: (b k d) embedded
    timesteps. text: (b l d) features, or the keys and values of every block; a block is given its own.
    prompt: (b 1 2 d) modulation of the text.
    """

    modulation: Modulation
    embedded: Tensor
    rope: StreamRope
    text: Tensor | TextMemory | KeysValues
    text_bias: Tensor | None
    self_bias: Tensor | None
    prompt: Tensor | None
    exchange: Modulation | None = None
    is_enabled: bool = True

    def of_block(self, index: int) -> Self:
        """What one block needs: the same, with that block's keys and values where these were made before."""
        return self if isinstance(self.text, Tensor) else replace(self, text=self.text[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One call of the model.

    follows: index of an earlier pass with the same inputs; this one then starts where it first differs.
    """

    inputs: Streams[StreamInput]
    perturbations: Sequence[Perturbation] = ()
    follows: int | None = None

    def start(self, layers: int) -> int:
        """The first of so many blocks that this pass goes through itself."""
        if self.follows is None:
            return 0
        return next((i for i in range(layers) if any(p.touches(i) for p in self.perturbations)), layers)


class CaptionProjection(nn.Module):
    """Project text features to the width of a stream."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map (b l channels) to (b l width)."""
        return self.linear_2(F.gelu(self.linear_1(features), approximate="tanh"))


class StreamIO(nn.Module):
    """What stands before and after the blocks for one stream."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig) -> None:
        super().__init__()
        self.stream, self.config = stream, config
        width = stream.width
        self.proj_in = nn.Linear(stream.in_channels, width)
        self.adaln = AdaLN(width, config.modulation_rows)
        self.prompt_adaln = AdaLN(width, 2) if config.has_prompt_modulation else None
        has_exchange = config.video is not None and config.audio is not None
        self.exchange_adaln = AdaLN(width, 4) if has_exchange else None
        self.gate_adaln = AdaLN(width, 1) if has_exchange else None
        channels = config.caption_channels
        self.caption_projection = None if channels is None else CaptionProjection(channels, width)
        has_marker = config.has_keyframe_embedding and stream is config.video
        self.keyframe_embedding = nn.Parameter(torch.empty(1, width)) if has_marker else None
        self.table = nn.Parameter(torch.empty(2, width))
        self.proj_out = nn.Linear(width, stream.out_channels)

    def embed(self, given: StreamInput) -> Tensor:
        """The hidden states (b n d) that the tokens start as."""
        dtype = self.proj_in.weight.dtype
        hidden = self.proj_in(given.latent.to(dtype))
        if given.keyframes_mask is not None and self.keyframe_embedding is not None:
            hidden = hidden + (given.keyframes_mask > 0) * self.keyframe_embedding.to(dtype)
        return hidden

    def prepare(self, given: StreamInput, other: StreamInput | None) -> BlockInputs:
        """Make from noise levels, positions, text and masks what the blocks need.

        other: the other stream, if passed.
        """
        config, dtype = self.config, self.proj_in.weight.dtype
        timesteps = given.unique_timesteps.float() * config.timestep_scale
        rows, embedded = self.adaln(timesteps)
        prompt = None
        if self.prompt_adaln is not None:
            prompt = self._of_sigma(self.prompt_adaln, given, config.timestep_scale)
        prepared = BlockInputs(
            modulation=Modulation(rows, given.timestep_index),
            embedded=embedded,
            rope=self.rotary_tables(given.positions) if isinstance(given.positions, Tensor) else given.positions,
            text=self.project_text(given.context) if isinstance(given.context, Tensor) else given.context,
            text_bias=_text_bias(given.context_mask, dtype),
            self_bias=_self_bias(given.attention_mask, dtype),
            prompt=prompt,
            is_enabled=given.is_enabled,
        )
        if other is None or self.exchange_adaln is None or self.gate_adaln is None:
            return prepared
        # Scale and shift follow the tokens' own timesteps; the gate follows the noise level of the stream that is read.
        rows = self.exchange_adaln(timesteps)[0]
        gate = self._of_sigma(self.gate_adaln, other, config.gate_timestep_scale).expand(-1, rows.shape[1], -1, -1)
        return replace(prepared, exchange=Modulation(torch.cat((rows, gate), dim=-2), given.timestep_index))

    def rotary_tables(self, positions: Tensor) -> StreamRope:
        """The rotary tables of positions (b a n 2), which serve in every pass over tokens that stand there."""
        stream, config = self.stream, self.config
        own = self._rope(positions, stream.max_pos, stream.width, stream.heads)
        if self.exchange_adaln is None:
            return StreamRope(own)
        heads, width = config.exchange_heads, config.exchange_heads * config.exchange_head_dim
        return StreamRope(own, self._rope(positions[:, :1], (config.exchange_max_pos,), width, heads))

    def project_text(self, features: Tensor) -> Tensor:
        """Text features (b l c) as the blocks attend to them, (b l d)."""
        features = features.to(self.proj_in.weight.dtype)
        return features if self.caption_projection is None else self.caption_projection(features)

    def finish(self, hidden: Tensor, prepared: BlockInputs) -> Tensor:
        """The velocity (b n c) of the tokens."""
        normed = F.layer_norm(hidden, hidden.shape[-1:], eps=self.config.norm_eps)
        head = Modulation(prepared.embedded[:, :, None], prepared.modulation.timestep_index)
        return self.proj_out(head.with_table(self.table, slice(1, 2)).apply(normed, shift=0, scale=1))

    def _of_sigma(self, adaln: AdaLN, given: StreamInput, scale: float) -> Tensor:
        """Rows (b 1 r d) for the one noise level of a stream."""
        return adaln(given.sigma.float()[:, None] * scale)[0]

    def _rope(self, positions: Tensor, max_pos: Sequence[float], width: int, heads: int) -> Rope:
        middle = positions.float().mean(-1)
        extent = torch.tensor(max_pos, dtype=torch.float32, device=middle.device)
        return rope_tables(
            rearrange(middle / extent[:, None] * 2 - 1, "b a n -> b n a"),
            width,
            heads,
            theta=self.config.theta,
            is_interleaved=self.config.is_interleaved,
            double_grid=self.config.has_double_grid,
            dtype=self.proj_in.weight.dtype,
        )


class Stream(nn.Module):
    """One stream inside a block: attention to itself, to the text, and a feed-forward."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        width = stream.width
        heads = {"heads": stream.heads, "head_dim": stream.head_dim, "eps": self.eps, "gated": config.has_gates}
        self.self_attn = Attention(width, width, **heads)
        self.text_attn = Attention(width, width, **heads)
        self.mlp = MLP(width, bias=stream.mlp_bias)
        self.table = nn.Parameter(torch.empty(config.modulation_rows, width))
        self.prompt_table = nn.Parameter(torch.empty(2, width)) if config.has_text_modulation else None

    def with_table(self, s: BlockInputs) -> BlockInputs:
        """The same inputs with the shifts, scales and gates of this block, which `attend` and `feed_forward` take."""
        return replace(s, modulation=s.modulation.with_table(self.table, SCALES))

    def attend(self, x: Tensor, s: BlockInputs, keep: Tensor | bool) -> Tensor:
        """Self-attention, then text attention, on (b n d)."""
        if not s.is_enabled:
            return x
        h = s.modulation.apply(rms_norm(x, self.eps), shift=0, scale=1)
        x = x + self.self_attn(h, rope=s.rope.own, bias=s.self_bias, keep=keep) * s.modulation.row(2)
        text = self.modulate_text(s.text, s.prompt) if isinstance(s.text, Tensor) else s.text
        if self.prompt_table is None:
            return x + self.text_attn(rms_norm(x, self.eps), text, bias=s.text_bias)
        h = s.modulation.apply(rms_norm(x, self.eps), shift=6, scale=7)
        return x + self.text_attn(h, text, bias=s.text_bias) * s.modulation.row(8)

    def feed_forward(self, x: Tensor, s: BlockInputs) -> Tensor:
        """The feed-forward on (b n d)."""
        if not s.is_enabled:
            return x
        h = s.modulation.apply(rms_norm(x, self.eps), shift=3, scale=4)
        return x + self.mlp(h) * s.modulation.row(5)

    def text_memory(self, text: Tensor) -> KeysValues:
        """Keys and values of the text (b l d), which do not change while nothing but the noise level does.

        They are exact only where `config.has_static_text`.
        """
        return self.text_attn.keys_values(self.modulate_text(text, None))

    def modulate_text(self, text: Tensor, prompt: Tensor | None) -> Tensor:
        """The text (b l d) as this block's keys and values see it."""
        if self.prompt_table is None:
            return text
        table = self.prompt_table.to(text.dtype)
        shift, scale = table if prompt is None else rearrange(table + prompt, "b 1 r d -> r b 1 d")
        return text * (1 + scale) + shift


class Exchange(nn.Module):
    """Attention across the streams, in both directions, on one common clock."""

    def __init__(self, config: TransformerConfig, video_width: int, audio_width: int) -> None:
        super().__init__()
        self.eps = config.norm_eps
        heads = {
            "heads": config.exchange_heads,
            "head_dim": config.exchange_head_dim,
            "eps": self.eps,
            "gated": config.has_gates,
        }
        self.audio_to_video = Attention(video_width, audio_width, **heads)
        self.video_to_audio = Attention(audio_width, video_width, **heads)
        self.video_table = nn.Parameter(torch.empty(5, video_width))
        self.audio_table = nn.Parameter(torch.empty(5, audio_width))

    def forward(self, x: Streams[Tensor], s: Streams[BlockInputs], keep: PassMask) -> Streams[Tensor]:
        """Give each enabled stream, (b n d), what it reads in the other; both read the values from before."""
        (v, a), (vs, as_) = x, s
        assert v is not None
        assert a is not None
        assert vs is not None
        assert as_ is not None
        assert vs.exchange is not None
        assert as_.exchange is not None
        video, audio = rms_norm(v, self.eps), rms_norm(a, self.eps)
        vm = vs.exchange.with_table(self.video_table, EXCHANGE_SCALES)
        am = as_.exchange.with_table(self.audio_table, EXCHANGE_SCALES)
        if vs.is_enabled and keep.audio_to_video is not False:
            heard = self.audio_to_video(
                vm.apply(video, scale=0, shift=1),
                am.apply(audio, scale=0, shift=1),
                rope=vs.rope.exchange,
                context_rope=as_.rope.exchange,
            )
            v = v + heard * self._gate(vm, keep.audio_to_video)
        if as_.is_enabled and keep.video_to_audio is not False:
            seen = self.video_to_audio(
                am.apply(audio, scale=2, shift=3),
                vm.apply(video, scale=2, shift=3),
                rope=as_.rope.exchange,
                context_rope=vs.rope.exchange,
            )
            a = a + seen * self._gate(am, keep.video_to_audio)
        return Streams(v, a)

    def _gate(self, modulation: Modulation, keep: Tensor | bool) -> Tensor:
        """The gate (b 1 d), the same for all tokens, closed for samples that leave this direction out."""
        gate = modulation.rows[:, :1, 4]
        return gate * keep if isinstance(keep, Tensor) else gate


class AVBlock(nn.Module):
    """One layer of the denoiser: its streams, and an exchange between them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.video = None if config.video is None else Stream(config.video, config)
        self.audio = None if config.audio is None else Stream(config.audio, config)
        self.exchange = None
        if config.video is not None and config.audio is not None:
            self.exchange = Exchange(config, config.video.width, config.audio.width)

    def forward(self, x: Streams[Tensor], inputs: Streams[BlockInputs], keep: PassMask) -> Streams[Tensor]:
        """Move the hidden states of the streams that are present, (b n d) each, one block on."""
        streams = Streams(self.video, self.audio)
        inputs = inputs.map(lambda s, stream: stream.with_table(s), streams)
        kept = Streams(keep.video_self, keep.audio_self)
        x = x.map(lambda h, s, k, stream: stream.attend(h, s, k), inputs, kept, streams)
        if self.exchange is not None and x.has_both and keep.has_exchange:
            x = self.exchange(x, inputs, keep)
        return x.map(lambda h, s, stream: stream.feed_forward(h, s), inputs, streams)


class Transformer(nn.Module):
    """The whole denoiser. See `prepare`, `blocks` and `finish`; `forward` is `run_passes` with one pass."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.video = None if config.video is None else StreamIO(config.video, config)
        self.audio = None if config.audio is None else StreamIO(config.audio, config)
        self.blocks = nn.ModuleList(AVBlock(config) for _ in range(config.layers))

    def forward(self, inputs: Streams[StreamInput], perturbations: Sequence[Perturbation] = ()) -> Streams[Tensor]:
        """The velocity (b n c) of each stream that is passed. perturbations: one per sample, or none at all."""
        return run_passes(self, [Pass(inputs=inputs, perturbations=perturbations)])[0]

    def prepare(self, inputs: Streams[StreamInput]) -> tuple[Streams[Tensor], Streams[BlockInputs]]:
        """The hidden states (b n d) before the first block, and everything that is the same for all blocks."""
        others = Streams([inputs.audio], [inputs.video])
        hidden = inputs.map(lambda one, io: io.embed(one), self.streams)
        return hidden, inputs.map(lambda one, io, other: io.prepare(one, other[0]), self.streams, others)

    def finish(self, hidden: Streams[Tensor], prepared: Streams[BlockInputs]) -> Streams[Tensor]:
        """The velocities (b n c), from the hidden states after the last block."""
        return hidden.map(lambda h, p, io: io.finish(h, p), prepared, self.streams)

    def text_memory(self, context: Streams[Tensor]) -> Streams[TextMemory]:
        """Keys and values of a prompt's features (b l c), made block by block.

        Raises: ValueError unless `config.has_static_text`: elsewhere they change with the noise level.
        """
        if not self.config.has_static_text:
            raise ValueError("this model's text depends on the noise level")
        text = context.map(lambda features, io: io.project_text(features), self.streams)

        def of_block(block: nn.Module) -> Streams[KeysValues]:
            return text.map(lambda rows, stream: stream.text_memory(rows), Streams(block.video, block.audio))

        return text.map(lambda _, *memories: memories, *map(of_block, self.blocks))

    @property
    def streams(self) -> Streams[StreamIO]:
        return Streams(self.video, self.audio)


OnBlock = Callable[[int, int, Streams[Tensor]], None]  # block, pass, hidden states after it


def run_passes(model: Transformer, passes: Sequence[Pass], on_block: OnBlock | None = None) -> list[Streams[Tensor]]:
    """Take passes through the model side by side, so that each block is needed once; returns their velocities.

    A pass that follows another is the same up to the first block that it perturbs, so it takes over there. This is
    exact: nothing before that block can differ.
    """
    layers = len(model.blocks)
    hidden: dict[int, Streams[Tensor]] = {}
    prepared: list[Streams[BlockInputs]] = []
    starts = [one.start(layers) for one in passes]
    for j, one in enumerate(passes):
        if one.follows is None:
            hidden[j], shared = model.prepare(one.inputs)
        else:
            shared = prepared[one.follows]
        prepared.append(shared)

    def take_over(block: int, j: int, one: Pass) -> None:
        if block == starts[j] and one.follows is not None:
            hidden[j] = hidden[one.follows]

    for i, block in enumerate(model.blocks):
        for j, one in reversed(list(enumerate(passes))):  # followers first, before their leader moves on
            take_over(i, j, one)
            if j in hidden:
                inputs = prepared[j].map(methodcaller("of_block", i))
                hidden[j] = block(hidden[j], inputs, pass_mask(one.perturbations, i, hidden[j]))
                if on_block is not None:
                    on_block(i, j, hidden[j])
    for j, one in enumerate(passes):
        take_over(layers, j, one)
    return [model.finish(hidden[j], prepared[j]) for j in range(len(passes))]


def pass_mask(perturbations: Sequence[Perturbation], block: int, hidden: Streams[Tensor]) -> PassMask:
    """What a batch keeps of a block, given what each of its samples leaves out."""
    like = next(h for h in hidden if h is not None)

    def keep(kind: str) -> Tensor | bool:
        kept = [block not in getattr(p, kind) for p in perturbations]
        if len(set(kept)) <= 1:
            return all(kept)
        return torch.tensor(kept, dtype=like.dtype, device=like.device)[:, None, None]

    return PassMask(**{field.name: keep(field.name) for field in fields(PassMask)})


def _text_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The additive bias of a text mask: floating as given, integer 1 = keep. Shape (b 1 1|n l)."""
    if mask is None:
        return None
    if not mask.is_floating_point():
        mask = ((mask - 1).to(dtype) * torch.finfo(dtype).max)[:, None]
    return mask.to(dtype)[:, None]


def _self_bias(strengths: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The additive bias (b 1 n n) of self-attention strengths in [0, 1]: their logarithm."""
    if strengths is None:
        return None
    limits = torch.finfo(dtype)
    bias = strengths.to(dtype).clamp(min=limits.tiny).log()
    return bias.masked_fill(strengths <= 0, limits.min)[:, None]
