"""The properties of a layer that a file stores quantised, before any of its values is read.

Source: docs/reference/quantised.md, "Formats".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from ..errors import CheckpointError, shown
from ..gguf_header import GGUF_PREFIX

Format = Literal["fp8", "fp8_rows", "fp8_tiles", "fp8_cast", "mxfp8", "nvfp4", "int8", "w4a8", "w6a8", "gguf"]
TITLES: Mapping[Format, str] = {
    "fp8": "fp8 (scaled)",
    "fp8_rows": "fp8 (rowwise)",
    "fp8_tiles": "fp8 (blockwise)",
    "fp8_cast": "fp8 (cast)",
    "mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
    "int8": "int8",
    "w4a8": "w4a8",
    "w6a8": "w6a8",
    "gguf": "GGUF",
}
LONGEST_NAME = 120  # longest name of a layer in a message
HINT = "use the published file, or the bf16 file of the same model"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """A matrix that a file stores quantised.

    Args: name: in full, without the last part. format: how its values are stored. tensors: the names in the file of its
    weight and of the tensors for it, by role (`weight`, `weight_scale`, `input_scale` ...), always in the current
    spelling. shape: rows and columns as they are stored, with padding. pad: rows and columns may have been padded to a
    multiple of it. rotation: how many columns are rotated together; 1 for none. group: how many columns share a scale
    inside their row, if the format leaves that open. blocks: the type of its blocks, in a GGUF file.
    needs_full_precision: the file requires that only the weight is quantised.
    """

    name: str
    format: Format
    tensors: Mapping[str, str]
    shape: tuple[int, int]
    pad: int = 1
    rotation: int = 1
    group: int = 1
    blocks: str = ""
    needs_full_precision: bool = False

    @property
    def title(self) -> str:
        """The name of the format in messages."""
        title = TITLES[self.format]
        if self.blocks:
            return f"{title} {self.blocks.removeprefix(GGUF_PREFIX)}"
        return f"{title} (convrot)" if self.format == "int8" and self.rotation > 1 else title

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a matrix, or a bias with as many rows, may belong to a layer that is stored like this."""
        stored = self.shape[: len(shape)]
        if len(stored) != len(shape):
            return False
        sides = zip(shape, stored, strict=True)
        return all(side in (whole, -(-whole // self.pad) * self.pad) for whole, side in sides)


@dataclass(frozen=True)
class StoredLayers:
    """The quantised layers of a file, by the name of their weight. companions: all further tensors of quantised layers
    except biases, and markers.
    """

    layers: Mapping[str, StoredLayer]
    companions: frozenset[str]

    @cached_property
    def names(self) -> frozenset[str]:
        """The tensors that are kept as they are stored: quantised weights, and the tensors for them."""
        return frozenset(self.layers) | self.companions

    @cached_property
    def titles(self) -> list[str]:
        """The formats in the file, the most frequent first."""
        return [title for title, _ in Counter(layer.title for layer in self.layers.values()).most_common()]


def refusal(path: Path, name: str, why: str) -> CheckpointError:
    """The error for a quantised layer that cannot be interpreted reliably. name: of the layer, or of one of its
    tensors.
    """
    what = f"{shown(path.name)} has quantised weights that cannot be used"
    return CheckpointError(what, f"{shown(name, LONGEST_NAME)}: {why}", HINT)
