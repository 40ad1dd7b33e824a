"""The names of official tensors and settings in diffusers. A setting that is missing here has one fixed value in both.

Source: docs/reference/transformer.md, "Names in diffusers"; docs/reference/text.md, "Names in diffusers";
docs/reference/video-vae.md, "Names in diffusers"; docs/reference/audio.md, "Names in diffusers";
docs/reference/video-diffusion-decoder.md, "Names in diffusers".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple

from torch import Tensor

from ltx2_core import keymap
from ltx2_core.models.passes import StreamInput
from ltx2_core.types import Streams

Settings = Mapping[str, Any]

NORMS: keymap.Rows = (("q_norm", "norm_q"), ("k_norm", "norm_k"))
CONNECTORS: keymap.Rows = (
    ("text_embedding_projection.aggregate_embed", "text_proj_in"),
    ("text_embedding_projection.video_aggregate_embed", "video_text_proj_in"),
    ("text_embedding_projection.audio_aggregate_embed", "audio_text_proj_in"),
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
    *((f"up_blocks.{2 * i + 1}", f"up_blocks.{i}.upsamplers.0") for i in range(4)),
    *((f"up_blocks.{2 * i + 2}", f"up_blocks.{i}") for i in range(4)),
    *STATISTICS,
)
VOCODER: keymap.Rows = (
    ("conv_pre", "conv_in"),
    ("conv_post", "conv_out"),
    ("ups", "upsamplers"),
    ("resblocks", "resnets"),
    ("act_post", "act_out"),
    ("downsample.lowpass", "downsample"),
)
DIFFUSION_DECODER: keymap.Rows = (
    ("t_embedder.mlp.0", "t_embedder.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "t_embedder.timestep_embedder.linear_2"),
    ("attn.proj", "attn.to_out.0"),
    *NORMS,
    *STATISTICS,
)
DURATION_HEAD: keymap.Rows = (("cross_attn.out_proj", "to_out"),)
# The diffusers names of the three matrices into which one matrix for queries, keys and values is split.
STACKED = re.compile(r"(?:qkv\.|cross_attn\.in_proj_)(?=weight$|bias$)")
VOCODER_SETTINGS = (
    ("upsample_initial_channel", "hidden_channels"),
    ("upsample_kernel_sizes", "upsample_kernel_sizes"),
    ("upsample_rates", "upsample_factors"),
    ("resblock_kernel_sizes", "resnet_kernel_sizes"),
    ("resblock_dilation_sizes", "resnet_dilations"),
)


def transformer(config: Settings) -> Settings:
    section = config["transformer"]
    sizes = ("num_attention_heads", "attention_head_dim", "cross_attention_dim")
    names = (*sizes, *(f"audio_{size}" for size in sizes), "num_layers", "caption_channels", "rope_type")
    return {
        **{name: section[name] for name in names},
        **{f"{s}gated_attn": section.get("apply_gated_attention", False) for s in ("", "audio_")},
        **{f"{s}cross_attn_mod": section.get("cross_attention_adaln", False) for s in ("", "audio_")},
        "use_prompt_embeddings": not section.get("caption_proj_before_connector", False),
        "ff_bias": section.get("ff_bias", True),
        "use_keyframes_abs_pos_embedding": section.get("use_keyframes_abs_pos_embedding", False),
    }


def connectors(config: Settings) -> Settings:
    section = config["transformer"]
    settings = {name: section[name] for name in ("caption_channels", "rope_type")}
    for stream, prefix in (("video", ""), ("audio", "audio_")):
        for size in ("num_attention_heads", "attention_head_dim", "num_layers"):
            shared = section[f"connector_{size}"]
            settings[f"{stream}_connector_{size}"] = section.get(f"{prefix}connector_{size}", shared)
        settings[f"{stream}_gated_attn"] = section.get("connector_apply_gated_attention", False)
        settings[f"{stream}_hidden_dim"] = section[f"{prefix}cross_attention_dim"]
    has_projections = section.get("caption_proj_before_connector", False)
    return settings | {"per_modality_projections": has_projections, "proj_bias": has_projections}


DIRECTIONS = {"space": "spatial", "time": "temporal", "all": "spatiotemporal"}


def video_vae(config: Settings) -> Settings:
    vae = config["vae"]
    settings: dict[str, Any] = {
        "decoder_causal": vae["causal_decoder"],
        "decoder_spatial_padding_mode": vae.get("spatial_padding_mode", "reflect"),
    }
    for half, prefix, finest in (("encoder", "", "latent_channels"), ("decoder", "decoder_", "decoder_base_channels")):
        blocks: Sequence[Settings] = [block for _, block in vae[f"{half}_blocks"]]
        widths = accumulate((block["multiplier"] for block in blocks[1::2]), mul, initial=vae[finest])
        settings[f"{prefix}block_out_channels"] = tuple(widths)[1:]
        settings[f"{prefix}layers_per_block"] = tuple(block["num_layers"] for block in blocks[::2])
    return settings | upsampling(vae["decoder_blocks"][1::2])


def upsampling(blocks: Sequence[tuple[str, Settings]]) -> Settings:
    """The settings of the decoder's upsampling. Lists of blocks and factors begin at the pixels, the list of kinds at
    the latents.
    """
    kinds = [DIRECTIONS[name.removeprefix("compress_")] for name, _ in blocks]
    return {
        "upsample_type": tuple(reversed(kinds)),
        "upsample_factor": tuple(block["multiplier"] for _, block in blocks),
        "upsample_residual": tuple(block.get("residual", False) for _, block in blocks),
        "decoder_spatio_temporal_scaling": (True,) * len(blocks),
        "decoder_inject_noise": (False,) * (len(blocks) + 1),
    }


def audio_vae(config: Settings) -> Settings:
    return {name: config["audio_vae"]["model"]["params"]["ddconfig"][name] for name in ("ch_mult", "num_res_blocks")}


def vocoder(config: Settings) -> Settings:
    return {theirs: config["vocoder"][name] for name, theirs in VOCODER_SETTINGS}


def extended_vocoder(config: Settings) -> Settings:
    """The diffusers settings, with `clamp`, so that the output of the first vocoder is clamped to [-1, 1] as in the
    official code.
    """
    section = config["vocoder"]
    stft = {"n_fft": "filter_length", "win_size": "window_length", "num_mels": "num_mel_channels"}
    same = ("hop_length", "input_sampling_rate", "output_sampling_rate")
    return {
        **vocoder(section),
        **{f"bwe_{theirs}": section["bwe"][name] for name, theirs in VOCODER_SETTINGS},
        **{theirs: section["bwe"][name] for name, theirs in (*stft.items(), *zip(same, same, strict=True))},
        "final_act_fn": "clamp",
    }


def upsampler(config: Settings) -> Settings:
    same = ("mid_channels", "num_blocks_per_stage", "spatial_upsample", "temporal_upsample")
    other = {"rational_spatial_scale": "spatial_scale", "use_rational_resampler": "rational_resampler"}
    return {theirs: config[name] for theirs, name in (*other.items(), *zip(same, same, strict=True))}


def diffusion_decoder(config: Settings) -> Settings:
    decoder = config["vae"]["decoder"]
    same = ("head_dim", "stage_channels", "stage_depths", "stage5_kernel", "t_emb_dim", "timestep_scale_multiplier")
    return {
        **{f"decoder_{name}": decoder[name] for name in same},
        "decoder_stage_kernels": decoder["stage_kernels"][:-1],
        "decoder_upsample_strides": [stride for stride, _ in decoder["upsamples"]],
        "decoder_upsample_channel_reductions": [by for _, by in decoder["upsamples"]],
        "decoder_model_output_type": config["vae"]["model_output_type"],
        "decoder_num_inference_steps": decoder["default_num_inference_steps"],
    }


def duration_head(config: Settings) -> Settings:
    section = config["transformer"]
    return {
        "video_cross_attention_dim": section["cross_attention_dim"],
        "audio_cross_attention_dim": section["audio_cross_attention_dim"],
    }


class Reference(NamedTuple):
    """A class of diffusers: a pattern for the official prefix of its tensors, how the rest of a name is changed, its
    settings.
    """

    path: str
    prefix: str
    rows: keymap.Rows
    settings: Callable[[Settings], Settings]

    def names(self, official: Iterable[str]) -> dict[str, str]:
        """The names in an official file that belong to this class, each with its name in diffusers."""
        matches = filter(None, (re.match(self.prefix, name) for name in official))
        return {match.string: keymap.from_official(match.string[match.end() :], self.rows) for match in matches}

    def state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors in an official file that belong to this class, as an argument for `load_state_dict`."""
        state: dict[str, Tensor] = {}
        for official, renamed in self.names(tensors).items():
            stacked = STACKED.search(renamed)
            if stacked is None:
                state[renamed] = tensors[official]
                continue
            for letter, part in zip("qkv", tensors[official].chunk(3), strict=True):
                state[STACKED.sub(f"to_{letter}.", renamed)] = part
        return state


