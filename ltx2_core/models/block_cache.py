"""First-block caching: if the first block's output has hardly changed, the results of the other blocks are reused.

Source: docs/reference/sampling.md, "Cached steps".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..types import Streams
from .passes import Pass

ROWS = 4096  # tokens that are compared at a time

Hidden = Mapping[int, Streams[Tensor]]  # hidden states (b n d), by the number of the pass


@dataclass(kw_only=True)
class BlockCache:
    """What the blocks added to the hidden states of each pass and stream, in the last complete evaluation.

    Args: bound: the maximum relative change of the first block's addition for which the other blocks are skipped: the
    largest over all passes, streams and samples. evaluations, skipped: the number of evaluations, and of those that
    skipped blocks. has_skipped: whether the last one did.
    """

    bound: float
    evaluations: int = 0
    skipped: int = 0
    has_skipped: bool = False
    _kind: object = field(default=None, init=False)
    _begun: dict[int, Streams[Tensor]] = field(default_factory=dict, init=False)  # before and after the first block
    _first: dict[int, Streams[Tensor]] = field(default_factory=dict, init=False)  # residual of the first block
    _rest: dict[int, Streams[Tensor]] = field(default_factory=dict, init=False)  # residual of all other blocks

    def begin(self, kind: object) -> None:
        """Start an evaluation. kind: only evaluations of the same kind are compared."""
        if kind != self._kind:
            self._first, self._rest, self._kind = {}, {}, kind

    def note_input(self, number: int, hidden: Streams[Tensor]) -> None:
        """Keep the hidden states of a pass before the first block, which may change them in place."""
        self._begun[number] = hidden.map(torch.clone)

    def skips(self, hidden: Hidden) -> bool:
        """Whether the other blocks are skipped. hidden: those of the passes after the first block."""
        added = {j: one.map(_subtract_into, self._begun.pop(j)) for j, one in hidden.items()}
        self.evaluations += 1
        self.has_skipped = self._rest != {} and self.is_close(added)
        self.skipped += self.has_skipped
        if not self.has_skipped:
            self._first, self._rest = added, {}
            self._begun = {j: one.map(torch.clone) for j, one in hidden.items()}
        return self.has_skipped

    def is_close(self, added: Hidden) -> bool:
        """Whether the first block's addition is within the bound of its last one."""
        changes: list[Tensor] = []
        for j, one in added.items():
            one.map(lambda new, old: changes.append(relative_change(new, old)), self._first[j])
        return torch.cat(changes).max().item() <= self.bound

    def filled(self, passes: Sequence[Pass], hidden: Hidden) -> dict[int, Streams[Tensor]]:
        """The hidden states after the last block of all passes, from those after the first one and the cache."""
        return {j: hidden[_origin(j, one, hidden)].map(torch.add, self._rest[j]) for j, one in enumerate(passes)}

    def keep(self, passes: Sequence[Pass], hidden: Hidden) -> None:
        """Cache what the other blocks added, given the hidden states of all passes after the last one."""
        origins = {j: _origin(j, one, self._begun) for j, one in enumerate(passes)}
        followers = {j: origin for j, origin in origins.items() if j != origin}
        rest = {j: hidden[j].map(torch.sub, self._begun[origin]) for j, origin in followers.items()}
        rest |= {j: hidden[j].map(_subtract_into, self._begun[j]) for j in origins if j not in followers}
        self._rest, self._begun = rest, {}


def relative_change(new: Tensor, old: Tensor) -> Tensor:
    """The relative difference of each sample of (b n d), by the sums of magnitudes: (b) float32. Zero to zero is 0."""
    changed, before = new.new_zeros(new.shape[0], dtype=torch.float32), new.new_zeros(new.shape[0], dtype=torch.float32)
    for one, other in zip(new.split(ROWS, dim=1), old.split(ROWS, dim=1), strict=True):
        changed += torch.linalg.vector_norm(one - other, 1, dim=(1, 2), dtype=torch.float32)
        before += torch.linalg.vector_norm(other, 1, dim=(1, 2), dtype=torch.float32)
    return changed / before.clamp(min=torch.finfo(torch.float32).tiny)


def _origin(number: int, one: Pass, hidden: Hidden) -> int:
    """The pass whose hidden states after the first block apply to this one: itself, or the pass that it follows."""
    if number in hidden:
        return number
    assert one.follows is not None
    return one.follows


def _subtract_into(x: Tensor, y: Tensor) -> Tensor:
    """The difference of two tensors, in the memory of the second."""
    return torch.sub(x, y, out=y)
