"""What killed processes have left beside a result."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from ..disk import remove_leftovers
from ..errors import StorageError, TargetTakenError
from ..lock import locked
from .resolved import Resolved


def remove_remains(resolved: Resolved, further: Sequence[Path] = ()) -> None:
    """Remove the lock files, the incomplete files and the empty job folder that killed processes have left beside a
    result. Without a lock file, or while another process is working on the result, nothing is done.

    Args: further: paths that are locked before the target.
    """
    locks = (*further, resolved.target, resolved.job_dir)
    with suppress(TargetTakenError, StorageError, OSError), ExitStack() as stack:  # the result is whole without this
        if not any(path.with_name(f".{path.name}.lock").exists() for path in locks):
            return
        for path in locks:
            stack.enter_context(locked(path))
        for path in resolved.task.results:
            remove_leftovers(path)
        resolved.job_dir.rmdir()  # fails if it contains anything
