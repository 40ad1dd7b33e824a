"""Bring models to a device one after another: a model is there while it is used, and gone before the next comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

M = TypeVar("M")


@contextmanager
def resident(load: Callable[[], M], device: torch.device) -> Iterator[M]:
    """Load a model and let go of it afterwards, whatever happens, with the device memory that it took."""
    model = load()
    try:
        yield model
    finally:
        del model
        if device.type == "cuda":
            torch.cuda.empty_cache()
