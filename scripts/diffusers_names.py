"""What official names and settings are called in diffusers. A setting that is not named here is 2.0's in both.

Source: docs/reference/transformer.md, "Names in diffusers"; docs/reference/text.md, "Names in diffusers";
docs/reference/video-vae.md, "Names in diffusers"; docs/reference/audio.md, "Names in diffusers".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple

from ltx2_core import keymap
from ltx2_core.models.passes import StreamInput
from ltx2_core.types import Streams

Settings = Mapping[str, Any]

NORMS: keymap.Rows = (("q_norm", "norm_q"), ("k_norm", "norm_k"))
CONNECTORS: keymap.Rows = (
    ("text_embedding_projection.aggregate_embed", "text_proj_in"),
    ("video_embeddings_connector", "video_connector"),
    ("audio_embeddings_connector", "audio_connector"),
    ("transformer_1d_blocks", "transformer_blocks"),
    *NORMS,
)
STATISTICS: keymap.Rows = (
    ("per_channel_statistics.mean-of-means", "latents_mean"),
    ("per_channel_statistics.std-of-means", "latents_std"),
)
VIDEO_VAE: keymap.Rows = (
    ("res_blocks", "resnets"),
    *((f"down_blocks.{2 * i}", f"down_blocks.{i}") for i in range(4)),
    *((f"down_blocks.{2 * i + 1}", f"down_blocks.{i}.downsamplers.0") for i in range(4)),
    ("down_blocks.8", "mid_block"),
    ("up_blocks.0", "mid_block"),
    *((f"up_blocks.{2 * i + 1}", f"up_blocks.{i}.upsamplers.0") for i in range(3)),
    *((f"up_blocks.{2 * i + 2}", f"up_blocks.{i}") for i in range(3)),
    *STATISTICS,
)
VOCODER: keymap.Rows = (
    ("conv_pre", "conv_in"),
    ("conv_post", "conv_out"),
    ("ups", "upsamplers"),
    ("resblocks", "resnets"),
)


def transformer(config: Settings) -> Settings:
    sizes = ("num_attention_heads", "attention_head_dim", "cross_attention_dim")
    names = (*sizes, *(f"audio_{size}" for size in sizes), "num_layers", "caption_channels", "rope_type")
    return {name: config["transformer"][name] for name in names}


def connectors(config: Settings) -> Settings:
    sizes = [f"connector_{size}" for size in ("num_attention_heads", "attention_head_dim", "num_layers")]
    of_streams = {f"{s}_{size}": config["transformer"][size] for s in ("video", "audio") for size in sizes}
    return of_streams | {name: config["transformer"][name] for name in ("caption_channels", "rope_type")}


def video_vae(config: Settings) -> Settings:
    """The decoder's lists of 2.0 read the same from both ends, so their direction does not matter."""
    vae = config["vae"]
    settings = {"decoder_causal": vae["causal_decoder"]}
    for half, prefix, finest in (("encoder", "", "latent_channels"), ("decoder", "decoder_", "decoder_base_channels")):
        blocks: Sequence[Settings] = [block for _, block in vae[f"{half}_blocks"]]
        widths = accumulate((block["multiplier"] for block in blocks[1::2]), mul, initial=vae[finest])
        settings[f"{prefix}block_out_channels"] = tuple(widths)[1:]
        settings[f"{prefix}layers_per_block"] = tuple(block["num_layers"] for block in blocks[::2])
    return settings


def audio_vae(config: Settings) -> Settings:
    return {name: config["audio_vae"]["model"]["params"]["ddconfig"][name] for name in ("ch_mult", "num_res_blocks")}


def vocoder(config: Settings) -> Settings:
    return {"hidden_channels": config["vocoder"]["upsample_initial_channel"]}


def upsampler(config: Settings) -> Settings:
    same = ("mid_channels", "num_blocks_per_stage", "spatial_upsample", "temporal_upsample")
    return {"rational_spatial_scale": config["spatial_scale"]} | {name: config[name] for name in same}


class Reference(NamedTuple):
    """A class of diffusers, the official prefix of its tensors as a pattern, what becomes of the rest, its settings."""

    path: str
    prefix: str
    rows: keymap.Rows
    settings: Callable[[Settings], Settings]

    def names(self, official: Iterable[str]) -> dict[str, str]:
        """Those names of an official file that are this class's, each with what it is called there."""
        matches = filter(None, (re.match(self.prefix, name) for name in official))
        return {match.string: keymap.from_official(match.string[match.end() :], self.rows) for match in matches}


def transformer_arguments(inputs: Streams[StreamInput]) -> Settings:
    """What our denoiser is given, as the arguments that the one of diffusers takes."""
    video, audio = inputs
    assert video is not None
    assert audio is not None
    arguments: dict[str, Any] = {"video_self_attention_mask": video.attention_mask}
    for prefix, one in (("", video), ("audio_", audio)):
        timesteps, index = one.unique_timesteps, one.timestep_index
        timesteps = timesteps if index is None else timesteps.gather(1, index)
        arguments |= {
            f"{prefix}hidden_states": one.latent,
            f"{prefix}timestep": 1000 * timesteps,
            f"{prefix}encoder_hidden_states": one.context,
            f"{prefix}encoder_attention_mask": one.context_mask,
            f"{prefix or 'video_'}coords": one.positions,
        }
    return arguments


DENOISER = r"model\.diffusion_model\.(?!\w+_embeddings_connector\.)"
TEXT = r"(model\.diffusion_model\.)?(?=\w+_embeddings_connector\.|text_embedding_projection\.)"
REFERENCES = {
    "transformer": Reference("diffusers:LTX2VideoTransformer3DModel", DENOISER, keymap.DIFFUSERS, transformer),
    "connectors": Reference("diffusers.pipelines.ltx2:LTX2TextConnectors", TEXT, CONNECTORS, connectors),
    "video_vae": Reference("diffusers:AutoencoderKLLTX2Video", r"vae\.", VIDEO_VAE, video_vae),
    "audio_vae": Reference("diffusers:AutoencoderKLLTX2Audio", r"audio_vae\.", STATISTICS, audio_vae),
    "vocoder": Reference("diffusers.pipelines.ltx2:LTX2Vocoder", r"vocoder\.", VOCODER, vocoder),
    "upsampler": Reference("diffusers.pipelines.ltx2:LTX2LatentUpsamplerModel", "", (), upsampler),
}
