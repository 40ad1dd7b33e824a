"""Write the file of a conversion, matrix by matrix, read it back and check it, and only then rename it.

Source: docs/reference/quantised.md, "What convert writes".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ...components import COMPONENTS
from ...disk import remove_leftovers
from ...errors import OutputError
from ...header_text import TensorInfo
from ...headers import Header, read_header
from ...lock import locked
from ...lora import Addends, fused_weight
from ...media.partial import partial_file
from ...quantize.decode import decode
from ...quantize.encode import ENCODERS, row_chunks
from ...stored.encoding import Encoding
from ...weights import map_tensors, require_finite
from ..events import Watch
from .plan import Conversion

PIECE = 2**23  # number of bytes to copy at a time
NOBODY = Watch()
# Largest error of a converted number. int8: the root mean square of a row, relative to its scale, which is the step
# between codes; a rotation preserves it. fp8: half a step of E4M3, relative to the number, or to the scale for the
# smallest numbers.
INT8_ERROR, FP8_ERROR, FP8_SMALLEST = 0.51, 2**-4 * 1.001, 2**-10 * 1.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A written file. before, after: sizes in bytes. errors: of each layer, the root mean square of the differences of
    its weights, relative to that of the weights.
    """

    path: Path
    before: int
    after: int
    errors: Mapping[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The layer with the largest error."""
        return max(self.errors.items(), key=lambda item: item[1])


def convert(conversion: Conversion, watch: Watch = NOBODY) -> Converted:
    """Write a converted file. It appears complete and checked, or not at all.

    Raises: RequestError if the target appeared in the meantime or another process writes it; CheckpointError for
    weights with NaN or infinite values; StorageError; OutputError if the file does not read back as intended.
    """
    weights = _Weights(conversion)
    with locked(conversion.target):
        remove_leftovers(conversion.target)
        _check(conversion, weights, watch)
        with partial_file(conversion.target, overwrite=conversion.overwrite) as partial:
            _write(partial, conversion, weights, watch)
            errors = _verify(partial, conversion, weights, watch)
    return Converted(path=conversion.target, before=conversion.before, after=conversion.after, errors=errors)


class _Weights:
    """The changed tensors of the source: those that are encoded, and those that LoRAs change."""

    def __init__(self, conversion: Conversion) -> None:
        self._addends = Addends(conversion.loras)
        official_names = COMPONENTS["transformer"].names_in(conversion.source)
        changed = {name: official for name, official in official_names.items() if official in self._addends.names}
        self.names = [*dict.fromkeys([*conversion.encodings, *changed])]
        self._officials = changed
        self._header = conversion.source

    def __getitem__(self, name: str) -> Tensor:
        """A tensor with the LoRAs added: in float32 if there are any, else as it is stored."""
        weight = self._stored(name)
        if name not in self._officials:
            return weight
        return fused_weight(weight.float(), self._addends.of(self._officials[name]))

    def _stored(self, name: str) -> Tensor:
        """A tensor of the source; mapped separately, because one that is not aligned is copied."""
        return map_tensors(self._header, [name])[name]

    def require_finite(self, path: Path, name: str) -> None:
        """Raises: CheckpointError if a tensor, or what is added to it, holds NaN or infinite values."""
        require_finite(path, name, self._stored(name))
        if name in self._officials:
            require_finite(path, name, self[name])

    def stored_like_source(self, name: str) -> Tensor:
        """A tensor that is not encoded, rounded once to its dtype."""
        return self[name].to(self._stored(name).dtype)


def _check(conversion: Conversion, weights: _Weights, watch: Watch) -> None:
    """Check every weight before anything is written."""
    with watch.phase("check", "checking the weights", len(weights.names)) as step_done:
        for done, name in enumerate(weights.names, 1):
            weights.require_finite(conversion.source.path, name)
            step_done(done)


def _write(partial: Path, conversion: Conversion, weights: _Weights, watch: Watch) -> None:
    changed, done = set(weights.names), 0
    with (
        watch.phase("convert", f"converting to {conversion.to}", len(changed)) as step_done,
        partial.open("r+b") as file,
        conversion.source.path.open("rb") as source,
    ):
        file.write(conversion.begin)
        for name, info in sorted(conversion.source.tensors.items(), key=lambda item: item[1].start):
            if name not in changed:
                _copy(source, info, file, conversion.tensors[name])
                continue
            for own, tensor in _new_tensors(conversion, weights, name):
                file.seek(conversion.tensors[own].start)
                file.write(_bytes(tensor))
            done += 1
            step_done(done)
        for encoding in conversion.encodings.values():
            file.seek(conversion.tensors[f"{encoding.layer}.comfy_quant"].start)
            file.write(encoding.marker)


def _new_tensors(conversion: Conversion, weights: _Weights, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the new file that replace a tensor, by name."""
    encoding = conversion.encodings.get(name)
    if encoding is None:
        yield name, weights.stored_like_source(name)
        return
    for role, tensor in ENCODERS[encoding.to](weights[name], encoding.group).items():
        yield f"{encoding.layer}.{role}", tensor


def _copy(source: BinaryIO, info: TensorInfo, file: BinaryIO, place: TensorInfo) -> None:
    file.seek(place.start)
    for piece in _pieces(source, info):
        file.write(piece)


def _pieces(file: BinaryIO, info: TensorInfo) -> Iterator[bytes]:
    """The bytes of a tensor, piece by piece."""
    file.seek(info.start)
    for start in range(0, info.nbytes, PIECE):
        yield file.read(min(PIECE, info.nbytes - start))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _verify(partial: Path, conversion: Conversion, weights: _Weights, watch: Watch) -> dict[str, float]:
    """Read the new file with the usual reader, and compare it with the source. Returns the error of each layer.

    Raises: OutputError.
    """
    header = read_header(partial)
    if header.tensors != conversion.tensors or header.metadata != conversion.metadata:
        raise _wrong(conversion, "its header is not what was to be written")
    _verify_copies(partial, conversion, set(weights.names))
    errors: dict[str, float] = {}
    with watch.phase("verify", "reading the file back", len(weights.names)) as step_done:
        for done, name in enumerate(weights.names, 1):
            encoding = conversion.encodings.get(name)
            if encoding is None:
                _verify_rounded(header, conversion, weights, name)
            else:
                errors[encoding.layer] = _error(header, conversion, encoding, weights[name])
                watch.tell(f"{encoding.layer}: error {100 * errors[encoding.layer]:.2f} %")
            step_done(done)
    return errors


def _verify_copies(partial: Path, conversion: Conversion, changed: set[str]) -> None:
    """Compare the copied tensors, byte by byte."""
    with partial.open("rb") as file, conversion.source.path.open("rb") as source:
        for name, info in conversion.source.tensors.items():
            if name in changed:
                continue
            pairs = zip(_pieces(source, info), _pieces(file, conversion.tensors[name]), strict=True)
            if any(before != after for before, after in pairs):
                raise _wrong(conversion, f"{name} is not that of {conversion.source.path.name}")


def _verify_rounded(header: Header, conversion: Conversion, weights: _Weights, name: str) -> None:
    """Compare a tensor that LoRAs have changed and that is not encoded."""
    if _bytes(weights.stored_like_source(name)) != _bytes(map_tensors(header, [name])[name]):
        raise _wrong(conversion, f"{name} is not what it was to become")


def _error(header: Header, conversion: Conversion, encoding: Encoding, weight: Tensor) -> float:
    """The difference of a decoded matrix from its source: root mean square, relative.

    Raises: OutputError if any value differs by more than the format can explain.
    """
    layer = header.stored.layers[encoding.name]
    tensors = map_tensors(header, layer.tensors.values())
    stored = {role: tensors[name] for role, name in layer.tensors.items()}
    off = total = 0.0
    for rows in row_chunks(weight):
        before = weight[rows].float()
        difference = decode(layer, stored, range(rows.start, rows.stop)) - before
        if not _is_close(difference, before, encoding, stored, rows):
            raise _wrong(conversion, f"{encoding.layer} differs from its source by more than {encoding.to} explains")
        off += difference.double().square().sum().item()
        total += before.double().square().sum().item()
    return (off / total) ** 0.5 if total else 0.0


def _is_close(
    difference: Tensor, before: Tensor, encoding: Encoding, stored: Mapping[str, Tensor], rows: slice
) -> bool:
    """Whether some rows are as close to their source as the format guarantees."""
    scale = stored["weight_scale"]
    if encoding.to == "int8":
        return bool((difference.square().mean(-1, keepdim=True).sqrt() <= INT8_ERROR * scale[rows]).all())
    return bool((difference.abs() <= torch.maximum(before.abs() * FP8_ERROR, scale * FP8_SMALLEST)).all())


def _wrong(conversion: Conversion, why: str) -> OutputError:
    return OutputError(f"{conversion.target.name} failed its check", why)
