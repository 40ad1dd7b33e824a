"""The checksums by which the Hub knows a file: the SHA-256 of a large one, and the id of its git blob of a small one.

Source: docs/reference/checkpoints.md, "Downloading".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

SHA256_DIGITS = 64
PIECE = 8 * 2**20  # bytes that are read at a time


class Digest:
    """The checksums of a content that comes piece by piece.

    Args: kind: a checksum of the kind that is wanted: 64 hex digits are a SHA-256, 40 the id of a git blob. nbytes: of
    the whole content, which that id counts too.
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
    """Read a file whole. Args: kind: as of `Digest`. on_bytes: told after each piece how many bytes it had.

    Raises: OSError, and whatever on_bytes raises.
    """
    digest = Digest(kind, path.stat().st_size)
    with path.open("rb") as opened:
        while data := opened.read(PIECE):
            digest.update(data)
            on_bytes(len(data))
    return digest
