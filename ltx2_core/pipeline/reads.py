"""The files that a render reads, and whether they have changed. Without torch."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import StorageError, shown
from ..identity import Identity, identity
from ..text.enhancers import find_enhancer
from ..text.files import find_encoder
from .job import Job
from .parts import DURATION_HEAD, ModelHeaders
from .request import ENHANCER, RenderTask

LONGEST_PATH = 400  # longest path in a message


def identities(task: RenderTask) -> dict[str, Identity]:
    """The identity of each file that a render reads, by role; for a folder, those of its files by their names too."""
    return {role: identity(path) for role, path in files_of(task, ModelHeaders.of(task.files)).items()}


def require_unchanged(job: Job) -> ModelHeaders:
    """The headers of a job's model. Raises: StorageError that names a missing or changed file."""
    headers = ModelHeaders.of(job.task.files)
    for role, path in files_of(job.task, headers).items():
        if not os.path.exists(path):  # noqa: PTH110 (a path that no disk can hold is not there either)
            raise StorageError(
                f"{shown(str(path), LONGEST_PATH)} does not exist any more", hint="put it back, or render again"
            )
        if role not in job.identities or not job.identities[role].is_of(path):
            raise StorageError(f"{path} has changed since this render began", hint="put it back, or render again")
    return headers


def files_of(task: RenderTask, headers: ModelHeaders) -> dict[str, Path]:
    """The files that a render reads, by role; those of language models by role and name."""
    roles = [role for role in (*headers.roles, *task.request.recipe.needs) if role != "text_encoder"]
    if task.request.auto_length is not None:
        roles.append(headers.role(DURATION_HEAD))
    encoder = find_encoder(task.files.require_file("text_encoder"))
    files = {role: task.files.require_file(role) for role in roles}
    files |= {f"text_encoder/{path.name}": path for path in encoder.paths}
    if task.request.enhances and ENHANCER in task.inputs:  # it is not needed after the prompt has been rewritten
        enhancer = find_enhancer(task.inputs[ENHANCER])
        files |= {f"{ENHANCER}/{path.name}": path for path in enhancer.files.paths}
    return files | {role: path for role, path in task.inputs.items() if role != ENHANCER}
