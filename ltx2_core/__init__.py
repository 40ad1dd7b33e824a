"""LTX-2: video with synchronised audio from text, images, video and audio.

The names in `__all__` are the public ones. Each is imported from its module when it is first used, so that importing
this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

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
        TargetTakenError,
    )
    from .grids import VideoGrid
    from .headers import FileKind, Header, classify, generation, precision, read_header
    from .home import ltx2_home
    from .paths import given_path
    from .pipeline.describe import describe
    from .pipeline.events import Message, PhaseDone, PhaseStarted, StepDone, Watch
    from .pipeline.job import Job
    from .pipeline.render.models import Models
    from .pipeline.render.run import Interrupted, Result, resume, run
    from .pipeline.request import Resolved
    from .pipeline.resolve.explain import choices_text, default_text
    from .pipeline.resolve.presets import catalogue
    from .pipeline.resolve.prompt import read_prompt
    from .pipeline.resolve.resolve import resolve
    from .pipeline.resolve.rewrite import continued, rewritten
    from .pipeline.resolve.setting_sources import Gathered, gather, own_presets
    from .pipeline.values import show_fps
    from .text.encode import encode_prompts
    from .tiles import TilePlan
    from .tiling import decode_video


__all__ = [
    "AccessError",
    "BatchError",
    "CheckpointError",
    "DoesNotFitError",
    "FileKind",
    "Gathered",
    "Header",
    "Interrupted",
    "Job",
    "LTX2Error",
    "MediaError",
    "Message",
    "Models",
    "OutOfMemoryError",
    "OutputError",
    "PhaseDone",
    "PhaseStarted",
    "RequestError",
    "Resolved",
    "Result",
    "StepDone",
    "StorageError",
    "TargetTakenError",
    "TilePlan",
    "VideoGrid",
    "Watch",
    "catalogue",
    "choices_text",
    "classify",
    "continued",
    "decode_video",
    "default_text",
    "describe",
    "effective_config",
    "encode_prompts",
    "gather",
    "generation",
    "given_path",
    "load_component",
    "ltx2_home",
    "own_presets",
    "precision",
    "read_header",
    "read_prompt",
    "resolve",
    "resume",
    "rewritten",
    "run",
    "show_fps",
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
        "TargetTakenError",
    ),
    "grids": ("VideoGrid",),
    "headers": ("FileKind", "Header", "classify", "generation", "precision", "read_header"),
    "home": ("ltx2_home",),
    "paths": ("given_path",),
    "pipeline.describe": ("describe",),
    "pipeline.events": ("PhaseDone", "PhaseStarted", "StepDone", "Message", "Watch"),
    "pipeline.job": ("Job",),
    "pipeline.resolve.setting_sources": ("Gathered", "gather", "own_presets"),
    "pipeline.resolve.presets": ("catalogue",),
    "pipeline.request": ("Resolved",),
    "pipeline.resolve.explain": ("choices_text", "default_text"),
    "pipeline.resolve.prompt": ("read_prompt",),
    "pipeline.resolve.resolve": ("resolve",),
    "pipeline.resolve.rewrite": ("continued", "rewritten"),
    "pipeline.render.models": ("Models",),
    "pipeline.render.run": ("Interrupted", "Result", "resume", "run"),
    "pipeline.values": ("show_fps",),
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
