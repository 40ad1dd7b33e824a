"""The toy model: its components, their sizes, and how its files are written and read.

    python scripts/toy/model.py [--folder DIR]

prints the parameters of every component, the size of every existing file, and the limit.

Trainers get modules from `fresh` or `trained`, which return float32 parameters with gradients, and pass them to `save`,
which writes the official names in bfloat16 with the official metadata. Several trainers may share one file: `save`
replaces the tensors of the given components and keeps the others.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Gemma3TextConfig, Gemma3TextModel

from ltx2_core.checkpoint import BUILDERS, load_component
from ltx2_core.config.released import released_configs
from ltx2_core.headers import read_header
from ltx2_core.keymap import official_name, own_names
from ltx2_core.models.connector import Connector, TextProjection
from ltx2_core.models.transformer import Exchange, Stream, Transformer

Config = dict[str, Any]

HOME = Path(__file__).resolve().parents[2] / "ltx2_core" / "toy"
TOTAL_BYTES, FILE_BYTES = 32_000_000, 14_000_000

WIDTH, HEIGHT, FRAMES, FPS = 192, 128, 49, 24
VIDEO_GRID, AUDIO_STEPS = (7, 4, 6), 51  # sizes of the latents of such a clip
VIDEO_CHANNELS, AUDIO_CHANNELS = 48, 4
TEXT_ROWS = 128
TEXT_WIDTH, TEXT_LAYERS, VOCABULARY = 128, 2, 1024

TRANSFORMER = {
    "num_attention_heads": 4,
    "attention_head_dim": 48,
    "cross_attention_dim": 192,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 24,
    "audio_cross_attention_dim": 96,
    "num_layers": 6,
    "in_channels": VIDEO_CHANNELS,
    "out_channels": VIDEO_CHANNELS,
    "audio_in_channels": 16 * AUDIO_CHANNELS,
    "audio_out_channels": 16 * AUDIO_CHANNELS,
    "positional_embedding_theta": 1000.0,
    "positional_embedding_max_pos": [4, 512, 512],
    "audio_positional_embedding_max_pos": [4],
    "caption_channels": TEXT_WIDTH,
    "connector_num_attention_heads": 4,
    "connector_attention_head_dim": TEXT_WIDTH // 4,
    "connector_num_layers": 1,
    "connector_positional_embedding_max_pos": [256],
}


def _res(layers: int) -> list[Any]:
    return ["res_x", {"num_layers": layers}]


VIDEO_VAE = {
    "latent_channels": VIDEO_CHANNELS,
    "patch_size": 8,
    "encoder_blocks": [
        ["compress_time_res", {"multiplier": 1}],
        _res(1),
        ["compress_all_res", {"multiplier": 2}],
        _res(1),
        ["compress_all_res", {"multiplier": 1}],
        _res(1),
    ],
    "decoder_blocks": [  # in the order from the pixels to the latent
        _res(1),
        ["compress_time", {"multiplier": 1}],
        _res(1),
        ["compress_all", {"multiplier": 1, "residual": True}],
        _res(2),
        ["compress_all", {"multiplier": 2, "residual": True}],
        _res(2),
    ],
    "decoder_base_channels": 48,
    "spatial_padding_mode": "zeros",
}
AUDIO_VAE = {"z_channels": AUDIO_CHANNELS, "ch": 64, "ch_mult": [1, 1, 1], "num_res_blocks": 1}
VOCODER = {
    "upsample_initial_channel": 192,
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
}
UPSAMPLER = {
    "_class_name": "LatentUpsampler",
    "in_channels": VIDEO_CHANNELS,
    "mid_channels": 64,
    "num_blocks_per_stage": 1,
    "dims": 3,
    "spatial_upsample": True,
    "temporal_upsample": False,
    "spatial_scale": 2.0,
    "rational_resampler": False,
}
GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 2 * TEXT_WIDTH,
    "num_hidden_layers": TEXT_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "vocab_size": VOCABULARY,
    "sliding_window": 1024,
    "sliding_window_pattern": 2,
    "rope_theta": 10000,
    "rope_local_base_freq": 10000,
    "max_position_embeddings": 8192,
}
LORA_RANK = 8
OPEN = 0.3  # initial value that is added to the gates


@dataclass(frozen=True, slots=True)
class File:
    """One file of the model: the components that it contains, and the sections of the config that describe them."""

    components: tuple[str, ...]
    sections: tuple[str, ...] = ()


FILES = {
    "transformer.safetensors": File(
        ("transformer", "video_connector", "audio_connector", "text_projection"), ("transformer", "scheduler")
    ),
    "video_vae.safetensors": File(("video_encoder", "video_decoder"), ("vae",)),
    "audio_vae.safetensors": File(("audio_encoder", "audio_decoder", "vocoder"), ("audio_vae", "vocoder")),
    "upsampler.safetensors": File(("upsampler",)),
}
FILE_OF = {component: name for name, file in FILES.items() for component in file.components}
TEXT_ENCODER = "text_encoder"


@cache
def model_config() -> Config:
    """The released config of 2.0 with the sizes of this model."""
    config: Config = copy.deepcopy(released_configs()["2.0"])
    config["transformer"] |= TRANSFORMER
    config["vae"] |= VIDEO_VAE
    config["audio_vae"]["model"]["params"]["ddconfig"] |= AUDIO_VAE
    config["audio_vae"]["model"]["params"]["embed_dim"] = AUDIO_CHANNELS
    config["vocoder"] |= VOCODER
    return config


def file_config(name: str) -> Config:
    """The config in the metadata of a file: its sections, or the flat config of an upsampler."""
    sections = FILES[name].sections
    return {section: model_config()[section] for section in sections} if sections else UPSAMPLER


def fresh(component: str, seed: int = 0) -> nn.Module:
    """A component with initial weights: float32, with gradients. torch's global random state does not change."""
    shapes = {"aggregate_embed.weight": (TEXT_WIDTH, TEXT_WIDTH * (TEXT_LAYERS + 1))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = BUILDERS[component]({**file_config(FILE_OF[component]), "shapes": shapes})
        _initialise(module)
    return module


def trained(component: str, folder: Path = HOME) -> nn.Module:
    """A component with the weights of its file: float32, with gradients."""
    module = load_component(component, folder / FILE_OF[component], dtype=torch.float32)
    return copy.deepcopy(module).requires_grad_(True).train()  # a copy, because the mapped file will be replaced


def fresh_gemma(seed: int = 0) -> nn.Module:
    """The language model with initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Gemma3TextModel(Gemma3TextConfig(**GEMMA, pad_token_id=0, eos_token_id=1, bos_token_id=2))


def save(
    name: str, components: Mapping[str, nn.Module | Mapping[str, Tensor]], folder: Path = HOME, **notes: str | int
) -> None:
    """Write components into a file of the model, first under a temporary name.

    Args: components: modules, or their state dicts, by name. notes: additional metadata, such as the number of training
    steps.
    """
    path = folder / name
    metadata: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    if path.is_file():
        header = read_header(path)
        metadata = dict(header.metadata)
        kept = {key for other in FILES[name].components for key in own_names(other, header)}
        kept -= {key for component in components for key in own_names(component, header)}
        tensors = {key: tensor for key, tensor in load_file(path).items() if key in kept}
    for component, module in components.items():
        state = module.state_dict() if isinstance(module, nn.Module) else module
        tensors |= official(component, state)
    metadata |= {"config": json.dumps(file_config(name)), **{key: str(value) for key, value in notes.items()}}
    write(path, tensors, metadata)


def official(component: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a component as in official files: with their names, in bfloat16 except for the tables."""
    named = {official_name(component, own): tensor.detach() for own, tensor in state.items()}
    return {
        name: tensor.to(torch.float32 if "scale_shift_table" in name else torch.bfloat16).contiguous()
        for name, tensor in named.items()
    }


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file(dict(tensors), part, dict(metadata))
    part.chmod(0o644)
    part.replace(path)


def save_gemma(model: nn.Module | Mapping[str, Tensor], folder: Path = HOME) -> None:
    """Write the language model in the format of Google's folders; `tokenizer.py` writes the tokenizer next to it."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {f"language_model.model.{name}": t.detach().bfloat16().contiguous() for name, t in state.items()}
    target = folder / TEXT_ENCODER
    write(target / "model.safetensors", tensors, {"format": "pt"})
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": GEMMA}
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _initialise(module: nn.Module) -> None:
    """Initialise the tensors that modules leave empty; other linear layers and convolutions keep torch's
    initialisation.

    In the denoiser and the text path, the last layer of each residual branch starts at zero and gates start open, so
    every block is the identity at first and still gets gradients immediately.
    """
    for name, buffer in module.named_buffers():
        buffer.fill_(1.0 if name.endswith("std-of-means") else 0.0)
    for name, parameter in module.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "learnable_registers":
            nn.init.normal_(parameter)
        elif leaf in ("table", "video_table", "audio_table"):
            nn.init.normal_(parameter, std=0.02)
    if not isinstance(module, (Transformer, Connector, TextProjection)):
        return
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            _initialise_linear(name, part)
        elif isinstance(part, Stream):
            part.table.data[[2, 5]] += OPEN
        elif isinstance(part, Exchange):
            part.video_table.data[4] += OPEN
            part.audio_table.data[4] += OPEN


def _initialise_linear(name: str, linear: nn.Linear) -> None:
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    if name.endswith(("to_out", "mlp.down", "proj_out")):
        nn.init.zeros_(linear.weight)
    elif name.endswith("adaln.linear"):
        nn.init.normal_(linear.weight, std=0.01)
    else:
        nn.init.xavier_uniform_(linear.weight)


def lora_parameters(rank: int = LORA_RANK) -> int:
    """Number of parameters of a low-rank pair for every attention and feed-forward linear layer of the denoiser's
    blocks.
    """
    blocks = fresh("transformer").get_submodule("blocks")
    linears = [part for part in blocks.modules() if isinstance(part, nn.Linear)]
    return sum(rank * (linear.in_features + linear.out_features) for linear in linears)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HOME, help="folder of the files")
    folder = parser.parse_args().folder
    counts = {component: sum(p.numel() for p in fresh(component).parameters()) for component in FILE_OF}
    counts |= {"text_encoder": sum(p.numel() for p in fresh_gemma().parameters()), "distilled_lora": lora_parameters()}
    for component, count in counts.items():
        print(f"{component:18} {count:>10,} parameters {2 * count / 1e6:6.2f} MB in bf16")
    print(f"{'sum':18} {sum(counts.values()):>10,} parameters {2 * sum(counts.values()) / 1e6:6.2f} MB in bf16\n")
    sizes = {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    for path, size in sizes.items():
        print(f"{path.relative_to(folder)!s:34} {size:>12,} bytes{'  TOO BIG' if size > FILE_BYTES else ''}")
    print(f"{'sum':34} {sum(sizes.values()):>12,} bytes of {TOTAL_BYTES:,}")


if __name__ == "__main__":
    main()
