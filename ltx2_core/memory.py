"""Bring models to a device one after another: a model is there while it is used, and gone before the next comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

M = TypeVar("M")


@contextmanager
def resident(load: Callable[[], M], device: torch.device) -> Iterator[M]:
    """Load a model, or a tuple of them, and empty it afterwards, whatever happens.

    Emptying does not wait for the last reference: a name that a caller still holds keeps no weights.
    """
    model = load()
    try:
        yield model
    finally:
        _empty(model)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _empty(model: Any) -> None:
    if isinstance(model, tuple):
        for one in model:
            _empty(one)
    elif isinstance(model, nn.Module):
        model.to("meta")
