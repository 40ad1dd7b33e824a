"""Tensors of a weight file as read-only views: nothing is copied, and the file is only kept open while they exist."""

from __future__ import annotations

import gc
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.errors import StorageError
from ltx2_core.gguf_header import BLOCK_TYPES
from ltx2_core.header_text import DTYPE_BYTES
from ltx2_core.headers import read_header
from ltx2_core.weights import DTYPES, map_tensors
from scripts.gguf_writer import Stored, gguf_bytes, random_tensor
from tests.unit.test_headers import entry, raw_file

CHECKPOINT = "ltx-2-tiny-dev.safetensors"


def maps_of(path: Path) -> str:
    """The permissions of every memory map of a file in this process, as reported by Linux."""
    return " ".join(line.split()[1] for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line)


needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux to tell what is mapped")


def test_every_tensor_has_the_values_that_the_safetensors_library_reads(tiny: Path) -> None:
    expected = load_file(tiny / CHECKPOINT)
    mapped = map_tensors(read_header(tiny / CHECKPOINT), expected)
    assert mapped.keys() == expected.keys()
    assert all(tensor.dtype == expected[name].dtype and tensor.equal(expected[name]) for name, tensor in mapped.items())


@pytest.mark.parametrize("stored", DTYPES)
def test_every_dtype_that_a_header_may_name_is_read_as_it_was_saved(stored: str, tmp_path: Path) -> None:
    dtype = DTYPES[stored]
    saved = (torch.rand(2, 3) * 100).to(dtype)
    save_file({"x": saved, "none": torch.empty(0, 4, dtype=dtype), "one": saved[0, 0].clone()}, tmp_path / "a")
    header = read_header(tmp_path / "a")
    assert header.tensors["x"].dtype == stored
    mapped = map_tensors(header, header.tensors)
    assert mapped["x"].dtype == dtype
    assert mapped["x"].view(torch.uint8).equal(saved.view(torch.uint8))
    assert (mapped["none"].shape, mapped["one"].shape) == ((0, 4), ())


def test_the_dtypes_are_those_whose_sizes_are_checked() -> None:
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == DTYPE_BYTES


def test_a_tensor_at_an_odd_place_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    tensors = {"byte": entry(0, 1, "U8", (1,)), "numbers": entry(1, 9, "F32", (2,))}
    path.write_bytes(raw_file(tensors, b"\7" + struct.pack("<2f", 1.5, -2.5)))
    header = read_header(path)
    assert header.tensors["numbers"].start % 4
    assert map_tensors(header, ["numbers"])["numbers"].tolist() == [1.5, -2.5]


@needs_proc
def test_the_map_is_read_only_and_goes_with_the_last_tensor(tiny: Path) -> None:
    path = tiny / "ltx-2-tiny-lora-style.safetensors"
    header = read_header(path)
    tensors = map_tensors(header, header.tensors)
    last = tensors.popitem()[1][:1]
    tensors.clear()
    assert maps_of(path) == "r--s"
    assert last.isfinite().all()
    del last
    gc.collect()
    assert maps_of(path) == ""


def test_each_tensor_has_a_storage_of_its_own(tiny: Path) -> None:
    header = read_header(tiny / CHECKPOINT)
    for tensor in map_tensors(header, header.tensors).values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_a_file_that_was_cut_since_it_was_checked_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes((tiny / CHECKPOINT).read_bytes())
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(StorageError, match="has changed since it was checked"):
        map_tensors(header, header.tensors)


def test_a_file_that_is_gone_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.safetensors"
    path.write_bytes((tiny / CHECKPOINT).read_bytes())
    header = read_header(path)
    path.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        map_tensors(header, header.tensors)


WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from ltx2_core.headers import read_header
from ltx2_core.weights import map_tensors

header = read_header(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31))  # counts private writable maps, as the kernel's own rule does
print(map_tensors(header, ["x"])["x"][-1].item())
"""


@needs_proc
def test_a_file_larger_than_the_memory_that_a_process_may_have_is_read(tmp_path: Path) -> None:
    path, size = tmp_path / "large.safetensors", 2**34
    text = json.dumps({"x": entry(0, size, "BF16", (size // 2,))}).encode()
    header = raw_file(text.ljust(-len(text) // 8 * -8))  # unaligned tensors would be copied
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)  # sparse: takes no disk space
    command = [sys.executable, "-c", WITH_LITTLE_MEMORY, path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.returncode) == ("0.0\n", 0), done.stderr


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_a_matrix_in_blocks_is_given_as_rows_of_bytes(tmp_path: Path, kind: str) -> None:
    stored = random_tensor(kind, (3, 512), np.random.default_rng(0))
    path = tmp_path / "w.gguf"
    path.write_bytes(gguf_bytes({"a.weight": stored, "a.bias": Stored("F32", (3,), bytes(12))}))
    tensors = map_tensors(read_header(path), ["a.weight", "a.bias"])
    assert tensors["a.weight"].dtype == torch.uint8
    assert tensors["a.weight"].shape == (3, len(stored.content) // 3)
    assert bytes(tensors["a.weight"].flatten().tolist()) == stored.content
    assert (tensors["a.bias"].dtype, tensors["a.bias"].shape) == (torch.float32, (3,))
