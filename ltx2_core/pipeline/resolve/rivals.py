"""Settings that exclude each other: the first place that sets one decides, and the others are ignored in places below.

Source: docs/cli.md, "Precedence of settings".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from ...yaml_file import without
from .edits import EDITS
from .settings import DEFAULTS, Layer, Place, check_layer

if TYPE_CHECKING:
    from .basis import Mode

LOOP, UNTIL = "loop", "until"
LOOPS = ("t2v", "i2v", "v2v")  # the modes that have --loop
TOGETHER = (  # edits that can be combined
    {"extend", "extend_before"},
    {"upscale", "strength"},
    {"upscale", "control"},
    {"retake", LOOP},
)
OF_EDITS = [pair for pair in map(set, combinations((*EDITS, LOOP), 2)) if pair not in TOGETHER]
OF_LENGTHS = [{UNTIL, other} for other in ("duration", "frames")]  # of a generated clip
NOT_LOOPED = (UNTIL, "segment", "voice_ref", "generated_keyframes", "attention", "cache_steps", "skip_step")
OF_LOOPS = [{LOOP, other} for other in NOT_LOOPED]
OF_ALL = (
    {"attention", "cache_steps"},
    {"attention", "compile"},
    {"attention", "ranks"},
    {"cache_steps", "ranks"},
    {"enhance", "segment"},
)


def without_rivals(layers: Sequence[Layer], mode: Mode) -> tuple[list[Layer], tuple[str, ...]]:
    """The layers, the most important first, each without the settings that a layer above it excludes.

    The settings of one layer all stay, even if they cannot be combined. If a clip is edited, `duration` is the length
    of the used part. The second value is a note for each setting that was left out, unless it is a length that another
    length replaces.
    """
    pairs = [*OF_ALL, *OF_LOOPS * (mode.name in LOOPS)]
    pairs += OF_EDITS if mode.edits else OF_LENGTHS * ("generate" in mode.video)
    above: dict[str, Place] = {}
    found: list[Layer] = []
    notes: list[str] = []
    for place, layer in layers:
        asked = [name for name, value in check_layer(place, layer).items() if value and value != DEFAULTS.get(name)]
        lost = {name: other for name in asked for other in above if {name, other} in pairs}
        if "ranks" in lost and "gpus" in asked:  # they are the cards of the ranks
            lost["gpus"] = lost["ranks"]
        for name, other in lost.items():
            if {name, other} not in OF_LENGTHS:
                why = f"{above[other].spelled(other)} excludes it"
                notes.append(f"{place.spelled(name)} of {place} is ignored, because {why}")
        found.append((place, without(layer, *lost) if lost else layer))
        above = dict.fromkeys((name for name in asked if name not in lost), place) | above
    return found, tuple(notes)
