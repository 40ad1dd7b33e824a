"""Write a complete tiny random model in the official layout: `scripts/make_tiny_checkpoint.py OUT --version 2.3`.

OUT gets a single-file checkpoint with its metadata, a Gemma folder with tokenizer, spatial and temporal latent
upsamplers, a distilled LoRA, a style LoRA and an in-context LoRA. Nothing is learned: pictures are coloured noise and
sounds are hiss, but every code path runs, in a second or two. With `--precision gguf-…` the checkpoint is in parts, as
people have it: the denoiser alone in a GGUF file, and connectors, video VAE and audio VAE in files of their own.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from torch import Tensor, nn
from transformers import Gemma3TextConfig, Gemma3TextModel

from ltx2_core.checkpoint import BUILDERS
from ltx2_core.components import AUDIO_CONNECTOR, DIT, PROJECTION, VIDEO_CONNECTOR
from ltx2_core.config.released import released_configs
from ltx2_core.keymap import official_name
from ltx2_core.text.released import RELEASED
from scripts.gguf_quantise import PRECISIONS as GGUF_PRECISIONS
from scripts.gguf_quantise import gguf_tensors
from scripts.gguf_writer import gguf_bytes
from scripts.quantise import PRECISIONS, stored_as

Config = dict[str, Any]

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
SPECIAL_TOKENS += ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
TOKENIZER_CONFIG = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")} | {"padding_side": "left"}
WORDS = (
    "a an and are as at background ball bell big bird birds black blue bouncing bright bursts camera car cat "
    "chirping city close cloud cold dark day dog door drone drops fast fire flies floor forest from glass gold "
    "green grey hard heard high hits hums in into is kettle lamp large left light loud low man metal mist misty "
    "moon morning mountain mountains moves music night of off on over people rain red river road room rustle "
    "sea shot sky slams slow small snow soft song sound speaks starts steel stone street sun the thud to train "
    "tree turns under voice wall water wave waves whistle white wide wind window with woman wood yellow"
)

# Widths that differ from each other, so that a mix-up cannot go unseen; latent widths and rates are the released ones.
TEXT_WIDTH, TEXT_LAYERS = 32, 7
TRANSFORMER = {
    "num_attention_heads": 4,
    "attention_head_dim": 20,
    "cross_attention_dim": 80,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 10,
    "audio_cross_attention_dim": 40,
    "num_layers": 4,
    "caption_channels": TEXT_WIDTH,
    "connector_num_attention_heads": 4,
    "connector_attention_head_dim": 8,
}
# Widths that blocks of 256 values and rotations of 256 columns go into; that of the context stays the text encoder's.
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
RES_X = ["res_x", {"num_layers": 1, "inject_noise": False}]
UP = ["compress_all", {"multiplier": 2, "residual": True}]
UPS = [[f"compress_{axes}", {"multiplier": by}] for axes, by in (("space", 2), ("time", 2), ("all", 1), ("all", 2))]
VIDEO_VAE = {
    "encoder_blocks": [[f"compress_{axes}_res", {"multiplier": 1}] for axes in ("space", "time", "all", "all")],
    "decoder_blocks": [RES_X, UP, RES_X, UP, RES_X, UP, RES_X],
    "decoder_base_channels": 8,
}
AUDIO_VAE = {"ch_mult": [1, 1, 1], "num_res_blocks": 1}
VOCODER = {"upsample_initial_channel": 64}
FEW_BLOCKS = {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]}


@dataclass(frozen=True)
class Version:
    """A generation. changes: to its released config, by section. upsamplers: by file, the released one with changes."""

    stem: str
    changes: Mapping[str, Config]
    upsamplers: Mapping[str, tuple[str, Config]]
    metadata: Mapping[str, str] = field(default_factory=dict)


VERSIONS = {
    "2.0": Version(
        stem="ltx-2-tiny",
        changes={"transformer": TRANSFORMER, "vae": VIDEO_VAE, "vocoder": VOCODER},
        upsamplers={
            "spatial-upscaler-x2": ("upsampler-spatial-x2-rational", {}),
            "spatial-upscaler-x1.5": ("upsampler-spatial-x2-rational", {"spatial_scale": 1.5}),
            "temporal-upscaler-x2": ("upsampler-temporal-x2", {}),
        },
    ),
    "2.3": Version(
        stem="ltx-2.3-tiny",
        changes={
            "transformer": TRANSFORMER | CONNECTORS_AS_WIDE_AS_CONTEXTS,
            "vae": VIDEO_VAE | {"decoder_blocks": [RES_X, *(part for one in UPS for part in (one, RES_X))]},
            "vocoder": {"vocoder": VOCODER | FEW_BLOCKS, "bwe": VOCODER | FEW_BLOCKS},
        },
        upsamplers={
            "spatial-upscaler-x2": ("upsampler-spatial-x2", {}),
            "spatial-upscaler-x1.5": ("upsampler-spatial-x1.5", {}),
            "temporal-upscaler-x2": ("upsampler-temporal-x2", {}),
        },
        metadata={"model_version": "2.3"},
    ),
}
COMPONENTS = (
    "transformer",
    "video_connector",
    "audio_connector",
    "text_projection",
    "video_encoder",
    "video_decoder",
    "audio_encoder",
    "audio_decoder",
    "vocoder",
)
# The files beside a denoiser in GGUF: what the names of their tensors begin with, and the sections of their config.
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "connectors": ((DIT + VIDEO_CONNECTOR, DIT + AUDIO_CONNECTOR, PROJECTION), ()),
    "video-vae": (("vae.",), ("vae",)),
    "audio-vae": (("audio_vae.", "vocoder."), ("audio_vae", "vocoder")),
}
# What no config tells: the projection takes the hidden states of all layers of this text encoder.
SHAPES = {"aggregate_embed.weight": (TEXT_WIDTH, TEXT_WIDTH * (TEXT_LAYERS + 1))}
# The last layers decide how loud and how bright the result is; these keep pictures and sounds inside their range.
GAINS = {
    "decoder.conv_out.conv.weight": 0.6,
    "vocoder.conv_post.weight": 0.3,
    "bwe_generator.conv_post.weight": 0.1,
    "proj_out.weight": 0.7,
}
# What the files of lower precision store quantised; as in the published ones, not everything.
QUANTISED = re.compile(r"transformer(_1d)?_blocks\.[1-9]\d*\.")
GROUPNORM_CHANNELS = 32  # the upsampler's norms have 32 groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, made if it is missing")
    parser.add_argument("--version", choices=VERSIONS, required=True, help="model generation")
    parser.add_argument("--seed", type=int, default=0)
    precisions = ["bf16", *PRECISIONS, *GGUF_PRECISIONS]
    parser.add_argument("--precision", choices=precisions, default="bf16", help="how the linears are stored")
    parser.add_argument(
        "--wide",
        action="store_true",
        help="widths of 512 and 256, as some quantised formats need; GGUF always has them",
    )
    options = parser.parse_args()
    chosen = {"version": options.version, "precision": options.precision}
    make_tiny_checkpoint(options.out, seed=options.seed, is_wide=options.wide, **chosen)


def make_tiny_checkpoint(
    out: Path, *, version: str = "2.0", seed: int = 0, precision: str = "bf16", is_wide: bool = False
) -> None:
    """Write the whole model into a folder.

    The same seed and widths give the same files, whatever the precision, but for those that hold quantised weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    is_gguf = precision in GGUF_PRECISIONS
    made = VERSIONS[version]
    config = tiny_config(version, is_wide=is_wide or is_gguf)
    weights: dict[str, Tensor] = {}
    for name in COMPONENTS:
        weights |= random_component(name, config, generator)
    if is_gguf:
        write_parts(out / made.stem, weights, config, precision)
    else:
        tensors = weights if precision == "bf16" else quantised(weights, precision)
        save_file(tensors, out / f"{made.stem}-dev.safetensors", {"config": json.dumps(config), **made.metadata})
    write_gemma(out / "gemma", generator)
    for name, (released, changes) in made.upsamplers.items():
        upsampler = (
            released_configs()[released] | changes | {"mid_channels": GROUPNORM_CHANNELS, "num_blocks_per_stage": 1}
        )
        tensors = random_component("upsampler", upsampler, generator)
        save_file(tensors, out / f"{made.stem}-{name}-1.0.safetensors", {"config": json.dumps(upsampler)})
    linears = {
        name: t
        for name, t in weights.items()
        if name.startswith(DIT) and "connector" not in name and is_linear(name, t)
    }
    projection = {name: t for name, t in weights.items() if name.startswith(PROJECTION) and is_linear(name, t)}
    attention = {name: t for name, t in linears.items() if ".attn" in name}
    # The 19B distilled LoRA has a pair for the text projection too, which the official code does not apply.
    save_file(lora(linears | projection, 8, generator), out / f"{made.stem}-distilled-lora.safetensors")
    save_file(lora(attention, 4, generator), out / f"{made.stem}-lora-style.safetensors")
    metadata = {"reference_downscale_factor": "2"}
    save_file(lora(attention, 4, generator), out / f"{made.stem}-ic-lora-ref0.5.safetensors", metadata)


