"""Damaged headers of weight files, and checkpoints and text encoders with values of wrong types in their configs."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from random import Random
from typing import Any

from ltx2_core.components import DIT
from scripts.gguf_writer import Stored, gguf_bytes

from .case import Case, Ground, Write, changed, data, hole, linked, nested, odd_value, text

OPTIONS = ("--transformer", "--video-vae", "--audio-vae", "--upsampler", "--distilled-lora", "--lora")


def make(random: Random, ground: Ground) -> Case:
    """A command that reads a damaged weight file or text encoder."""
    if random.random() < 0.12:
        return _text_encoder(random, ground)
    if random.random() < 0.15:
        return _gguf(random, ground)
    files = sorted(ground.tiny.glob("*.safetensors"))
    path = random.choice(files[:1] * 3 + files) if random.random() < 0.5 else _checkpoint(files)
    header, size = read(path)
    content = random.choice((_config, _config, _entries, _entries, _metadata, _text, _lengths))(random, header, size)
    prompt = ("t2v", "x", "--preset", random.choice(("smoke", "smoke", "two-stage", "distilled")), "-o", "x.mp4")
    if random.random() < 0.25:
        words: tuple[str, ...] = ("inspect", "w.safetensors")
    elif path == _checkpoint(files) and random.random() < 0.8:
        words = (*prompt, "--model", "w.safetensors", "--text-encoder", str(encoder(ground)))
    else:
        words = (*prompt, "--model", str(ground.tiny), random.choice(OPTIONS), "w.safetensors")
    return Case(words=words, files={"w.safetensors": content})


def read(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a weight file, and the number of bytes after it."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), len(content) - 8 - length


def encoder(ground: Ground) -> Path:
    """The folder of the text encoder."""
    return next(path.parent for path in sorted(ground.tiny.rglob("config.json")))


def _checkpoint(files: list[Path]) -> Path:
    return max(files, key=lambda path: path.stat().st_size)


def _written(header: str | bytes, size: int, length: int | None = None) -> Write:
    """A weight file of zeros: its header, then a hole."""
    raw = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    start = struct.pack("<Q", len(raw) if length is None else length) + raw
    return hole(start, len(start) + size)


def _config(random: Random, header: dict[str, Any], size: int) -> Write:
    """Changed values in the config, which is JSON inside the JSON of the header."""
    metadata = header.setdefault("__metadata__", {})
    config = json.loads(metadata.get("config", "{}"))
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        config = changed(random, config)
    metadata["config"] = dumped(config)
    return _written(dumped(header), size)


def _metadata(random: Random, header: dict[str, Any], size: int) -> Write:
    metadata = header.get("__metadata__", {})
    odd = (None, [], 1, "x", {"config": 1}, {"config": "["}, {"config": "[" * 20_000}, {"config": "null"}, {"": ""})
    header["__metadata__"] = random.choice((*odd, metadata | {"model_version": "x" * 5000}, changed(random, metadata)))
    return _written(dumped(header), size)


def _entries(random: Random, header: dict[str, Any], size: int) -> Write:
    """Tensors with changed shapes, types, offsets or names."""
    for _ in range(random.choice((1, 1, 5))):
        name = random.choice([one for one in header if one != "__metadata__"])
        entry = header[name]
        if not isinstance(entry, dict) or random.random() < 0.3:
            header[name] = odd_value(random, entry)
        elif random.random() < 0.4:
            header[name] = changed(random, entry)
        elif random.random() < 0.5:
            entry["shape"] = random.choice(_SHAPES)
        elif random.random() < 0.5:
            entry["dtype"] = random.choice(("F64", "F8_E4M3", "I64", "BOOL", "X" * 3000, "", "f32", "F4", "U8", None))
        else:
            entry["data_offsets"] = random.choice(_OFFSETS)
    return _written(dumped(header), size)


_SHAPES: tuple[Any, ...] = (
    [], [0], [-1], [2**62, 4], [2**63], [10**4000], [1] * 9, [1] * 1500, [1.0], [True], ["1"], "2", {}, [[1]],
    [2**31] * 8
)  # fmt: skip
_OFFSETS: tuple[Any, ...] = (
    [0, 0], [8, 0], [-8, 0], [0, 2**63], [0, 10**4000], [0], [0, 1, 2], [0.0, 8.0], "08", [None, 8], {}, [True, True]
)  # fmt: skip


def _text(random: Random, header: dict[str, Any], size: int) -> Write:
    """The text of a header with an insertion, truncated, or repeated."""
    content = dumped(header)
    name = random.choice(list(header))
    twice = content.replace(f"{json.dumps(name)}:", f'{json.dumps(name)}: {{"dtype": "F32"}}, {json.dumps(name)}:', 1)
    at = random.randrange(len(content))
    odd = random.choice(
        ("[", "{", '"', ",", ":", "\\", "\x00", "\udcff", "1e999", "NaN", "-", "9" * 5000, "/**/", "\ufeff")
    )
    texts = (twice, content[:at], content[:at] + odd + content[at:], content[:at] + content[at + 1 :], content + "  ")
    return _written(random.choice((*texts, "", "{}", "[]", "null", "1", '"x"')), size)


def _lengths(random: Random, header: dict[str, Any], size: int) -> Write:
    """A header with a wrong or very large length, or of another kind of file."""
    content = dumped(header)
    kinds: tuple[Callable[[], Write], ...] = (
        lambda: _written(content, size, random.choice((0, 1, 2**63, 2**64 - 1, 2**32, 10**9, len(content) - 1))),
        lambda: _written(content, random.choice((0, size - 1, size + 1, 10 * size))),
        lambda: _written("[" * random.choice((1000, 200_000)), 0),
        lambda: _written(dumped({"x": nested(400)}), 0),
        lambda: _written(dumped({"a": {"dtype": "F32", "shape": [10**4200] * 100, "data_offsets": [0, 4]}}), 4),
        lambda: _written(" " * 2_000_000 + content, size),
        lambda: hole(struct.pack("<Q", 30_000_000) + b"{", 40_000_000),
        lambda: data(random.randbytes(random.choice((0, 1, 7, 8, 9, 100)))),
        lambda: data(random.choice((b"PK\x03\x04", b"\x80\x04\x95", b"GGUF\x03", b"<!doctype html>")) + bytes(99)),
        lambda: text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
    )
    return random.choice(kinds)()


def _gguf(random: Random, ground: Ground) -> Case:
    """A GGUF file of a transformer with a damaged header or a wrong config."""
    header, _ = read(_checkpoint(sorted(ground.tiny.glob("*.safetensors"))))
    config = header["__metadata__"]["config"]
    tensors = {
        name.removeprefix(DIT): random.choice((_plain, _plain, _plain, _blocks))(entry["shape"])
        for name, entry in header.items()
        if name.startswith(DIT) and "connector" not in name
    }
    if random.random() < 0.3:
        content = gguf_bytes(tensors, {"config": dumped(changed(random, json.loads(config)))})
    else:
        content = _damaged_header(random, gguf_bytes(tensors, random.choice(({}, {"config": config}))))
    command = ("t2v", "x", "--model", str(ground.tiny), "--preset", "smoke", "--transformer", "w.gguf", "-o", "x.mp4")
    return Case(words=random.choice((command, ("inspect", "w.gguf"))), files={"w.gguf": data(content)})


def _plain(shape: list[int]) -> Stored:
    return Stored("F16", tuple(shape), bytes(2 * prod(shape)))


def _blocks(shape: list[int]) -> Stored:
    """Zeros in blocks of 32, if rows of this length can be stored in that form."""
    if len(shape) != 2 or shape[1] % 32:
        return _plain(shape)
    return Stored("GGUF_Q8_0", tuple(shape), bytes(prod(shape) // 32 * 34))


def _damaged_header(random: Random, content: bytes) -> bytes:
    """A GGUF file whose first fields, or a part of its header, are overwritten, truncated, or have an insertion."""
    damaged = bytearray(content)
    at = random.choice((8, 16, 24, random.randrange(100), random.randrange(30_000)))
    for _ in range(random.choice((1, 1, 3))):
        how = random.random()
        if how < 0.4:
            damaged[at] ^= 1 << random.randrange(8)
        elif how < 0.7:
            damaged[at : at + 8] = struct.pack(
                "<Q", random.choice((0, 1, 2**16, 2**31, 2**32, 2**62, 2**63, 2**64 - 1))
            )
        elif how < 0.8:
            damaged[at:at] = random.randbytes(random.choice((1, 8, 100)))
        elif how < 0.9:
            del damaged[at : at + random.choice((1, 8, 100))]
        else:
            return bytes(damaged[: random.choice((at, random.randrange(len(damaged))))])
        at = random.randrange(30_000)
    return bytes(damaged)


def _text_encoder(random: Random, ground: Ground) -> Case:
    """A folder of a text encoder with one of its JSON files changed."""
    folder = encoder(ground)
    name = random.choice(("config.json", "config.json", "config.json", *(path.name for path in folder.glob("*.json"))))
    content = json.loads((folder / name).read_text())
    if name == "tokenizer.json":  # a large file, which a library reads
        content = {key: value for key, value in content.items() if key != random.choice(list(content))}
    else:
        content = changed(random, content)
    written = text(dumped(content))
    if random.random() < 0.2:
        written = text(random.choice(("", "[]", "null", "{", "[" * 50_000, '{"a": 1, "a": 2}', "\x00", "x" * 100)))
    files: dict[str, Write] = {f"gemma/{path.name}": linked(str(path)) for path in sorted(folder.iterdir())}
    words = ("t2v", "x", *ground.model, "--text-encoder", "gemma", "-o", "x.mp4")
    return Case(words=words, files=files | {f"gemma/{name}": written})


def dumped(tree: Any) -> str:
    """JSON with numbers of any size: Python itself refuses to write more than 4,300 digits."""
    return json.dumps(tree, ensure_ascii=False)
