"""Blocks of a GGUF file: our decoders against a slow decoder that computes value by value, as in the reference's
table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from ltx2_core.errors import CheckpointError
from ltx2_core.gguf_header import BLOCK_TYPES, TYPES
from ltx2_core.headers import read_header
from ltx2_core.quantize.gguf import BLOCK_DECODERS, SCALES_AT, decode_blocks
from ltx2_core.quantize.values import require_usable_scale
from ltx2_core.stored.layer import StoredLayer
from scripts.gguf_writer import Stored, random_tensor

GOLDEN = Path(__file__).parents[1] / "golden" / "gguf"
KINDS = [kind.name for kind in TYPES.values()]
ROWS, COLUMNS = 7, 512
Bytes = list[int]


def half(block: Bytes, at: int) -> np.float32:
    return np.float32(np.frombuffer(bytes(block[at : at + 2]), np.float16)[0])


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def nibble(codes: Bytes, i: int) -> int:
    return codes[i] & 15 if i < 16 else codes[i - 16] >> 4


def fifth(codes: Bytes, i: int) -> int:
    return 16 * (int.from_bytes(bytes(codes), "little") >> i & 1)


def six_bits(b: Bytes, j: int) -> tuple[int, int]:
    """Scale and offset of group j."""
    if j < 4:
        return b[j] & 63, b[j + 4] & 63
    return b[j + 4] & 15 | b[j - 4] >> 6 << 4, b[j + 4] >> 4 | b[j] >> 6 << 4


def two_bits(codes: Bytes, i: int) -> int:
    h, p, place = i // 128, i % 128 // 32, i % 32
    return codes[32 * h + place] >> 2 * p & 3


def q2_k(b: Bytes, i: int) -> np.float32:
    scale = b[i // 16]
    value = half(b, 80) * np.float32(scale & 15) * np.float32(two_bits(b[16:80], i))
    return value - half(b, 82) * np.float32(scale >> 4)


def q3_k(b: Bytes, i: int) -> np.float32:
    sc, j = b[96:108], i // 16
    bit = b[i % 32] >> (i // 32) & 1
    code = two_bits(b[32:96], i) - (0 if bit else 4)
    low = sc[j] & 15 if j < 8 else sc[j - 8] >> 4
    u = low + 16 * (sc[8 + j % 4] >> 2 * (j // 4) & 3)
    return half(b, 108) * np.float32(u - 32) * np.float32(code)


def q4_k(b: Bytes, i: int) -> np.float32:
    c, n, place = i // 64, i % 64 // 32, i % 32
    scale, offset = six_bits(b[4:16], 2 * c + n)
    code = b[16 + 32 * c + place] >> 4 * n & 15
    return half(b, 0) * np.float32(scale) * np.float32(code) - half(b, 2) * np.float32(offset)


def q5_k(b: Bytes, i: int) -> np.float32:
    c, n, place = i // 64, i % 64 // 32, i % 32
    j = 2 * c + n
    scale, offset = six_bits(b[4:16], j)
    code = (b[48 + 32 * c + place] >> 4 * n & 15) + 16 * (b[16 + place] >> j & 1)
    return half(b, 0) * np.float32(scale) * np.float32(code) - half(b, 2) * np.float32(offset)


def q6_k(b: Bytes, i: int) -> np.float32:
    h, p, place = i // 128, i % 128 // 32, i % 32
    code = b[64 * h + 32 * (p % 2) + place] >> 4 * (p // 2) & 15
    code += 16 * (b[128 + 32 * h + place] >> 2 * p & 3)
    return half(b, 208) * np.float32(signed(b[192 + i // 16])) * np.float32(code - 32)


SLOW: dict[str, Callable[[Bytes, int], np.float32]] = {
    "GGUF_Q4_0": lambda b, i: half(b, 0) * np.float32(nibble(b[2:], i) - 8),
    "GGUF_Q4_1": lambda b, i: half(b, 0) * np.float32(nibble(b[4:], i)) + half(b, 2),
    "GGUF_Q5_0": lambda b, i: half(b, 0) * np.float32(nibble(b[6:], i) + fifth(b[2:6], i) - 16),
    "GGUF_Q5_1": lambda b, i: half(b, 0) * np.float32(nibble(b[8:], i) + fifth(b[4:8], i)) + half(b, 2),
    "GGUF_Q8_0": lambda b, i: half(b, 0) * np.float32(signed(b[2 + i])),
    "GGUF_Q2_K": q2_k,
    "GGUF_Q3_K": q3_k,
    "GGUF_Q4_K": q4_k,
    "GGUF_Q5_K": q5_k,
    "GGUF_Q6_K": q6_k,
}


def slowly(tensor: Stored) -> Tensor:
    """A tensor decoded value by value."""
    kind = BLOCK_TYPES[tensor.kind]
    blocks = np.frombuffer(tensor.content, np.uint8).reshape(-1, kind.nbytes).tolist()
    values = [SLOW[tensor.kind](block, i) for block in blocks for i in range(kind.elements)]
    return torch.from_numpy(np.array(values, np.float32)).reshape(tensor.shape)


def rows_of(tensor: Stored) -> Tensor:
    return torch.frombuffer(bytearray(tensor.content), dtype=torch.uint8).reshape(tensor.shape[0], -1)


def random_rows(kind: str, largest_scale: float = 1.0) -> Stored:
    return random_tensor(kind, (ROWS, COLUMNS), np.random.default_rng(KINDS.index(kind)), largest_scale)


def test_every_block_type_of_a_header_has_a_decoder_and_a_test():
    assert BLOCK_DECODERS.keys() == BLOCK_TYPES.keys() == SLOW.keys() == SCALES_AT.keys()


@pytest.mark.parametrize("kind", SLOW)
@pytest.mark.parametrize("largest_scale", [1.0, 1e-6, 60_000.0], ids=["usual", "subnormal", "large"])
def test_random_blocks_decode_to_the_bits_of_the_slow_decoder(kind: str, largest_scale: float):
    tensor = random_rows(kind, largest_scale)
    values = decode_blocks(rows_of(tensor), kind)
    assert values.dtype == torch.float32
    assert same_bits(values, slowly(tensor))


@pytest.mark.parametrize("kind", SLOW)
@given(rows=st.integers(1, 3), blocks=st.integers(1, 4), seed=st.integers(0, 2**32))
@settings(max_examples=8)
def test_rows_of_any_length_decode_to_the_bits_of_the_slow_decoder(kind: str, rows: int, blocks: int, seed: int):
    shape = (rows, blocks * BLOCK_TYPES[kind].elements)
    tensor = random_tensor(kind, shape, np.random.default_rng(seed))
    assert same_bits(decode_blocks(rows_of(tensor), kind), slowly(tensor))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("kind", "at"), [(kind, at) for kind, places in SCALES_AT.items() for at in places])
def test_scales_of_blocks_that_are_not_finite_are_refused_by_name(kind: str, at: int, value: float):
    tensor = random_rows(kind)
    layer = StoredLayer(
        name="a.to_q", format="gguf", tensors={"weight": "a.to_q.weight"}, shape=(ROWS, COLUMNS), blocks=kind
    )
    rows = rows_of(tensor)
    require_usable_scale(Path("x.gguf"), layer, "weight", rows)
    last = rows.shape[1] - BLOCK_TYPES[kind].nbytes + at
    rows[-1, last : last + 2] = torch.tensor([value], dtype=torch.float16).view(torch.uint8)
    with pytest.raises(CheckpointError, match=r"x\.gguf") as error:
        require_usable_scale(Path("x.gguf"), layer, "weight", rows)
    assert error.value.why == "a.to_q.weight: the scales of its blocks hold NaN or infinite values"


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_range_of_rows_decodes_as_it_does_in_the_whole(kind: str):
    rows = rows_of(random_rows(kind))
    whole = decode_blocks(rows, kind)
    assert whole.shape == (ROWS, COLUMNS)
    assert same_bits(
        torch.cat([decode_blocks(rows[:1], kind), decode_blocks(rows[1:5], kind), decode_blocks(rows[5:], kind)]), whole
    )


def test_no_rows_decode_to_no_rows():
    for kind in KINDS:
        assert decode_blocks(rows_of(random_rows(kind))[:0], kind).shape == (0, COLUMNS)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_numbers_keep_their_values(kind: str):
    tensor = random_rows(kind)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    expected = torch.frombuffer(bytearray(tensor.content), dtype=dtype).float().reshape(tensor.shape)
    assert same_bits(decode_blocks(rows_of(tensor), kind), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpu_gives_the_same_bits(kind: str):
    rows = rows_of(random_rows(kind))
    assert same_bits(decode_blocks(rows.cuda(), kind).cpu(), decode_blocks(rows, kind))


def test_blocks_of_real_layers_decode_to_the_bits_of_the_gguf_library():
    header = read_header(GOLDEN / "blocks.gguf")
    content = header.path.read_bytes()
    expected = load_file(GOLDEN / "blocks.safetensors")
    for name, info in header.tensors.items():
        rows = torch.frombuffer(bytearray(content[info.start : info.end]), dtype=torch.uint8)
        values = decode_blocks(rows.reshape(info.shape[0], -1), info.dtype)
        assert same_bits(values, expected[f"{info.dtype}.f32"]), name
        assert torch.equal(values.to(torch.bfloat16), expected[f"{info.dtype}.bf16"]), name
    assert {info.dtype for info in header.tensors.values()} == {*BLOCK_TYPES, "F16"}
