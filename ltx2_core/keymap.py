"""The mapping between the tensor names of official files and the modules here. Each table works in both directions.

A row replaces complete dotted segments anywhere in a name, so `ff` never matches `audio_ff`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from .components import COMPONENTS
from .headers import Header

Rows = tuple[tuple[str, str], ...]

ATTENTION: Rows = (("to_out.0", "to_out"), ("to_gate_logits", "to_gate"))
MLP: Rows = (("net.0.proj", "up"), ("net.2", "down"))
ADALN: Rows = (("emb.timestep_embedder.linear_1", "embed_in"), ("emb.timestep_embedder.linear_2", "embed_out"))

TRANSFORMER: Rows = (
    ("transformer_blocks", "blocks"),
    ("attn1", "video.self_attn"),
    ("audio_attn1", "audio.self_attn"),
    ("attn2", "video.text_attn"),
    ("audio_attn2", "audio.text_attn"),
    ("ff", "video.mlp"),
    ("audio_ff", "audio.mlp"),
    ("scale_shift_table", "video.table"),
    ("audio_scale_shift_table", "audio.table"),
    ("prompt_scale_shift_table", "video.prompt_table"),
    ("audio_prompt_scale_shift_table", "audio.prompt_table"),
    ("audio_to_video_attn", "exchange.audio_to_video"),
    ("video_to_audio_attn", "exchange.video_to_audio"),
    ("scale_shift_table_a2v_ca_video", "exchange.video_table"),
    ("scale_shift_table_a2v_ca_audio", "exchange.audio_table"),
    ("patchify_proj", "video.proj_in"),
    ("audio_patchify_proj", "audio.proj_in"),
    ("proj_out", "video.proj_out"),
    ("audio_proj_out", "audio.proj_out"),
    ("adaln_single", "video.adaln"),
    ("audio_adaln_single", "audio.adaln"),
    ("prompt_adaln_single", "video.prompt_adaln"),
    ("audio_prompt_adaln_single", "audio.prompt_adaln"),
    ("av_ca_video_scale_shift_adaln_single", "video.exchange_adaln"),
    ("av_ca_audio_scale_shift_adaln_single", "audio.exchange_adaln"),
    ("av_ca_a2v_gate_adaln_single", "video.gate_adaln"),
    ("av_ca_v2a_gate_adaln_single", "audio.gate_adaln"),
    ("caption_projection", "video.caption_projection"),
    ("audio_caption_projection", "audio.caption_projection"),
    ("keyframes_abs_pos_embedding", "video.keyframe_embedding"),
    *ATTENTION,
    *MLP,
    *ADALN,
)

CONNECTOR: Rows = (("transformer_1d_blocks", "blocks"), ("attn1", "self_attn"), ("ff", "mlp"), *ATTENTION, *MLP)

# The diffusers names of the segments in a transformer's names.
# Source: docs/reference/transformer.md, "Names in diffusers".
DIFFUSERS: Rows = (
    ("patchify_proj", "proj_in"),
    ("audio_patchify_proj", "audio_proj_in"),
    ("adaln_single", "time_embed"),
    ("audio_adaln_single", "audio_time_embed"),
    ("prompt_adaln_single", "prompt_adaln"),
    ("audio_prompt_adaln_single", "audio_prompt_adaln"),
    ("av_ca_video_scale_shift_adaln_single", "av_cross_attn_video_scale_shift"),
    ("av_ca_audio_scale_shift_adaln_single", "av_cross_attn_audio_scale_shift"),
    ("av_ca_a2v_gate_adaln_single", "av_cross_attn_video_a2v_gate"),
    ("av_ca_v2a_gate_adaln_single", "av_cross_attn_audio_v2a_gate"),
    ("scale_shift_table_a2v_ca_video", "video_a2v_cross_attn_scale_shift_table"),
    ("scale_shift_table_a2v_ca_audio", "audio_a2v_cross_attn_scale_shift_table"),
    ("q_norm", "norm_q"),
    ("k_norm", "norm_k"),
)

# Components without a table here use the official names.
ROWS: dict[str, Rows] = {"transformer": TRANSFORMER, "video_connector": CONNECTOR, "audio_connector": CONNECTOR}


def from_official(name: str, rows: Rows) -> str:
    """The name here of an official tensor, both without the component's prefix."""
    return _replace(name, rows, False)


def to_official(name: str, rows: Rows) -> str:
    """The official name of a tensor here: the inverse of `from_official`."""
    return _replace(name, rows, True)


def own_names(component: str, header: Header) -> Mapping[str, str]:
    """The names in a file of a component's tensors, each with its name in our module."""

    def find() -> dict[str, str]:
        rows = ROWS.get(component, ())
        return {name: from_official(inside, rows) for name, inside in COMPONENTS[component].names_in(header).items()}

    return header.once(("own names", component), find)


def optional_names(component: str) -> set[str]:
    """The names in the module of tensors that are zero if a file lacks them."""
    return {from_official(inside, ROWS.get(component, ())) for inside in COMPONENTS[component].optional}


def official_name(component: str, own: str, prefix: str | None = None) -> str:
    """The name in a file of a tensor of one of our modules. prefix: None uses that of the official files."""
    return COMPONENTS[component].full_name(to_official(own, ROWS.get(component, ())), prefix)


def _replace(name: str, rows: Rows, backwards: bool) -> str:
    if not rows:
        return name
    pattern, targets = _compiled(rows, backwards)
    return pattern.sub(lambda match: targets[match.group()], name)


@cache
def _compiled(rows: Rows, backwards: bool) -> tuple[re.Pattern[str], dict[str, str]]:
    pairs = {b: a for a, b in rows} if backwards else dict(rows)
    longest_first = sorted(pairs, key=len, reverse=True)
    return re.compile(r"(?<![^.])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![^.])"), pairs
