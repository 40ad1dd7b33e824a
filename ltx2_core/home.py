"""The folder of this program's own files: models, caches, the run log."""

from __future__ import annotations

import os
from pathlib import Path

from .paths import given_path

NAME = "ltx2"


def ltx2_home() -> Path:
    """The folder that LTX2_HOME names, else `ltx2` in the user's data folder. It may not exist yet.

    Raises: RequestError if LTX2_HOME cannot be a folder.
    """
    if chosen := os.environ.get("LTX2_HOME"):
        return given_path(chosen, "LTX2_HOME")
    from platformdirs import user_data_path

    return user_data_path(NAME, appauthor=False)
