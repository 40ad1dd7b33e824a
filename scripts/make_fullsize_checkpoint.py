"""Write a model of full size that takes no room on the disk: `scripts/make_fullsize_checkpoint.py OUT --version 2.0`.

OUT gets what a person downloads, under the published names: the checkpoint (43.3 GB), the Gemma folder (24.4 GB), the
distilled LoRA (7.7 GB) and the latent upsamplers. Names and shapes come from the lists in ltx2_core/config/tensors. A
file is a header with a hole behind it, which reads as zeros; only the deviations of the latents are ones, because the
encoders divide by them. So loading, memory and time can be tried at full size on any machine whose file system knows
holes. Clips are flat and silent. With --weights the checkpoint is laid out as `ltx2 convert` would write it, with
scales of zero.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ltx2_core.config.released import released_configs
from ltx2_core.header_text import DTYPE_BYTES
from ltx2_core.headers import read_header
from ltx2_core.hub.published import checkpoint_shapes, lora_shapes, plain_dtype, tensor_list
from ltx2_core.stored.encoding import DENOISER_MATRIX, TARGETS, Target, lay_out, plan_encodings
from scripts.make_tiny_checkpoint import TOKENIZER_CONFIG, WORDS, make_tokenizer, write_json

CHECKPOINT = "ltx-2-19b-dev.safetensors"
GEMMA = "gemma-3-12b-it-qat-q4_0-unquantized"
UPSAMPLERS = {  # the file, its manifest, and the name of its config
    "ltx-2-spatial-upscaler-x2-1.0.safetensors": ("upsampler-spatial-x2-2.0", "upsampler-spatial-x2-rational"),
    "ltx-2-temporal-upscaler-x2-1.0.safetensors": ("upsampler-temporal-x2", "upsampler-temporal-x2"),
}
LORA = "ltx-2-19b-distilled-lora-384.safetensors"
SHARD_BYTES = 5_000_000_000  # of Gemma's files, about
WEIGHTS = ("bf16", *TARGETS)
ONE = b"\x80\x3f"  # in bfloat16

Shapes = Mapping[str, Sequence[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, made if it is missing")
    parser.add_argument("--version", choices=["2.0"], required=True, help="model generation")
    parser.add_argument("--weights", choices=WEIGHTS, default=WEIGHTS[0], help="how the checkpoint is stored")
    options = parser.parse_args()
    out = options.out
    make_fullsize_checkpoint(out, options.weights)
    for path in sorted(out.rglob("*.safetensors")):
        status = path.stat()
        print(f"{status.st_size:>14,} bytes, {512 * status.st_blocks:>9,} on the disk: {path}")


def make_fullsize_checkpoint(out: Path, weights: str = "bf16") -> None:
    """Write the whole model of 2.0 into a folder. weights: one of WEIGHTS, how the checkpoint is stored."""
    out.mkdir(parents=True, exist_ok=True)
    write_sparse(out / CHECKPOINT, checkpoint_shapes("2.0"), {"config": json.dumps(released_configs()["2.0"])})
    for target in TARGETS:
        if target == weights:
            quantise(out / CHECKPOINT, target)
    for file, (name, config) in UPSAMPLERS.items():
        write_sparse(out / file, tensor_list(name)["tensors"], {"config": json.dumps(released_configs()[config])})
    write_sparse(out / LORA, lora_shapes("2.0"), {})
    write_gemma(out / GEMMA, tensor_list("text-2.0")["text_encoder"])


def quantise(path: Path, to: Target) -> None:
    """Lay a checkpoint out as a conversion would: its header and markers, and a hole for the numbers."""
    source = read_header(path)
    encodings = plan_encodings(source.tensors, DENOISER_MATRIX, to)
    begin, tensors = lay_out(source.tensors, source.metadata, encodings)
    markers = {f"{one.layer}.comfy_quant": one.marker for one in encodings.values()}
    with path.open("wb") as file:
        file.write(begin)
        for name, info in tensors.items():
            if name in markers or name.endswith("std-of-means"):
                file.seek(info.start)
                file.write(markers.get(name, ONE * prod(info.shape)))
        file.truncate(max(info.end for info in tensors.values()))


def write_sparse(path: Path, tensors: Shapes, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file as a header and a hole, with ones for the deviations of latents.

    All is bfloat16 but the modulation tables, which are float32 as in the published files.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    ones: dict[int, int] = {}  # where a tensor begins that is not zero, and how many numbers it has
    end = 0
    for name, shape in tensors.items():
        dtype = plain_dtype(name)
        begin, end = end, end + DTYPE_BYTES[dtype] * prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        if name.endswith("std-of-means"):
            ones[begin] = prod(shape)
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    start = 8 + len(header)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for begin, count in ones.items():
            file.seek(start + begin)
            file.write(ONE * count)
        file.truncate(start + end)


def write_gemma(folder: Path, listed: Mapping[str, Any]) -> None:
    """Write the Gemma folder: shards with their index, the published config, and a small tokenizer."""
    folder.mkdir(exist_ok=True)
    shards = list(split(listed["tensors"]))
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, tensors in zip(names, shards, strict=True):
        write_sparse(folder / name, tensors, {"format": "pt"})
    index = {tensor: name for name, tensors in zip(names, shards, strict=True) for tensor in tensors}
    write_json(folder / "model.safetensors.index.json", {"weight_map": index})
    write_json(folder / "config.json", listed["config"])
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    make_tokenizer(WORDS.split(), 700).save(str(folder / "tokenizer.json"))


def split(tensors: Shapes) -> Iterable[dict[str, Sequence[int]]]:
    """Cut a list of tensors into shards, in its order."""
    shard: dict[str, Sequence[int]] = {}
    size = 0
    for name, shape in tensors.items():
        nbytes = DTYPE_BYTES["BF16"] * prod(shape)
        if shard and size + nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += nbytes
    yield shard


if __name__ == "__main__":
    main()
