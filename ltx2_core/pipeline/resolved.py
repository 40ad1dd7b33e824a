"""A resolved request: the task that is run, and messages about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .outputs import resume_command
from .request import RenderTask, Request
from .resolve.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A resolved task, and messages about it.

    Args: preset: the named set of values, if the user named one on the command line, in a file or in the environment.
    overridden: the values that it overrides in files and in the environment. sources: where each setting came from, as
    text. notes: choices and roundings. warnings: the same, if the result may suffer. advice: about the prompt. plan:
    the planned costs; None if nothing is rendered.
    """

    task: RenderTask
    job_dir: Path
    preset: str | None = None
    overridden: tuple[str, ...] = ()
    skip_existing: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    plan: Plan | None = None

    @property
    def request(self) -> Request:
        return self.task.request

    @property
    def target(self) -> Path:
        return self.task.target

    @property
    def resume_command(self) -> str:
        """The command that resumes the render after a stop."""
        return resume_command(self.job_dir, self.target)

    @property
    def is_done(self) -> bool:
        """Whether the target exists and is to be kept."""
        return self.skip_existing and os.path.lexists(self.target)
