"""The command `ltx2`, and `python -m ltx2_cli`: Ctrl-C ends it without a traceback from the start."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Load the command line, which takes a moment, and run it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + signal.SIGINT))
    from .app import main as run

    run()


if __name__ == "__main__":
    main()
