"""The denoiser:

prepared tensors, hidden states, velocities; positions, RoPE tables and timestep embeddings on their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ltx2_core.checkpoint import load_component
from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.grids import Factors
from ltx2_core.headers import Header, read_header
from ltx2_core.latents import (
    audio_positions,
    keyframe_positions,
    patchify_audio,
    patchify_video,
    to_denoised,
    video_positions,
)
from ltx2_core.models.modulation import per_token, sinusoid
from ltx2_core.models.passes import ALL_BLOCKS, BlockInputs, Pass, Perturbation, StreamInput
from ltx2_core.models.rope import Rope, frequency_grid, rope_tables
from ltx2_core.models.transformer import Transformer, run_passes
from ltx2_core.types import Streams

from .report import GoldenFile, Report

FLOAT32, BFLOAT16 = 1e-5, 3e-2
INPUTS = ("inputs/*", "*/in/*", "patchify/*", "rope/full_*_positions", "rope/apply_x", "timestep/in")
KINDS = {
    "skip_video_self_attn": "video_self",
    "skip_audio_self_attn": "audio_self",
    "skip_a2v_cross_attn": "audio_to_video",
    "skip_v2a_cross_attn": "video_to_audio",
}
TABLE_THETA, TABLE_MAX_POS = 10_000.0, (20, 2048, 2048)  # for the tables under rope/, regardless of the file's config
REAL_WIDTHS = {"video": 4096, "audio": 2048, "video_av": 2048, "audio_av": 2048}


def run(folder: Path, where: str, report: Report) -> None:
    """Compare every case of one generation."""
    golden = GoldenFile(folder / "cases.safetensors", where, report, INPUTS)
    header = read_header(folder / "checkpoint.safetensors")
    cases = golden.json("cases")
    positions = cases.pop("positions", {})
    for name, case in cases.items():
        with golden.case(name):
            _case(golden, header, name, case)
    with golden.case("patchify"):
        _patchify(golden)
    with golden.case("positions"):
        _positions(golden, positions)
    with golden.case("rope"):
        _rope(golden, TransformerConfig.from_metadata(header.config))
    with golden.case("timestep"):
        golden.compare("timestep/sinusoid", sinusoid(golden["timestep/in"][:, None])[:, 0], FLOAT32)
    golden.close()


def _case(golden: GoldenFile, header: Header, name: str, case: Mapping[str, Any]) -> None:
    dtype = getattr(torch, case["dtype"])
    tolerance = FLOAT32 if dtype == torch.float32 else BFLOAT16
    model = _model(header, dtype, case["config_overrides"])
    fields = Streams(*(_fields(golden, name, stream, case["streams"][stream]) for stream in ("video", "audio")))
    inputs = fields.map(lambda f: _input(f, dtype))
    perturbations = [_perturbation(sample) for sample in case["perturbations"] or []]
    hidden: dict[int, Streams[Tensor]] = {}
    one = Pass(inputs=inputs, perturbations=perturbations)
    (velocity,) = run_passes(model, [one], on_block=lambda block, _, states: hidden.update({block: states}))
    embedded, prepared = model.prepare(inputs)
    for stream in ("video", "audio"):
        tensors = _expected(golden, f"{name}/", f"/{stream}.")
        if tensors:
            given: Mapping[str, Tensor] = getattr(fields, stream)
            ours: Tensor = getattr(velocity, stream)
            found = _prepared_tensors(getattr(prepared, stream), given["timesteps"])
            found["patchified"] = getattr(embedded, stream)
            found |= {f"block{i}": getattr(states, stream) for i, states in hidden.items()}
            found |= {"velocity": ours, "x0": to_denoised(given["latent"].to(dtype), ours, given["timesteps"])}
            for tensor, field in tensors.items():
                golden.compare(tensor, found[field], tolerance)


def _model(header: Header, dtype: torch.dtype, overrides: Mapping[str, Any]) -> Transformer:
    """The model of the file. With overrides, a model of a changed config with the weights that it needs."""
    model = load_component("transformer", header, dtype=dtype)
    assert isinstance(model, Transformer)
    if not overrides:
        return model
    other = Transformer(TransformerConfig.from_metadata({"transformer": header.config["transformer"] | overrides}))
    state = model.state_dict()
    other.load_state_dict({name: state[name] for name in other.state_dict()}, assign=True)
    return other.requires_grad_(False)


def _expected(golden: GoldenFile, prefix: str, stream: str) -> dict[str, str]:
    """The expected tensors of one case and stream, each with the name of its content."""
    names = [name for name in golden.tensors if name.startswith(prefix) and stream in name and "/in/" not in name]
    return {name: name.split(".", 1)[1] for name in names}


def _fields(golden: GoldenFile, case: str, stream: str, state: str) -> dict[str, Tensor] | None:
    """The inputs of one stream: the defaults, with the replacements of this case."""
    if state == "absent":
        return None
    fields: dict[str, Tensor] = {}
    for prefix in (f"inputs/{stream}.", f"{case}/in/{stream}."):
        fields |= {n.removeprefix(prefix): t for n, t in golden.tensors.items() if n.startswith(prefix)}
    return fields | {"is_enabled": torch.tensor(state != "disabled")}


def _input(fields: Mapping[str, Tensor], dtype: torch.dtype) -> StreamInput:
    """Convert dense timesteps (b n 1) to the distinct ones and an index; all other inputs are passed on."""
    timesteps = rearrange(fields["timesteps"], "b n 1 -> b n")
    unique, index = torch.unique(timesteps, return_inverse=True)
    optional = {key: fields[key] for key in ("context_mask", "attention_mask", "keyframes_mask") if key in fields}
    is_uniform = timesteps.shape[1] == 1
    return StreamInput(
        latent=fields["latent"].to(dtype),
        sigma=fields["sigma"],
        unique_timesteps=timesteps if is_uniform else unique.expand(timesteps.shape[0], -1),
        timestep_index=None if is_uniform else index,
        positions=fields["positions"],
        context=fields["context"].to(dtype),
        is_enabled=bool(fields["is_enabled"]),
        **optional,
    )


def _perturbation(sample: list[Mapping[str, Any]]) -> Perturbation:
    return Perturbation(
        **{KINDS[p["type"]]: ALL_BLOCKS if p["blocks"] is None else frozenset(p["blocks"]) for p in sample}
    )


def _prepared_tensors(p: BlockInputs, timesteps: Tensor) -> dict[str, Tensor]:
    """The prepared tensors by their golden names; those that are stored per timestep are expanded to the tokens."""
    index = p.modulation.timestep_index

    def flat(rows: Tensor) -> Tensor:
        return per_token(rearrange(rows, "b k r d -> b k (r d)"), index)

    found: dict[str, Tensor | None] = {
        "context": p.text if isinstance(p.text, Tensor) else None,
        "adaln": flat(p.modulation.rows),
        "embedded_timestep": per_token(p.embedded, index),
        "prompt_adaln": None if p.prompt is None else rearrange(p.prompt, "b 1 r d -> b 1 (r d)"),
        "av_scale_shift": None if p.exchange is None else flat(p.exchange.rows[:, :, :4]),
        "av_gate": None if p.exchange is None else p.exchange.rows[:, :1, 4],
        "rope_cos": p.rope.own.cos[:1],
        "rope_sin": p.rope.own.sin[:1],
        "av_rope_cos": None if p.rope.exchange is None else p.rope.exchange.cos[:1],
        "av_rope_sin": None if p.rope.exchange is None else p.rope.exchange.sin[:1],
        "text_bias": p.text_bias,
        "self_bias": p.self_bias,
    }
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _patchify(golden: GoldenFile) -> None:
    """Check that patchifying the unpatchified latents gives the default tokens."""
    for stream, name, patchify in (
        ("video", "patchify/video.latent5d", patchify_video),
        ("audio", "patchify/audio.latent4d", patchify_audio),
    ):
        golden.compare(f"inputs/{stream}.latent", patchify(golden[name]), 0.0, "patchify")


def _positions(golden: GoldenFile, cases: Mapping[str, Mapping[str, Any]]) -> None:
    for name, p in cases.items():
        fps = Fraction(str(p.get("fps", 1)))
        if "latent_shape" in p:
            ours = video_positions(p["latent_shape"][2:], fps, Factors(*p["scale_factors"]))
        elif "frame_idx" in p:
            ours = keyframe_positions((1, *p["grid"]), p["frame_idx"], fps, Factors(8, 32, 32))
        else:
            ours = audio_positions(p["frames"], p["shift"])
        golden.compare(f"positions/{name}", ours, 0.0)


def _rope(golden: GoldenFile, config: TransformerConfig) -> None:
    """Compare rotary tables on their own: frequencies, tables at released widths, and both layouts of one table."""
    for name, count in (("video", 682), ("audio", 1024)):
        for precision, is_double in (("f64", True), ("f32", False)):
            grid = frequency_grid(count, theta=TABLE_THETA, double_grid=is_double)
            golden.compare(f"rope/freqs_{precision}_{name}", grid, FLOAT32)
    for name, width in REAL_WIDTHS.items():
        positions = golden[f"rope/full_{name.removesuffix('_av')}_positions"]
        if name.endswith("_av"):
            positions = positions[:, :1]
        rope = _tables(positions, width, 32, config)
        golden.compare(f"rope/full_{name}_cos", rope.cos, FLOAT32)
        golden.compare(f"rope/full_{name}_sin", rope.sin, FLOAT32)
    _layouts(golden, config)


def _layouts(golden: GoldenFile, config: TransformerConfig) -> None:
    """One table in both layouts; an interleaved table is stored with its heads next to each other."""
    assert config.video is not None
    width, heads = config.video.width, config.video.heads
    positions = golden["inputs/video.positions"][:1]
    x = rearrange(golden["rope/apply_x"], "b n (h d) -> b h n d", h=heads)
    split = _tables(positions, width, heads, config)
    golden.compare("rope/split_cos", split.cos, FLOAT32)
    golden.compare("rope/split_sin", split.sin, FLOAT32)
    golden.compare("rope/apply_split", _side_by_side(split.rotate(x)), FLOAT32)
    interleaved = _tables(positions, width, heads, config, is_interleaved=True)
    golden.compare("rope/interleaved_cos", _side_by_side(interleaved.cos), FLOAT32)
    golden.compare("rope/interleaved_sin", _side_by_side(interleaved.sin), FLOAT32)
    golden.compare("rope/apply_interleaved", _side_by_side(interleaved.rotate(x)), FLOAT32)


def _tables(
    positions: Tensor, width: int, heads: int, config: TransformerConfig, *, is_interleaved: bool = False
) -> Rope:
    """The rotary tables of positions (b a n 2) for a model with this width and number of heads."""
    max_pos = torch.tensor(TABLE_MAX_POS[: positions.shape[1]])
    middle = positions.mean(-1) / max_pos[:, None] * 2 - 1
    return rope_tables(
        rearrange(middle, "b a n -> b n a"),
        width,
        heads,
        theta=TABLE_THETA,
        is_interleaved=is_interleaved,
        double_grid=config.has_double_grid,
        dtype=torch.float32,
    )


def _side_by_side(x: Tensor) -> Tensor:
    return rearrange(x, "b h n d -> b n (h d)")