def transformer_arguments(inputs: Streams[StreamInput]) -> Settings:
    """The inputs of our denoiser as arguments of the diffusers denoiser."""
    video, audio = inputs
    assert video is not None
    assert audio is not None
    arguments: dict[str, Any] = {
        "video_self_attention_mask": video.attention_mask,
        "video_keyframes_mask": video.keyframes_mask,
    }
    for prefix, one in (("", video), ("audio_", audio)):
        timesteps, index = one.unique_timesteps, one.timestep_index
        if index is not None:
            timesteps = timesteps.gather(1, index)
        arguments |= {
            f"{prefix}hidden_states": one.latent,
            f"{prefix}timestep": 1000 * timesteps,
            f"{prefix}sigma": 1000 * one.sigma,
            f"{prefix}encoder_hidden_states": one.context,
            f"{prefix}encoder_attention_mask": one.context_mask,
            f"{prefix or 'video_'}coords": one.positions,
        }
    return arguments


DENOISER = r"model\.diffusion_model\.(?!\w+_embeddings_connector\.)"
TEXT = r"(model\.diffusion_model\.)?(?=\w+_embeddings_connector\.|text_embedding_projection\.)"
VAE = r"(vae\.)?(?=(encoder|decoder|per_channel_statistics)\.)"
DIFFUSION_VAE = r"(vae\.)?(?=(decoder|per_channel_statistics)\.)"
REFERENCES = {
    "transformer": Reference("diffusers:LTX2VideoTransformer3DModel", DENOISER, keymap.DIFFUSERS, transformer),
    "connectors": Reference("diffusers.pipelines.ltx2:LTX2TextConnectors", TEXT, CONNECTORS, connectors),
    "video_vae": Reference("diffusers:AutoencoderKLLTX2Video", VAE, VIDEO_VAE, video_vae),
    "diffusion_decoder": Reference(
        "diffusers:LTX2VideoDiffusionDecoderModel", DIFFUSION_VAE, DIFFUSION_DECODER, diffusion_decoder
    ),
    "audio_vae": Reference("diffusers:AutoencoderKLLTX2Audio", r"audio_vae\.", STATISTICS, audio_vae),
    "vocoder": Reference("diffusers.pipelines.ltx2:LTX2Vocoder", r"vocoder\.", VOCODER, vocoder),
    "extended_vocoder": Reference(
        "diffusers.pipelines.ltx2:LTX2VocoderWithBWE", r"vocoder\.", VOCODER, extended_vocoder
    ),
    "duration_head": Reference(
        "diffusers.pipelines.ltx2:LTX2DurationHead", r"duration_head\.", DURATION_HEAD, duration_head
    ),
    "upsampler": Reference("diffusers.pipelines.ltx2:LTX2LatentUpsamplerModel", "", (), upsampler),
}
