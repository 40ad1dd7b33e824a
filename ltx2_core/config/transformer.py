"""The shape of the dual-stream denoiser, as the `transformer` object of a checkpoint's config describes it.

Source: docs/reference/transformer.md, "Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from ..errors import CheckpointError
from ..types import Streams
from .section import Section

# The values of all published models; other values would mean another architecture.
CONSTANTS: dict[str, Any] = {
    "dropout": 0.0,
    "attention_bias": True,
    "num_vector_embeds": None,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "upcast_attention": False,
    "standardization_norm": "rms_norm",
    "norm_elementwise_affine": False,
    "qk_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "use_audio_video_cross_attention": True,
    "share_ff": False,
    "av_cross_ada_norm": True,
    "use_middle_indices_grid": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """One stream. max_pos: extent of each position axis (seconds, and pixels for video) that RoPE scales to [−1, 1]."""

    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    max_pos: tuple[float, ...]
    mlp_bias: bool

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @classmethod
    def of(cls, section: Section, prefix: str, heads: int, head_dim: int, max_pos: tuple[float, ...]) -> Self:
        """Read one stream. prefix: of its keys. head_dim, max_pos: the defaults of the official code."""
        return cls(
            heads=heads,
            head_dim=section.whole(f"{prefix}attention_head_dim", head_dim),
            in_channels=section.whole(f"{prefix}in_channels", 128),
            out_channels=section.whole(f"{prefix}out_channels", 128),
            max_pos=section.numbers(f"{prefix}positional_embedding_max_pos", max_pos),
            mlp_bias=section.switch(f"{prefix}ff_bias", True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """The whole denoiser; a stream that is None is not built.

    caption_channels: width of text features that the denoiser projects itself; None if the text side has projected
    them. gate_timestep_scale: multiplies the sigma for the cross-modal gates. has_gates: a gate per attention head.
    has_text_modulation: queries and context of text attention are modulated. has_prompt_modulation: the context's
    modulation depends on the noise level too.
    """

    video: StreamConfig | None
    audio: StreamConfig | None
    layers: int
    exchange_heads: int
    exchange_head_dim: int
    norm_eps: float
    theta: float
    is_interleaved: bool
    has_double_grid: bool
    timestep_scale: float
    gate_timestep_scale: float
    caption_channels: int | None
    has_gates: bool
    has_text_modulation: bool
    has_prompt_modulation: bool
    has_keyframe_embedding: bool

    @property
    def streams(self) -> Streams[StreamConfig]:
        return Streams(self.video, self.audio)

    @property
    def widths(self) -> list[int]:
        """The width of each stream, that of the video first."""
        return [stream.width for stream in self.streams if stream is not None]

    @property
    def width(self) -> int:
        """The width of the video stream, or of the only one."""
        return self.widths[0]

    @property
    def exchange_width(self) -> int:
        """The width of queries and keys of the exchange, over all heads."""
        return self.exchange_heads * self.exchange_head_dim

    @property
    def modulation_rows(self) -> int:
        """Shift, scale and gate for self-attention and feed-forward, and for text attention if it is modulated."""
        return 9 if self.has_text_modulation else 6

    @property
    def has_static_text(self) -> bool:
        """Whether keys and values of the text depend only on the prompt, so that they can be computed once."""
        return not (self.has_text_modulation and self.has_prompt_modulation)

    @property
    def exchange_max_pos(self) -> float:
        """The seconds that the common time axis of both streams scales to [−1, 1]."""
        return max(stream.max_pos[0] for stream in self.streams if stream is not None)

    def only(self, stream: Literal["video", "audio"]) -> Self:
        """The same model with one stream and no exchange."""
        return replace(self, video=None) if stream == "audio" else replace(self, audio=None)

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read the config of a checkpoint.

        Raises: CheckpointError that names the first setting that is not implemented.
        """
        section = Section(config, "transformer")
        for key, value in CONSTANTS.items():
            section.expect(key, value)
        heads = section.whole("num_attention_heads", 32)
        section.expect("audio_num_attention_heads", heads, default=32)
        video = StreamConfig.of(section, "", heads, head_dim=128, max_pos=(20, 2048, 2048))
        audio = StreamConfig.of(section, "audio_", heads, head_dim=64, max_pos=(20,))
        section.expect("cross_attention_dim", video.width, default=4096)
        section.expect("audio_cross_attention_dim", audio.width, default=2048)
        if (len(video.max_pos), len(audio.max_pos)) != (3, 1):
            raise CheckpointError("the checkpoint has an unknown architecture: position axes are not (3, 1)")
        has_projection = not section.switch("caption_proj_before_connector", False)
        has_text_modulation = section.switch("cross_attention_adaln", False)
        return cls(
            video=video,
            audio=audio,
            layers=section.whole("num_layers", 48),
            exchange_heads=heads,
            exchange_head_dim=audio.head_dim,
            norm_eps=section.number("norm_eps", 1e-6),
            theta=section.number("positional_embedding_theta", 10000.0),
            is_interleaved=section.expect("rope_type", "split", "interleaved", default="split") == "interleaved",
            has_double_grid=section.expect("frequencies_precision", None, "float32", "float64") == "float64",
            timestep_scale=section.number("timestep_scale_multiplier", 1000),
            gate_timestep_scale=section.number("av_ca_timestep_scale_multiplier", 1),
            caption_channels=section.whole("caption_channels") if has_projection else None,
            has_gates=section.switch("apply_gated_attention", False),
            has_text_modulation=has_text_modulation,
            has_prompt_modulation=has_text_modulation and section.switch("use_prompt_adaln_single", True),
            has_keyframe_embedding=section.switch("use_keyframes_abs_pos_embedding", False),
        )
