"""Find a text encoder on disk and check that it belongs to a checkpoint, from headers and JSON alone.

Source: docs/reference/text.md, "Files of the text encoder".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..components import COMPONENTS
from ..config.landmarks import check_header
from ..config.section import Section
from ..errors import CheckpointError, StorageError, shown
from ..folders import snapshot_of
from ..headers import (
    FileKind,
    Header,
    classify,
    generation,
    read_header,
    read_json,
    require_downloaded,
    require_small,
    together,
)
from ..log import warn_once
from .encoders import GEMMA_3, GEMMA_4, Encoder, described, encoder_of
from .released import config_of

WEIGHTS, WHOLE = "model*.safetensors", "model.safetensors"
INDEX = "model.safetensors.index.json"
HINT = (
    "--text-encoder wants the folder of Gemma 3 12B, with config.json, tokenizer.json and model*.safetensors,"
    " or one safetensors file of it; LTX-2.5 wants the file of its own text encoder"
)
TOKENIZER = "tokenizer_json"  # the tensor or the metadata entry of a file that holds its tokenizer
TOKENIZER_CONFIG = "tokenizer_config.json"
ASSET = "hf_asset__"  # prefix of a tensor that contains another file
NAMES_ENCODER = (2, 4)  # from this version on, a checkpoint should name its text encoder
OF_GEMMA_4 = "2.5"  # the generation that was trained with Gemma 4
TOKENS = {"bos_token": "<bos>", "pad_token": "<pad>"}  # Gemma's, used if no tokenizer_config.json names them

MOST_CONFIGS = 50  # config files to read in a folder with many others


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFiles:
    """A text encoder on disk.

    Args: config: as transformers wrote it. config_file: None if the weights contain the config. tokenizer: its file, or
    that of the weights if they contain it. tokenizer_config: None for the usual tokens of Gemma. weights: the headers
    of its shards.
    """

    config: Mapping[str, Any]
    config_file: Path | None
    tokenizer: Path
    tokenizer_config: Path | None
    weights: tuple[Header, ...]

    @property
    def encoder(self) -> Encoder:
        """The family of the text encoder."""
        found = encoder_of(self.config)
        assert found is not None  # or it would not have been found
        return found

    @property
    def paths(self) -> list[Path]:
        """Every file that affects the result."""
        own = (self.config_file, self.tokenizer, self.tokenizer_config, *(shard.path for shard in self.weights))
        return list(dict.fromkeys(path for path in own if path is not None))

    @property
    def header(self) -> Header:
        """All tensors, by the name of the file or of the folder."""
        return self.weights[0] if self.config_file is None else together(self.weights)

    def read_tokenizer(self) -> str:
        """The JSON text of the tokenizer. Raises: OSError, UnicodeDecodeError, StorageError."""
        holder = self._tokenizer_holder
        if holder is None:
            return _text_of(self.tokenizer)
        if TOKENIZER in holder.metadata:
            return holder.metadata[TOKENIZER]
        return holder.read(TOKENIZER).decode("utf-8")

    def asset(self, name: str) -> str | None:
        """The text of a file that belongs to the model: beside its config, beside its tokenizer, or inside its weights.

        Raises: OSError, UnicodeDecodeError, StorageError.
        """
        folders = [file.parent for file in (self.config_file, self.tokenizer) if file is not None]
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if found is not None:
            return _text_of(found)
        holder = self._tokenizer_holder
        if holder is not None and ASSET + name in holder.tensors:
            return holder.read(ASSET + name).decode("utf-8")
        return None if holder is None else holder.metadata.get(name)

    def token_settings(self) -> Mapping[str, Any]:
        """The special tokens in the tokenizer's config. Raises: StorageError, CheckpointError."""
        if self.tokenizer_config is not None:
            return read_json(self.tokenizer_config)
        inside = None if self._tokenizer_holder is None else _asset(self._tokenizer_holder, TOKENIZER_CONFIG)
        return TOKENS if inside is None else inside

    @property
    def _tokenizer_holder(self) -> Header | None:
        """The weights that contain the tokenizer; None if it is a separate file."""
        return next((shard for shard in self.weights if shard.path == self.tokenizer), None)

    @property
    def features(self) -> int:
        """Values of one token over all hidden states: the embeddings and the output of every layer."""
        text = Section(self.config, "text_config")
        return text.whole("hidden_size") * (text.whole("num_hidden_layers") + 1)


def _text_of(path: Path) -> str:
    require_small(str(path), path.stat().st_size)
    return path.read_text(encoding="utf-8")


