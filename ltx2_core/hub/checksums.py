"""The checksums that the Hub publishes: the SHA-256 of a large file, and the git blob id of a small one.

Source: docs/reference/checkpoints.md, "Downloading".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

SHA256_DIGITS = 64
PIECE = 8 * 2**20  # bytes that are read at a time


class Digest:
    """The checksums of data that arrives in pieces.

    Args: kind: any checksum of the wanted kind: 64 hex digits are a SHA-256, 40 a git blob id. nbytes: of the whole
    content, which is part of a git blob id.
    """

    def __init__(self, kind: str, nbytes: int) -> None:
        self._sha256 = hashlib.sha256()
        self._git = None
        if not is_sha256(kind):
            self._git = hashlib.sha1(f"blob {nbytes}\0".encode(), usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def checksum(self) -> str:
        """The checksum of the kind that is wanted."""
        return (self._git or self._sha256).hexdigest()


def is_sha256(checksum: str) -> bool:
    """Whether a checksum is a SHA-256, and not the id of a git blob."""
    return len(checksum) == SHA256_DIGITS


def read_digest(path: Path, kind: str, on_bytes: Callable[[int], None]) -> Digest:
    """Read a complete file. Args: kind: as of `Digest`. on_bytes: called after each piece with its number of bytes.

    Raises: OSError, and whatever on_bytes raises.
    """
    digest = Digest(kind, path.stat().st_size)
    with path.open("rb") as opened:
        while data := opened.read(PIECE):
            digest.update(data)
            on_bytes(len(data))
    return digest
