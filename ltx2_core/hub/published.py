"""Headers of published files that are not on this machine, made from the lists of their tensors that come along.

So a plan can be made before anything is fetched. Names and shapes are those of the release; which blocks of a quantised
file are stored plainly is known by their number alone.
Source: docs/reference/checkpoints.md, "Tensor names of the components"; docs/reference/quantised.md, "Formats".
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any

from ..config.released import released_configs
from ..header_text import DTYPE_BYTES, TensorInfo
from ..headers import Header
from .registry import RegisteredModel

TENSORS = Path(__file__).parent.parent / "config" / "tensors"
UPSAMPLERS = {  # of a generation and role: the list of its tensors, and the name of its config
    ("2.0", "upsampler"): ("upsampler-spatial-x2-2.0", "upsampler-spatial-x2-rational"),
    ("2.3", "upsampler"): ("upsampler-spatial-x2-2.3", "upsampler-spatial-x2"),
    ("2.3", "upsampler_x1.5"): ("upsampler-spatial-x1.5-2.3", "upsampler-spatial-x1.5"),
    ("2.0", "temporal_upsampler"): ("upsampler-temporal-x2", "upsampler-temporal-x2"),
    ("2.3", "temporal_upsampler"): ("upsampler-temporal-x2", "upsampler-temporal-x2"),
}
PLAIN_BLOCKS = 3  # at each end of a quantised denoiser
LORA_RANK = 384
QUANTISED = re.compile(r"transformer_blocks\.(\d+)\..*\.(to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2)\.weight$")
Shapes = Mapping[str, Sequence[int]]
Stored = Iterator[tuple[str, str, Sequence[int]]]  # names, dtypes and shapes


def published_header(model: RegisteredModel, role: str, path: Path) -> Header | None:
    """The header that a file of a registered model has. path: where it would lie.

    Returns: None where the tensors of the file are not known.
    """
    return _made(model.generation, model.precision, role, path)


@lru_cache(maxsize=32)
def _made(generation: str, precision: str, role: str, path: Path) -> Header | None:
    if not (TENSORS / f"transformer-{generation}.json.gz").is_file():
        return None
    if role == "checkpoint":
        return _header(path, _in_precision(checkpoint_shapes(generation), precision), generation)
    if role == "text_encoder":
        return _header(path, _plain(tensor_list(f"text-{generation}")["text_encoder"]["tensors"]))
    if role == "duration_head":
        return _header(path, _plain(tensor_list(f"text-{generation}")[role]["tensors"]))
    if role == "distilled_lora":
        return _header(path, _plain(lora_shapes(generation)))
    if (generation, role) in UPSAMPLERS:
        name, config = UPSAMPLERS[generation, role]
        return _header(path, _plain(tensor_list(name)["tensors"]), config)
    return None


@cache
def tensor_list(name: str) -> dict[str, Any]:
    """Every tensor of a released component with its shape, and what else is known of it."""
    return json.loads(gzip.decompress((TENSORS / f"{name}.json.gz").read_bytes()))


def checkpoint_shapes(generation: str) -> Shapes:
    """All tensors of a whole model."""
    text = tensor_list(f"text-{generation}")
    shapes = {**text["projection"]["tensors"], **text["connectors"]["tensors"]}
    for part in ("transformer", "video-vae", "audio-vae", "vocoder"):
        shapes |= tensor_list(f"{part}-{generation}")["tensors"]
    return shapes


def lora_shapes(generation: str) -> Shapes:
    """The pairs of the distilled LoRA: one for each linear layer of the denoiser, in 2.0 of the text projection too."""
    layers = dict(tensor_list(f"transformer-{generation}")["tensors"])
    if generation == "2.0":
        layers |= tensor_list(f"text-{generation}")["projection"]["tensors"]
    pairs: dict[str, Sequence[int]] = {}
    for name, shape in layers.items():
        if name.endswith(".weight") and len(shape) == 2:
            layer, rank = name.removeprefix("model.").removesuffix(".weight"), min(LORA_RANK, *shape)
            pairs |= {f"{layer}.lora_A.weight": (rank, shape[1]), f"{layer}.lora_B.weight": (shape[0], rank)}
    return pairs


def plain_dtype(name: str) -> str:
    """How a weight is stored that is not quantised: bfloat16, but for the modulation tables."""
    return "F32" if "scale_shift_table" in name else "BF16"


def _plain(shapes: Shapes) -> Stored:
    return ((name, plain_dtype(name), shape) for name, shape in shapes.items())


def _in_precision(shapes: Shapes, precision: str) -> Stored:
    last = max(int(found[1]) for name in shapes if (found := QUANTISED.search(name)))
    for name, shape in shapes.items():
        found = QUANTISED.search(name)
        is_inside = found is not None and PLAIN_BLOCKS <= int(found[1]) <= last - PLAIN_BLOCKS
        yield from _quantised(name, shape, precision) if is_inside else [(name, plain_dtype(name), shape)]


def _quantised(name: str, shape: Sequence[int], precision: str) -> Stored:
    """A matrix with the scales that belong to it."""
    rows, columns = shape
    if precision == "fp8":
        yield name, "F8_E4M3", shape
    elif precision == "nvfp4":
        yield name, "U8", (rows, columns // 2)
        yield f"{name}_scale", "F8_E4M3", (rows, columns // 16)
        yield f"{name}_scale_2", "F32", ()
        return
    else:
        yield name, plain_dtype(name), shape
        return
    yield f"{name}_scale", "F32", ()
    yield f"{name.removesuffix('weight')}input_scale", "F32", ()


def _header(path: Path, stored: Iterable[tuple[str, str, Sequence[int]]], config: str | None = None) -> Header:
    tensors: dict[str, TensorInfo] = {}
    end = 0
    for name, dtype, shape in stored:
        start, end = end, end + DTYPE_BYTES[dtype] * prod(shape)
        tensors[name] = TensorInfo(dtype, tuple(shape), start, end)
    metadata = {} if config is None else {"config": json.dumps(released_configs()[config])}
    return Header(path, metadata, tensors)
