"""Settings that exclude each other: the first place that sets one decides, and the others are ignored in places below.

Source: docs/cli.md, "Precedence of settings".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ...yaml_file import without
from .edits import EDITS
from .settings import Layer

if TYPE_CHECKING:
    from .basis import Mode

LOOP = "loop"
TOGETHER = (  # edits that can be combined
    {"extend", "extend_before"},
    {"upscale", "strength"},
    {"upscale", "control"},
    {"retake", LOOP},
)
OF_EDITS = [pair for pair in map(set, combinations((*EDITS, LOOP), 2)) if pair not in TOGETHER]
OF_LENGTHS = [{"until", other} for other in ("duration", "frames")]  # of a generated clip


def without_rivals(layers: Sequence[Layer], mode: Mode) -> list[Layer]:
    """The layers, the most important first, each without the settings that a layer above it excludes.

    The settings of one layer all stay, even if they cannot be combined. If a clip is edited, `duration` is the length
    of the used part.
    """
    pairs = OF_EDITS if mode.edits else OF_LENGTHS * ("generate" in mode.video)
    above: set[str] = set()
    found: list[Layer] = []
    for place, layer in layers:
        asked = {name for name, value in layer.items() if _is_asked(name, value)}
        lost = {name for name in asked if any({name, other} in pairs for other in above)}
        found.append((place, without(layer, *lost) if lost else layer))
        above |= asked - lost
    return found


def _is_asked(name: str, value: Any) -> bool:
    return value is not None and (name != LOOP or str(value).strip().lower() == "true")
