"""A linear map from the cells of a video latent to colours, without a decoder: 4x4 pixels for each cell.

The map is fitted by least squares to decoded frames of several clips, because one clip contains too few colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

from ...config.video_vae import IMAGE_CHANNELS

PATCH = 4  # a latent cell becomes PATCH x PATCH pixels
NAME = "latent_to_rgb"  # name of the tensor in a file
RIDGE = 1e-3  # relative to the mean square of latents; allows a fit from few cells


@dataclass(frozen=True)
class ColourMap:
    """A linear map from a latent cell to its pixels.

    Args: weights: (c + 1 p) float32: c latent channels and 1, to the 3 colours of 4x4 pixels in [0, 1].
    """

    weights: Tensor

    @classmethod
    def parse(cls, content: bytes, channels: int) -> Self:
        """Read a map for latents of so many channels. Raises: ValueError if it was not written by `dump` for them."""
        try:
            weights = load(content)[NAME].float()
        except (SafetensorError, KeyError) as error:
            raise ValueError("it holds no map of colours") from error
        if weights.shape != (channels + 1, IMAGE_CHANNELS * PATCH**2) or not weights.isfinite().all():
            raise ValueError("its map of colours is for other latents")
        return cls(weights)

    def dump(self) -> bytes:
        """The content of a file, in half precision: two bytes for each weight."""
        return save({NAME: self.weights.half().contiguous()})

    def picture(self, latent: Tensor) -> Tensor:
        """The pixels (3 H W) in [0, 1] of a latent frame (c h w)."""
        cells = rearrange(latent.float().cpu(), "c h w -> h w c")
        colours = cells @ self.weights[:-1] + self.weights[-1]
        return rearrange(colours, "h w (c y x) -> c (h y) (w x)", y=PATCH, x=PATCH).clamp(0, 1)


@dataclass
class ColourFit:
    """The sums for fitting a colour map, over several clips.

    Args: squares: (c + 1 c + 1) float64, of products of inputs. products: (c + 1 p) float64, of inputs and pixels.
    clips: how many were added.
    """

    squares: Tensor
    products: Tensor
    clips: int = 0

    @classmethod
    def blank(cls, channels: int) -> Self:
        """Sums of zero for latents of so many channels."""
        shapes = (channels + 1, channels + 1), (channels + 1, IMAGE_CHANNELS * PATCH**2)
        squares, products = (torch.zeros(shape, dtype=torch.float64) for shape in shapes)
        return cls(squares, products)

    @classmethod
    def parse(cls, content: bytes, channels: int) -> Self:
        """Read the sums for latents of so many channels. Raises: ValueError if they were not written by `dump`."""
        try:
            stored = load(content)
            found = cls(stored["squares"], stored["products"], int(stored["clips"].item()))
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise ValueError("it holds no sums for a map of colours") from error
        parts, expected = (found.squares, found.products), cls.blank(channels)
        for part, other in zip(parts, (expected.squares, expected.products), strict=True):
            if (part.shape, part.dtype) != (other.shape, other.dtype) or not part.isfinite().all():
                raise ValueError("its sums are for a map of colours of other latents")
        return found

    def dump(self) -> bytes:
        """The content of a file."""
        return save({"squares": self.squares, "products": self.products, "clips": torch.tensor(self.clips)})

    def add(self, latent: Tensor, picture: Tensor) -> None:
        """Add a latent frame (c h w) and the mean of its decoded frames, (3 H W) in [0, 1]."""
        values = rearrange(latent.double().cpu(), "c h w -> (h w) c")
        inputs = torch.cat([values, torch.ones_like(values[:, :1])], dim=-1)
        rows, columns = latent.shape[-2:]
        small = functional.adaptive_avg_pool2d(picture, (PATCH * rows, PATCH * columns)).double().cpu()
        self.squares += inputs.T @ inputs
        self.products += inputs.T @ rearrange(small, "c (h y) (w x) -> (h w) (c y x)", y=PATCH, x=PATCH)

    def add_clip(self, frames: Iterator[Tensor], latent: Tensor, factor: int) -> Iterator[Tensor]:
        """Pass on the decoded frames (F 3 H W) in [0, 1] of a latent (1 c f h w), and add them.

        The first latent frame, which represents one frame and differs from the others, is used only if there is no
        other.
        Args: factor: how many frames each of the others represents.
        """
        number, total = 0, torch.zeros(())
        for chunk in frames:
            for frame in chunk:
                total = total + frame
                index, place = -(-number // factor), (number - 1) % factor
                if place == factor - 1:  # the last one of a latent frame
                    if index or latent.shape[2] == 1:
                        self.add(latent[0, :, index], total / (factor if index else 1))
                    total = torch.zeros(())
                number += 1
            yield chunk
        self.clips += 1

    def solve(self) -> ColourMap:
        """The map with the least squared error over everything that was added. The mean colour is not regularised."""
        energies = self.squares.diagonal()[:-1]
        ridge = torch.full_like(self.squares.diagonal(), RIDGE * energies.mean().item())
        ridge[-1] = 0
        return ColourMap(torch.linalg.solve(self.squares + ridge.diag(), self.products).float())
