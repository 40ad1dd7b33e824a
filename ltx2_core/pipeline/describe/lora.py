"""Facts about a LoRA: its ranks, the layers that it changes, its scale, and the generation that it was trained for.

Source: docs/reference/checkpoints.md, "Which generation a LoRA is for" and "Alpha in the metadata".
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ... import keymap
from ...errors import LTX2Error
from ...header_text import TensorInfo
from ...headers import LORA_NAME, FileKind, Header
from ...lora_file import FLAT_PREFIX, PREFIX, SKIPPED, LoraFile, read_lora
from ...lora_forms import Change, Target, read_changes
from ...lora_scale import stated_scale
from ..values import counted
from .words import Facts, counts, numbered, stored_facts

GENERATIONS = ("2.0", "2.3", "2.5")
SEPARATE = 3  # up to this many ranks or scales are listed separately
FORMS = {"kronecker": "LoKr", "product": "LoHa"}
MODULE = "audio_to_video_attn|video_to_audio_attn|audio_attn[12]|attn[12]|audio_ff|ff"
IN_BLOCK = re.compile(rf"transformer_blocks[._](?P<block>\d+)[._](?P<module>{MODULE})[._]")
BASE_KEYS = ("modelspec.architecture", "ss_base_model_version", "base_model")  # keys with the base model
NUMBERS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"}


class Sign(NamedTuple):
    """Evidence for the generations of a LoRA. layer: the beginning of a layer's official name, after the prefix."""

    layer: re.Pattern[str]
    generations: frozenset[str]


NEWER = frozenset(("2.3", "2.5"))
SIGNS = (
    Sign(re.compile(r"(audio_)?caption_projection[._]"), frozenset({"2.0"})),
    Sign(re.compile(r"text_embedding_projection[._]aggregate_embed"), frozenset({"2.0"})),
    Sign(re.compile(r"text_embedding_projection[._](video|audio)_aggregate_embed"), NEWER),
    Sign(re.compile(r"(audio_)?prompt_adaln_single[._]"), NEWER),
    Sign(re.compile(r".*[._]to_gate_logits$"), NEWER),
)
ADALN = re.compile(r"(audio_)?adaln_single[._]linear$")
ADALN_ROWS = {6: frozenset({"2.0"}), 9: NEWER}  # shifts, scales and gates for each input: generations
VIDEO_MLP = re.compile(r"transformer_blocks[._]\d+[._]ff[._]net")
WITH_MLP_BIAS = frozenset(("2.0", "2.3"))


def facts(header: Header) -> Facts:
    """Facts about a LoRA, also about one with an unsupported form or invalid metadata."""
    changes, rejected = read_changes(header)
    problems = [f"{len(rejected):,} without effect: {name} ({why})" for name, why in list(rejected.items())[:1]]
    lora = None
    try:
        lora = read_lora(header)
        changes = lora.changes
    except LTX2Error as error:
        problems = [error.sentence]
    names = {target: _official(target[0]) for target in changes}
    yield "kind", FileKind.LORA.value
    yield "generation", _generation_words(_generations(changes, names))
    yield "version", header.metadata.get("model_version", "not given")
    if base := next((header.metadata[key] for key in BASE_KEYS if header.metadata.get(key)), None):
        yield "trained on", base
    yield from _change_facts(changes)
    yield "targets", _targets(names)
    yield "names", _spelling(header, changes)
    if lora is not None:
        yield from _scale_facts(header, lora)
        yield from _in_context_facts(lora)
    yield from numbered("left out", _left_out(names))
    yield from stored_facts(header)
    yield from numbered("problem", problems)


def _change_facts(changes: Mapping[Target, Change]) -> Facts:
    ranks = Counter(change.rank for change in changes.values() if change.rank is not None)
    yield "rank", _ranks(ranks) if ranks else "none"
    forms = Counter(map(_form, changes.values()))
    yield "pairs", f"{forms.pop('pair', 0):,}"
    if forms:
        yield "other changes", counts(forms)


def _form(change: Change) -> str:
    if change.combine is not None:
        return FORMS[change.combine]
    return "pair" if len(change.factors) > 1 else "whole difference"


def _ranks(ranks: Mapping[int, int]) -> str:
    """`16`, or each rank with the number of its changes, or the smallest and the largest of many."""
    if len(ranks) == 1:
        return f"{next(iter(ranks))}"
    if len(ranks) > SEPARATE:
        return f"{min(ranks)} to {max(ranks)}, {len(ranks)} different ones"
    return ", ".join(f"{rank} ({counted(count, 'pair')})" for rank, count in sorted(ranks.items()))


