"""Configs of the released files, for copies that were saved without their metadata.

The official defaults for absent settings give a plausible but wrong video, so a file without a config is used only if
its tensors prove which release it is. The loader checks later that all tensors are present with the right shapes.
Source: docs/reference/checkpoints.md, "Missing metadata".
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..headers import FileKind, Header, classify, generation
from ..log import warn_once

# The tensor, with its shape, that identifies each released upsampler.
UPSAMPLERS = {
    ("upsampler.conv.weight", (4096, 1024, 3, 3)): "upsampler-spatial-x2-rational",
    ("upsampler.0.weight", (4096, 1024, 3, 3)): "upsampler-spatial-x2",
    ("upsampler.conv.weight", (9216, 1024, 3, 3)): "upsampler-spatial-x1.5",
    ("upsampler.0.weight", (1024, 512, 3, 3, 3)): "upsampler-temporal-x2",
}


def effective_config(header: Header) -> dict[str, Any]:
    """The file's own config, or that of the release that its tensors prove; in that case one warning per file is
    logged.

    Raises: CheckpointError if the file has no config and its tensors prove no release.
    """
    if header.config:
        return header.config
    release = _release(header)
    if release is None:
        raise CheckpointError(
            f"{header.path.name} has no config in its metadata",
            "its tensors do not prove which release it is",
            "use the original file of the release",
        )
    told = f"its tensors are those of {release}, whose released config is used"
    warn_once(f"{header.path.name} has no config in its metadata; {told}")
    return released_configs()[release]


@cache
def released_configs() -> dict[str, dict[str, Any]]:
    """The configs that are built in, by generation or, for upsamplers, by name."""
    return json.loads((Path(__file__).with_name("released.json")).read_text())


def _release(header: Header) -> str | None:
    if classify(header) is not FileKind.UPSAMPLER:
        return generation(header)
    found = ((name, info.shape) for name, info in header.tensors.items())
    return next((UPSAMPLERS[sign] for sign in found if sign in UPSAMPLERS), None)
