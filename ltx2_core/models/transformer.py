"""The denoiser: two streams of tokens, video and audio, joined in every block by cross-attention.

Video and audio are the same code with two configs. The model has three parts, `prepare`, `blocks` and `finish`;
`run_passes` takes one or several passes through them. Every product and every sum is rounded separately, as in the
official code: fused operations would give other bits in bfloat16.
Source: docs/reference/transformer.md, "Forward pass".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial
from operator import methodcaller
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.transformer import StreamConfig, TransformerConfig
from ..types import Streams
from .attention import MLP, Attention, KeysValues, normed_rows, rms_norm
from .block_cache import BlockCache
from .capture import AttentionCapture
from .chunks import WHOLE, Chunks, Rows, add_in_chunks, held_weights
from .modulation import AdaLN, Modulation, sinusoid
from .passes import BlockInputs, Pass, PassMask, Perturbation, StreamInput, TextMemory
from .rope import LazyRope, Rope, StreamRope, rope_tables

SCALES = slice(1, None, 3)  # rows of a block's table: shift, scale, gate of each step
EXCHANGE_SCALES = slice(0, 4, 2)  # scale and shift of each direction, then the gate


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
    """The layers before and after the blocks for one stream."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig) -> None:
        super().__init__()
        self.stream, self.config, self.chunks = stream, config, WHOLE
        width = stream.width
        self.proj_in = nn.Linear(stream.in_channels, width)
        self.adaln = AdaLN(width, config.modulation_rows)
        self.prompt_adaln = AdaLN(width, 2) if config.has_prompt_modulation else None
        has_exchange = config.streams.has_both
        self.exchange_adaln = AdaLN(width, 4) if has_exchange else None
        self.gate_adaln = AdaLN(width, 1) if has_exchange else None
        channels = config.caption_channels
        self.caption_projection = None if channels is None else CaptionProjection(channels, width)
        has_marker = config.has_keyframe_embedding and stream is config.video
        self.keyframe_embedding = nn.Parameter(torch.empty(1, width)) if has_marker else None
        self.table = nn.Parameter(torch.empty(2, width))
        self.proj_out = nn.Linear(width, stream.out_channels)

    def embed(self, given: StreamInput) -> Tensor:
        """The initial hidden states (b n d) of the tokens."""
        dtype = self.proj_in.weight.dtype
        hidden = self.proj_in(given.latent.to(dtype))
        if given.keyframes_mask is not None and self.keyframe_embedding is not None:
            hidden = hidden + (given.keyframes_mask > 0) * self.keyframe_embedding.to(dtype)
        return hidden

    def prepare(self, given: StreamInput, other: StreamInput | None) -> BlockInputs:
        """Compute the inputs of the blocks from noise levels, positions, text and masks.

        other: the other stream, if it is present.
        """
        config, dtype = self.config, self.proj_in.weight.dtype
        sinusoids = sinusoid(given.unique_timesteps.float() * config.timestep_scale)
        rows, embedded = self.adaln(sinusoids)
        prompt = None
        if self.prompt_adaln is not None:
            prompt = self._of_sigma(self.prompt_adaln, given, config.timestep_scale)
        prepared = BlockInputs(
            modulation=Modulation(rows, given.timestep_index),
            embedded=embedded,
            rope=self.rotary_tables(given.positions) if isinstance(given.positions, Tensor) else given.positions,
            text=self.project_text(given.context) if isinstance(given.context, Tensor) else given.context,
            text_bias=_text_bias(given.context_mask, dtype),
            text_shares=given.text_shares,
            self_bias=_self_bias(given.attention_mask, dtype),
            prompt=prompt,
            is_enabled=given.is_enabled,
            chunks=self.chunks,
        )
        if other is None or self.exchange_adaln is None or self.gate_adaln is None:
            return prepared
        # Scale and shift follow the tokens' own timesteps; the gate follows the noise level of the stream that is read.
        rows = self.exchange_adaln(sinusoids)[0]
        gate = self._of_sigma(self.gate_adaln, other, config.gate_timestep_scale).expand(-1, rows.shape[1], -1, -1)
        return replace(prepared, exchange=Modulation(torch.cat((rows, gate), dim=-2), given.timestep_index))

    def rotary_tables(self, positions: Tensor) -> StreamRope:
        """The rotary tables of positions (b a n 2), valid for every pass over tokens at these positions."""
        stream, config = self.stream, self.config
        own = self._rope(positions, stream.max_pos, stream.width, stream.heads)
        if self.exchange_adaln is None:
            return StreamRope(own)
        heads, width = config.exchange_heads, config.exchange_width
        return StreamRope(own, self._rope(positions[:, :1], (config.exchange_max_pos,), width, heads))

    def project_text(self, features: Tensor) -> Tensor:
        """Text features (b l c) as the input of the blocks, (b l d)."""
        features = features.to(self.proj_in.weight.dtype)
        return features if self.caption_projection is None else self.caption_projection(features)

    def finish(self, hidden: Tensor, prepared: BlockInputs) -> Tensor:
        """The velocity (b n c) of the tokens."""
        made = Modulation(prepared.embedded[:, :, None], prepared.modulation.timestep_index)
        head = made.with_table(self.table, slice(1, 2))

        def velocity(rows: slice) -> Tensor:
            normed = F.layer_norm(hidden[:, rows], hidden.shape[-1:], eps=self.config.norm_eps)
            return self.proj_out(head.of_tokens(rows).apply(normed, shift=0, scale=1))

        return torch.cat([velocity(rows) for rows in self.chunks.of(hidden.shape[1])], dim=-2)

    def _of_sigma(self, adaln: AdaLN, given: StreamInput, scale: float) -> Tensor:
        """Rows (b 1 r d) for the one noise level of a stream."""
        return adaln(sinusoid(given.sigma.float()[:, None] * scale))[0]

    def _rope(self, positions: Tensor, max_pos: Sequence[float], width: int, heads: int) -> Rope | LazyRope:
        middle = positions.float().mean(-1)
        extent = torch.tensor(max_pos, dtype=torch.float32, device=middle.device)
        make = partial(
            rope_tables,
            width=width,
            heads=heads,
            theta=self.config.theta,
            is_interleaved=self.config.is_interleaved,
            double_grid=self.config.has_double_grid,
            dtype=self.proj_in.weight.dtype,
        )
        coordinates = rearrange(middle / extent[:, None] * 2 - 1, "b a n -> b n a")
        return make(coordinates) if self.chunks.keeps_tables else LazyRope(coordinates, make)


