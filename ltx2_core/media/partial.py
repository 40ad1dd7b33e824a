"""A file gets its name when it is complete and checked, never before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..disk import disk_errors, hidden_file, require_free, sync
from ..errors import OutputError, RequestError


@contextmanager
def partial_file(
    target: Path, *, overwrite: bool, before_rename: Callable[[Path], None] = lambda partial: None
) -> Iterator[Path]:
    """Yield a hidden path beside the target; the file is renamed to the target when the block ends.

    After a failed self-check (OutputError) the hidden file stays, and the error names it; after any other exception in
    the block it is removed. A link in the place of the target is replaced, not the file that it points to.

    Args: before_rename: called with the complete hidden file.
    Raises: RequestError if the target cannot be a file, or exists and may not be replaced; this is checked before the
    block and once more after it. StorageError for a disk error.
    """
    if target.is_dir():
        raise RequestError(f"{target} cannot be written", "it is a folder")
    if not target.parent.is_dir():
        raise RequestError(f"{target} cannot be written", f"there is no folder {target.parent}")
    if not overwrite:
        require_free(target)
    with disk_errors(target):
        partial = hidden_file(target)
        try:
            yield partial
            sync(partial)
        except OutputError as error:
            if partial.stat().st_size:
                error.hint = f"what was written is kept as {partial}"
            else:
                partial.unlink()
            raise
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if not overwrite:
            require_free(target, f"it appeared in the meantime; the new file is kept as {partial}")
        before_rename(partial)
        partial.replace(target)
        sync(target.parent)