def find_encoder(path: Path) -> EncoderFiles:
    """Find a text encoder at a file, or in a folder and its subfolders.

    Raises: StorageError if something is missing; CheckpointError if it is another model, was not downloaded, is
    quantised according to its config, or has other layers or widths than its config says.
    """
    if path.is_file():
        return _one_file(path)
    if not path.is_dir():
        raise StorageError(f"there is no text encoder at {path}", hint=HINT)
    path = snapshot_of(path)
    config_file = _find_config(path)
    config = read_json(config_file)
    encoder = encoder_of(config)
    if encoder is None:
        found = f"{config_file} says model_type {config.get('model_type')!r}, and {described()} can be used"
        raise CheckpointError(f"{path.name} cannot be the text encoder", found, HINT)
    if config["model_type"] == encoder.text_type:
        config = {**config, "model_type": encoder.model_type, "text_config": config}
    files = in_folder(path, config_file, config)
    check_header("language_model", files.header, config)
    return files


def in_folder(path: Path, config_file: Path, config: Mapping[str, Any]) -> EncoderFiles:
    """The files of a language model in a folder and its subfolders, whichever model its config describes.

    Raises: StorageError if something is missing; CheckpointError if its config says that it is quantised.
    """
    beside = path.parent / "tokenizer"  # where diffusers puts it
    words = path if any(_matching(path, "tokenizer.json")) or not beside.is_dir() else beside
    tokenizer, tokenizer_config = _find(words, "tokenizer.json"), _find(words, TOKENIZER_CONFIG)
    require_downloaded(tokenizer)
    require_downloaded(tokenizer_config)
    _require_plain(config_file, config)
    place = config_file.parent if any(config_file.parent.glob(WEIGHTS)) else path
    return EncoderFiles(
        config=config,
        config_file=config_file,
        tokenizer=tokenizer,
        tokenizer_config=tokenizer_config,
        weights=tuple(read_header(shard) for shard in _shards(_find(place, WEIGHTS).parent)),
    )


def _one_file(path: Path) -> EncoderFiles:
    """A text encoder in one file, with its tokenizer inside or beside it."""
    header = read_header(path)
    kind = classify(header)
    if kind not in (FileKind.GEMMA, FileKind.TEXT_ENCODER):
        raise CheckpointError(f"{path.name} cannot be the text encoder", f"it is {kind.value}", HINT)
    config = config_of(header)
    tokenizer, tokenizer_config = path, None
    if TOKENIZER not in header.tensors and TOKENIZER not in header.metadata:
        tokenizer, tokenizer_config = _tokenizer_beside(header, encoder_of(config) or GEMMA_3)
    check_header("language_model", header, config)
    return EncoderFiles(
        config=config, config_file=None, tokenizer=tokenizer, tokenizer_config=tokenizer_config, weights=(header,)
    )


def _asset(header: Header, name: str) -> dict[str, Any] | None:
    """A file that is embedded in another as a tensor or as an entry of the metadata: one JSON object. None if there is
    none.

    Raises: StorageError, CheckpointError.
    """
    if ASSET + name not in header.tensors:
        return header.entry(name)
    try:
        return json.loads(header.read(ASSET + name))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{header.path.name} is damaged", f"its tensor {ASSET}{name} is not JSON") from error


def _tokenizer_beside(header: Header, encoder: Encoder) -> tuple[Path, Path | None]:
    """The tokenizer in the folder of a file, or in the folder `tokenizer` there, and its config if it exists."""
    folder = header.path.parent
    if encoder.repository is None:
        why = f"a {encoder.title} of LTX-2 holds its own as {TOKENIZER}, and no other goes with it"
        raise CheckpointError(f"the text encoder {header.path.name} has no tokenizer", why, "use the original file")
    for place in (folder, folder / "tokenizer"):
        tokenizer, config = place / "tokenizer.json", place / TOKENIZER_CONFIG
        if tokenizer.is_file():
            require_downloaded(tokenizer)
            if not config.is_file():
                return tokenizer, None
            require_downloaded(config)
            return tokenizer, config
    inside = [name for name in ("spiece_model", "tokenizer.model") if name in header.tensors]
    why = "neither the file nor its folder holds a tokenizer.json"
    if inside:
        why = f"its tensor {inside[0]} is a tokenizer in the form of sentencepiece, which is not read"
    hint = f"put tokenizer.json of https://huggingface.co/{encoder.repository} into {folder}"
    raise StorageError(f"the text encoder {header.path.name} has no tokenizer", why, hint)


