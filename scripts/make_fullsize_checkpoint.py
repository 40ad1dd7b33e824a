"""Write a model of full size as sparse files: `scripts/make_fullsize_checkpoint.py OUT --model ltx-2`.

OUT gets the files that a person downloads under that name, with the names, shapes and dtypes of the published files:
for `ltx-2` the checkpoint (43.3 GB), the Gemma folder (24.4 GB), the distilled LoRA (7.7 GB) and the latent upsamplers.
Each file is a header followed by a hole, which takes no disk space and reads as zeros. Only values that are divided by
are 1: the standard deviations of the latents and the scales of inputs. The tokenizer is a small one. So loading, memory
and time can be tested at full size on any machine whose file system supports sparse files. The clips have one colour
and silent audio. Quantised weights have scales of zero.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ltx2_core.header_text import DTYPE_BYTES
from ltx2_core.hub.published import published_header, tensor_list
from ltx2_core.hub.registry import Reference, read_shipped
from scripts.tiny_text import TOKENIZER_CONFIG, WORDS, bare_tokenizer, make_tokenizer, write_json

MODELS = {name: model for name, model in read_shipped().models.items() if model.folder is None}
SHARD_BYTES = 5_000_000_000  # approximate size of each Gemma file
ONES = {"BF16": b"\x80\x3f", "F32": b"\x00\x00\x80\x3f"}
DIVISORS = ("std-of-means", ".input_scale")

ASSETS = {  # the files that a Gemma 4 file contains as tensors
    "tokenizer_json": bare_tokenizer(),
    "hf_asset__tokenizer_config.json": TOKENIZER_CONFIG,
}

Tensors = Mapping[str, tuple[str, Sequence[int]]]  # dtype and shape of each tensor, by name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, created if it is missing")
    parser.add_argument("--model", choices=MODELS, required=True, help="a name that `ltx2 models` lists")
    options = parser.parse_args()
    for path in make_fullsize_model(options.out, options.model).values():
        for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
            status = file.stat()
            print(f"{status.st_size:>14,} bytes, {512 * status.st_blocks:>9,} on the disk: {file}")


def make_fullsize_model(out: Path, name: str) -> dict[str, Path]:
    """Write all files of a published model into a folder. Returns: the files, and the folder of Gemma, by role."""
    out.mkdir(parents=True, exist_ok=True)
    model = MODELS[name]
    paths: dict[str, Path] = {}
    for role, place in model.files.items():
        reference = Reference.parse(place)
        header = published_header(model, role, out)
        assert reference is not None
        assert header is not None
        tensors = {own: (info.dtype, info.shape) for own, info in header.tensors.items()}
        paths[role] = out / reference.last
        if reference.path:
            write_sparse(paths[role], tensors, header.metadata)
        else:
            write_gemma(paths[role], tensors, model.generation)
    return paths


def write_sparse(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file as a header and a hole, with ones for values that are divided by, and with a
    tokenizer.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    content: dict[int, bytes] = {}  # the parts that are not zero, by their offset
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + DTYPE_BYTES[dtype] * prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        if name.endswith(DIVISORS):
            content[begin] = ONES[dtype] * prod(shape)
        elif name in ASSETS:
            content[begin] = json.dumps(ASSETS[name]).encode().ljust(end - begin)
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    start = 8 + len(header)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for begin, numbers in content.items():
            file.seek(start + begin)
            file.write(numbers)
        file.truncate(start + end)


def write_gemma(folder: Path, tensors: Tensors, generation: str) -> None:
    """Write the Gemma folder: shards with their index, the published config, and a small tokenizer."""
    folder.mkdir(exist_ok=True)
    shards = list(split(tensors))
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_sparse(folder / name, shard, {"format": "pt"})
    index = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    write_json(folder / "model.safetensors.index.json", {"weight_map": index})
    write_json(folder / "config.json", tensor_list(f"text-{generation}")["text_encoder"]["config"])
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    make_tokenizer(WORDS.split(), 700).save(str(folder / "tokenizer.json"))


def split(tensors: Tensors) -> Iterable[Tensors]:
    """Divide a list of tensors into shards, in its order."""
    shard: dict[str, tuple[str, Sequence[int]]] = {}
    size = 0
    for name, (dtype, shape) in tensors.items():
        nbytes = DTYPE_BYTES[dtype] * prod(shape)
        if shard and size + nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = dtype, shape
        size += nbytes
    yield shard


if __name__ == "__main__":
    main()
