"""Process many tokens in chunks of rows, so that intermediate results never exist for all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain

from torch import Tensor, nn

ALL_TOKENS = slice(None)


@dataclass(frozen=True, slots=True)
class Chunks:
    """How the denoiser processes its tokens.

    Args: tokens: how many at a time; a smaller stream is processed at once. keeps_tables: whether the rotary tables are
    computed once for all tokens, or again for every chunk, which saves memory and takes time.
    """

    tokens: int = sys.maxsize
    keeps_tables: bool = True

    def of(self, count: int) -> list[slice]:
        """The slices of so many tokens."""
        if count <= self.tokens:
            return [ALL_TOKENS]
        return [slice(start, min(start + self.tokens, count)) for start in range(0, count, self.tokens)]


WHOLE = Chunks()
Rows = Callable[[Tensor, slice], Tensor]  # maps rows (b m d) and their place to a result


def add_in_chunks(x: Tensor, chunks: Chunks, change: Rows) -> Tensor:
    """The sum of x (b n d) and a function of its rows.

    With more than one chunk, x is overwritten with the sum, so no other code may use it.
    Args: change: from the rows (b m d) and their slice to what is added to them.
    """
    parts = chunks.of(x.shape[1])
    if len(parts) == 1:
        return x + change(x, ALL_TOKENS)
    for rows in parts:
        x[:, rows] += change(x[:, rows], rows)
    return x


@contextmanager
def held_weights(x: Tensor, chunks: Chunks, *modules: nn.Module) -> Iterator[None]:
    """Let layers keep the weight that they would otherwise decode again for every chunk of x (b n d).

    These are layers with a context manager `held`; a model without quantised layers has none.
    """
    with ExitStack() as stack:
        if len(chunks.of(x.shape[1])) > 1:
            for layer in chain.from_iterable(module.modules() for module in modules):
                held = getattr(layer, "held", None)
                if held is not None:
                    stack.enter_context(held())
        yield
