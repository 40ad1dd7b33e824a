"""LTX-2: video with synchronised sound from text, images, video and sound.

The names in `__all__` are the public ones. Each is imported from its module when it is first used, so that importing
this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import load_component
    from .config.released import effective_config
    from .errors import (
        AccessError,
        BatchError,
        CheckpointError,
        DoesNotFitError,
        LTX2Error,
        MediaError,
        OutOfMemoryError,
        OutputError,
        RequestError,
        StorageError,
    )
    from .grids import VideoGrid
    from .headers import FileKind, Header, classify, generation, precision, read_header
    from .text.encode import encode_prompts
    from .tiles import TilePlan
    from .tiling import decode_video

__version__ = "0.1.0"

__all__ = [
    "AccessError",
    "BatchError",
    "CheckpointError",
    "DoesNotFitError",
    "FileKind",
    "Header",
    "LTX2Error",
    "MediaError",
    "OutOfMemoryError",
    "OutputError",
    "RequestError",
    "StorageError",
    "TilePlan",
    "VideoGrid",
    "classify",
    "decode_video",
    "effective_config",
    "encode_prompts",
    "generation",
    "load_component",
    "precision",
    "read_header",
]

_HOMES = {
    "checkpoint": ("load_component",),
    "config.released": ("effective_config",),
    "errors": (
        "AccessError",
        "BatchError",
        "CheckpointError",
        "DoesNotFitError",
        "LTX2Error",
        "MediaError",
        "OutOfMemoryError",
        "OutputError",
        "RequestError",
        "StorageError",
    ),
    "grids": ("VideoGrid",),
    "headers": ("FileKind", "Header", "classify", "generation", "precision", "read_header"),
    "text.encode": ("encode_prompts",),
    "tiles": ("TilePlan",),
    "tiling": ("decode_video",),
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
