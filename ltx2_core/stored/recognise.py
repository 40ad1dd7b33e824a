"""Find the quantised layers of a file and refuse everything that is ambiguous.

Names and dtypes decide, then markers; never the number of a block.
Source: docs/reference/quantised.md, "Recognising a layer" and "What is refused".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from ..gguf_header import BLOCK_TYPES
from ..header_text import TensorInfo
from .formats import F8, GROUP, PLAIN, ROTATED, ROTATION, RULES, Shape, marked_format, unmarked_format
from .layer import Format, StoredLayer, StoredLayers, refusal
from .markers import Markers, read_markers

if TYPE_CHECKING:
    from ..headers import Header

WEIGHT, MARKER = "weight", "comfy_quant"
# Tensors that may accompany a quantised weight, by the last part of their name.
ROLES = {"weight_scale", "weight_scale_2", "input_scale", "weight_s_rel", "weight_s_channel", "weight_codebook"}
UNSUPPORTED = {
    "pre_quant_scale": "its inputs are scaled before they are used (AWQ), which is not supported",
    "weight_correction": "it has a weight_correction, which is not supported",
}
LEGACY_SIGN = "scaled_fp8"
LEGACY_ROLES = {"scale_weight": "weight_scale", "scale_input": "input_scale"}
MODELOPT_SIGN = "quantization_config"  # key in the metadata
DTYPES = (*F8, "I8", "U8")
PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")
POWERS_OF_4 = [4**n for n in range(1, 9)]
Roles = dict[str, dict[str, str]]  # for each layer: name of a tensor by role


def recognise(header: Header) -> StoredLayers:
    """The quantised layers of a file.

    Raises: CheckpointError that names file, layer and tensor if anything about them is missing, contradictory, or of an
    unsupported form.
    """
    signs = [name for name in header.tensors if name.rpartition(".")[-1] == LEGACY_SIGN]
    roles = _roles(header, is_legacy=bool(signs))
    weights = _weights(header, roles)
    markers = read_markers(header, {layer: own[MARKER] for layer, own in roles.items() if MARKER in own})
    _require_marked_layers(header, markers, weights)
    _require_owners(header, roles, weights)
    asks = any(prod(header.tensors[sign].shape) == 2 for sign in signs)
    has_scales = any(info.dtype in F8 and "weight_scale" in roles[layer] for layer, info in weights.items())
    layers = _in_blocks(header)
    for name, info in weights.items():
        said = markers.of(name, info.dtype)
        try:
            form = _format(header, roles[name], said, info, has_scales)
            found = _layer(header, name, roles[name], said or {}, form)
        except ValueError as error:
            raise refusal(header.path, name, str(error)) from error
        layers[f"{name}.{WEIGHT}"] = replace(found, needs_full_precision=asks or found.needs_full_precision)
    companions = {name for own in roles.values() for role, name in own.items() if role != WEIGHT}
    return StoredLayers(layers, frozenset(companions | set(signs)))


def _in_blocks(header: Header) -> dict[str, StoredLayer]:
    """The layers of a GGUF file whose weights are stored in blocks; nothing else belongs to them."""
    layers: dict[str, StoredLayer] = {}
    for tensor, info in header.tensors.items():
        if info.dtype in BLOCK_TYPES:
            name, _, last = tensor.rpartition(".")
            if last != WEIGHT or len(info.shape) != 2:
                raise refusal(header.path, tensor, f"it is stored as {info.dtype}, which only a matrix may be")
            shape = (info.shape[0], info.shape[1])
            layers[tensor] = StoredLayer(
                name=name, format="gguf", tensors={WEIGHT: tensor}, shape=shape, blocks=info.dtype
            )
    return layers


def _roles(header: Header, *, is_legacy: bool) -> Roles:
    """The tensors of every layer by role, whether it is quantised or not."""
    known = {WEIGHT, MARKER, *ROLES, *UNSUPPORTED}
    found: Roles = {}
    for name in header.tensors:
        layer, _, last = name.rpartition(".")
        role = LEGACY_ROLES.get(last, last) if is_legacy else last
        if role in known and found.setdefault(layer, {}).setdefault(role, name) != name:
            raise refusal(header.path, layer, f"it has {role} under two names")
    return found


def _weights(header: Header, roles: Roles) -> dict[str, TensorInfo]:
    """The matrices of a file that are stored quantised, by layer."""
    narrow = {layer: header.tensors[own[WEIGHT]] for layer, own in roles.items() if WEIGHT in own}
    narrow = {layer: info for layer, info in narrow.items() if info.dtype in DTYPES and len(info.shape) > 1}
    for layer, info in narrow.items():
        if len(info.shape) > 2:
            raise refusal(header.path, layer, f"its weight is {info.dtype} {list(info.shape)}, and no matrix")
    return narrow


def _require_marked_layers(header: Header, markers: Markers, weights: Mapping[str, TensorInfo]) -> None:
    for layer in markers.layers.keys() - weights.keys():
        said, weight = markers.layers[layer]["format"], header.tensors.get(f"{layer}.{WEIGHT}")
        if weight is None:
            raise refusal(header.path, layer, f"a marker says {said}, and the file has no such layer")
        if said != PLAIN or weight.dtype not in PLAIN_DTYPES:
            raise refusal(header.path, layer, f"its marker says {said}, and its weight is {weight.dtype}")


def _require_owners(header: Header, roles: Roles, weights: Mapping[str, TensorInfo]) -> None:
    for layer, own in roles.items():
        lost = [name for role, name in own.items() if role not in (WEIGHT, MARKER)]
        if lost and layer not in weights:
            raise refusal(header.path, lost[0], "no quantised weight belongs to it")


def _format(
    header: Header, own: Mapping[str, str], said: Mapping[str, Any] | None, info: TensorInfo, has_scales: bool
) -> Format:
    """The format of a layer. has_scales: whether any fp8 layer has a scale. Raises: ValueError if there is none."""
    for role, why in UNSUPPORTED.items():
        if role in own:
            raise ValueError(why)
    if "weight_scale_2" in own and info.dtype != "U8":
        raise ValueError(f"it has weight_scale_2 beside a weight of {info.dtype}: it was quantised twice")
    scales = {role: header.tensors[name] for role, name in own.items() if role in ROLES}
    if said is not None:
        return marked_format(said, info, scales)
    if info.dtype == "U8" and MODELOPT_SIGN in header.metadata:
        raise ValueError("it is in the layout of ModelOpt, which is not supported")
    return unmarked_format(info, scales, others_have_scales=has_scales)


def _layer(header: Header, name: str, own: Mapping[str, str], said: Mapping[str, Any], form: Format) -> StoredLayer:
    """A layer whose tensors must be those of its format. Raises: ValueError with the difference."""
    rule, info = RULES[form], header.tensors[own[WEIGHT]]
    rows, (columns, rest) = info.shape[0], divmod(info.shape[1] * 8, rule.bits)
    if rest or rows % rule.steps[0] or columns % rule.steps[1]:
        raise ValueError(f"its weight is {list(info.shape)}, which no matrix gives that is stored as {form}")
    shape = Shape(rows, columns, _group(said, form, columns))
    tensors = {role: tensor for role, tensor in own.items() if role != MARKER}
    for role in tensors.keys() - rule.scales.keys() - {WEIGHT}:
        raise ValueError(f"it has {role}, which does not belong to {form}")
    for role, scale in rule.scales.items():
        if role not in tensors:
            if scale.is_needed:
                raise ValueError(f"it has no {role}")
            continue
        found, shapes = header.tensors[tensors[role]], scale.shapes(shape)
        if found.dtype not in scale.dtypes or found.shape not in shapes:
            wanted = f"{' or '.join(scale.dtypes)} {' or '.join(str(list(one)) for one in shapes)}"
            raise ValueError(f"{role} is {found.dtype} {list(found.shape)}, expected {wanted}")
    return StoredLayer(
        name=name,
        format=form,
        tensors=tensors,
        shape=(rows, columns),
        pad=rule.pad,
        rotation=_rotation(said, form, columns),
        group=shape.group,
        needs_full_precision=said.get("full_precision_matrix_mult", False),
    )


def _group(said: Mapping[str, Any], form: Format, columns: int) -> int:
    """How many columns share a scale, if the format leaves that open."""
    if form not in ROTATED:
        return 1
    group = said.get("group_size", GROUP)
    fits = group >= 4 and not columns % group and (not group % 16 or (not 16 % group and form == "w4a8"))
    if not fits:
        raise ValueError(f"its group_size {group} does not go with {columns} columns")
    return group


def _rotation(said: Mapping[str, Any], form: Format, columns: int) -> int:
    """How many columns are rotated together."""
    is_rotated = said.get("convrot", form in ROTATED)
    if is_rotated and form not in ("int8", *ROTATED):
        raise ValueError(f"its marker says convrot, which does not go with {form}")
    if not is_rotated and form in ROTATED:
        raise ValueError(f"its marker says that it is not rotated, and {form} always is")
    if not is_rotated:
        return 1
    group = said.get("convrot_groupsize", ROTATION)
    if group not in POWERS_OF_4 or columns % group:
        raise ValueError(f"its convrot_groupsize {group} is not a power of 4 that divides {columns} columns")
    return group
