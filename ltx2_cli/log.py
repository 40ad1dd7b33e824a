"""Show core's log messages on the display of the command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from .display import Display


class MessageRoute(logging.Handler):
    """Shows logged warnings like the display's own."""

    def __init__(self, show: Display) -> None:
        super().__init__(logging.WARNING)
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        self.show.warn(record.getMessage())


@contextmanager
def routed(show: Display) -> Iterator[None]:
    """In this block, a display shows the warnings that core logs, and nothing else prints them."""
    logger, handler = logging.getLogger("ltx2"), MessageRoute(show)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
