"""The header of a GGUF file: reading it, and refusing what is damaged, hostile or of another kind."""

import json
import struct
import tracemalloc
from pathlib import Path
from random import Random

import numpy as np
import pytest

from ltx2_core.config.released import effective_config, released_configs
from ltx2_core.errors import CheckpointError, LTX2Error, StorageError
from ltx2_core.gguf_header import BLOCK_TYPES, TYPES
from ltx2_core.headers import FileKind, classify, generation, precision, quantised_weights, read_header
from scripts.gguf_writer import Stored, gguf_bytes, random_tensor
from tests.commands import ltx2

TO_Q = "transformer_blocks.0.attn1.to_q.weight"


def denoiser(prefix: str = "") -> dict[str, Stored]:
    """A few tensors of a 2.3 denoiser, one for each type."""
    random = np.random.default_rng(0)
    tensors = {
        TO_Q: random_tensor("GGUF_Q4_K", (2, 512), random),
        "prompt_adaln_single.linear.weight": random_tensor("BF16", (4, 3), random),
        "transformer_blocks.0.ff.net.2.bias": random_tensor("F32", (5,), random),
    }
    for kind in TYPES.values():
        tensors[f"transformer_blocks.1.{kind.name}.weight"] = random_tensor(kind.name, (3, 256), random)
    return {prefix + name: tensor for name, tensor in tensors.items()}


def one(kind: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, Stored]:
    return {"x": random_tensor(kind, shape, np.random.default_rng(0))}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "w.gguf"


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("alignment", [32, 8, 4096])
def test_a_header_gives_the_shape_and_the_place_of_every_tensor(weights: Path, prefix: str, alignment: int):
    tensors = denoiser(prefix)
    weights.write_bytes(gguf_bytes(tensors, alignment=alignment))
    header = read_header(weights)
    content = weights.read_bytes()
    assert {name: (info.dtype, info.shape) for name, info in header.tensors.items()} == {
        name: (tensor.kind, tensor.shape) for name, tensor in tensors.items()
    }
    for name, info in header.tensors.items():
        assert content[info.start : info.end] == tensors[name].content


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_denoiser_is_known_by_its_tensor_names(weights: Path, prefix: str):
    weights.write_bytes(gguf_bytes(denoiser(prefix)))
    header = read_header(weights)
    assert classify(header) is FileKind.TRANSFORMER
    assert generation(header) == "2.3"
    titles = {kind.replace("GGUF_", "GGUF ") for kind in BLOCK_TYPES}
    assert precision(header).startswith("GGUF Q4_K, ")
    assert set(quantised_weights(header, header.tensors).values()) == titles


@pytest.mark.parametrize(("name", "shape"), [("a.bias", (32,)), ("a.weight", (32,)), ("a.weight", (2, 2, 32))])
def test_blocks_of_anything_but_a_matrix_are_refused(weights: Path, name: str, shape: tuple[int, ...]):
    weights.write_bytes(gguf_bytes({name: one("GGUF_Q8_0", shape)["x"]}))
    with pytest.raises(CheckpointError, match=f"{name}: it is stored as GGUF_Q8_0, which only a matrix may be"):
        _ = read_header(weights).stored


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_denoiser_without_a_config_gets_that_of_its_release(weights: Path, prefix: str):
    signs = {name: Stored("F32", (1,), bytes(4)) for name in (TO_Q, "caption_projection.linear_1.weight")}
    weights.write_bytes(gguf_bytes({prefix + name: tensor for name, tensor in signs.items()}))
    assert effective_config(read_header(weights)) == released_configs()["2.0"]


def test_inspect_tells_what_a_denoiser_is(weights: Path):
    weights.write_bytes(gguf_bytes(denoiser(), {"model_version": "2.3.rc1"}))
    result = ltx2("inspect", weights, "--json")
    assert result.exit_code == 0, result.stderr
    told = [json.loads(line) for line in result.stdout.splitlines()]
    (facts,) = (event["facts"] for event in told if "facts" in event)  # there is also a message
    assert facts["kind"] == "a transformer"
    assert facts["generation"] == "2.3"
    assert facts["version"] == "2.3.rc1"
    assert "Q4_K" in facts["precision"]


def test_texts_of_the_metadata_are_kept_and_other_values_passed_over(weights: Path):
    metadata = {"config": '{"transformer": {"a": 1}}', "model_version": "2.5.0", "words": ["a", "b"], "number": 7}
    weights.write_bytes(gguf_bytes(one(), metadata))
    header = read_header(weights)
    assert header.config == {"transformer": {"a": 1}}
    assert header.model_version == (2, 5, 0)
    assert header.metadata.keys() == {"general.architecture", "config", "model_version"}


