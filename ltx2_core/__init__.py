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
    from .disk import disk_failure, disk_reason, show_bytes
    from .errors import (
        AccessError,
        BatchError,
        CheckpointError,
        DoesNotFitError,
        JobsError,
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
    from .hub.download import (
        FileProgress,
        Listener,
        fetch_files,
        link_files,
        look_up,
        needs_hub,
        verify_again,
        verify_found,
    )
    from .hub.installed import installed_names, leftovers, plan_removal, remove_files, size_of
    from .hub.ledger import remember_accepted
    from .hub.library import Library
    from .hub.registry import Reference, licences, read_catalogue
    from .hub.remote import Hub
    from .hub.wanted import DownloadPlan, WantedFile, plan_download
    from .media.board import Row
    from .media.sync import Sync
    from .media.terminal import escape_sequence, graphics_protocol
    from .paths import given_path, in_shell, input_path
    from .pipeline.batch.grid import draw_grid
    from .pipeline.batch.jobs import Batch, BatchJob, JobLine
    from .pipeline.batch.layout import grid_layout
    from .pipeline.batch.lines import job_of_line
    from .pipeline.batch.options import BatchOptions
    from .pipeline.batch.outcome import BatchWatch, Outcome
    from .pipeline.batch.record import stored_seed
    from .pipeline.batch.run import BatchEnd, run_batch
    from .pipeline.batch.settle import read_batch, settle_line
    from .pipeline.batch.unsettled import AskedBatch
    from .pipeline.batch.worker import Worker
    from .pipeline.convert.plan import Conversion, plan_conversion
    from .pipeline.convert.run import Converted, convert
    from .pipeline.describe.describe import describe
    from .pipeline.doctor.devices import try_devices
    from .pipeline.doctor.facts import diagnose
    from .pipeline.doctor.proof import try_model
    from .pipeline.doctor.report import Diagnosis
    from .pipeline.doctor.tune import tune
    from .pipeline.events import (
        LengthChosen,
        Message,
        PhaseDone,
        PhaseStarted,
        PreviewShown,
        PromptRewritten,
        StepDone,
        StoppedError,
        Watch,
    )
    from .pipeline.job import Job
    from .pipeline.remains import remove_remains
    from .pipeline.render.models import Models
    from .pipeline.render.run import Interrupted, Result, enhance, resume, run
    from .pipeline.report.write import write_batch_report, write_clip_report, write_report
    from .pipeline.rerun.recipe import FoundRecipe, read_recipe
    from .pipeline.rerun.rerun import Rerun, parse_changes, resolve_again
    from .pipeline.resolve.explain import choices_text, default_text
    from .pipeline.resolve.library import model_tables, own_library
    from .pipeline.resolve.plan import Plan, gigabytes
    from .pipeline.resolve.presets import catalogue
    from .pipeline.resolve.prompt import read_prompt
    from .pipeline.resolve.resolve import Planning, plan_render, resolve
    from .pipeline.resolve.rewrite import continued, rewritten
    from .pipeline.resolve.setting_sources import Gathered, gather, own_presets
    from .pipeline.resolve.tuning import write_tuning
    from .pipeline.resolved import Resolved
    from .pipeline.synchrony import sync_of
    from .pipeline.values import counted, show_fps
    from .text.encode import encode_prompts
    from .tiles import TilePlan
    from .tiling.video import decode_video


__all__ = [
    "AccessError",
    "AskedBatch",
    "Batch",
    "BatchEnd",
    "BatchError",
    "BatchJob",
    "BatchOptions",
    "BatchWatch",
    "CheckpointError",
    "Conversion",
    "Converted",
    "Diagnosis",
    "DoesNotFitError",
    "DownloadPlan",
    "FileKind",
    "FileProgress",
    "FoundRecipe",
    "Gathered",
    "Header",
    "Hub",
    "Interrupted",
    "Job",
    "JobLine",
    "JobsError",
    "LTX2Error",
    "LengthChosen",
    "Library",
    "Listener",
    "MediaError",
    "Message",
    "Models",
    "OutOfMemoryError",
    "Outcome",
    "OutputError",
    "PhaseDone",
    "PhaseStarted",
    "Plan",
    "Planning",
    "PreviewShown",
    "PromptRewritten",
    "Reference",
    "RequestError",
    "Rerun",
    "Resolved",
    "Result",
    "Row",
    "StepDone",
    "StoppedError",
    "StorageError",
    "Sync",
    "TargetTakenError",
    "TilePlan",
    "VideoGrid",
    "WantedFile",
    "Watch",
    "Worker",
    "catalogue",
    "choices_text",
    "classify",
    "continued",
    "convert",
    "counted",
    "decode_video",
    "default_text",
    "describe",
    "diagnose",
    "disk_failure",
    "disk_reason",
    "draw_grid",
    "effective_config",
    "encode_prompts",
    "enhance",
    "escape_sequence",
    "fetch_files",
    "gather",
    "generation",
    "gigabytes",
    "given_path",
    "graphics_protocol",
    "grid_layout",
    "in_shell",
    "input_path",
    "installed_names",
    "job_of_line",
    "leftovers",
    "licences",
    "link_files",
    "load_component",
    "look_up",
    "ltx2_home",
    "model_tables",
    "needs_hub",
    "own_library",
    "own_presets",
    "parse_changes",
    "plan_conversion",
    "plan_download",
    "plan_removal",
    "plan_render",
    "precision",
    "read_batch",
    "read_catalogue",
    "read_header",
    "read_prompt",
    "read_recipe",
    "remember_accepted",
    "remove_files",
    "remove_remains",
    "resolve",
    "resolve_again",
    "resume",
    "rewritten",
    "run",
    "run_batch",
    "settle_line",
    "show_bytes",
    "show_fps",
    "size_of",
    "stored_seed",
    "sync_of",
    "try_devices",
    "try_model",
    "tune",
    "verify_again",
    "verify_found",
    "write_batch_report",
    "write_clip_report",
    "write_report",
    "write_tuning",
]

_HOMES = {
    "hub.download": (
        "FileProgress",
        "Listener",
        "fetch_files",
        "link_files",
        "look_up",
        "needs_hub",
        "verify_again",
        "verify_found",
    ),
    "hub.installed": (
        "installed_names",
        "leftovers",
        "plan_removal",
        "remove_files",
        "size_of",
    ),
    "hub.ledger": ("remember_accepted",),
    "hub.library": ("Library",),
    "hub.registry": (
        "Reference",
        "licences",
        "read_catalogue",
    ),
    "hub.remote": ("Hub",),
    "hub.wanted": (
        "DownloadPlan",
        "WantedFile",
        "plan_download",
    ),
    "media.board": ("Row",),
    "media.sync": ("Sync",),
    "media.terminal": ("escape_sequence", "graphics_protocol"),
    "disk": ("disk_failure", "disk_reason", "show_bytes"),
    "pipeline.resolve.library": (
        "model_tables",
        "own_library",
    ),
    "checkpoint": ("load_component",),
    "config.released": ("effective_config",),
    "errors": (
        "AccessError",
        "BatchError",
        "CheckpointError",
        "DoesNotFitError",
        "JobsError",
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
    "paths": ("given_path", "in_shell", "input_path"),
    "pipeline.batch.unsettled": ("AskedBatch",),
    "pipeline.batch.grid": ("draw_grid",),
    "pipeline.batch.jobs": ("Batch", "BatchJob", "JobLine"),
    "pipeline.batch.layout": ("grid_layout",),
    "pipeline.batch.options": ("BatchOptions",),
    "pipeline.batch.lines": ("job_of_line",),
    "pipeline.batch.outcome": ("BatchWatch", "Outcome"),
    "pipeline.batch.record": ("stored_seed",),
    "pipeline.batch.run": ("BatchEnd", "run_batch"),
    "pipeline.batch.settle": ("read_batch", "settle_line"),
    "pipeline.batch.worker": ("Worker",),
    "pipeline.convert.plan": ("Conversion", "plan_conversion"),
    "pipeline.convert.run": ("Converted", "convert"),
    "pipeline.describe.describe": ("describe",),
    "pipeline.doctor.devices": ("try_devices",),
    "pipeline.doctor.facts": ("diagnose",),
    "pipeline.doctor.proof": ("try_model",),
    "pipeline.doctor.report": ("Diagnosis",),
    "pipeline.doctor.tune": ("tune",),
    "pipeline.events": (
        "PhaseDone",
        "PhaseStarted",
        "PreviewShown",
        "StepDone",
        "StoppedError",
        "LengthChosen",
        "PromptRewritten",
        "Message",
        "Watch",
    ),
    "pipeline.job": ("Job",),
    "pipeline.resolve.setting_sources": ("Gathered", "gather", "own_presets"),
    "pipeline.resolve.presets": ("catalogue",),
    "pipeline.resolve.explain": ("choices_text", "default_text"),
    "pipeline.resolve.prompt": ("read_prompt",),
    "pipeline.resolve.plan": ("Plan", "gigabytes"),
    "pipeline.resolve.resolve": ("Planning", "plan_render", "resolve"),
    "pipeline.remains": ("remove_remains",),
    "pipeline.resolved": ("Resolved",),
    "pipeline.rerun.recipe": ("FoundRecipe", "read_recipe"),
    "pipeline.rerun.rerun": ("Rerun", "parse_changes", "resolve_again"),
    "pipeline.resolve.rewrite": ("continued", "rewritten"),
    "pipeline.render.models": ("Models",),
    "pipeline.render.run": ("Interrupted", "Result", "enhance", "resume", "run"),
    "pipeline.resolve.tuning": ("write_tuning",),
    "pipeline.report.write": ("write_batch_report", "write_clip_report", "write_report"),
    "pipeline.synchrony": ("sync_of",),
    "pipeline.values": ("counted", "show_fps"),
    "text.encode": ("encode_prompts",),
    "tiles": ("TilePlan",),
    "tiling.video": ("decode_video",),
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
