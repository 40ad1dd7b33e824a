"""Models on a device: each is loaded when it is used, and kept for later as long as there is room for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

M = TypeVar("M")


@dataclass(slots=True)
class _Loaded:
    """A loaded model. uses: the number of `with` blocks that use it."""

    model: Any
    nbytes: int
    uses: int = 0


class Residency:
    """The loaded models, by a key that identifies them.

    Before a model is loaded, the least recently used ones are unloaded until it fits beside the others; a model in use
    stays. A model that is too large by itself is loaded anyway, and unloaded as soon as it has been used.
    """

    def __init__(self, device: torch.device, budget_bytes: int) -> None:
        self.device, self.budget_bytes = device, budget_bytes
        self._loaded: dict[Hashable, _Loaded] = {}  # least recently used first

    @property
    def keys(self) -> frozenset[Hashable]:
        """The keys of the loaded models."""
        return frozenset(self._loaded)

    @contextmanager
    def use(self, key: Hashable, nbytes: int, load: Callable[[], M]) -> Iterator[M]:
        """A model, or a tuple of them, for the length of a `with` block.

        Args: nbytes: of its weights on the device; it may differ at the next use.
        """
        self._make_room(key, nbytes)
        entry = self._loaded[key] = self._loaded.pop(key, None) or _Loaded(load(), nbytes)
        if not entry.uses:
            entry.nbytes = nbytes
        entry.uses += 1
        try:
            yield entry.model
        except BaseException:
            entry.nbytes = self.budget_bytes + 1  # its state is unknown, so it is not used again
            raise
        finally:
            entry.uses -= 1
            if entry.nbytes > self.budget_bytes and not entry.uses:
                self.drop(key)

    def has_room_for(self, key: Hashable, nbytes: int) -> bool:
        """Whether a model of this size fits beside those that are in use."""
        used = sum(one.nbytes for other, one in self._loaded.items() if one.uses and other != key)
        return used + nbytes <= self.budget_bytes

    def drop(self, key: Hashable, *, if_there: bool = False) -> None:
        """Unload a model. It is emptied, so that a reference that a caller still has keeps no weights."""
        if if_there and key not in self._loaded:
            return
        _empty(self._loaded.pop(key).model)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def clear(self) -> None:
        """Let all models go."""
        for key in list(self._loaded):
            self.drop(key)

    def _make_room(self, wanted: Hashable, nbytes: int) -> None:
        """Unload others until a model of this size fits."""
        for key, entry in list(self._loaded.items()):
            if sum(one.nbytes for key, one in self._loaded.items() if key != wanted) + nbytes <= self.budget_bytes:
                return
            if not entry.uses and key != wanted:
                self.drop(key)


def _empty(model: Any) -> None:
    if isinstance(model, tuple):
        for one in model:
            _empty(one)
    elif isinstance(model, nn.Module):
        model.to("meta")