class Stream(nn.Module):
    """One stream inside a block: self-attention, text attention, and a feed-forward."""

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
        """The same inputs with the shifts, scales and gates of this block, for `attend` and `feed_forward`."""
        return replace(s, modulation=s.modulation.with_table(self.table, SCALES))

    def attend(self, x: Tensor, s: BlockInputs, keep: Tensor | bool) -> Tensor:
        """Self-attention, then text attention, on (b n d)."""
        if not s.is_enabled:
            return x
        x = self.attend_self(x, s, keep)
        memory: Any = s.text
        if isinstance(s.text, Tensor):
            memory = self.text_attn.keys_values(self.modulate_text(s.text, s.prompt))
        with held_weights(x, s.chunks, self.text_attn):
            return add_in_chunks(x, s.chunks, lambda part, rows: self._read_text(part, s, memory, rows))

    def attend_self(self, x: Tensor, s: BlockInputs, keep: Tensor | bool) -> Tensor:
        """Add self-attention of the tokens (b n d), or their own values if attention is left out."""

        def modulated(part: Tensor, rows: slice) -> Tensor:
            return s.modulation.of_tokens(rows).apply(rms_norm(part, self.eps), shift=0, scale=1)

        def attended(part: Tensor, rows: slice) -> Tensor:
            rope, bias = s.rope.own.of_tokens(rows), _bias_rows(s.self_bias, rows)
            y = self.self_attn(modulated(part, rows), memory, rope=rope, bias=bias, keep=keep)
            return y * s.modulation.of_tokens(rows).row(2)

        with held_weights(x, s.chunks, self.self_attn):
            memory = None
            if keep is not False and len(s.chunks.of(x.shape[1])) > 1:
                memory = self.self_attn.chunked_keys_values(x, s.chunks, modulated, s.rope.own)
            return add_in_chunks(x, s.chunks, attended)

    def feed_forward(self, x: Tensor, s: BlockInputs) -> Tensor:
        """The feed-forward on (b n d)."""
        if not s.is_enabled:
            return x

        def fed(part: Tensor, rows: slice) -> Tensor:
            modulation = s.modulation.of_tokens(rows)
            return self.mlp(modulation.apply(rms_norm(part, self.eps), shift=3, scale=4)) * modulation.row(5)

        with held_weights(x, s.chunks, self.mlp):
            return add_in_chunks(x, s.chunks, fed)

    def text_memory(self, text: Tensor) -> KeysValues:
        """Keys and values of the text (b l d), which are constant over the noise levels.

        They are exact only if `config.has_static_text`.
        """
        return self.text_attn.keys_values(self.modulate_text(text, None))

    def _read_text(self, part: Tensor, s: BlockInputs, memory: KeysValues, rows: slice) -> Tensor:
        """Text attention of some tokens (b m d)."""
        normed, bias = rms_norm(part, self.eps), _bias_rows(s.text_bias, rows)
        read = partial(
            self.text_attn, context=memory, bias=bias, shares=s.text_shares and s.text_shares.of_tokens(rows)
        )
        if self.prompt_table is None:
            return read(normed)
        modulation = s.modulation.of_tokens(rows)
        return read(modulation.apply(normed, shift=6, scale=7)) * modulation.row(8)

    def modulate_text(self, text: Tensor, prompt: Tensor | None) -> Tensor:
        """The text (b l d) as the input of this block's keys and values."""
        if self.prompt_table is None:
            return text
        table = self.prompt_table.to(text.dtype)
        shift, scale = table if prompt is None else rearrange(table + prompt, "b 1 r d -> r b 1 d")
        return text * (1 + scale) + shift


