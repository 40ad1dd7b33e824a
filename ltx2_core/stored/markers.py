"""The markers of quantised layers in a file: a small text beside a layer, one text for all, or one word for all.

Source: docs/reference/quantised.md, "Markers".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import json_reason
from .layer import refusal

if TYPE_CHECKING:
    from ..headers import Header

HEADER_MARKER = "_quantization_metadata"
FILE_FORMAT = "quant_format"
LARGEST_MARKER_BYTES = 10_000
# Fields of a marker, with the types of their values; other fields are for other programs.
FIELDS: Mapping[str, type] = {
    "format": str,
    "convrot": bool,
    "convrot_groupsize": int,
    "group_size": int,
    "full_precision_matrix_mult": bool,
    "linear_dtype": str,
}
Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Markers:
    """The known fields of each marked layer, and the format of the other fp8 layers, if it is stated."""

    layers: Mapping[str, Fields]
    default: str | None

    def of(self, layer: str, dtype: str) -> Fields | None:
        """The marker of a layer whose weight has a dtype."""
        if layer in self.layers:
            return self.layers[layer]
        return {"format": self.default} if self.default is not None and dtype == "F8_E4M3" else None


def read_markers(header: Header, names: Mapping[str, str]) -> Markers:
    """Read the markers of a file, and combine those of one layer.

    Args: names: of the marker tensors, by layer.
    Raises: CheckpointError for one that cannot be read, names no format, or contradicts another.
    """
    said = _in_header(header)
    layers = {layer: _fields(header, layer, values) for layer, values in said.items()}
    for layer, tensor in names.items():
        layers[layer] = _merged(
            header, layer, layers.get(layer, {}), _fields(header, layer, _of_tensor(header, tensor))
        )
    for layer, fields in layers.items():
        if "format" not in fields:
            raise refusal(header.path, layer, "its marker names no format")
    default = header.metadata.get(FILE_FORMAT)
    if default not in (None, "mxfp8"):
        default = None  # a value of another program
    return Markers(layers, default)


def _in_header(header: Header) -> Mapping[str, Any]:
    """The marker in the metadata, layer by layer."""
    entry = header.entry(HEADER_MARKER)
    if entry is None:
        return {}
    layers = entry.get("layers") if isinstance(entry, dict) else None
    if not isinstance(layers, dict):
        raise refusal(header.path, HEADER_MARKER, "it is not an object with layers")
    _require_known_version(header, entry, layers.values())
    return layers


def _require_known_version(header: Header, entry: Mapping[str, Any], layers: Iterable[Any]) -> None:
    """Refuse a version, and a recipe of scales, that may define a row-wise layer differently."""
    rowwise = "rowwise-float8_e4m3fn"
    if not any(isinstance(layer, dict) and layer.get("format") == rowwise for layer in layers):
        return
    version = entry.get("format_version")
    if version not in (None, "1.0", "1.1"):
        raise refusal(header.path, HEADER_MARKER, f"its format_version is {version!r}, and 1.0 and 1.1 are known")
    configs = entry.get("quant_configs")
    config = configs.get(rowwise) if isinstance(configs, dict) else None
    recipe = config.get("scale_recipe", "rowwise") if isinstance(config, dict) else "rowwise"
    if recipe != "rowwise":
        raise refusal(header.path, HEADER_MARKER, f"the scale_recipe of {rowwise} is {recipe!r}")


def _of_tensor(header: Header, name: str) -> Any:
    info = header.tensors[name]
    if info.dtype not in ("U8", "I8") or info.nbytes > LARGEST_MARKER_BYTES:
        raise refusal(header.path, name, "it is not a marker of a quantised layer")
    try:
        return json.loads(header.read(name))
    except (ValueError, RecursionError) as error:
        raise refusal(header.path, name, json_reason(error)) from error


def _fields(header: Header, layer: str, values: Any) -> Fields:
    """The relevant fields of one marker, including those nested in `params`."""
    if not isinstance(values, dict):
        raise refusal(header.path, layer, "its marker is not a JSON object")
    fields = _known(header, layer, values)
    nested = values.get("params", {})
    return _merged(header, layer, fields, _known(header, layer, nested)) if isinstance(nested, dict) else fields


def _known(header: Header, layer: str, values: Mapping[str, Any]) -> Fields:
    fields = {name: values[name] for name in FIELDS if values.get(name) is not None}
    for name, value in fields.items():
        if type(value) is not FIELDS[name]:
            raise refusal(header.path, layer, f"its marker has {name} {json.dumps(value)[:40]}")
    return fields


def _merged(header: Header, layer: str, first: Fields, second: Fields) -> Fields:
    for name in first.keys() & second.keys():
        if first[name] != second[name]:
            why = f"its markers disagree about {name}: {first[name]!r} and {second[name]!r}"
            raise refusal(header.path, layer, why)
    return first | second
