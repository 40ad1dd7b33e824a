"""Several images on one picture, for a LoRA that has learnt to take things from it.

Source: docs/references.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

PAPER = 255  # white, between and around images


def reference_sheet(images: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Images (1 3 H W) uint8 of any size, in their order from left to right and from top to bottom.

    Each is scaled, whole and in its own shape, to the middle of a cell; of all grids that hold them, the one in which
    they are largest.
    Returns: (1 3 height width) uint8.
    """
    columns = max(range(1, len(images) + 1), key=lambda count: _area(images, height, width, count))
    rows = -(-len(images) // columns)
    sheet = torch.full((1, 3, height, width), PAPER, dtype=torch.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top, bottom = (height * edge // rows for edge in (row, row + 1))
        left, right = (width * edge // columns for edge in (column, column + 1))
        shown = _scaled(image, bottom - top, right - left)
        top, left = top + (bottom - top - shown.shape[-2]) // 2, left + (right - left - shown.shape[-1]) // 2
        sheet[..., top : top + shown.shape[-2], left : left + shown.shape[-1]] = shown
    return sheet


def _area(images: Sequence[Tensor], height: int, width: int, columns: int) -> int:
    """How much of a sheet images fill in a grid of so many columns."""
    rows = -(-len(images) // columns)
    sizes = (_fitted(image, height // rows, width // columns) for image in images)
    return sum(tall * wide for tall, wide in sizes)


def _fitted(image: Tensor, height: int, width: int) -> tuple[int, int]:
    """The height and width of an image that is scaled to fit into a cell."""
    tall, wide = image.shape[-2:]
    scale = min(height / tall, width / wide)
    return max(1, min(height, round(tall * scale))), max(1, min(width, round(wide * scale)))


def _scaled(image: Tensor, height: int, width: int) -> Tensor:
    size = _fitted(image, height, width)
    scaled = F.interpolate(image.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)