def tiny_config(version: str = "2.0", *, is_wide: bool = False) -> Config:
    """The released config of a generation with small widths and depths. is_wide: with those of WIDE."""
    config = changed(released_configs()[version], VERSIONS[version].changes)
    config["audio_vae"]["model"]["params"]["ddconfig"] |= AUDIO_VAE
    return changed(config, {"transformer": WIDE}) if is_wide else config


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """A config with other values in some of its sections, and in the sections inside them."""
    merged = copy.deepcopy(dict(config))
    for key, value in changes.items():
        merged[key] = changed(merged[key], value) if isinstance(value, Mapping) else value
    return merged


def random_component(name: str, config: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights of one component under their official names."""
    with torch.device("meta"):
        module = BUILDERS[name]({**config, "shapes": SHAPES})
    tensors = {}
    for own, tensor in module.state_dict().items():
        official = official_name(name, own)
        tensors[official] = random_tensor(official, tensor.shape, generator)
    return tensors


def random_tensor(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """One tensor, spread so that signals neither die nor explode; tables are float32 as in the released files."""
    values = torch.randn(shape, generator=generator)
    leaf = name.rsplit(".", 1)[-1]
    if "scale_shift_table" in name:
        return 0.3 * values
    if leaf == "kernel":  # the blur of the rational upsampler is fixed
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
        values = (row[:, None] * row / 256).expand(shape).contiguous()
    elif leaf == "std-of-means" or (leaf == "weight" and values.dim() == 1):
        values = 1 + 0.1 * values
    elif leaf == "filter":  # a low-pass filter, which keeps what does not change
        values = values.abs() / values.abs().sum(-1, keepdim=True)
    elif leaf == "mel_basis":  # energies, which are not negative
        values = values.abs() * shape[-1] ** -0.5
    elif leaf in ("forward_basis", "inverse_basis"):
        values = values * shape[-1] ** -0.5
    elif leaf in ("bias", "mean-of-means", "alpha", "beta"):
        values = 0.1 * values
    elif leaf == "weight":
        gain = next((gain for end, gain in GAINS.items() if name.endswith(end)), 1.0)
        values = values * gain * fan_in(name, shape) ** -0.5
    return values.bfloat16()


def fan_in(name: str, shape: torch.Size) -> float:
    """How many inputs make one output of a layer with this weight."""
    if ".ups." in name:  # transposed convolution (in out kernel): about kernel / stride = 2 taps reach each output
        return 2.0 * shape[0]
    return shape[1:].numel()


def quantised(weights: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """The same weights with the linears of all blocks but the first of each kind stored quantised."""
    chosen = [name for name, tensor in weights.items() if QUANTISED.search(name) and is_linear(name, tensor)]
    plain = {name: tensor for name, tensor in weights.items() if name not in chosen}
    return plain | stored_as(precision, {name.removesuffix(".weight"): weights[name] for name in chosen})


def write_parts(stem: Path, weights: Mapping[str, Tensor], config: Config, precision: str) -> None:
    """The checkpoint as the users of GGUF have it: a file for each part, the names of the denoiser without prefix.

    Args: stem: what the paths of the files begin with.
    """
    left = dict(weights)
    for part, (starts, sections) in PARTS.items():
        tensors = {name: left.pop(name) for name in weights if name.startswith(starts)}
        said = {section: config[section] for section in sections}
        metadata = {"config": json.dumps(said)} if said else None
        own = {name.removeprefix("vae."): tensor for name, tensor in tensors.items()}
        save_file(own, stem.with_name(f"{stem.name}-{part}.safetensors"), metadata)
    denoiser = {name.removeprefix(DIT): tensor for name, tensor in left.items()}
    content = gguf_bytes(gguf_tensors(denoiser, precision), {"config": json.dumps(config)})
    stem.with_name(f"{stem.name}-dev-{precision.removeprefix('gguf-')}.gguf").write_bytes(content)


def is_linear(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.dim() == 2


def lora(weights: Mapping[str, Tensor], rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A low-rank pair for each linear layer."""
    pairs = {}
    for name, weight in weights.items():
        out, width = weight.shape
        r = min(rank, out, width)
        key = name.removeprefix("model.").removesuffix(".weight")
        pairs[f"{key}.lora_A.weight"] = (torch.randn(r, width, generator=generator) * width**-0.5).bfloat16()
        pairs[f"{key}.lora_B.weight"] = (torch.randn(out, r, generator=generator) * 0.1).bfloat16()
    return pairs


def write_gemma(folder: Path, generator: torch.Generator) -> None:
    """A Gemma 3 folder as published: config, one shard named as Google names it, tokenizer with its settings."""
    folder.mkdir(exist_ok=True)
    tokenizer = make_tokenizer(WORDS.split(), 700)
    tokenizer.save(str(folder / "tokenizer.json"))
    text_config = {
        **RELEASED,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 2 * TEXT_WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "vocab_size": tokenizer.get_vocab_size(),
    }
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text_config}
    write_json(folder / "config.json", config | {"eos_token_id": [1, 6]})
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    with torch.device("meta"):
        model: nn.Module = Gemma3TextModel(Gemma3TextConfig(**text_config))
    tensors = {
        f"language_model.model.{name}": random_gemma(name, t.shape, generator) for name, t in model.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def random_gemma(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Norms are stored as weight − 1; embeddings are multiplied by the root of their width when looked up."""
    values = torch.randn(shape, generator=generator)
    scale = 0.1 if len(shape) == 1 else shape[-1] ** -0.5
    return (values * scale).bfloat16()


def make_tokenizer(words: Sequence[str], size: int) -> Tokenizer:
    """A byte-pair tokenizer in Gemma's manner: spaces as ▁, unknown characters as bytes, BOS in front.

    Args: words: that it learns pairs from. size: tokens at most.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*SPECIAL_TOKENS, *(f"<0x{i:02X}>" for i in range(256))],
        initial_alphabet=["▁", *map(chr, range(33, 127))],
        show_progress=False,
    )
    tokenizer.train_from_iterator([word for plain in words for word in (plain, f" {plain}")], trainer)
    bos = SPECIAL_TOKENS.index("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    state = json.loads(tokenizer.to_str())  # only the trainer had to take the bytes for special tokens
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    return Tokenizer.from_str(json.dumps(state))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