def _official(given: str) -> str:
    """The name of a layer without its prefix; names of diffusers become official ones."""
    flat = FLAT_PREFIX.match(given)
    if flat is not None:
        return given[flat.end() :]
    return keymap.to_official(PREFIX.sub("", given, count=1), keymap.DIFFUSERS)


def _targets(names: Mapping[Target, str]) -> str:
    """`attn1 192, ff 96, in 48 of the blocks; 28 outside them`."""
    found = [match for name in names.values() if (match := IN_BLOCK.match(name))]
    outside = len(names) - len(found)
    if not found:
        return f"{outside:,} outside the blocks"
    blocks = len({match["block"] for match in found})
    inside = f"{counts(Counter(match['module'] for match in found))}, in {blocks} of the blocks"
    return f"{inside}; {outside:,} outside them" if outside else inside


def _spelling(header: Header, changes: Mapping[Target, Change]) -> str:
    """The prefix and the endings of the tensor names."""
    prefixes = Counter(_prefix(layer) for layer, _ in changes)
    endings = sorted({match[1].strip(".") for name in header.tensors if (match := LORA_NAME.search(name))})
    return f"{' or '.join(prefixes) or 'no layers'}, with {', '.join(endings)}"


def _prefix(layer: str) -> str:
    found = FLAT_PREFIX.match(layer) or PREFIX.match(layer)
    return f"prefix {found.group()}" if found and found.group() else "no prefix"


def _generations(changes: Mapping[Target, Change], names: Mapping[Target, str]) -> set[str]:
    """The generations whose layers a LoRA changes, as far as names and shapes show."""
    possible: set[str] = set(GENERATIONS)
    for target, name in names.items():
        for sign in SIGNS:
            if sign.layer.match(name):
                possible &= sign.generations
        shape = changes[target].shape
        if ADALN.match(name) and len(shape) == 2:
            possible &= ADALN_ROWS.get(shape[0] // shape[1], frozenset(GENERATIONS))
        if target[1] == "bias" and VIDEO_MLP.match(name):
            possible &= WITH_MLP_BIAS
    return possible


def _generation_words(possible: set[str]) -> str:
    if not possible:
        return "it changes layers of several generations"
    if len(possible) == len(GENERATIONS):
        return "its layers are those of every generation"
    return " or ".join(sorted(possible))


def _scale_facts(header: Header, lora: LoraFile) -> Facts:
    """The factor of the changes at strength 1, and where it is stated."""
    scales = Counter(f"{scale:g}" for scale in _scales(header, lora))
    own = sum(change.alpha is not None for change in lora.changes.values())
    said = []
    if own:
        said.append(f"{own:,} of {len(lora.changes):,} changes have an alpha of their own")
    if own < len(lora.changes) and (stated := stated_scale(header)):
        said.append(f"alpha {stated.alpha:g} in {stated.where}")
    yield "scale", f"{_listed(scales)}: {', '.join(said) or 'no alpha is stated'}"


def _listed(scales: Mapping[str, int]) -> str:
    if len(scales) > SEPARATE:
        return f"{min(scales, key=float)} to {max(scales, key=float)}"
    return ", ".join(sorted(scales, key=float)) or "1"


def _scales(header: Header, lora: LoraFile) -> Iterator[float]:
    """The scale of each change; alphas are the only values of a file that are read."""
    with header.path.open("rb") as file:
        for change in lora.changes.values():
            if change.alpha is None:
                yield change.scale
            elif change.rank is not None:
                info = header.tensors[change.alpha]
                file.seek(info.start)
                yield _number(info, file.read(info.nbytes)) / change.rank


def _number(info: TensorInfo, raw: bytes) -> float:
    """The single value of a tensor."""
    if info.dtype == "BF16":
        return struct.unpack("<f", bytes(2) + raw)[0]
    return struct.unpack(NUMBERS[info.dtype], raw)[0] if info.dtype in NUMBERS else float("nan")


def _in_context_facts(lora: LoraFile) -> Facts:
    if lora.is_in_context:
        factors = {"width and height": lora.spatial_scale, "the frames": lora.temporal_scale}
        parts = [f"1/{factor} of {what}" for what, factor in factors.items() if (factor or 1) > 1]
        yield "in context", f"it looks at a reference with {' and '.join(parts) or 'the size of the clip'}"
    if lora.hdr_transform is not None:
        yield "colours", f"HDR, {lora.hdr_transform}"


def _left_out(names: Mapping[Target, str]) -> list[str]:
    """Changes that are left out by rule when the LoRA is applied."""
    left = Counter(what for name in names.values() for what, pattern in SKIPPED.items() if pattern.match(name))
    return [f"{count:,} of the {what}" for what, count in left.items()]
