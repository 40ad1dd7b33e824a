"""Headers of published files that are not on this machine, built from lists of their tensors in this package.

So a plan can be made before a download. Names and shapes are those of the release; for the blocks of a quantised file
that are stored unquantised, only the number is known.
Source: docs/reference/checkpoints.md, "Tensor names of the components"; docs/reference/quantised.md, "Formats".
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any

from ..components import CONV_VAE
from ..config.released import released_configs
from ..header_text import DTYPE_BYTES, TensorInfo
from ..headers import Header
from .registry import RegisteredModel

TENSORS = Path(__file__).parent.parent / "config" / "tensors"
UPSAMPLERS = {  # by generation and role: list of tensors, name of the config
    ("2.0", "upsampler"): ("upsampler-spatial-x2-2.0", "upsampler-spatial-x2-rational"),
    ("2.3", "upsampler"): ("upsampler-spatial-x2-2.3", "upsampler-spatial-x2"),
    ("2.3", "upsampler_x1.5"): ("upsampler-spatial-x1.5-2.3", "upsampler-spatial-x1.5"),
    ("2.0", "temporal_upsampler"): ("upsampler-temporal-x2", "upsampler-temporal-x2"),
    ("2.3", "temporal_upsampler"): ("upsampler-temporal-x2", "upsampler-temporal-x2"),
    ("2.5", "upsampler"): ("upsampler-spatial-x2-2.3", "upsampler-spatial-x2"),
    ("2.5", "temporal_upsampler"): ("upsampler-temporal-x2", "upsampler-temporal-x2"),
}
MARKERS = {"int8": {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}}
LORA_RANKS = {"2.0": 384, "2.3": 384, "2.5": 450}
NONE = re.compile(r"(?!)")
LINEARS = r"to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2"
IN_BLOCKS = re.compile(rf"\.transformer_blocks\.(\d+)\..*\.(?:{LINEARS})\.weight$")
WITH_GATES = re.compile(rf"\.transformer_blocks\.(\d+)\..*\.(?:{LINEARS}|to_gate_logits)\.weight$")
IN_ALL_PARTS = re.compile(rf"\.(?:layers|transformer_(?:1d_)?blocks)\.(\d+)\..*\.(?:{LINEARS}|\w+_proj)\.weight$")
# By generation and precision: the quantised matrices, and the number of unquantised blocks at each end.
QUANTISED = {
    ("2.0", "fp8"): (IN_BLOCKS, 3),
    ("2.0", "nvfp4"): (IN_BLOCKS, 3),
    ("2.3", "fp8"): (WITH_GATES, 2),
    ("2.3", "nvfp4"): (WITH_GATES, 2),
    ("2.5", "int8"): (IN_ALL_PARTS, 0),
    ("2.5", "nvfp4"): (IN_BLOCKS, 3),
}
# Lists of the tensors of a file, by its role: NAME/SECTION is a part of a list, NAME:VARIANT one of several.
WHOLE = {
    "checkpoint": ("text/projection", "text/connectors", "transformer", "video-vae", "audio-vae", "vocoder"),
    "text_encoder": ("text/text_encoder",),
}
IN_PARTS = {
    "transformer": ("transformer", "text/connectors"),
    "text_encoder": ("text/text_encoder", "text/projection"),
    "video_vae": ("video-vae:diffusion",),
    "video_vae_conv": ("video-vae",),
    "audio_vae": ("audio-vae", "vocoder"),
    "duration_head": ("text/duration_head",),
}
LISTS: Mapping[str, Mapping[str, Sequence[str]]] = {"2.0": WHOLE, "2.3": WHOLE, "2.5": IN_PARTS}
QUANTISED_ROLES = ("checkpoint", "transformer", "text_encoder")
SECTIONS = {  # the sections of the released config in each file
    "checkpoint": ("transformer", "vae", "audio_vae", "vocoder", "scheduler"),
    "transformer": ("transformer", "scheduler"),
    "video_vae": ("vae",),
    "audio_vae": ("audio_vae", "vocoder"),
}
METADATA = {  # metadata of each file besides the config
    ("2.5", "transformer"): {
        "model_version": "2.5.0",
        "gemma_source_checkpoint": '{"ltx_version": "2.5.0", "gemma_version": "gemma4-12b-ltx-v1"}',
    }
}
Shapes = Mapping[str, Sequence[int]]
Stored = Iterator[tuple[str, str, Sequence[int]]]  # names, dtypes and shapes


def published_header(model: RegisteredModel, role: str, path: Path) -> Header | None:
    """The header of a file of a registered model. path: where it would be.

    Returns: None if the tensors of the file are not known.
    """
    return _made(model.generation, model.precision if role in QUANTISED_ROLES else "", role, path)


@lru_cache(maxsize=32)
def _made(generation: str, precision: str, role: str, path: Path) -> Header | None:
    if (generation, role) in UPSAMPLERS:
        name, config = UPSAMPLERS[generation, role]
        return _header(path, _plain(tensor_list(name)["tensors"]), {"config": json.dumps(released_configs()[config])})
    lists = LISTS.get(generation, {})
    if role == "distilled_lora" and lists:
        return _header(path, _plain(lora_shapes(generation)))
    if role not in lists:
        return None
    shapes = file_shapes(generation, role)
    quantised = _quantised_names(shapes, generation, precision) if role in QUANTISED_ROLES else []
    metadata = _metadata(generation, role) | _marker(quantised, precision)
    return _header(path, _in_precision(shapes, set(quantised), precision), metadata)


def _metadata(generation: str, role: str) -> dict[str, str]:
    """The metadata of the file."""
    if role == "text_encoder" and LISTS[generation] is IN_PARTS:
        return {"format": "pt", "gemma_config": json.dumps(tensor_list(f"text-{generation}")[role]["config"])}
    if role == CONV_VAE:
        return {"config": json.dumps(tensor_list(f"video-vae-{generation}")["metadata_config"])}
    released = released_configs()[generation]
    config = {section: released[section] for section in SECTIONS.get(role, ())}
    return ({"config": json.dumps(config)} if config else {}) | METADATA.get((generation, role), {})


def _marker(quantised: Iterable[str], precision: str) -> dict[str, str]:
    """The marker of quantised layers, if the tensors do not show the format: one for the file, as no tensor can be
    read.
    """
    said = MARKERS.get(precision)
    if said is None:
        return {}
    layers = {name.removesuffix(".weight"): said for name in quantised}
    return {"_quantization_metadata": json.dumps({"layers": layers})}


@cache
def tensor_list(name: str) -> dict[str, Any]:
    """Every tensor of a released component with its shape, and the other known facts."""
    return json.loads(gzip.decompress((TENSORS / f"{name}.json.gz").read_bytes()))


def file_shapes(generation: str, role: str) -> Shapes:
    """All tensors of a file, by its role."""
    shapes: dict[str, Sequence[int]] = {}
    for place in LISTS[generation][role]:
        part, _, section = place.partition("/")
        name, _, variant = part.partition(":")
        listed = tensor_list("-".join(filter(None, (name, generation, variant))))
        held = listed[section] if section else listed
        shapes |= held["tensors"] | held.get("asset_tensors_U8", {})
    return shapes


def lora_shapes(generation: str) -> Shapes:
    """The pairs of the distilled LoRA: one for each linear layer of the denoiser, in 2.0 of the text projection too."""
    layers = dict(tensor_list(f"transformer-{generation}")["tensors"])
    if generation == "2.0":
        layers |= tensor_list(f"text-{generation}")["projection"]["tensors"]
    pairs: dict[str, Sequence[int]] = {}
    for name, shape in layers.items():
        if name.endswith(".weight") and len(shape) == 2:
            layer, rank = name.removeprefix("model.").removesuffix(".weight"), min(LORA_RANKS[generation], *shape)
            pairs |= {f"{layer}.lora_A.weight": (rank, shape[1]), f"{layer}.lora_B.weight": (shape[0], rank)}
    return pairs


def plain_dtype(name: str) -> str:
    """The dtype of a tensor that is not quantised: bfloat16, except for modulation tables and embedded files."""
    if name == "tokenizer_json" or name.startswith("hf_asset__"):
        return "U8"
    return "F32" if "scale_shift_table" in name else "BF16"


def _plain(shapes: Shapes) -> Stored:
    return ((name, plain_dtype(name), shape) for name, shape in shapes.items())


def _quantised_names(shapes: Shapes, generation: str, precision: str) -> list[str]:
    """The matrices that are stored quantised."""
    pattern, plain_blocks = QUANTISED.get((generation, precision), (NONE, 0))
    blocks = {name: int(found[1]) for name in shapes if (found := pattern.search(name))}
    last = max(blocks.values(), default=0)
    return [name for name, block in blocks.items() if plain_blocks <= block <= last - plain_blocks]


def _in_precision(shapes: Shapes, quantised: Collection[str], precision: str) -> Stored:
    for name, shape in shapes.items():
        if name in quantised:
            yield from STORED[precision](name, shape)
        else:
            yield name, plain_dtype(name), shape


def _fp8(name: str, shape: Sequence[int]) -> Stored:
    yield name, "F8_E4M3", shape
    yield f"{name}_scale", "F32", ()
    yield f"{name.removesuffix('weight')}input_scale", "F32", ()


def _nvfp4(name: str, shape: Sequence[int]) -> Stored:
    rows, columns = shape
    yield name, "U8", (rows, columns // 2)
    yield f"{name}_scale", "F8_E4M3", (-(-rows // 128) * 128, -(-columns // 64) * 4)  # padded to whole tiles
    yield f"{name}_scale_2", "F32", ()


def _int8(name: str, shape: Sequence[int]) -> Stored:
    yield name, "I8", shape
    yield f"{name}_scale", "F32", (shape[0], 1)


STORED = {"fp8": _fp8, "nvfp4": _nvfp4, "int8": _int8}  # the stored tensors of a matrix in each format


def _header(
    path: Path, stored: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> Header:
    tensors: dict[str, TensorInfo] = {}
    end = 0
    for name, dtype, shape in stored:
        start, end = end, end + DTYPE_BYTES[dtype] * prod(shape)
        tensors[name] = TensorInfo(dtype, tuple(shape), start, end)
    return Header(path, dict(metadata or {}), tensors)
