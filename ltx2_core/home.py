"""The folder of this program's own files: models, caches, the run log."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .errors import RequestError
from .paths import given_path

NAME = "ltx2"


def ltx2_home() -> Path:
    """The folder that LTX2_HOME names, else `ltx2` in the user's data folder. It may not exist yet.

    Raises: RequestError if LTX2_HOME cannot be a folder, and for a user without a home folder.
    """
    if chosen := os.environ.get("LTX2_HOME"):
        return given_path(chosen, "LTX2_HOME")
    from platformdirs import user_data_path

    with suppress(RuntimeError):  # of a user without a home folder; earlier versions of platformdirs leave the ~
        path = user_data_path(NAME, appauthor=False)
        if not str(path).startswith("~"):
            return path
    why = "it lies in the home folder, and this user has none"
    raise RequestError("the folder of this program is not known", why, "export LTX2_HOME=FOLDER")
