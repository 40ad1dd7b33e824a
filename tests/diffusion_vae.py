"""A tiny video VAE with the diffusion decoder: its config, and random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ltx2_core.config.video_vae import VideoVAEConfig
from ltx2_core.models.diffusion_decoder import DiffusionDecoder

BLOCKS = [
    ["res_x", {"num_layers": 1}],
    ["compress_space_res", {"multiplier": 2}],
    ["compress_time_res", {"multiplier": 1}],
    ["compress_all_res", {"multiplier": 1}],
    ["compress_all_res", {"multiplier": 1}],
]
DECODER = {
    "head_dim": 8,
    "stage_channels": [32, 16, 16, 16, 8],
    "stage_depths": [1, 1, 1, 1, 1],
    "stage_kernels": [[3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [1, 1, 1]],
    "stage5_kernel": [5, 5, 5],
    "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 1], [[2, 2, 2], 1], [[2, 2, 2], 2]],
    "timestep_scale_multiplier": 1000.0,
    "default_num_inference_steps": 1,
    "t_emb_dim": 16,
}


def vae_metadata(latent_channels: int = 4, **changes: Any) -> dict[str, Any]:
    """The metadata of such a file. changes: to the section of the decoder."""
    encoder = {"norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "constant", "blocks": BLOCKS}
    return {
        "vae": {
            "_class_name": "CausalDiffusionVAE",
            "model_output_type": "x0",
            "encoder": {"out_channels": latent_channels, **encoder},
            "decoder": DECODER | changes,
        }
    }


def random_decoder(metadata: Mapping[str, Any] | None = None, seed: int = 0) -> DiffusionDecoder:
    """A decoder in float32 with weights of a moderate size."""
    decoder = DiffusionDecoder(VideoVAEConfig.from_metadata(metadata or vae_metadata()))
    randomise(decoder, seed)
    return decoder.requires_grad_(False).eval()


def randomise(module: nn.Module, seed: int) -> None:
    """Give every weight of a module random values."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        is_norm = "norm" in name or name.endswith("std-of-means")
        tensor.copy_(1 + noise / 8 if is_norm else noise / max(1, tensor.shape[-1]) ** 0.5)
