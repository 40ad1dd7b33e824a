"""A finished render, written again from its latents: what the flags say about the output holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...disk import require_free
from ...errors import RequestError
from ..job import Job
from ..request import OutputSettings
from .refusals import refuse, without_effect
from .settings import COMMAND_LINE, Settings, check_layer
from .target import require_apart, target_of


def rewritten(job: Job, flags: Mapping[str, Any]) -> Job:
    """The same render, to be written again: what the flags say about the output holds, and the latents stay.

    Raises: RequestError if its latents are not finished, for a flag that does not fit, and if the target exists.
    """
    task, request = job.task, job.task.request
    if job.finished_stages < len(request.recipe.stages):
        raise RequestError(f"{job.folder} has no finished latents", hint=f"ltx2 resume {job.folder}")
    given = check_layer(COMMAND_LINE, flags)
    refuse(given, without_effect(request.video, request.audio))
    changed = {name: value for name, value in given.items() if name in OutputSettings.model_fields}
    changed = {"overwrite": False} | changed | {"keep_latents": True}
    output = task.output.model_copy(update=changed)
    _ = output.encoding  # refuses a crf that the codec does not have
    target = task.target
    if "output" in given:
        suffix = target.suffix if request.video == "keep" else None
        target = target_of(Settings(**given), request, suffix)
    require_apart(target, task.inputs.values())
    if not output.overwrite:
        require_free(target)
    return replace(job, task=task.model_copy(update={"output": output, "target": target}))