def test_values_of_every_type_are_passed_over_by_their_size(weights: Path):
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    fields = [text(f"field {kind}") + struct.pack("<I", kind) + bytes(size) for kind, size in sizes.items()]
    fields += [text(f"list {kind}") + struct.pack("<IIQ", 9, kind, 3) + bytes(3 * n) for kind, n in sizes.items()]
    weights.write_bytes(with_fields(*fields, text("config") + struct.pack("<I", 8) + text('{"a": 2}')))
    assert read_header(weights).config == {"a": 2}


def test_version_2_has_the_same_layout(weights: Path):
    weights.write_bytes(gguf_bytes(denoiser(), version=2))
    assert len(read_header(weights).tensors) == len(denoiser())


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("ltxv")
TENSOR = text("x") + struct.pack("<IQIQ", 1, 2, 0, 0)


def with_fields(*fields: bytes) -> bytes:
    """A file with one tensor and handwritten metadata."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1 + len(fields)) + ARCHITECTURE + b"".join(fields) + TENSOR
    return head + bytes(-len(head) % 32) + bytes(32)


def with_tensors(*infos: bytes, data: int = 32) -> bytes:
    """A file with handwritten tensor entries. data: number of bytes after the header."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), 1) + ARCHITECTURE + b"".join(infos)
    return head + bytes(-len(head) % 32) + bytes(data)


