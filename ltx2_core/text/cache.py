"""Contexts on disk: a prompt that the same weights have encoded before is not encoded again.

Errors here never fail a run: an entry that cannot be read is computed again, one that cannot be written is not stored.
Source: docs/reference/text.md, "Kept contexts".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..disk import disk_reason, write_whole
from ..errors import LTX2Error
from ..headers import read_header
from ..home import ltx2_home
from ..log import LOGGER, warn_once
from .encode import TextContext

_version = cache(metadata.version)  # cached, because each call parses a file
REVISION = 3  # increased whenever this program computes other contexts for the same inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextCache:
    """Contexts from one encoder, and from one projection and pair of connectors.

    Args: encoder, weights: hashes of the contents of their files. dtype, device: of the computation, the kind of device
    without a number.
    """

    encoder: str
    weights: str
    rows: int
    dtype: torch.dtype
    device: str = "cpu"

    def recall(self, prompts: Sequence[str], encode: Callable[[list[str]], Sequence[TextContext]]) -> list[TextContext]:
        """The contexts of prompts, on the CPU; one call of `encode` computes those that are not stored yet."""
        kept = {prompt.strip(): _read(self._path(prompt)) for prompt in prompts}
        contexts = {prompt: context for prompt, context in kept.items() if context is not None}
        unknown = [prompt for prompt in kept if prompt not in contexts]
        made = encode(unknown) if unknown else []
        for prompt, context in zip(unknown, made, strict=True):
            tensors = {"video": context.video.cpu().contiguous(), "audio": context.audio.cpu().contiguous()}
            contexts[prompt] = TextContext(**tensors, dropped=context.dropped)
            _write(self._path(prompt), tensors, context.dropped)
        return [contexts[prompt.strip()] for prompt in prompts]

    def _path(self, prompt: str) -> Path:
        parts = [REVISION, self.encoder, self.weights, prompt.strip(), self.rows, str(self.dtype), self.device]
        parts += [torch.__version__, _version("transformers")]
        name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return ltx2_home() / "cache" / "text" / f"{name}.safetensors"


def _read(path: Path) -> TextContext | None:
    """The context in a file; None if there is none or it is damaged."""
    try:
        if not path.is_file():
            return None
        tensors = load(path.read_bytes())
        said = read_header(path).metadata
        dropped = int(said["dropped"])
        if said["sha256"] == _checksum(tensors, dropped):
            return TextContext(**tensors, dropped=dropped)
        why = "its checksum is wrong"
    except PermissionError:  # `_write` replaces it, or warns once
        return None
    except (OSError, LTX2Error, SafetensorError, TypeError, ValueError, KeyError) as error:
        why = disk_reason(error)
    LOGGER.warning("a kept prompt is encoded again, as its file %s cannot be used: %s", path, why)
    return None


def _write(path: Path, tensors: Mapping[str, Tensor], dropped: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(dict(tensors), {"sha256": _checksum(tensors, dropped), "dropped": str(dropped)}))
    except OSError as error:
        warn_once(f"encoded prompts are not kept: {ltx2_home()} cannot be written ({disk_reason(error)})")


def _checksum(tensors: Mapping[str, Tensor], dropped: int) -> str:
    return hashlib.sha256(save(dict(tensors), {"dropped": str(dropped)})).hexdigest()