def _modulated(normed: Rows, modulation: Modulation, first: int, part: Tensor, rows: slice) -> Tensor:
    """Some tokens, modulated for one direction. first: row of the scale of this direction; the shift follows."""
    return modulation.of_tokens(rows).apply(normed(part, rows), scale=first, shift=first + 1)


class Exchange(nn.Module):
    """Cross-attention between the streams, in both directions, on one common time axis."""

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
        """Add cross-attention to each enabled stream, (b n d); both read the values from before the exchange."""
        (v, a), (vs, as_) = x, s
        assert v is not None
        assert a is not None
        assert vs is not None
        assert as_ is not None
        assert vs.exchange is not None
        assert as_.exchange is not None
        vm = vs.exchange.with_table(self.video_table, EXCHANGE_SCALES)
        am = as_.exchange.with_table(self.audio_table, EXCHANGE_SCALES)
        gives_audio = vs.is_enabled and keep.audio_to_video is not False
        gives_video = as_.is_enabled and keep.video_to_audio is not False
        # Keys and values of both come first, because adding to a stream may change it in place.
        video = partial(_modulated, normed_rows(v, vs.chunks, self.eps), vm)
        audio = partial(_modulated, normed_rows(a, as_.chunks, self.eps), am)
        with held_weights(v, vs.chunks, self):
            heard = self._memory(self.audio_to_video, a, as_, partial(audio, 0)) if gives_audio else None
            seen = self._memory(self.video_to_audio, v, vs, partial(video, 2)) if gives_video else None
            if heard is not None:
                gate = self._gate(vm, keep.audio_to_video)
                v = self._add(self.audio_to_video, v, vs, partial(video, 0), heard, gate)
            if seen is not None:
                gate = self._gate(am, keep.video_to_audio)
                a = self._add(self.video_to_audio, a, as_, partial(audio, 2), seen, gate)
        return Streams(v, a)

    def reading(self, x: Streams[Tensor], s: Streams[BlockInputs]) -> tuple[Tensor, Tensor]:
        """The queries (b h na d) of the audio for the video, and the keys (b h nv d) of the video."""

        def projected(x: Tensor, s: BlockInputs, table: Tensor, project: Callable[[Tensor, Rope], Tensor]) -> Tensor:
            assert s.exchange is not None
            assert s.rope.exchange is not None
            rope, modulation = s.rope.exchange, s.exchange.with_table(table, EXCHANGE_SCALES)
            modulated = partial(_modulated, normed_rows(x, s.chunks, self.eps), modulation, 2)
            parts = s.chunks.of(x.shape[1])
            return torch.cat([project(modulated(x[:, rows], rows), rope.of_tokens(rows)) for rows in parts], dim=-2)

        attention = self.video_to_audio
        tables, projections = Streams(self.video_table, self.audio_table), Streams(attention.keys, attention.queries)
        keys, queries = x.map(projected, s, tables, projections)
        assert keys is not None
        assert queries is not None
        return queries, keys

    def _memory(self, attention: Attention, x: Tensor, s: BlockInputs, modulated: Rows) -> KeysValues:
        """Keys and values of a stream for the other one. modulated: its rows, normalised, scaled and shifted."""
        return attention.chunked_keys_values(x, s.chunks, modulated, s.rope.exchange)

    def _add(
        self,
        attention: Attention,
        x: Tensor,
        s: BlockInputs,
        modulated: Rows,
        memory: KeysValues,
        gate: Tensor,
    ) -> Tensor:
        """Add cross-attention to a stream (b n d)."""
        assert s.rope.exchange is not None
        exchange = s.rope.exchange

        def attended(part: Tensor, rows: slice) -> Tensor:
            return attention(modulated(part, rows), memory, rope=exchange.of_tokens(rows)) * gate

        return add_in_chunks(x, s.chunks, attended)

    def _gate(self, modulation: Modulation, keep: Tensor | bool) -> Tensor:
        """The gate (b 1 d), the same for all tokens, zero for samples that leave this direction out."""
        gate = modulation.rows[:, :1, 4]
        return gate * keep if isinstance(keep, Tensor) else gate


