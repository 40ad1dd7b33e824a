"""Several images on one sheet, for a LoRA that was trained to use objects from it.

Source: docs/references.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

WHITE = 255  # background of the sheet


def reference_sheet(images: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Lay out images (1 3 H W) uint8 of any size in a grid, from left to right and from top to bottom.

    Each is scaled to fit its cell, in its own aspect ratio, and centred. The number of columns is the one with which
    the images cover most of the sheet.
    Returns: (1 3 height width) uint8.
    """
    columns = max(range(1, len(images) + 1), key=lambda count: _area(images, height, width, count))
    rows = -(-len(images) // columns)
    sheet = torch.full((1, 3, height, width), WHITE, dtype=torch.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top, bottom = (height * edge // rows for edge in (row, row + 1))
        left, right = (width * edge // columns for edge in (column, column + 1))
        shown = _scaled(image, bottom - top, right - left)
        top, left = top + (bottom - top - shown.shape[-2]) // 2, left + (right - left - shown.shape[-1]) // 2
        sheet[..., top : top + shown.shape[-2], left : left + shown.shape[-1]] = shown
    return sheet


def _area(images: Sequence[Tensor], height: int, width: int, columns: int) -> int:
    """How many pixels of a sheet images cover in a grid of so many columns."""
    rows = -(-len(images) // columns)
    sizes = (_fitted(image, height // rows, width // columns) for image in images)
    return sum(fitted_height * fitted_width for fitted_height, fitted_width in sizes)


def _fitted(image: Tensor, height: int, width: int) -> tuple[int, int]:
    """The height and width of an image (1 3 H W) that is scaled to fit into a cell."""
    scale = min(height / image.shape[-2], width / image.shape[-1])
    fitted_height, fitted_width = (round(side * scale) for side in image.shape[-2:])
    return max(1, min(height, fitted_height)), max(1, min(width, fitted_width))


def _scaled(image: Tensor, height: int, width: int) -> Tensor:
    size = _fitted(image, height, width)
    scaled = F.interpolate(image.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)
