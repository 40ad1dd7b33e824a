"""Write a complete tiny model with random weights in the official layout: `scripts/make_tiny_checkpoint.py OUT
--version 2.3`.

OUT gets the model with its metadata, its text encoder with tokenizer, spatial and temporal latent upsamplers, a
distilled LoRA, a style LoRA and an in-context LoRA. Nothing is trained: videos are coloured noise and audio is hiss,
but every code path runs, in a second or two. A model of 2.0 or 2.3 is one file, unless `--layout components` asks for
one file per component. 2.5 is published like that, with two video VAEs and a duration head. With `--precision gguf-…`
the connectors are also in a separate file, and the denoiser alone is in a GGUF file.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx2_core.checkpoint import BUILDERS
from ltx2_core.components import DIT, PROJECTION
from ltx2_core.config.released import released_configs
from ltx2_core.keymap import official_name
from scripts.gguf_quantise import PRECISIONS as GGUF_PRECISIONS
from scripts.gguf_quantise import gguf_tensors
from scripts.gguf_writer import gguf_bytes
from scripts.quantise import PRECISIONS, stored_as
from scripts.tiny_text import gemma_3_folder, gemma_4_file
from scripts.tiny_versions import AUDIO_VAE, CONNECTORS, GEMMA_4_VERSION, PARTS, VERSIONS, WIDE, Config, Parts, Version

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
# The last layers determine how loud and how bright the result is; these scales keep video and audio in range.
GAINS = {
    "decoder.conv_out.conv.weight": 0.6,
    "decoder.conv_out.weight": 0.3,
    "duration_head.mlp_out.weight": 0.1,  # this makes clips short
    "vocoder.conv_post.weight": 0.3,
    "bwe_generator.conv_post.weight": 0.1,
    "proj_out.weight": 0.7,
}
# The weights that files of lower precision store quantised; as in the published files, not all of them.
QUANTISED = re.compile(r"transformer(_1d)?_blocks\.[1-9]\d*\.")
LEFT = ("transformer", "scheduler")  # sections of a denoiser's config
GROUPNORM_CHANNELS = 32  # the upsampler's norms have 32 groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, created if it is missing")
    parser.add_argument("--version", choices=VERSIONS, required=True, help="model generation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=["single", "components"], help="one file, or one file per component")
    precisions = ["bf16", *PRECISIONS, *GGUF_PRECISIONS]
    parser.add_argument("--precision", choices=precisions, default="bf16", help="how linear layers are stored")
    parser.add_argument(
        "--wide",
        action="store_true",
        help="widths of 512 and 256, as some quantised formats need; GGUF always has them",
    )
    options = parser.parse_args()
    chosen = {"version": options.version, "layout": options.layout, "precision": options.precision}
    make_tiny_checkpoint(options.out, seed=options.seed, is_wide=options.wide, **chosen)


def make_tiny_checkpoint(
    out: Path,
    *,
    version: str = "2.0",
    layout: str | None = None,
    seed: int = 0,
    precision: str = "bf16",
    is_wide: bool = False,
) -> None:
    """Write the whole model into a folder. layout: None means the layout in which the generation is published.

    The same seed and widths give the same files in every precision, except for the files that contain quantised
    weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    is_gguf = precision in GGUF_PRECISIONS
    made = VERSIONS[version]
    stem = out / made.stem
    config = tiny_config(version, is_wide=is_wide or is_gguf)
    weights = random_components((*COMPONENTS, *made.more), config, made, generator)
    write_text_encoder(out, made, weights, generator)
    tensors = quantised(weights, precision) if precision in PRECISIONS else weights
    if is_gguf:
        write_gguf(stem, tensors, config, precision)
    elif (layout or made.layout) == "single":
        save_file(tensors, beside(stem, "dev.safetensors"), {"config": json.dumps(config), **made.metadata})
    else:
        denoiser = write_parts(stem, tensors, config, PARTS, made.metadata)
        save_file(denoiser, beside(stem, "dev-transformer.safetensors"), said(config, LEFT) | made.metadata)
    if made.conv_vae is not None and (layout or made.layout) == "components":
        write_conv_vae(stem, made, weights, generator)
    write_upsamplers(stem, made, generator)
    write_loras(stem, version, weights, generator)


