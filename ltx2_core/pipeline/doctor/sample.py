"""A denoiser of 2.0 with random weights at any size, for measurements: its speed does not depend on the weights'
values.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from ...config.released import released_configs
from ...config.transformer import TransformerConfig
from ...models.transformer import Transformer
from ...sampling.guidance import GuidanceScales
from ...types import Streams


def scaled_settings(layers: int, heads: int) -> dict[str, Any]:
    """The config of 2.0 with so many blocks and heads per stream. The released model has 48 and 32."""
    transformer = released_configs()["2.0"]["transformer"]
    sizes: dict[str, int] = {"num_layers": layers}
    for stream in ("", "audio_"):
        sizes[f"{stream}num_attention_heads"] = heads
        sizes[f"{stream}cross_attention_dim"] = heads * transformer[f"{stream}attention_head_dim"]
    return {"transformer": transformer | sizes}


def random_transformer(config: TransformerConfig, dtype: torch.dtype, device: torch.device) -> Transformer:
    """A model whose weights are generated on the device, never held in another dtype."""
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Transformer(config)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, parameter in model.requires_grad_(False).named_parameters():
        if name.endswith("table"):
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def guidance(layers: int) -> Streams[GuidanceScales]:
    """The default guidance of 2.0: four passes per step."""
    video = GuidanceScales(st=3.0, sm=3.0, stg=1.0, stg_blocks=(stg_block(layers),), rescale=0.7)
    return Streams(video, replace(video, st=7.0))


def stg_block(layers: int) -> int:
    """The block without self-attention in the perturbed pass."""
    return int(Fraction(29, 48) * layers)
