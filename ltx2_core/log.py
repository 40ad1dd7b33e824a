"""Warnings that are no events of a render: they go to the logger `ltx2`, which the command line shows."""

from __future__ import annotations

import logging
from functools import cache

LOGGER = logging.getLogger("ltx2")


@cache
def warn_once(message: str) -> None:
    """Log a warning, unless this process has logged it before."""
    LOGGER.warning("%s", message)
