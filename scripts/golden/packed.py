"""Golden files are stored plain or compressed with gzip; checks read them decompressed."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path


def pack(path: Path) -> None:
    """Replace a file by its compressed form, `PATH.gz`. The same file always gives the same bytes."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()


def unpack(source: Path, target: Path) -> Path:
    """Copy a folder with its files decompressed. Returns: the copy, into which a check may write."""
    for path in source.rglob("*"):
        if not path.is_file():
            continue
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            with gzip.open(path) as packed, copy.with_suffix("").open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        else:
            shutil.copyfile(path, copy)
    return target
