"""Read the header of a weight file: json and struct, no torch, no weights.

Source: docs/reference/checkpoints.md, "Safetensors headers", "GGUF headers" and "Which file is which".
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from .disk import disk_hint, disk_reason, not_a_file
from .errors import CheckpointError, StorageError, json_reason, shown
from .gguf_header import MAGIC, read_gguf
from .header_text import LARGEST_TEXT_BYTES, TensorInfo, parse_header_text
from .stored.layer import StoredLayers
from .stored.recognise import recognise

T = TypeVar("T")

LARGEST_JSON_BYTES = 4_000_000  # of one object; a tokenizer_config.json takes 1.2 million
LARGEST_TEXT = 200_000_000  # bytes that are read at once; the tokenizer of a Gemma 3 takes 33 million
LONGEST_NAME = 120  # of a tensor, in a message
START_BYTES = 32  # enough to tell what a file is
FLOATS = {"F64", "F32", "F16", "BF16"}
HINT = "only .safetensors and .gguf files are opened; take the published one, or convert this one"
PICKLE = "it is a pickle (.pt, .ckpt, .bin), and opening one can run code from it"
# The first bytes of other kinds of files.
FOREIGN = (
    (b"PK\x03\x04", PICKLE),
    *((bytes((0x80, protocol)), PICKLE) for protocol in range(2, 6)),
)
# The first bytes of placeholders for files that were not downloaded, and a hint for each.
STAND_INS = (
    (
        b"version https://git-lfs",
        "it is a Git LFS pointer: the file itself was not downloaded",
        "fetch it with git lfs pull, or download the file itself",
    ),
    (
        b"<",
        "it is a web page, such as one that asks for a login",
        "log in if the site asks for it, and download the file again",
    ),
)


@dataclass(frozen=True)
class Header:
    """The header of one weight file, or of the shards of a model together.

    `start` values of its tensors are offsets from the beginning of the file. is_gguf: whether it is a GGUF file, not a
    safetensors file.
    """

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    shards: tuple[Header, ...] = ()
    is_gguf: bool = False

    @cached_property
    def config(self) -> dict[str, Any]:
        """The `config` entry of the metadata, parsed; empty if the file has none."""
        config = self.entry("config")
        if config is not None and not isinstance(config, dict):
            raise CheckpointError(f"{self.path.name} has a damaged config", "its metadata entry is not a JSON object")
        return config or {}

    def entry(self, name: str) -> Any:
        """An entry of the metadata that is JSON, parsed; None if the file has none."""
        text = self.metadata.get(name)
        if text is None:
            return None
        what = f"{self.path.name} has a damaged {name}"
        if len(text) > LARGEST_JSON_BYTES:
            raise CheckpointError(what, f"its metadata entry is longer than {LARGEST_JSON_BYTES:,} characters")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(what, json_reason(error)) from error

    @cached_property
    def names(self) -> frozenset[str]:
        """The tensor names; those of the transformer without their prefix."""
        return frozenset(re.sub(r"^(model\.)?diffusion_model\.", "", name) for name in self.tensors)

    @cached_property
    def stored(self) -> StoredLayers:
        """The layers that are stored quantised.

        Raises: CheckpointError if anything about them is missing, contradictory or not supported.
        """
        return recognise(self)

    def once(self, key: Hashable, find: Callable[[], T]) -> T:
        """Cache the result of a function of this header: it is called once for each key."""
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]

    @cached_property
    def _found(self) -> dict[Hashable, Any]:
        return {}

    def matrix_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor in the model, possibly with the padding of a quantised one."""
        layer = self.stored.layers.get(name)
        return self.tensors[name].shape if layer is None else layer.shape

    def fits(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of the model with some shape, or with as many first sides, may be stored under a name."""
        layer = self.stored.layers.get(name)
        return self.tensors[name].shape[: len(shape)] == shape if layer is None else layer.fits(shape)

    def read(self, name: str) -> bytes:
        """The bytes of a small tensor. Raises: StorageError if it is not small, or cannot be read any more."""
        holder = next((shard for shard in self.shards if name in shard.tensors), self)
        info = holder.tensors[name]
        require_small(f"{shown(name)} in {holder.path}", info.nbytes)
        try:
            with holder.path.open("rb") as file:
                file.seek(info.start)
                return file.read(info.nbytes)
        except OSError as error:
            raise _unreadable(holder.path, error) from error

    @cached_property
    def nbytes(self) -> int:
        """The size of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    def loaded_bytes(self, names: Iterable[str], itemsize: int) -> int:
        """The size of some tensors if a value has so many bytes; tensors of quantised layers count as stored.

        Raises: as `stored`.
        """
        kept, tensors = self.stored.names, self.tensors
        return sum(
            tensors[name].nbytes if name in kept else prod(tensors[name].shape) * itemsize for name in set(names)
        )

    @property
    def model_version(self) -> tuple[int, ...]:
        """`model_version` as numbers: "2.5.0" is (2, 5, 0), "2.3-rc1" is (2, 3), missing is (). Used only to choose
        defaults.
        """
        numbers: list[int] = []
        for part in self.metadata.get("model_version", "").strip('"').replace("-", ".").split("."):
            if not (part.isascii() and part.isdigit() and len(part) < 10):
                break
            numbers.append(int(part))
        return tuple(numbers)


def together(shards: Sequence[Header]) -> Header:
    """One header with the tensors of all shards of a model, by the name of their folder.

    Raises: CheckpointError for a tensor that is in two of them, which are then files of two models.
    """
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        if twin := next(iter(tensors.keys() & shard.tensors.keys()), None):
            first = next(one for one in shards if twin in one.tensors)
            why = f"{first.path.name} and {shard.path.name} both hold {shown(twin, LONGEST_NAME)}"
            raise CheckpointError(f"{shard.path.parent} holds more than one model", why, "move one of them away")
        tensors |= shard.tensors
    return Header(shards[0].path.parent, shards[0].metadata, tensors, tuple(shards))


class FileKind(Enum):
    """The kind of a weight file; the value is its name in messages."""

    LORA = "a LoRA"
    DIFFUSERS = "a transformer in the layout of diffusers"
    MONOLITH = "a whole model without its text encoder"
    TRANSFORMER = "a transformer"
    TEXT_ENCODER = "an LTX-2.5 text encoder"
    GEMMA = "a Gemma 3 text encoder"
    VIDEO_VAE = "a video VAE"
    AUDIO = "an audio VAE or vocoder"
    UPSAMPLER = "a latent upsampler"
    DURATION_HEAD = "a duration head"
    CONNECTORS = "text connectors"


# The tensors of a LoRA, of the related LoKr, LoHa, OFT and IA3, and of full differences.
LORA_NAME = re.compile(
    r"\.(lora_(A|B|down|up)\b|lora(_linear_layer)?\.(down|up)\.|lokr_w[12]|hada_w1_a|oft_|boft_|ia3_l|vera_|diff(_b)?$)"
)
UPSAMPLER_NAMES = {"initial_conv.weight", "final_conv.weight"}


def classify(header: Header) -> FileKind:
    """The kind of a file, by its tensor names.

    Raises: CheckpointError if it is no file of these models.
    Source: docs/reference/checkpoints.md, "Which file is which"; a transformer of diffusers is recognised first,
    because it also has the names of an official one.
    """
    return header.once(FileKind, lambda: _kind_of(header))


def _kind_of(header: Header) -> FileKind:
    """The same, looked for in all names. Raises: CheckpointError."""
    names = header.names

    def some(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    has_blocks = "transformer_blocks.0.attn1.to_q.weight" in names
    has_tokenizer = "tokenizer_json" in names or "tokenizer_json" in header.metadata
    is_later_gemma = has_tokenizer and some("model.layers.", "model.language_model.") and not is_gemma_3(names)
    vae = {name.removeprefix("vae.") for name in names}
    tests = (
        (FileKind.LORA, any(map(LORA_NAME.search, names))),
        (FileKind.DIFFUSERS, some("transformer_blocks.") and some("proj_in.", "time_embed.")),
        (FileKind.DIFFUSERS, any(re.match(r"transformer_blocks\..*\.norm_q\.", name) for name in names)),
        (FileKind.MONOLITH, has_blocks and some("vae.")),
        (FileKind.TRANSFORMER, has_blocks),
        (FileKind.TEXT_ENCODER, is_later_gemma),
        (FileKind.GEMMA, some("language_model.model.layers.") or _is_gemma_text(names)),
        (FileKind.VIDEO_VAE, any(name.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for name in vae)),
        (FileKind.AUDIO, some("audio_vae.", "vocoder.")),
        (FileKind.UPSAMPLER, names >= UPSAMPLER_NAMES and some("upsampler.")),
        (FileKind.DURATION_HEAD, some("duration_head.")),
        (FileKind.CONNECTORS, some("video_embeddings_connector.", "text_embedding_projection.")),
    )
    kind = next((kind for kind, found in tests if found), None)
    if kind is None:
        found = ", ".join(shown(name, LONGEST_NAME) for name in sorted(names)[:3]) or "nothing at all"
        raise CheckpointError(f"{header.path.name} is not a file of an LTX-2 model", f"it holds {found}")
    return kind


def is_gemma_3(names: Iterable[str]) -> bool:
    """Whether these are the names of Gemma 3: all its layers have value projections, unlike Gemma 4's, and there is no
    text projection.
    """
    names = list(names)
    ends = [sum(name.endswith(f"self_attn.{own}_proj.weight") for name in names) for own in "qv"]
    has_projection = any(name.startswith("text_embedding_projection.") for name in names)
    return _is_gemma_text(names) and ends[0] == ends[1] and not has_projection


def _is_gemma_text(names: Iterable[str]) -> bool:
    """Whether these are the names of a Gemma 3 that was saved without its vision tower."""
    layers = {name.partition("layers.")[2].partition(".")[2] for name in names}
    return layers >= {"post_feedforward_layernorm.weight", "self_attn.q_norm.weight"}


# A generation, the names that only it has, and a name that must be absent.
GENERATION_SIGNS: tuple[tuple[str, frozenset[str], str | None], ...] = (
    ("2.0", frozenset({"caption_projection.linear_1.weight"}), None),
    ("2.0", frozenset({"text_embedding_projection.aggregate_embed.weight"}), None),
    ("2.0", frozenset({"decoder.up_blocks.2.res_blocks.4.conv1.conv.weight"}), None),
    ("2.0", frozenset({"vocoder.ups.0.weight"}), None),
    ("2.3", frozenset({"prompt_adaln_single.linear.weight", "transformer_blocks.0.ff.net.2.bias"}), None),
    ("2.5", frozenset({"prompt_adaln_single.linear.weight"}), "transformer_blocks.0.ff.net.2.bias"),
    ("2.5", frozenset({"tokenizer_json"}), None),
    ("2.5", frozenset({"decoder.det_stages.0.0.attn.qkv.weight"}), None),
    ("2.5", frozenset({"duration_head.attention_pooler.query_tokens"}), None),
)


def generation(header: Header) -> str | None:
    """The model generation that the tensor names prove: "2.0", "2.3", "2.5"; None if they prove none or several."""
    return header.once(generation, lambda: _generation_of(header))


def _generation_of(header: Header) -> str | None:
    names = header.names | {name.removeprefix("vae.") for name in header.names}
    found = {version for version, own, absent in GENERATION_SIGNS if names >= own and absent not in names}
    return found.pop() if len(found) == 1 else None


def stored_format(header: Header, name: str) -> str | None:
    """The quantised format of a weight, for messages; None for plain floats. Raises: as `Header.stored`."""
    layer = header.stored.layers.get(name)
    return None if layer is None else layer.title


def quantised_weights(header: Header, names: Iterable[str]) -> dict[str, str]:
    """The weights among named tensors that are stored quantised, each with its format. Raises: as `Header.stored`."""
    formats = {name: stored_format(header, name) for name in names}
    return {name: form for name, form in formats.items() if form is not None}


def precision(header: Header) -> str:
    """How the weights are stored: the quantised formats, the most frequent first, or the dtype of most bytes.

    Raises: as `Header.stored`.
    """
    if header.stored.layers:
        return ", ".join(header.stored.titles)
    sizes: Counter[str] = Counter()
    for info in header.tensors.values():
        sizes[info.dtype] += info.nbytes
    dtype = max(sizes, key=sizes.__getitem__, default="none")
    return {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64"}.get(dtype, dtype)


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors or GGUF file; the header of an unchanged file is cached.

    Raises: StorageError if the file is missing, unreadable, empty or truncated; CheckpointError if it is neither. The
    content decides, not the name: a pickle is refused whatever its name.
    """
    path = Path(path)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if why := not_a_file(status):
        raise CheckpointError(f"{path} cannot be opened", why, "name one .safetensors file")
    version = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    header = _parsed(path.absolute(), status.st_size, version)
    return header if path == header.path else replace(header, path=path)


@lru_cache(maxsize=64)
def _parsed(path: Path, size: int, version: tuple[int, ...]) -> Header:
    """The header of a file of some size. version: changes whenever the file does."""
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
            if start.startswith(MAGIC):
                file.seek(0)
                return Header(path, *read_gguf(file, path.name, size), is_gguf=True)
            length = _header_length(path, start, size)
            file.seek(8)
            raw = file.read(length)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        metadata, tensors = parse_header_text(raw, offset=8 + length)
        end = _check_layout(tensors, start=8 + length)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} cannot be opened", "its header is not that of a safetensors file", HINT
        ) from error
    if size != end:
        difference = f"it has {size:,} bytes, and its header describes {end:,}"
        raise StorageError(f"{path.name} is cut off or damaged", difference, "download it again")
    return Header(path, metadata, tensors)


def require_downloaded(path: Path) -> None:
    """Refuse a file, of any kind, whose content was never downloaded.

    Raises: StorageError if it is missing, unreadable, empty or no regular file; CheckpointError for a placeholder of
    the file.
    """
    try:
        if why := not_a_file(path.stat()):  # opening a pipe would block
            raise StorageError(f"{path} cannot be read", why, "name a file")
        with path.open("rb") as file:
            _check_start(path, file.read(START_BYTES))
    except OSError as error:
        raise _unreadable(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that contains one JSON object, such as the config of a text encoder.

    Raises: StorageError if it cannot be read or is too large; CheckpointError if it contains something else.
    """
    require_downloaded(path)
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            raise StorageError(f"{path} cannot be read", f"it is larger than {LARGEST_JSON_BYTES:,} bytes")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged", json_reason(error)) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged", "it is not a JSON object")
    return values


def require_small(name: str, nbytes: int) -> None:
    """Raises: StorageError for a text that is too large to be part of a model. name: in the message."""
    if nbytes > LARGEST_TEXT:
        why = f"it has {nbytes:,} bytes, and {LARGEST_TEXT:,} is the most"
        raise StorageError(f"{name} cannot be read", why, "download it again")


def _check_start(path: Path, start: bytes) -> None:
    if not start:
        raise StorageError(f"{path.name} is empty", hint="download it again")
    for magic, what, hint in STAND_INS:
        if start.startswith(magic) and b"\0" not in start[:8]:  # else these bytes are the length of a header
            raise CheckpointError(f"{path.name} cannot be opened", what, hint)


def _unreadable(path: Path, error: OSError | ValueError) -> StorageError:
    return StorageError(f"{path} cannot be read", disk_reason(error), disk_hint(error, "check the path"))


def _header_length(path: Path, start: bytes, size: int) -> int:
    """The length of the JSON text that follows the first eight bytes."""
    _check_start(path, start)
    if start[8:9] != b"{":
        what = next((what for magic, what in FOREIGN if start.startswith(magic)), "it is not a safetensors file")
        raise CheckpointError(f"{path.name} cannot be opened", what, HINT)
    (length,) = struct.unpack("<Q", start[:8])
    if length > LARGEST_TEXT_BYTES:
        raise CheckpointError(f"{path.name} cannot be opened", f"its header would be {length:,} bytes long", HINT)
    if length > size - 8:
        raise StorageError(
            f"{path.name} is cut off", f"its header alone takes {length + 8:,} bytes", "download it again"
        )
    return length


def _check_layout(tensors: Mapping[str, TensorInfo], start: int) -> int:
    """Where the last tensor ends. The format allows neither gaps nor overlaps."""
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.end)):
        if info.start != start or info.end < start:
            raise ValueError("gap or overlap")
        start = info.end
    return start