def info(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sides = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return text(name) + sides + struct.pack("<IQ", kind, offset)


def start(version: int = 3, tensors: int = 1, fields: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields)


REFUSED = {
    "version 1": (gguf_bytes(one(), version=1), "version 1 is not supported"),
    "version 4": (gguf_bytes(one(), version=4), "version 4 is not supported"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(99), "big-endian"),
    "another model": (gguf_bytes(one(), {"general.architecture": "llama"}), "its architecture is llama, not ltxv"),
    "a number as architecture": (gguf_bytes(one(), {"general.architecture": 3}), "its architecture is 3"),
    "no architecture": (start(fields=0) + TENSOR + bytes(64), "its architecture is not given"),
    "many tensors": (start(tensors=10_001) + bytes(64), "10,001 tensors"),
    "tensors without number": (start(tensors=2**64 - 1) + bytes(64), "tensors, more than any model has"),
    "many entries": (start(fields=201) + bytes(64), "201 entries"),
    "an entry twice": (with_fields(ARCHITECTURE), "general.architecture occurs twice"),
    "an unknown type of value": (with_fields(text("a") + struct.pack("<I", 13)), "unknown type 13"),
    "lists in a list": (with_fields(text("a") + struct.pack("<IIQ", 9, 9, 1)), "a list of the unknown type 9"),
    "a long list": (with_fields(text("a") + struct.pack("<IIQ", 9, 0, 2**63)), "a list of 9,223,372"),
    "many texts": (with_fields(text("a") + struct.pack("<IIQ", 9, 8, 101) + bytes(900)), "a list of 101 values"),
    "a long name": (with_fields(struct.pack("<Q", 1_001) + bytes(2000)), "a text of 1,001 bytes"),
    "a text without end": (with_fields(text("a") + struct.pack("<IQ", 8, 2**64 - 1)), "a text of 18,446,744"),
    "text that is not UTF-8": (with_fields(text("a") + struct.pack("<IQ", 8, 1) + b"\xff"), "not UTF-8"),
    "an alignment of 0": (gguf_bytes(one(), {"general.alignment": 0}), "its alignment is 0"),
    "an odd alignment": (gguf_bytes(one(), {"general.alignment": 33}), "its alignment is 33"),
    "a huge alignment": (gguf_bytes(one(), {"general.alignment": 2**31}), "its alignment is 2147483648"),
    "an alignment of words": (gguf_bytes(one(), {"general.alignment": "32"}), "its alignment is 32"),
    "many axes": (with_tensors(text("x") + struct.pack("<I", 5) + bytes(80)), "has 5 axes"),
    "axes without number": (with_tensors(text("x") + struct.pack("<I", 2**32 - 1) + bytes(80)), "4,294,967,295 axes"),
    "an unknown type": (with_tensors(info("x", (2,), 99)), "the tensor x is stored as number 99"),
    "IQ4_NL": (with_tensors(info("x", (32,), 20)), "the tensor x is stored as IQ4_NL"),
    "F64": (with_tensors(info("x", (2,), 28)), "the tensor x is stored as F64"),
    "a side out of range": (with_tensors(info("x", (2**63, 2))), "out of range"),
    "an offset out of range": (with_tensors(info("x", (2,), 0, 2**64 - 32)), "out of range"),
    "half a block": (with_tensors(info("x", (2, 48), 8), data=102), "are not whole blocks of 32 values"),
    "blocks without rows": (with_tensors(info("x", (), 8)), "are not whole blocks"),
    "a place between": (with_tensors(info("x", (2,), 0, 8)), "not lie at a multiple of 32 bytes"),
    "an overlap": (with_tensors(info("x", (9,)), info("y", (9,), 0, 32), data=96), "overlaps another one"),
    "two in one place": (with_tensors(info("x", (2,)), info("y", (2,))), "overlaps another one"),
    "a gap": (with_tensors(info("x", (2,)), info("y", (2,), 0, 64), data=96), "there is a gap before it"),
    "a name twice": (with_tensors(info("x", (2,)), info("x", (2,), 0, 32), data=64), "the tensor x occurs twice"),
    "a scale": (with_tensors(info("a.weight_scale", (2,))), "a.weight_scale belongs to another quantised format"),
    "a marker": (with_tensors(info("a.comfy_quant", (2,))), "a.comfy_quant belongs to another quantised format"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_format_does_not_allow_is_refused_by_name(weights: Path, name: str):
    content, why = REFUSED[name]
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^w\.gguf cannot be opened\n") as caught:
        read_header(weights)
    assert caught.value.why.startswith("it is a GGUF file, and ")
    assert why in caught.value.why
    assert caught.value.hint


def test_a_cut_file_is_refused_wherever_the_cut_is(weights: Path):
    whole = gguf_bytes(denoiser(), {"config": "{}", "words": ["a", "b"]})
    end = max(info.end for info in read(weights, whole).tensors.values())
    for length in (*range(5, 1200, 7), end - 1):
        with pytest.raises(StorageError, match="is cut off") as caught:
            read(weights, whole[:length])
        assert f"it has {length:,} bytes, and its header" in caught.value.why
        assert caught.value.hint == "download it again"


def test_the_last_tensor_may_be_padded_and_nothing_else_may_follow(weights: Path):
    padded = gguf_bytes(one())
    end = read(weights, padded).tensors["x"].end
    assert len(padded) > end
    assert read(weights, padded[:end]).tensors.keys() == {"x"}
    with pytest.raises(StorageError, match=f"it has {len(padded) + 1:,} bytes, and its header describes {end:,}"):
        read(weights, padded + b"\0")


def read(path: Path, content: bytes):
    path.write_bytes(content)
    return read_header(path)


def test_a_flipped_bit_is_refused_or_changes_what_it_stands_for(weights: Path):
    """There is never an error of another kind, and reads stay inside the file."""
    whole = gguf_bytes(denoiser(), {"config": "{}", "words": ["a", "b"]})
    last = min(info.start for info in read(weights, whole).tensors.values())
    random = Random(0)
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        content[random.randrange(last)] ^= 1 << random.randrange(8)
        try:
            header = read(weights, bytes(content))
        except LTX2Error as error:
            refused += error.exit_code == 7
        else:
            assert all(0 < info.start <= info.end <= len(whole) for info in header.tensors.values())
    assert refused > 100


HOSTILE = {
    "counts without end": start(tensors=2**63, fields=2**63) + bytes(2_000_000),
    "empty entries": start(tensors=10_000, fields=200) + bytes(2_500_000),
    "a long text": with_fields(text("a") + struct.pack("<IQ", 8, 1_999_999_999) + bytes(2_500_000)),
    "lists of texts": with_fields(
        *(text(f"list {n}") + struct.pack("<IIQ", 9, 8, 100) + bytes(800) for n in range(198)),
        text("a") + struct.pack("<I", 13),
    ),
    "many tensors": with_tensors(*(info(f"layer.{n}.weight", (1, 1, 1, 2)) for n in range(10_000))),
    "a name of zeros": start() + ARCHITECTURE + struct.pack("<Q", 1_000) + bytes(2_500_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_before_it_takes_memory(weights: Path, name: str):
    weights.write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(LTX2Error):
            read_header(weights)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


def test_a_header_over_the_limit_is_refused_though_the_file_has_the_bytes(weights: Path):
    fields = [text(f"a{n}") + struct.pack("<IIQ", 9, 0, 100_000) + bytes(100_000) for n in range(21)]
    with pytest.raises(CheckpointError) as caught:
        read(weights, with_fields(*fields))
    assert "longer than 2,000,000 bytes" in caught.value.why
