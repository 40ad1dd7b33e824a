"""Where this program keeps what it makes for itself: models, caches, the run log."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .paths import given_path


def ltx2_home() -> Path:
    """The folder that LTX2_HOME names, else `ltx2` in the user's data folder. It may not exist yet.

    Raises: RequestError if LTX2_HOME names what cannot be a folder.
    """
    if chosen := os.environ.get("LTX2_HOME"):
        return given_path(chosen, "LTX2_HOME")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "ltx2"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "ltx2"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "ltx2"
