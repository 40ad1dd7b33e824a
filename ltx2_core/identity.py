"""The identity of a file: its size and time as long as they do not change, else its content.

Source: docs/cli.md, "Latents first" and "Recipe inside".
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

WHOLE_BYTES = 1_000_000_000  # smaller files are hashed completely
HEAD_BYTES = 16 * 2**20  # of larger files: the beginning, with the header of weights
STRIPES, STRIPE_BYTES = 256, 2**18  # and this many equally spaced pieces, the last one at the end
SAMPLED = "sampled-"  # prefix of the hash of such a file, which does not cover all bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """One file. content: the SHA-256 of its bytes, or of its size and samples of it if it is large."""

    size: int
    mtime_ns: int
    content: str

    def is_of(self, path: Path) -> bool:
        """Whether a file is still the same: its size and time are, or its size and content are. Raises: OSError."""
        status = path.stat()
        if status.st_size != self.size:
            return False
        return status.st_mtime_ns == self.mtime_ns or identity(path).content == self.content


def identity(path: Path) -> Identity:
    """Read a file, or samples of a large one; the identity of an unchanged file is cached.

    Raises: OSError.
    """
    status = path.stat()
    version = status.st_dev, status.st_ino, status.st_ctime_ns
    content = _content(path.absolute(), status.st_size, status.st_mtime_ns, version)
    return Identity(status.st_size, status.st_mtime_ns, content)


@lru_cache(maxsize=256)
def _content(path: Path, size: int, mtime_ns: int, version: tuple[int, ...]) -> str:
    """The hash of a file's content. mtime_ns, version: one of them changes whenever the file does."""
    with path.open("rb") as file:
        if size < WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for piece in _samples(file, size):
            digest.update(piece)
    return SAMPLED + digest.hexdigest()


def _samples(file: BinaryIO, size: int) -> Iterator[bytes]:
    yield file.read(HEAD_BYTES)
    for number in range(STRIPES):
        file.seek((size - STRIPE_BYTES) * number // (STRIPES - 1), os.SEEK_SET)
        yield file.read(STRIPE_BYTES)
