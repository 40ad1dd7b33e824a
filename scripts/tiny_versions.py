"""The generations of the tiny models: the released configs with small sizes, and the files that contain them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ltx2_core.components import AUDIO_CONNECTOR, DIT, PROJECTION, VIDEO_CONNECTOR
from scripts.tiny_text import LAYERS, WIDTH

Config = dict[str, Any]
Parts = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]

# Widths that all differ, so that a mix-up is noticed; latent widths and rates are those of the releases.
TRANSFORMER = {
    "num_attention_heads": 4,
    "attention_head_dim": 20,
    "cross_attention_dim": 80,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 10,
    "audio_cross_attention_dim": 40,
    "num_layers": 4,
    "caption_channels": WIDTH,
    "connector_num_attention_heads": 4,
    "connector_attention_head_dim": 8,
}
# Widths that are multiples of 256, for blocks and rotations of 256 columns; contexts keep the text encoder's width.
WIDE = {
    "attention_head_dim": 128,
    "cross_attention_dim": 512,
    "audio_attention_head_dim": 64,
    "audio_cross_attention_dim": 256,
    "num_layers": 2,
}
CONNECTORS_AS_WIDE_AS_CONTEXTS = {
    "connector_attention_head_dim": 20,
    "connector_num_layers": 2,
    "audio_connector_num_attention_heads": 4,
    "audio_connector_attention_head_dim": 10,
}
WIDE_CONNECTORS = {"connector_attention_head_dim": 128, "audio_connector_attention_head_dim": 64}
RES_X = ["res_x", {"num_layers": 1, "inject_noise": False}]
UP = ["compress_all", {"multiplier": 2, "residual": True}]
UPS = [[f"compress_{axes}", {"multiplier": by}] for axes, by in (("space", 2), ("time", 2), ("all", 1), ("all", 2))]
VIDEO_VAE = {
    "encoder_blocks": [[f"compress_{axes}_res", {"multiplier": 1}] for axes in ("space", "time", "all", "all")],
    "decoder_blocks": [RES_X, UP, RES_X, UP, RES_X, UP, RES_X],
    "decoder_base_channels": 8,
}
AUDIO_VAE = {"ch": 24, "ch_mult": [1, 1, 1], "num_res_blocks": 1}
VOCODER = {"upsample_initial_channel": 64}
FEW_BLOCKS = {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]}
TWO_VOCODERS = {"vocoder": VOCODER | FEW_BLOCKS, "bwe": VOCODER | FEW_BLOCKS}
CONV_VAE = VIDEO_VAE | {"decoder_blocks": [RES_X, *(part for one in UPS for part in (one, RES_X))]}
DIFFUSION_VAE: Config = {
    "encoder": {"blocks": VIDEO_VAE["encoder_blocks"]},
    "decoder": {
        "head_dim": 16,
        "stage_channels": [128, 64, 32, 32, 16],
        "stage_depths": [1, 1, 1, 1, 2],
        "stage_kernels": [[3, 1, 3], [3, 3, 3], [3, 3, 5], [3, 5, 5], [5, 5, 7]],
        "stage5_kernel": [5, 5, 7],
        "t_emb_dim": 64,
    },
}


@dataclass(frozen=True, kw_only=True)
class Version:
    """A generation.

    Args: changes: to its released config, by section. upsamplers: changes to the released config of an upsampler, by
    file. encoder: the kind of its text encoder. wide: changes in addition to WIDE. more: components that other
    generations lack. conv_vae: changes to the released config of 2.3, for a second video VAE with a convolutional
    decoder.
    """

    stem: str
    changes: Mapping[str, Config]
    upsamplers: Mapping[str, tuple[str, Config]]
    encoder: str = "gemma3"
    layout: str = "single"
    metadata: Mapping[str, str] = field(default_factory=dict)
    wide: Config = field(default_factory=dict)
    more: tuple[str, ...] = ()
    conv_vae: Config | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Sizes that no config contains: the projection reads the hidden states of all layers of this text encoder."""
        return {"aggregate_embed.weight": (WIDTH, WIDTH * (LAYERS[self.encoder] + 1))}


NEWER = {"transformer": TRANSFORMER | CONNECTORS_AS_WIDE_AS_CONTEXTS, "vocoder": TWO_VOCODERS}  # newer than 2.0
GEMMA_4_VERSION = "gemma4-tiny-ltx-v1"
VERSIONS = {
    "2.0": Version(
        stem="ltx-2-tiny",
        changes={"transformer": TRANSFORMER, "vae": VIDEO_VAE, "vocoder": VOCODER | FEW_BLOCKS},
        upsamplers={
            "spatial-upscaler-x2": ("upsampler-spatial-x2-rational", {}),
            "spatial-upscaler-x1.5": ("upsampler-spatial-x2-rational", {"spatial_scale": 1.5}),
            "temporal-upscaler-x2": ("upsampler-temporal-x2", {}),
        },
    ),
    "2.3": Version(
        stem="ltx-2.3-tiny",
        changes=NEWER | {"vae": CONV_VAE},
        upsamplers={
            "spatial-upscaler-x2": ("upsampler-spatial-x2", {}),
            "spatial-upscaler-x1.5": ("upsampler-spatial-x1.5", {}),
            "temporal-upscaler-x2": ("upsampler-temporal-x2", {}),
        },
        wide=WIDE_CONNECTORS,
        metadata={"model_version": "2.3"},
    ),
    "2.5": Version(
        stem="ltx-2.5-tiny",
        changes=NEWER | {"vae": DIFFUSION_VAE},
        upsamplers={
            "spatial-upscaler-x2": ("upsampler-spatial-x2", {}),
            "temporal-upscaler-x2": ("upsampler-temporal-x2", {}),
        },
        encoder="gemma4",
        layout="components",
        metadata={
            "model_version": "2.5.0",
            "gemma_source_checkpoint": f'{{"ltx_version": "2.5.0", "gemma_version": "{GEMMA_4_VERSION}"}}',
        },
        wide=WIDE_CONNECTORS,
        more=("duration_head",),
        conv_vae=CONV_VAE,
    ),
}
# The files of a model in parts: the prefixes of their tensors, and the sections of their config. The denoiser gets the
# remaining tensors.
PARTS: Parts = {
    "video-vae": (("vae.",), ("vae",)),
    "audio-vae": (("audio_vae.", "vocoder."), ("audio_vae", "vocoder")),
    "duration-head": (("duration_head.",), ("duration_head",)),
}
CONNECTORS: Parts = {"connectors": ((DIT + VIDEO_CONNECTOR, DIT + AUDIO_CONNECTOR, PROJECTION), ())}  # for GGUF