def check_pair(encoder: EncoderFiles, checkpoint: Header, projection: Header) -> None:
    """Refuse a text encoder that a model was not trained with, as far as headers show.

    Args: checkpoint: the file of the transformer. projection: the file of the text projection, often the same.
    Raises: CheckpointError.
    """
    wanted, found = source_version(checkpoint), encoder.config.get("gemma_version")
    usual = GEMMA_4 if _is_copy_of_2_5(checkpoint) else GEMMA_3
    may_name = checkpoint.model_version >= NAMES_ENCODER
    if wanted is not None:
        is_right = found == wanted
    elif usual is GEMMA_4:
        is_right = encoder.encoder is GEMMA_4
    else:
        is_right = found is None and (may_name or encoder.encoder is GEMMA_3)
    if not is_right:
        trained_with = wanted or usual.title
        raise CheckpointError(
            f"the text encoder does not belong to {checkpoint.path.name}",
            f"the checkpoint was trained with {trained_with}, and this is {found or encoder.encoder.title}",
            f"--text-encoder FOLDER|FILE names {trained_with}",
        )
    if wanted is None and (may_name or usual is GEMMA_4):
        warn_once(f"{checkpoint.path.name} does not say which text encoder it was trained with")
    for name in COMPONENTS["text_projection"].names_in(projection):
        if name.endswith(".weight") and (width := projection.matrix_shape(name)[-1]) != encoder.features:
            raise CheckpointError(
                f"the text encoder does not belong to {projection.path.name}",
                f"{name} takes {width} values for a token, and this encoder gives {encoder.features}",
                HINT,
            )


def _is_copy_of_2_5(checkpoint: Header) -> bool:
    """Whether tensors prove that a file without a version, such as a GGUF file, is of LTX-2.5."""
    return not checkpoint.model_version and generation(checkpoint) == OF_GEMMA_4


def _require_plain(config_file: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder whose config says that its weights are quantised."""
    settings = config.get("quantization_config")
    if settings is not None:
        method = settings.get("quant_method") if isinstance(settings, Mapping) else settings
        raise CheckpointError(
            f"{config_file.parent.name} is quantised, which is not supported yet",
            f"its config.json has a quantization_config: {method}",
            "use the folder with bf16 weights",
        )


def _find_config(root: Path) -> Path:
    """The config of a text encoder that is nearest to the root, or else the nearest config."""
    first = _find(root, "config.json")
    configs = islice(_matching(root, "config.json"), MOST_CONFIGS)
    return next((path for path in configs if encoder_of(read_json(path)) is not None), first)


def _find(root: Path, pattern: str) -> Path:
    """The file nearest to the root whose name matches."""
    found = next(_matching(root, pattern), None)
    if found is None:
        raise StorageError(f"the text encoder at {root} is incomplete", f"it has no {pattern}", HINT)
    return found


def _matching(root: Path, pattern: str) -> Iterator[Path]:
    """The files whose names match, in the folder or in folders up to two levels below, the nearest first."""
    for below in ("", "*/", "*/*/"):
        yield from (path for path in sorted(root.glob(below + pattern)) if path.is_file())


def _shards(folder: Path) -> list[Path]:
    """The weight files of a folder: those that its index names, or the one with the usual name, or all of them."""
    index, whole = folder / INDEX, folder / WHOLE
    if not index.is_file():
        return [whole] if whole.is_file() else sorted(folder.glob(WEIGHTS))
    found = read_json(index).get("weight_map")
    names = list(found.values()) if isinstance(found, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name != "" for name in names):
        why = "its weight_map must name files that are in this folder"
        raise CheckpointError(f"{index} is damaged", why, "download it again")
    shards = [folder / name for name in sorted(set(names))]
    for shard in shards:
        if not shard.is_file():
            raise StorageError(
                f"the text encoder at {folder} is incomplete", f"it has no {shown(shard.name)}", "download it again"
            )
    return shards


def source_version(checkpoint: Header) -> str | None:
    """The version of Gemma that a checkpoint was trained with; None if it names none.

    Raises: CheckpointError if its metadata is damaged.
    """
    entry = checkpoint.entry("gemma_source_checkpoint")
    if entry is None:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("gemma_version"), str):
        what = f"{checkpoint.path.name} has a damaged gemma_source_checkpoint"
        raise CheckpointError(what, "its metadata entry has no gemma_version")
    return entry["gemma_version"]
