"""Guidance: which calls of the model an evaluation needs, and how their clean estimates are mixed.

Importing this module does not import torch, so that a plan can count passes without it.
Source: docs/reference/sampling.md, "Guidance".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import methodcaller
from typing import TYPE_CHECKING

from ..types import Streams

if TYPE_CHECKING:
    from torch import Tensor


class PassKind(StrEnum):
    """One call of the model, in the order in which they run."""

    COND = "cond"  # the prompt
    UNCOND = "uncond"  # the negative prompt
    PERTURBED = "perturbed"  # the prompt, without self-attention in some blocks
    ISOLATED = "isolated"  # the prompt, without attention between the streams


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidanceScales:
    """The guidance of one stream; the defaults disable everything.

    Args: st: towards the prompt and away from the negative one. sm: towards the other stream. Both are scales with 1 as
    neutral: the weight of the difference is the scale minus one. stg: weight, neutral at 0, of the difference to a pass
    without self-attention in the `stg_blocks`. rescale: how far the standard deviation is rescaled to that of the
    prompt's pass, 0 to 1. skip_step: the number of successive evaluations that repeat the last result.
    """

    st: float = 1.0
    sm: float = 1.0
    stg: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    rescale: float = 0.0
    skip_step: int = 0

    @property
    def weights(self) -> dict[PassKind, float]:
        """The weight of the difference between the prompt's pass and each other pass."""
        return {PassKind.UNCOND: self.st - 1, PassKind.PERTURBED: self.stg, PassKind.ISOLATED: self.sm - 1}

    def needs(self, kind: PassKind) -> bool:
        """Whether this stream uses a pass."""
        return kind is PassKind.COND or abs(self.weights[kind]) > 1e-9

    def perturbed_blocks(self, kind: PassKind) -> tuple[int, ...]:
        """Blocks in which this stream skips self-attention in a pass."""
        return self.stg_blocks if kind is PassKind.PERTURBED and self.needs(kind) else ()

    def runs_at(self, step: int) -> bool:
        """Whether this stream is evaluated at a step, from 0, instead of repeating its last result."""
        return step % (self.skip_step + 1) == 0


UNGUIDED = Streams(GuidanceScales(), GuidanceScales())


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidancePass:
    """One call of the model on both streams.

    Args: enabled: streams whose result is used; the others do not change, and can still be attended to. perturbed:
    blocks in which each stream skips self-attention.
    """

    kind: PassKind
    enabled: Streams[bool]
    perturbed: Streams[tuple[int, ...]]

    @property
    def is_isolated(self) -> bool:
        """Whether cross-attention between the streams is left out, in all blocks."""
        return self.kind is PassKind.ISOLATED


@dataclass(frozen=True, slots=True)
class Contexts:
    """The text features of one stream (b l d), for the prompt and, where it is guided by one, the negative prompt."""

    positive: Tensor
    negative: Tensor | None = None

    def of(self, kind: PassKind) -> Tensor:
        """The features for a pass."""
        return self.negative if kind is PassKind.UNCOND and self.negative is not None else self.positive


def plan_passes(scales: Streams[GuidanceScales], step: int) -> tuple[GuidancePass, ...]:
    """The calls of the model at a step (from 0): those that any stream needs. Empty if all streams skip the step."""
    enabled = scales.map(methodcaller("runs_at", step))
    if not any(enabled):
        return ()
    return tuple(
        GuidancePass(kind=kind, enabled=enabled, perturbed=scales.map(methodcaller("perturbed_blocks", kind)))
        for kind in PassKind
        if any(scales.map(methodcaller("needs", kind)))
    )


def share_passes(plan: Sequence[GuidancePass], parts: int) -> list[list[int]]:
    """The passes of each of so many groups, by their index in the plan; there are no more groups than passes.

    The perturbed pass stays with that of the prompt unless it has a group of its own, because it shares blocks with it.
    """
    kinds = [one.kind for one in plan]
    together = [i for i, kind in enumerate(kinds) if kind in (PassKind.COND, PassKind.PERTURBED)]
    if parts == len(plan):
        return [[i] for i in range(parts)]
    if parts == 1:
        return [[*range(len(plan))]]
    others = [i for i in range(len(plan)) if i not in together]
    return [together, *(others[part :: parts - 1] for part in range(parts - 1))]


def guide(estimates: Mapping[PassKind, Tensor], scales: GuidanceScales) -> Tensor:
    """Mix the clean estimates (b n c) of one stream, from the passes that it needs.

    It works on clean estimates, not velocities: with rescaling, or with conditioned tokens, the two differ. The
    standard deviation is computed over everything in the tensor, including appended tokens.
    """
    cond = estimates[PassKind.COND].float()
    guided = cond
    for kind, weight in scales.weights.items():
        if scales.needs(kind):
            guided = guided + weight * (cond - estimates[kind].float())
    if scales.rescale:
        guided = guided * (scales.rescale * (cond.std() / guided.std()) + (1 - scales.rescale))
    return guided.to(estimates[PassKind.COND].dtype)
