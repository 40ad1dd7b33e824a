"""Shapes of the head that says how long the clip of a prompt should be.

Source: docs/reference/text.md, "Duration head".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..errors import CheckpointError
from .section import Section

SECTION = "duration_head"


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationConfig:
    """The duration head. video_width, audio_width: of the contexts. width: inside. mlp_width: of its hidden layer."""

    video_width: int
    audio_width: int
    width: int
    mlp_width: int
    queries: int
    heads: int

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read `config["duration_head"]`; whatever `shapes` can tell, which the loader adds, is read from them.

        Raises: CheckpointError for heads that the width cannot be divided into.
        """
        head = Section(config, SECTION) if SECTION in config else Section({SECTION: {}}, SECTION)
        transformer = Section({"transformer": {}, **config}, "transformer")
        found: Mapping[str, tuple[int, ...]] = config.get("shapes") or {}

        def size(name: str, axis: int, default: int) -> int:
            shape = found.get(name, ())
            return shape[axis] if len(shape) == 2 else default

        width = size("video_input_proj.weight", 0, head.whole("pooler_hidden_dim", 256))
        heads = head.whole("num_pooler_heads", 4)
        if width % heads:
            raise CheckpointError("the duration head cannot be used", f"its {width} channels are not {heads} heads")
        return cls(
            video_width=size("video_input_proj.weight", 1, transformer.whole("cross_attention_dim", 4096)),
            audio_width=size("audio_input_proj.weight", 1, transformer.whole("audio_cross_attention_dim", 2048)),
            width=width,
            mlp_width=size("mlp_hidden.weight", 0, head.whole("mlp_hidden", 256)),
            queries=size("attention_pooler.query_tokens", 0, head.whole("num_queries", 1)),
            heads=heads,
        )