class AVBlock(nn.Module):
    """One layer of the denoiser: its streams, and an exchange between them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.video, self.audio = config.streams.map(lambda stream: Stream(stream, config))
        self.exchange = None
        if config.video is not None and config.audio is not None:
            self.exchange = Exchange(config, config.video.width, config.audio.width)

    def forward(self, x: Streams[Tensor], inputs: Streams[BlockInputs], keep: PassMask) -> Streams[Tensor]:
        """Apply the block to the hidden states of the streams that are present, (b n d) each."""
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
        self.video, self.audio = config.streams.map(lambda stream: StreamIO(stream, config))
        self.blocks = nn.ModuleList(AVBlock(config) for _ in range(config.layers))

    def work_in(self, chunks: Chunks) -> None:
        """Process so many tokens at a time from now on. This changes results by rounding only."""
        for io in self.streams:
            if io is not None:
                io.chunks = chunks

    def forward(self, inputs: Streams[StreamInput], perturbations: Sequence[Perturbation] = ()) -> Streams[Tensor]:
        """The velocity (b n c) of each stream that is present. perturbations: one per sample, or none at all."""
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
        """Keys and values of a prompt's features (b l c), computed block by block.

        Raises: ValueError unless `config.has_static_text`: otherwise they change with the noise level.
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


def run_passes(
    model: Transformer,
    passes: Sequence[Pass],
    on_block: OnBlock | None = None,
    capture: AttentionCapture | None = None,
    cache: BlockCache | None = None,
) -> list[Streams[Tensor]]:
    """Take passes through the model side by side, so that each block is loaded once; returns their velocities.

    A pass that follows another is identical up to the first block that it perturbs, so it starts there. This is exact:
    nothing before that block can differ. capture: used in the first pass. cache: decides after the first block whether
    the others are skipped.
    """
    layers = len(model.blocks)
    starts = [one.start(layers) for one in passes]
    hidden, prepared = _prepared(model, passes)

    def take_over(block: int, j: int, one: Pass) -> None:
        if block == starts[j] and one.follows is not None:
            hidden[j] = hidden[one.follows].map(torch.clone) if block < layers else hidden[one.follows]

    for i, block in enumerate(model.blocks):
        for j, one in reversed(list(enumerate(passes))):  # followers first, before the pass that they follow continues
            take_over(i, j, one)
            if j in hidden:
                if cache is not None and i == 0:
                    cache.note_input(j, hidden[j])
                inputs = prepared[j].map(methodcaller("of_block", i))
                with nullcontext() if capture is None or j else capture.watching(block, i):
                    hidden[j] = block(hidden[j], inputs, pass_mask(one.perturbations, i, hidden[j]))
                if on_block is not None:
                    on_block(i, j, hidden[j])
        if cache is not None and i == 0 and cache.skips(hidden):
            hidden.update(cache.filled(passes, hidden))
            break
    for j, one in enumerate(passes):
        take_over(layers, j, one)
    if cache is not None and not cache.has_skipped:
        cache.keep(passes, hidden)
    return [model.finish(hidden[j], prepared[j]) for j in range(len(passes))]


def _prepared(
    model: Transformer, passes: Sequence[Pass]
) -> tuple[dict[int, Streams[Tensor]], list[Streams[BlockInputs]]]:
    """The first hidden states of the passes that follow no other, by number, and the inputs of the blocks of each."""
    hidden: dict[int, Streams[Tensor]] = {}
    prepared: list[Streams[BlockInputs]] = []
    for j, one in enumerate(passes):
        if one.follows is None:
            hidden[j], shared = model.prepare(one.inputs)
        else:
            shared = prepared[one.follows]
        prepared.append(shared)
    return hidden, prepared


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


def _bias_rows(bias: Tensor | None, rows: slice) -> Tensor | None:
    """The rows of a bias (b h 1|n l) for some tokens."""
    return bias if bias is None or bias.shape[-2] == 1 else bias[:, :, rows]


def _self_bias(strengths: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The additive bias (b 1 n n) of self-attention strengths in [0, 1]: their logarithm."""
    if strengths is None:
        return None
    limits = torch.finfo(dtype)
    bias = strengths.to(dtype).clamp(min=limits.tiny).log()
    return bias.masked_fill(strengths <= 0, limits.min)[:, None]