def beside(stem: Path, name: str) -> Path:
    """The path of a file of the model. stem: the common beginning of all paths of the model."""
    return stem.with_name(f"{stem.name}-{name}")


def said(config: Config, sections: Iterable[str]) -> dict[str, str]:
    """The metadata of a file with these sections of the config; no metadata if the config has none of them."""
    own = {section: config[section] for section in sections if section in config}
    return {"config": json.dumps(own)} if own else {}


def write_text_encoder(out: Path, made: Version, weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """Write the text encoder. With Gemma 4 also the text projection, which is removed from the weights."""
    if made.encoder == "gemma3":
        gemma_3_folder(out / "gemma", generator)
        return
    projection = {name: weights.pop(name) for name in [*weights] if name.startswith(PROJECTION)}
    gemma_4_file(beside(out / made.stem, "text-encoder.safetensors"), projection, GEMMA_4_VERSION, generator)


def write_conv_vae(stem: Path, made: Version, weights: Mapping[str, Tensor], generator: torch.Generator) -> None:
    """A second video VAE: the same encoder with a convolutional decoder."""
    config = changed({"vae": released_configs()["2.3"]["vae"]}, {"vae": made.conv_vae})
    decoder = random_component("video_decoder", config, generator, made)
    same = {name: tensor for name, tensor in weights.items() if name.startswith(("vae.encoder.", "vae.per_channel"))}
    tensors = {name.removeprefix("vae."): tensor for name, tensor in (decoder | same).items()}
    save_file(tensors, beside(stem, "video-vae-conv.safetensors"), said(config, ["vae"]) | version_of(made.metadata))


def write_upsamplers(stem: Path, made: Version, generator: torch.Generator) -> None:
    for name, (released, changes) in made.upsamplers.items():
        upsampler = (
            released_configs()[released] | changes | {"mid_channels": GROUPNORM_CHANNELS, "num_blocks_per_stage": 1}
        )
        tensors = random_component("upsampler", upsampler, generator, made)
        save_file(tensors, beside(stem, f"{name}-1.0.safetensors"), {"config": json.dumps(upsampler)})


def write_loras(stem: Path, version: str, weights: Mapping[str, Tensor], generator: torch.Generator) -> None:
    linears = {
        name: t
        for name, t in weights.items()
        if name.startswith(DIT) and "connector" not in name and is_linear(name, t)
    }
    attention = {name: t for name, t in linears.items() if ".attn" in name}
    projection: dict[str, Tensor] = {}
    if version == "2.0":  # the 19B distilled LoRA has a pair for this layer, but the official code does not apply it
        projection = {name: t for name, t in weights.items() if name.startswith(PROJECTION) and is_linear(name, t)}
    save_file(lora(linears | projection, 8, generator), beside(stem, "distilled-lora.safetensors"))
    save_file(lora(attention, 4, generator), beside(stem, "lora-style.safetensors"))
    metadata = {"reference_downscale_factor": "2"}
    save_file(lora(attention, 4, generator), beside(stem, "ic-lora-ref0.5.safetensors"), metadata)


def tiny_config(version: str = "2.0", *, is_wide: bool = False) -> Config:
    """The released config of a generation with small widths and depths. is_wide: with the widths of WIDE."""
    config = changed(released_configs()[version], VERSIONS[version].changes)
    config["audio_vae"]["model"]["params"]["ddconfig"] |= AUDIO_VAE
    return changed(config, {"transformer": WIDE | VERSIONS[version].wide}) if is_wide else config


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """A config with different values in some of its sections, including nested sections."""
    merged = copy.deepcopy(dict(config))
    for key, value in changes.items():
        merged[key] = changed(merged[key], value) if isinstance(value, Mapping) else value
    return merged


def random_components(
    names: Iterable[str], config: Config, made: Version, generator: torch.Generator
) -> dict[str, Tensor]:
    """Random weights of several components. Tensors that two components share are those of the last one."""
    weights: dict[str, Tensor] = {}
    for name in names:
        weights |= random_component(name, config, generator, made)
    return weights


def random_component(
    name: str, config: Mapping[str, Any], generator: torch.Generator, made: Version = VERSIONS["2.0"]
) -> dict[str, Tensor]:
    """Random weights of one component under their official names."""
    with torch.device("meta"):
        module = BUILDERS[name]({**config, "shapes": made.shapes})
    tensors = {}
    for own, tensor in module.state_dict().items():
        official = official_name(name, own)
        tensors[official] = random_tensor(official, tensor.shape, generator)
    return tensors


def random_tensor(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """One random tensor, scaled so that activations neither vanish nor explode; tables are float32 as in the released
    files.
    """
    values = torch.randn(shape, generator=generator)
    leaf = name.rsplit(".", 1)[-1]
    if "scale_shift_table" in name:
        return 0.3 * values
    if leaf == "kernel":  # the blur of the rational upsampler is fixed
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
        values = (row[:, None] * row / 256).expand(shape).contiguous()
    elif leaf == "std-of-means" or (leaf == "weight" and values.dim() == 1):
        values = 1 + 0.1 * values
    elif leaf == "filter":  # a low-pass filter, which preserves a constant
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
    """The number of inputs of one output of a layer with this weight."""
    if ".ups." in name:  # transposed convolution (in out kernel): about kernel / stride = 2 taps reach each output
        return 2.0 * shape[0]
    return shape[1:].numel()


def quantised(weights: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """The same weights, with the linear layers of all blocks quantised except for those of the first block of each
    kind.
    """
    chosen = [name for name, tensor in weights.items() if QUANTISED.search(name) and is_linear(name, tensor)]
    plain = {name: tensor for name, tensor in weights.items() if name not in chosen}
    return plain | stored_as(precision, {name.removesuffix(".weight"): weights[name] for name in chosen})


def write_parts(
    stem: Path, weights: Mapping[str, Tensor], config: Config, parts: Parts, metadata: Mapping[str, str]
) -> dict[str, Tensor]:
    """Write the components of a model that have separate files, without the prefix of the video VAE. Returns: the other
    weights.
    """
    left = dict(weights)
    for part, (starts, sections) in parts.items():
        tensors = {name: left.pop(name) for name in weights if name.startswith(starts)}
        if tensors:
            own = {name.removeprefix("vae."): tensor for name, tensor in tensors.items()}
            save_file(own, beside(stem, f"{part}.safetensors"), said(config, sections) | version_of(metadata))
    return left


def version_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata that every file of a generation has."""
    return {key: value for key, value in metadata.items() if key == "model_version"}


def write_gguf(stem: Path, weights: Mapping[str, Tensor], config: Config, precision: str) -> None:
    """Write the checkpoint in the layout that GGUF users have: one file per component, and names in the denoiser
    without prefix.
    """
    left = write_parts(stem, weights, config, {**CONNECTORS, **PARTS}, {})
    denoiser = {name.removeprefix(DIT): tensor for name, tensor in left.items()}
    content = gguf_bytes(gguf_tensors(denoiser, precision), {"config": json.dumps(config)})
    beside(stem, f"dev-{precision.removeprefix('gguf-')}.gguf").write_bytes(content)


def is_linear(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.dim() == 2


def lora(weights: Mapping[str, Tensor], rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A low-rank pair for every linear layer."""
    pairs = {}
    for name, weight in weights.items():
        out, width = weight.shape
        r = min(rank, out, width)
        key = name.removeprefix("model.").removesuffix(".weight")
        pairs[f"{key}.lora_A.weight"] = (torch.randn(r, width, generator=generator) * width**-0.5).bfloat16()
        pairs[f"{key}.lora_B.weight"] = (torch.randn(out, r, generator=generator) * 0.1).bfloat16()
    return pairs


if __name__ == "__main__":
    main()
