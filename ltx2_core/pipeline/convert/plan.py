"""Plan a conversion from headers only: what is encoded, which LoRAs are merged, and everything that is refused.

Source: docs/reference/quantised.md, "What convert writes".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...disk import disk_errors, free_bytes, require_free, show_bytes
from ...errors import CheckpointError, RequestError, StorageError, shown
from ...header_text import TensorInfo
from ...headers import FileKind, Header, classify, generation, read_header
from ...lora_file import MatchedLora, match
from ...paths import given_path, in_shell, require_file, wrong_suffix
from ...stored.encoding import DENOISER_MATRIX, GEMMA_MATRIX, TARGETS, Encoding, Target, lay_out, plan_encodings
from ..resolve.library import own_library
from ..resolve.loras import NamedLoras
from ..resolve.target import check_place

SUFFIX = ".safetensors"
MERGED = "merged_loras"  # the metadata entry that is added if LoRAs are merged
MATRICES: Mapping[FileKind, re.Pattern[str]] = {
    FileKind.MONOLITH: DENOISER_MATRIX,
    FileKind.TRANSFORMER: DENOISER_MATRIX,
    FileKind.TEXT_ENCODER: GEMMA_MATRIX,
    FileKind.GEMMA: GEMMA_MATRIX,
}
SHARD = re.compile(r".*-\d+-of-\d+\.safetensors")
HINT = "convert the bf16 file of the model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A checked conversion.

    Args: encodings: by the name of the weight. begin: the new file up to its first tensor. tensors: the position of
    each in it. loras: with their strengths, in their order.
    """

    source: Header
    target: Path
    overwrite: bool
    to: Target
    encodings: Mapping[str, Encoding]
    loras: Sequence[tuple[MatchedLora, float]]
    metadata: Mapping[str, str]
    begin: bytes
    tensors: Mapping[str, TensorInfo]

    @property
    def before(self) -> int:
        """The size of the source."""
        return _end(self.source.tensors)

    @property
    def after(self) -> int:
        """The size of the new file."""
        return _end(self.tensors)

    @property
    def notes(self) -> list[str]:
        """How much of each LoRA is merged, one line each."""
        return [f"{lora.path.name} at {strength:g}: {lora.report}" for lora, strength in self.loras]


def plan_conversion(
    path: Path,
    to: str,
    target: Path,
    *,
    loras: Sequence[str] = (),
    allow_partial: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Determine what a conversion writes. Reads only headers.

    Args: path: a checkpoint, transformer or one-file text encoder in bf16. to: int8 or fp8. target: of the new file.
    loras: as for --lora.
    Raises: RequestError for a format or a target that cannot be used; StorageError if a file is missing or the disk is
    too full; CheckpointError for a file that cannot be converted, or a LoRA that does not fit it.
    """
    form = _format(to)
    require_file(path, str(path), "name one .safetensors file")
    _check_target(target, path, overwrite=overwrite)
    source = read_header(path)
    encodings = _encodings(source, form)
    named = NamedLoras(own_library(), generation(source))
    merged = [_matched(spec, source, named, allow_partial=allow_partial) for spec in loras]
    for lora, _ in merged:
        _require_apart(target, lora.path, "it is a LoRA that is merged")
    metadata = _metadata(source, merged)
    begin, tensors = lay_out(source.tensors, metadata, encodings)
    conversion = Conversion(
        source=source,
        target=target,
        overwrite=overwrite,
        to=form,
        encodings=encodings,
        loras=merged,
        metadata=metadata,
        begin=begin,
        tensors=tensors,
    )
    _require_room(conversion)
    return conversion


def _format(to: str) -> Target:
    for form in TARGETS:
        if form == to:
            return form
    raise RequestError(f"--to {shown(to)} is not known", f"known are {' and '.join(TARGETS)}", "--to int8")


def _end(tensors: Mapping[str, TensorInfo]) -> int:
    return max((info.end for info in tensors.values()), default=0)


def _check_target(target: Path, source: Path, *, overwrite: bool) -> None:
    """Raises: RequestError if the new file cannot have this name."""
    what = f"-o {target} cannot be used"
    if target.is_dir():
        raise RequestError(what, "it is a folder", f"-o {in_shell(target / (source.stem + '-converted' + SUFFIX))}")
    if target.suffix != SUFFIX:
        raise wrong_suffix(target, "-o", [SUFFIX], "weights go")
    check_place(target)
    _require_apart(target, source, "it is the file that is converted")
    if not overwrite:
        require_free(target)


def _require_apart(target: Path, read: Path, why: str) -> None:
    """Raises: RequestError if the new file would replace one that is read."""
    if target.exists() and target.samefile(read):
        raise RequestError(f"-o {target} cannot be used", why, "-o gives another name")


def _encodings(source: Header, to: Target) -> dict[str, Encoding]:
    """The matrices that are encoded. Raises: CheckpointError for a file of another kind, or one that is quantised."""
    what = f"{source.path.name} cannot be converted"
    if source.is_gguf:
        raise CheckpointError(what, "it is a GGUF file", HINT)
    kind = classify(source)
    if kind not in MATRICES:
        raise CheckpointError(
            what, f"it is {kind.value}", "convert takes a checkpoint, a transformer or a text encoder"
        )
    if SHARD.fullmatch(source.path.name):
        raise CheckpointError(what, "it is one of several files of a model", "convert takes a model that is one file")
    for layer in source.stored.layers.values():
        raise CheckpointError(what, f"it is already quantised: {layer.name} is {layer.title}", HINT)
    encodings = plan_encodings(source.tensors, MATRICES[kind], to)
    if not encodings:
        raise CheckpointError(what, f"it has no matrix that {to} can hold")
    return encodings


def _matched(spec: str, source: Header, named: NamedLoras, *, allow_partial: bool) -> tuple[MatchedLora, float]:
    """A LoRA of --lora, matched with the file, and its strength."""
    chosen = named.choose(spec, "--lora")
    return match(chosen.read(), source, allow_partial=allow_partial), chosen.strength


def _metadata(source: Header, merged: Sequence[tuple[MatchedLora, float]]) -> dict[str, str]:
    """The metadata of the source, and the merged LoRAs."""
    if not merged:
        return dict(source.metadata)
    before = source.entry(MERGED)
    said = [*before] if isinstance(before, list) else []
    said += [{"name": lora.path.name, "strength": strength} for lora, strength in merged]
    return {**source.metadata, MERGED: json.dumps(said)}


def _require_room(conversion: Conversion) -> None:
    """Raises: StorageError if the disk has too little space for the new file."""
    folder = given_path(conversion.target, "-o").absolute().parent
    with disk_errors(folder, "cannot be read"):
        free = free_bytes(folder)
    if free < conversion.after:
        why = f"it takes {show_bytes(conversion.after)}, and {show_bytes(free)} are free in {folder}"
        raise StorageError(f"{conversion.target} does not fit on the disk", why, "-o names a file on another disk")
