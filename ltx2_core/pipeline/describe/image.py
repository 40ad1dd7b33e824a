"""Facts about an image.

Source: docs/cli.md, "Inputs".
"""

from __future__ import annotations

from pathlib import Path

from ...errors import MediaError
from ...media.accept import check_input
from ...media.image_header import open_image
from ...media.inputs import ImageSource
from .words import Facts, require_content


def facts(path: Path) -> Facts:
    """Facts about an image. Raises: MediaError."""
    require_content(path)
    with open_image(path) as image:
        yield "kind", "an image"
        yield "format", str(image.format)
        yield "size", f"{image.width}x{image.height}"
        yield "colours", image.mode
        if (count := getattr(image, "n_frames", 1)) > 1:
            yield "images", f"{count}, of which the first is used"
    yield "bytes", f"{path.stat().st_size:,}"
    try:
        source = check_input(path, ImageSource)
        yield "display size", f"{source.width}x{source.height}"
    except MediaError as error:
        yield "problem", f"it cannot be used as an image: {error.why}"
