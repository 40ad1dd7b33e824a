"""Compare the time to load a quantised denoiser with the time to read its file: `scripts/measure_load.py FOLDER`.

The script writes files of about one gigabyte with random valid bytes into FOLDER, one for each format. The matrices are
as wide as in the released models unless `--heads` says otherwise. Each file is read and loaded alternately in three
ways: copied from the mapped file into new memory, copied into memory that is already allocated, like that of a GPU, and
streamed, block after block. Reading uses the same kind of memory as loading. The file is in the page cache, so the disk
does not matter. The script prints medians, and the median of the ratios of neighbouring runs: of CPU time, which other
programs do not affect, and of elapsed time. Everything runs in one thread, as reading does.
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
from typing import NamedTuple
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from ltx2_core import checkpoint, headers
from ltx2_core.checkpoint import BUILDERS, assign_streamed, build_component
from ltx2_core.costs.weights import aligned
from ltx2_core.gguf_header import BLOCK_TYPES
from ltx2_core.header_text import DTYPE_BYTES, TensorInfo
from ltx2_core.keymap import official_name
from ltx2_core.pipeline.doctor.sample import scaled_settings
from ltx2_core.stored.encoding import DENOISER_MATRIX, lay_out, plan_encodings
from ltx2_core.streaming import Source
from scripts.gguf_writer import Stored, gguf_bytes

HEADS = 32  # number of heads of each stream in the released models
PIECE = bytes(byte & 0x3F for byte in torch.randint(0, 256, (2**20,), dtype=torch.uint8).tolist())  # finite everywhere
CPU = torch.device("cpu")
BYTES = {"int8": 1.0, "fp8": 1.0, **{name: kind.nbytes / kind.elements for name, kind in BLOCK_TYPES.items()}}
Shapes = Mapping[str, tuple[int, ...]]
Call = Callable[[Path], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--heads", type=int, default=HEADS)
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    for form, write in {"int8": write_safetensors, "fp8": write_safetensors, "GGUF_Q4_K": write_gguf}.items():
        path = given.folder / f"large-{form}"
        write(path, form, *denoiser(BYTES[form], given.gigabytes * 1e9, given.heads))
        print(f"{form}, {path.stat().st_size / 1e9:.2f} GB, {len(headers.read_header(path).tensors):,} tensors")
        for line in measured(path, given.runs):
            print(f"  {line}", flush=True)
        path.unlink()


def measured(path: Path, runs: int) -> Iterator[str]:
    """The results of each way to load, one line per way."""
    there = MemoryThere(path.stat().st_size)
    ways: dict[str, tuple[Call, Call]] = {
        "copied to new memory": (read, load_copied),
        "copied to memory that is there": (there.read, there.load),
        "streamed": (read, load_streamed),
    }
    for title, (plain, load) in ways.items():
        pairs = [(Seconds.of(plain, path), Seconds.of(load, path)) for _ in range(runs + 1)][1:]
        for kind in ("cpu", "wall"):
            both = [(getattr(first, kind), getattr(second, kind)) for first, second in pairs]
            read_s, load_s = (median(times) for times in zip(*both, strict=True))
            ratio = median(loaded / read for read, loaded in both)
            yield f"{title}, {kind}: read {read_s:.3f} s, loaded {load_s:.3f} s, ratio {ratio:.2f}"


class Seconds(NamedTuple):
    """The duration of a call: CPU time, and elapsed time."""

    cpu: float
    wall: float

    @classmethod
    def of(cls, call: Call, path: Path) -> Seconds:
        headers._parsed.cache_clear()
        wall, cpu = time.perf_counter(), time.process_time()
        call(path)
        return cls(time.process_time() - cpu, time.perf_counter() - wall)


def read(path: Path) -> object:
    return path.read_bytes()


def load_copied(path: Path) -> object:
    """Load the whole denoiser, and copy each tensor as to a GPU."""
    return _loaded(path, lambda _, source: source.tensor.to(source.dtype, copy=True))


class MemoryThere:
    """Memory that was used before, so that the system does not have to allocate and clear its pages."""

    def __init__(self, nbytes: int) -> None:
        self.memory = torch.ones(nbytes + nbytes // 8, dtype=torch.uint8)  # more, because tensors are aligned

    def read(self, path: Path) -> object:
        rest = memoryview(self.memory.numpy())[: path.stat().st_size]
        with path.open("rb", buffering=0) as file:
            while rest:
                rest = rest[file.readinto(rest) :]
        return None

    def load(self, path: Path) -> object:
        start = 0

        def copied(_: object, source: Source) -> Tensor:
            nonlocal start
            part = self.memory[start : start + source.nbytes].view(source.dtype).reshape(source.tensor.shape)
            start += aligned(source.nbytes)
            return part.copy_(source.tensor)

        return _loaded(path, copied)


def _loaded(path: Path, copied: Callable[[object, Source], Tensor]) -> object:
    with patch.object(checkpoint, "_on", copied):
        return checkpoint.load_component("transformer", path, dtype=torch.bfloat16)


def load_streamed(path: Path) -> object:
    """Load every block once, through the slots of streamed blocks."""
    header = headers.read_header(path)
    module = build_component("transformer", header)
    assign_streamed(module, "transformer", [header], device=CPU, dtype=torch.bfloat16)
    return sum(1 for _ in module.blocks)  # pyright: ignore[reportArgumentType]


def write_safetensors(path: Path, form: str, config: str, shapes: Shapes) -> None:
    """A file like those of `ltx2 convert`, but with random bytes."""
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


def write_gguf(path: Path, form: str, config: str, shapes: Shapes) -> None:
    """A file like those of the llama.cpp tools, but with random bytes."""
    kind = BLOCK_TYPES[form]
    tensors = {}
    for name, shape in shapes.items():
        if DENOISER_MATRIX.fullmatch(name):
            tensors[name] = Stored(form, shape, noise(prod(shape) // kind.elements * kind.nbytes))
        else:
            plain = "F32" if len(shape) == 1 or "scale_shift_table" in name else "BF16"
            tensors[name] = Stored(plain, shape, noise(prod(shape) * DTYPE_BYTES[plain]))
    path.write_bytes(gguf_bytes(tensors, {"config": config}))


def denoiser(bytes_per_number: float, nbytes: float, heads: int) -> tuple[str, Shapes]:
    """The config and the tensors of a denoiser that takes approximately this many bytes."""
    layers = 1
    while True:
        settings = scaled_settings(layers, heads)
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
