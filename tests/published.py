"""A model of a user, and a Hub in memory with its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from ltx2_core.hub.remote import RemoteFile

WEIGHTS, OTHER = b"weights" * 3, b"of another size"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
ENTRY = f"""
summary: mine
generation: "2.0"
files:
  checkpoint: me/mine/mine.safetensors
  text_encoder: me/encoder
  upsampler: me/mine/up/upsampler.safetensors
repositories:
  me/mine:
    licence: gemma
    files:
      mine.safetensors: {{bytes: {len(WEIGHTS)}, sha256: {SHA256}}}
      up/upsampler.safetensors: {{about_bytes: 20}}
"""
SECOND = 'summary: second\ngeneration: "2.0"\nfiles:\n  checkpoint: me/mine/mine.safetensors\n'
FILES = {
    "me/mine": {"mine.safetensors": WEIGHTS, "up/upsampler.safetensors": OTHER},
    "me/encoder": {"config.json": b"{}", "model.safetensors": OTHER, "README.md": b"", "picture.png": b""},
}


class Published:
    """A Hub in memory. asked, fetched: the requests for metadata and for files."""

    def __init__(self, files: Mapping[str, Mapping[str, bytes]]) -> None:
        self.files = files
        self.asked: list[str] = []
        self.fetched: list[str] = []

    def look_up(self, repository: str, path: str) -> RemoteFile:
        self.asked.append(f"{repository}/{path}")
        content = self.files[repository][path]
        checksum = hashlib.sha256(content).hexdigest()
        if not path.endswith(".safetensors"):
            checksum = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        return RemoteFile(repository=repository, path=path, commit="0" * 40, nbytes=len(content), checksum=checksum)

    def names(self, repository: str) -> list[str]:
        return list(self.files[repository])

    def fetch(self, file: RemoteFile, target: Path, on_bytes: Callable[[int], None], should_stop: object) -> str:
        content = self.files[file.repository][file.path]
        target.write_bytes(content)
        on_bytes(len(content))
        self.fetched.append(file.path)
        return hashlib.sha256(content).hexdigest()
