"""Golden files are stored as they are or packed with gzip, and read unpacked."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path


def pack(path: Path) -> None:
    """Replace a file by its packed form, `PATH.gz`: the same bytes for the same file."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()


def unpack(source: Path, target: Path) -> Path:
    """Copy a folder, with its packed files unpacked. Returns the copy, which a check may write into."""
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
