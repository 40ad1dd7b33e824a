"""Jobs that name the same files wherever they are rendered: their relative paths are joined to the folder in which they
were written.

Source: docs/batch.md, "Drafts and picks".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...components import ROLES
from ...hub.registry import read_catalogue
from ..resolve.edits import NO_CONTROL

PATHS = (*ROLES, "input", "image", "ref", "voice_ref", "enhancer", "model_folders")
NAMES_OR_PATHS = ("model", "lora", "control")  # a name wins over a path


def rooted(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The keys of a job, with the paths of the files that it reads joined to a folder if they are relative.

    Everything behind a path, such as the time of an image, stays behind it.
    """
    catalogue = read_catalogue()
    names = {*catalogue.models, *catalogue.controls, NO_CONTROL}

    def joined(key: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [joined(key, one) for one in value]
        is_path = isinstance(value, str) and not value.startswith("~")
        if key in NAMES_OR_PATHS and {str(value).lower(), str(value).rpartition(":")[0].lower()} & names:
            is_path = False
        return str(folder / value) if is_path else value

    return {key: joined(key, value) if key in (*PATHS, *NAMES_OR_PATHS) else value for key, value in job.items()}
