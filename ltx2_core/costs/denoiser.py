"""The cost of one evaluation of the denoiser beside its weights: activations and FLOPs.

The shares are those of `run_passes` (models/transformer.py), counted on tensors without data; `scripts/bench.py --plan`
and tests/unit/test_costs.py compare both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config.transformer import StreamConfig, TransformerConfig

# Peak memory of one token of a chunk, in rows of the stream's width: in self-attention, besides the keys and values of
# all tokens; in self-attention that some samples of a batch skip, so that results and values are mixed; in text
# attention, besides the keys and values of the text; and in the feed-forward, which is four times as wide.
ATTENDING_ROWS, BLENDING_ROWS, READING_ROWS, FEEDING_ROWS = 6.2, 7.2, 6.0, 10.5
LAZY_ROWS = 1.0  # additional rows if rotary tables are computed per chunk
EXCHANGED_ROWS = 8.0  # rows per token while keys and values are exchanged with other ranks
CAPTURED_BYTES = 4  # bytes of a captured attention weight, float32
CAPTURING_COPIES = 2  # copies of the weights that are computed at a time: before and after the softmax
MOST_CAPTURED = 2**24  # number of weights that are computed at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The work of one evaluation of the denoiser.

    Args: video, audio: tokens. text: rows of a text. copies: the number of hidden states of all tokens, one for each
    guidance pass. contexts: the number of texts that are read in all. texts: the number of texts in a pass, of which a
    token attends to one. batch: passes that run as one batch. blends: whether some of these skip self-attention in a
    block. cached: hidden states of all tokens in the block cache.
    """

    video: int
    audio: int
    text: int
    copies: int = 1
    contexts: int = 1
    texts: int = 1
    batch: int = 1
    blends: bool = False
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The settings of the computation: bytes of a value, tokens of a chunk, whether rotary tables and the text are
    kept.

    Args: exchanges_rows: whether ranks exchange rows of the video. captures: whether the attention of the audio to the
    video is captured.
    """

    itemsize: int
    chunk_tokens: int
    keeps_tables: bool
    keeps_text: bool
    exchanges_rows: bool = False
    captures: bool = False


@dataclass(frozen=True, slots=True)
class RowFlops:
    """FLOPs beside the linear layers of all blocks, for each row of a kind."""

    video: float = 0.0
    audio: float = 0.0
    text: float = 0.0


NO_ROWS = RowFlops()


def activation_bytes(config: TransformerConfig, given: Evaluation, walk: Walk) -> int:
    """Peak memory of one evaluation beside weights, latents, text features, and keys and values of the text that are
    kept.
    """
    rows = 0.0
    tokens = [(n, stream) for n, stream in ((given.video, config.video), (given.audio, config.audio)) if stream and n]
    for count, stream in tokens:
        width = stream.width
        tables = (2 if config.is_interleaved else 1) * (width + config.exchange_width) * walk.keeps_tables
        rows += count * (given.batch * (given.copies + given.cached) * width + tables)
    largest = max(_working(count, stream, given, walk, config.has_text_modulation) for count, stream in tokens)
    if walk.captures:
        largest = max(largest, _capturing(config, given, walk) / walk.itemsize)
    return int((rows + largest) * walk.itemsize) + _read_bytes(config, given, walk)


def _read_bytes(config: TransformerConfig, given: Evaluation, walk: Walk) -> int:
    """Memory for the text beside its features: those of a batch are concatenated, and projected, unless the resulting
    keys and values are kept.
    """
    joined, read = 0, given.contexts
    if given.batch > 1:
        read = given.batch * given.texts
        lengthened = given.texts if given.texts > 1 else 0  # the negative prompt is padded to the length of the others
        joined = context_bytes(config, replace(given, contexts=read + lengthened), walk.itemsize)
    if walk.keeps_text or config.caption_channels is None:
        return joined
    return joined + read * given.text * sum(config.widths) * walk.itemsize


def _working(count: int, stream: StreamConfig, given: Evaluation, walk: Walk, modulates_text: bool) -> float:
    """The values in memory while a stream of so many tokens computes self-attention, text attention or its
    feed-forward.
    """
    chunk = min(count, walk.chunk_tokens)
    lazy = 0 if walk.keeps_tables else LAZY_ROWS
    kept = 2 * count if count > chunk else 0
    attending = kept + ((BLENDING_ROWS if given.blends else ATTENDING_ROWS) + lazy) * chunk
    text = given.texts * given.text * (not walk.keeps_text)
    reading = max((2 + modulates_text) * text, 2 * text + READING_ROWS * chunk)  # its keys and values made, then read
    exchanged = EXCHANGED_ROWS * count * walk.exchanges_rows
    return given.batch * stream.width * max(attending, reading, FEEDING_ROWS * chunk, exchanged)


def _capturing(config: TransformerConfig, given: Evaluation, walk: Walk) -> float:
    """Memory while the attention of one block is captured: queries and keys, one head of the keys in float32, and its
    weights.
    """
    projected = given.batch * config.exchange_width * (given.video + given.audio) * walk.itemsize
    joined = projected * (1 + (max(given.video, given.audio) > walk.chunk_tokens))  # the chunks and their results
    weights = min(given.audio * given.video, max(MOST_CAPTURED, given.video))
    head = given.video * config.exchange_head_dim
    return joined + CAPTURED_BYTES * (head + CAPTURING_COPIES * weights)


def attention_bytes(given: Evaluation) -> int:
    """The map of how much each audio token attends to each video token, summed over a stage."""
    return CAPTURED_BYTES * given.audio * given.video


def context_bytes(config: TransformerConfig, given: Evaluation, itemsize: int) -> int:
    """The features of all texts, as the connectors compute them for each stream."""
    channels = sum(config.caption_channels or width for width in config.widths)
    return given.contexts * given.text * channels * itemsize


def text_memory_bytes(config: TransformerConfig, given: Evaluation, itemsize: int) -> int:
    """Keys and values of the text in all blocks, if they are kept from step to step."""
    return 2 * config.layers * given.contexts * given.text * sum(config.widths) * itemsize


def held_bytes(config: TransformerConfig, itemsize: int) -> int:
    """The largest decoded weights that are held at a time, if several chunks use the same quantised layers."""
    return 8 * max(config.widths) ** 2 * itemsize


def forward_flops(
    config: TransformerConfig,
    given: Evaluation,
    *,
    blocks: int,
    reads_text: bool = True,
    exchanges: bool = True,
    beside: RowFlops = NO_ROWS,
) -> float:
    """FLOPs of one pass through so many of its blocks.

    Args: reads_text: whether it computes keys and values of the text. beside: FLOPs of LoRA branches beside its layers.

    Counted are two FLOPs for each multiply-add in linear layers and attention; everything else is left out.
    """
    total, across = 0.0, config.exchange_width
    for count, stream in ((given.video, config.video), (given.audio, config.audio)):
        if stream is None or not count:
            continue
        width = stream.width
        own = (8 + 4 + 16) * width**2 * count + 4 * width * count * (count + given.text)
        made = 4 * width**2 * given.texts * given.text
        crossed = 8 * width * across * count * exchanges
        total += blocks * (own + made * reads_text + crossed)
        total += 2 * count * width * (stream.in_channels + stream.out_channels)
        if config.caption_channels is not None and reads_text:
            total += 2 * given.texts * given.text * width * (config.caption_channels + width)
    both = config.streams.has_both and exchanges
    rows = given.video * beside.video + given.audio * beside.audio + given.text * beside.text * reads_text
    total += rows * blocks / config.layers
    return total + both * blocks * 8 * given.video * given.audio * across
