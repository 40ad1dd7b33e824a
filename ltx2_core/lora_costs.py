"""The cost of LoRAs beside the weights that they change: bytes, and the FLOPs of fusing them or of their branches.

Source: docs/cards.md, "How it is counted".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from .components import COMPONENTS
from .costs.denoiser import NO_ROWS, RowFlops
from .costs.weights import BLOCK, BlockBytes, block_bytes
from .headers import Header
from .lora_file import MatchedLora
from .lora_forms import Change, is_product

# The tokens that a linear layer of the denoiser processes, by its official name; the first match counts. Other layers
# process noise levels, with a few rows at most.
Kind = Literal["video", "audio", "text"]
ROWS: tuple[tuple[re.Pattern[str], Kind | None], ...] = (
    (re.compile(r"adaln|scale_shift|gate_logits"), None),
    (re.compile(r"attn2\.to_[kv]|caption_projection"), "text"),
    (re.compile(r"audio_to_video_attn\.to_[kv]|video_to_audio_attn\.to_(q|out)"), "audio"),
    (re.compile(r"audio_to_video_attn|video_to_audio_attn"), "video"),
    (re.compile(r"audio_"), "audio"),
)


@dataclass(frozen=True, slots=True)
class LoraFlops:
    """FLOPs of LoRAs.

    Args: blocks: for fusing them into the plain layers of each block, once. outside: into other layers. beside: for the
    branches beside quantised layers in one pass through all blocks.
    """

    blocks: tuple[float, ...] = ()
    outside: float = 0.0
    beside: RowFlops = NO_ROWS

    def fusing(self, resident: int, visits: int) -> float:
        """FLOPs for fusing if so many of the first blocks stay loaded and the others are loaded for every visit."""
        staying, leaving = sum(self.blocks[:resident]), sum(self.blocks[resident:])
        return self.outside + staying + leaving * visits


def branch_bytes(loras: Iterable[MatchedLora], checkpoint: Header, itemsize: int) -> BlockBytes:
    """Bytes of LoRA branches beside the quantised layers of a denoiser; changes fused into plain layers need none.

    Args: itemsize: of a value in the computation. Raises: CheckpointError if the layers cannot be understood.
    """
    blocks, outside = [0] * _block_count(checkpoint), 0
    for official, change, is_beside in _changes(loras, checkpoint):
        nbytes, block = is_beside * change.numbers * itemsize, BLOCK.search(official)
        if block is None:
            outside += nbytes
        else:
            blocks[int(block[1])] += nbytes
    return BlockBytes(tuple(blocks), outside)


def lora_flops(loras: Iterable[MatchedLora], checkpoint: Header) -> LoraFlops:
    """FLOPs of LoRAs, two for each multiply-add. Raises: CheckpointError as `branch_bytes`."""
    blocks, outside = [0.0] * _block_count(checkpoint), 0.0
    beside: dict[Kind, float] = {"video": 0.0, "audio": 0.0, "text": 0.0}
    for official, change, is_beside in _changes(loras, checkpoint):
        block = BLOCK.search(official)
        if is_beside:
            if rows := _rows(official):
                beside[rows] += _row_flops(change)
        elif block is None:
            outside += _whole_flops(change)
        else:
            blocks[int(block[1])] += _whole_flops(change)
    return LoraFlops(tuple(blocks), outside, RowFlops(**beside))


def _changes(loras: Iterable[MatchedLora], checkpoint: Header) -> Iterator[tuple[str, Change, bool]]:
    """Each change of a denoiser by its official name, and whether its layer is quantised, so that it is a branch."""
    inside = COMPONENTS["transformer"].names_in(checkpoint)
    quantised = {inside[name] for name in inside.keys() & checkpoint.stored.layers.keys()}
    for lora in loras:
        for official, change in lora.changes.items():
            yield official, change, official in quantised


def _block_count(checkpoint: Header) -> int:
    return len(block_bytes(checkpoint, "transformer", 4).blocks)


def _rows(official: str) -> Kind | None:
    for pattern, rows in ROWS:
        if pattern.search(official):
            return rows
    return "video"


def _whole_flops(change: Change) -> float:
    """For computing the matrix of a change: each of its operands that is a product of two factors."""
    return sum(2.0 * prod(change.shape) * (change.rank or 1) for operand in change.operands if len(operand) > 1)


def _row_flops(change: Change) -> float:
    """For one row through a branch: through both factors, or through the whole matrix."""
    return 2.0 * (change.numbers if is_product(change.operands) else prod(change.shape))
