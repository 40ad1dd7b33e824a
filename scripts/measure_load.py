"""Measure how long a quantised denoiser takes to load, beside reading its file: `scripts/measure_load.py FOLDER`.

It writes files of about one gigabyte with random valid bytes into FOLDER, one for each format. Each is read as it is
and loaded, in turns: once with every tensor copied from the mapped file, as it is for a card, and once streamed, block
after block. The file is in the memory of the system before, so that a disk has no say. Printed are medians, and the
median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from ltx2_core import headers
from ltx2_core.checkpoint import BUILDERS, assign_streamed, build_component, load_component
from ltx2_core.gguf_header import BLOCK_TYPES
from ltx2_core.header_text import DTYPE_BYTES, TensorInfo
from ltx2_core.keymap import official_name
from ltx2_core.pipeline.doctor.sample import scaled_settings
from ltx2_core.stored.encoding import DENOISER_MATRIX, lay_out, plan_encodings
from scripts.gguf_writer import Stored, gguf_bytes

HEADS = 16  # half the width of the released models
PIECE = bytes(byte & 0x3F for byte in torch.randint(0, 256, (2**20,), dtype=torch.uint8).tolist())  # finite everywhere
CPU = torch.device("cpu")
Shapes = Mapping[str, tuple[int, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for form, write in {"int8": write_safetensors, "fp8": write_safetensors, "GGUF_Q4_K": write_gguf}.items():
        path = given.folder / f"large-{form}"
        write(path, form, given.gigabytes * 1e9)
        print(f"{form}, {path.stat().st_size / 1e9:.2f} GB, {len(headers.read_header(path).tensors):,} tensors")
        for line in measured(path, given.runs):
            print(f"  {line}", flush=True)
        path.unlink()


def measured(path: Path, runs: int) -> Iterator[str]:
    """What loading takes, a line for each way to do it."""
    for title, load in {"copied": load_copied, "streamed": load_streamed}.items():
        pairs = [(seconds(read, path), seconds(load, path)) for _ in range(runs + 1)][1:]
        read_s, load_s = (median(times) for times in zip(*pairs, strict=True))
        ratio = median(loaded / plain for plain, loaded in pairs)
        yield f"{title}: read {read_s:.3f} s, loaded {load_s:.3f} s, ratio {ratio:.2f}"


def seconds(call: Callable[[Path], object], path: Path) -> float:
    headers._parsed.cache_clear()
    start = time.perf_counter()
    call(path)
    return time.perf_counter() - start


def read(path: Path) -> object:
    return path.read_bytes()


def load_copied(path: Path) -> object:
    """The whole denoiser, without a view of the file."""
    return load_component("transformer", path, dtype=torch.bfloat16)._apply(torch.clone)


def load_streamed(path: Path) -> object:
    """Every block once, through the slots of streamed blocks."""
    header = headers.read_header(path)
    module = build_component("transformer", header)
    assign_streamed(module, "transformer", [header], device=CPU, dtype=torch.bfloat16)
    return sum(1 for _ in module.blocks)  # pyright: ignore[reportArgumentType]


def write_safetensors(path: Path, form: str, nbytes: float) -> None:
    """A file as `ltx2 convert` would write it, with other bytes."""
    config, shapes = denoiser(DTYPE_BYTES["I8"], nbytes)
    infos, end = {}, 0
    for name, shape in shapes.items():
        dtype = "F32" if "scale_shift_table" in name else "BF16"
        infos[name] = TensorInfo(dtype, shape, end, end + prod(shape) * DTYPE_BYTES[dtype])
        end = infos[name].end
    target = "int8" if form == "int8" else "fp8"
    encodings = plan_encodings(infos, DENOISER_MATRIX, target)
    begin, tensors = lay_out(infos, {"config": config}, encodings)
    markers = {f"{one.layer}.comfy_quant": one.marker for one in encodings.values()}
    with path.open("wb") as file:
        file.write(begin)
        for name, info in tensors.items():
            file.write(markers.get(name) or noise(info.nbytes))


def write_gguf(path: Path, form: str, nbytes: float) -> None:
    """A file as the tools of llama.cpp write it, with other bytes."""
    kind = BLOCK_TYPES[form]
    config, shapes = denoiser(kind.nbytes / kind.elements, nbytes)
    tensors = {}
    for name, shape in shapes.items():
        if DENOISER_MATRIX.fullmatch(name):
            tensors[name] = Stored(form, shape, noise(prod(shape) // kind.elements * kind.nbytes))
        else:
            plain = "F32" if len(shape) == 1 or "scale_shift_table" in name else "BF16"
            tensors[name] = Stored(plain, shape, noise(prod(shape) * DTYPE_BYTES[plain]))
    path.write_bytes(gguf_bytes(tensors, {"config": config}))


def denoiser(bytes_per_number: float, nbytes: float) -> tuple[str, Shapes]:
    """The config and the tensors of a denoiser that takes about so many bytes."""
    layers = 1
    while True:
        settings = scaled_settings(layers, HEADS)
        with torch.device("meta"):
            state = BUILDERS["transformer"](settings).state_dict()
        shapes = {official_name("transformer", own): tuple(tensor.shape) for own, tensor in state.items()}
        sizes = (prod(s) * (bytes_per_number if DENOISER_MATRIX.fullmatch(n) else 2) for n, s in shapes.items())
        if sum(sizes) >= nbytes:
            return json.dumps(settings), shapes
        layers += 1


def noise(nbytes: int) -> bytes:
    """Bytes that are finite numbers above zero in every type."""
    return (PIECE * (nbytes // len(PIECE) + 1))[:nbytes]


if __name__ == "__main__":
    main()
