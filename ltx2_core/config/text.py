"""Shapes of the text path after Gemma: the projection of its hidden states and the two connectors.

Source: docs/reference/text.md, "Which normalisation and projection" and "Settings of the connectors".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .section import Section

TEXT_ROWS = 1024  # tokens and registers together, in every released model
PROJECTED_ROWS = 512  # rows of the projection matrices that are used at a time
RELEASED_HIDDEN_STATES = 49  # Gemma 3 12B: the embeddings and 48 layers

# Settings about the projection of captions. If all are absent: by one matrix here, and again in the denoiser.
PROJECTED_ONCE = {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorConfig:
    """The connector of one stream. max_pos: the row that RoPE maps to +1. registers: rows of the learned table."""

    heads: int
    head_dim: int
    layers: int
    registers: int
    max_pos: float
    is_gated: bool
    mlp_bias: bool
    is_interleaved: bool
    has_double_grid: bool

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any], stream: str) -> Self:
        """Read the config of a checkpoint for "video" or "audio".

        Raises: CheckpointError that names a setting that is not implemented.
        """
        section = Section(config, "transformer")

        def size(key: str, default: int) -> int:
            shared = section.whole(f"connector_{key}", default)
            return shared if stream == "video" else section.whole(f"audio_connector_{key}", shared)

        max_pos = section.numbers("connector_positional_embedding_max_pos", (1,))
        if len(max_pos) != 1:
            section.refuse("connector_positional_embedding_max_pos", "text has one position axis")
        return cls(
            heads=size("num_attention_heads", 30),
            head_dim=size("attention_head_dim", 128),
            layers=size("num_layers", 2),
            registers=section.whole("connector_num_learnable_registers", 128),
            max_pos=max_pos[0],
            is_gated=section.switch("connector_apply_gated_attention", False),
            mlp_bias=section.switch("connector_ff_bias", True),
            is_interleaved=section.expect("rope_type", "split", "interleaved", default="split") == "interleaved",
            has_double_grid=section.expect("frequencies_precision", None, "float32", "float64") == "float64",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionConfig:
    """The projection from Gemma's hidden states to the input of the connectors.

    features: values of one token over all hidden states. is_shared: one matrix without bias serves both streams, and
    hidden states are normalised per layer; otherwise each stream has its own, and they are normalised per token.
    """

    features: int
    video_width: int
    audio_width: int
    is_shared: bool

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read the config of a checkpoint, and `shapes` for the encoder's size, which is not part of the config.

        Raises: CheckpointError that names the setting that is not implemented.
        """
        section = Section(config, "transformer")
        is_shared = PROJECTED_ONCE.keys().isdisjoint(section.values)
        if not is_shared:
            for key, value in PROJECTED_ONCE.items():
                section.expect(key, value)
        released = section.whole("caption_channels", 3840) * RELEASED_HIDDEN_STATES
        inputs = [shape[-1] for name, shape in _shapes(config).items() if name.endswith(".weight") and shape]
        return cls(
            features=inputs[0] if inputs else released,
            video_width=ConnectorConfig.from_metadata(config, "video").width,
            audio_width=ConnectorConfig.from_metadata(config, "audio").width,
            is_shared=is_shared,
        )


def _shapes(config: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]]:
    """The shapes that the loader adds to a config; those that a file itself contains are lists, and ignored."""
    shapes = config.get("shapes")
    if not isinstance(shapes, Mapping):
        return {}
    return {name: shape for name, shape in shapes.items() if isinstance(shape, tuple)}
