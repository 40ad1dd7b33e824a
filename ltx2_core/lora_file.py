"""The contents of a LoRA file, and which weights of a model it changes: from headers only.

Source: docs/reference/checkpoints.md, "LoRAs".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from . import keymap
from .components import COMPONENTS
from .errors import CheckpointError, RequestError, shown
from .headers import LONGEST_NAME, FileKind, Header, classify, read_header
from .lora_forms import Change, Target, foreign_form, read_changes
from .lora_scale import check_rank, stated_scale

# Possible prefixes of the official name of a layer.
PREFIX = re.compile(r"(base_model\.model\.)?(model\.)?((diffusion_model|transformer|unet)\.)?")
# The same for names with underscores instead of dots.
FLAT_PREFIX = re.compile(r"(lora_unet|lora_transformer|lycoris)_(model_)?(diffusion_model_)?(transformer_(?!blocks_))?")
# Layers outside the denoiser that the official code ignores; the distilled LoRA of 2.0 has one.
SKIPPED = {"text projection": re.compile(r"text_embedding_projection[._]|(\w+_)?text_proj_in$")}
SPATIAL_KEYS = ("reference_downscale_factor", "reference_spatial_scale_factor")
IN_CONTEXT_NAME = "ic-lora"
SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFile:
    """A LoRA, by its header.

    Args: changes: by the name of their layer in the file, with their tensors. rejected: unusable changes, with the
    reason. spatial_scale: the size of the result relative to the reference of an in-context LoRA; temporal_scale: the
    same for the number of frames; None if the file does not say. hdr_transform: converts the generated colours to
    linear light; None for ordinary LoRAs.
    """

    path: Path
    changes: Mapping[Target, Change]
    rejected: Mapping[str, str]
    spatial_scale: int | None
    temporal_scale: int | None
    hdr_transform: str | None

    @property
    def is_in_context(self) -> bool:
        """Whether it uses a reference: its header contains the reference scale, or its name is like that of the
        published ones.
        """
        has_scale = self.spatial_scale is not None or self.temporal_scale is not None
        return has_scale or IN_CONTEXT_NAME in self.path.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedLora:
    """A LoRA matched with a model.

    Args: changes: those of the denoiser, by the official name of the changed tensor, without prefix. skipped: changes
    that are left out by rule, each once. unmatched: changes that match no layer, with the reason.
    """

    path: Path
    changes: Mapping[str, Change]
    skipped: tuple[str, ...]
    unmatched: Mapping[str, str]

    @property
    def tensor_names(self) -> list[str]:
        """The names in the file of all tensors of the changes."""
        return [name for change in self.changes.values() for name in change.tensor_names]

    @property
    def report(self) -> str:
        """One line of text: `1,370 of 1,370 matched, 1 skipped: text projection`."""
        line = f"{len(self.changes):,} of {len(self.changes) + len(self.unmatched):,} matched"
        if not self.skipped:
            return line
        return f"{line}, {len(self.skipped):,} skipped: {', '.join(dict.fromkeys(self.skipped))}"


def read_lora(source: Header | Path) -> LoraFile:
    """Read the header of a LoRA file, in any of the supported forms.

    Raises: StorageError; CheckpointError if the file is something else or of an unsupported form, or if its metadata is
    not valid.
    """
    header = source if isinstance(source, Header) else read_header(source)
    return header.once(LoraFile, lambda: _lora_of(header))


def _lora_of(header: Header) -> LoraFile:
    """The same, read from its tensors. Raises: CheckpointError."""
    kind = classify(header)
    if kind is not FileKind.LORA:
        raise CheckpointError(f"{header.path.name} is not a LoRA", f"it is {kind.value}")
    foreign = foreign_form(header)
    if foreign is not None:
        form, name = foreign
        raise CheckpointError(
            f"{header.path.name} is {form}, which is not supported", f"it holds {shown(name, LONGEST_NAME)}"
        )
    changes, rejected = read_changes(header)
    return LoraFile(
        path=header.path,
        changes=_with_scale(changes, header),
        rejected=rejected,
        spatial_scale=_scale(header, *SPATIAL_KEYS) or (2 if "ref0.5" in header.path.name else None),
        temporal_scale=_scale(header, "reference_temporal_scale_factor"),
        hdr_transform=_hdr_transform(header.metadata),
    )


def match(lora: LoraFile, checkpoint: Header, *, allow_partial: bool = False) -> MatchedLora:
    """Find the layer of each change in the denoiser of a checkpoint.

    Args: allow_partial: ignore changes that match nothing, as long as some match.
    Raises: CheckpointError that names the changes.
    """
    files = {inside: name for name, inside in COMPONENTS["transformer"].names_in(checkpoint).items()}
    layers = checkpoint.once(
        _Layers, lambda: _Layers.of(name.removesuffix(".weight") for name in files if name.endswith(".weight"))
    )
    changes: dict[str, Change] = {}
    skipped: list[str] = []
    unmatched = dict(lora.rejected)
    for (given, leaf), change in lora.changes.items():
        called = given if leaf == "weight" else f"{given}.{leaf}"
        name, known = layers.spelled(given)
        left_out = next((what for what, pattern in SKIPPED.items() if pattern.match(name)), None)
        official = f"{known.get(name)}.{leaf}"
        if left_out is not None:
            skipped.append(left_out)
        elif name not in known:
            unmatched[called] = "the model has no such linear layer"
        elif known[name] is None:
            unmatched[called] = "it matches several layers"
        elif official in changes:
            unmatched[called] = "its layer has a pair already"
        elif official not in files:
            unmatched[called] = f"the layer has no {leaf} in the model"
        elif not _is_for(change, checkpoint, files[official]):
            shape = list(checkpoint.matrix_shape(files[official]))
            unmatched[called] = f"made for {list(change.shape)}, the model has {shape}"
        else:
            changes[official] = change
    matched = MatchedLora(path=lora.path, changes=changes, skipped=tuple(skipped), unmatched=unmatched)
    if not changes or (unmatched and not allow_partial):
        raise _refusal(matched, checkpoint)
    return matched


def _is_for(change: Change, checkpoint: Header, name: str) -> bool:
    """Whether a change has the shape of a tensor."""
    return len(change.shape) == len(checkpoint.matrix_shape(name)) and checkpoint.fits(name, change.shape)


def reference_scales(loras: Sequence[LoraFile]) -> tuple[int, int]:
    """The common spatial and temporal reference scale of all in-context LoRAs; 1 if a file does not say.

    Raises: RequestError if they differ.
    """
    seeing = [lora for lora in loras if lora.is_in_context]
    scales = []
    for kind in ("spatial", "temporal"):
        said = {getattr(lora, f"{kind}_scale") or 1: lora for lora in seeing}
        if len(said) > 1:
            each = " and ".join(f"{lora.path.name} 1/{scale}" for scale, lora in said.items())
            raise RequestError(
                "these LoRAs cannot be used together",
                f"their references have different {kind} scales: {each}",
                "leave one of them out",
            )
        scales.append(next(iter(said), 1))
    return scales[0], scales[1]


@dataclass(frozen=True, slots=True)
class _Layers:
    """The layers of a model by every name in use for them, with dots and with underscores.

    The value is None if a name is ambiguous.
    """

    dotted: Mapping[str, str | None]
    flat: Mapping[str, str | None]

    @classmethod
    def of(cls, layers: Iterable[str]) -> Self:
        """Collect the official names, those of diffusers, and both without the number behind `to_out`."""
        layers = list(layers)
        dotted: dict[str, str | None] = {layer: layer for layer in layers}
        flat: dict[str, str | None] = {}
        for layer in layers:
            names = {layer, keymap.from_official(layer, keymap.DIFFUSERS)}
            names |= {name.removesuffix(".0") for name in names if name.endswith(".to_out.0")}
            for name in names:
                dotted[name] = layer if dotted.get(name, layer) == layer else None
                underscored = name.replace(".", "_")
                flat[underscored] = layer if flat.get(underscored, layer) == layer else None
        return cls(dotted, flat)

    def spelled(self, given: str) -> tuple[str, Mapping[str, str | None]]:
        """The name of a layer in a file without its prefix, and the table in which it stands."""
        flat = FLAT_PREFIX.match(given)
        if flat is not None:
            return given[flat.end() :], self.flat
        return PREFIX.sub("", given, count=1), self.dotted


def _with_scale(changes: Mapping[Target, Change], header: Header) -> Mapping[Target, Change]:
    """The changes, with the scale from the metadata for those without their own alpha."""
    ranks = [change.rank for change in changes.values() if change.rank is not None]
    silent = {target: change for target, change in changes.items() if change.alpha is None and _is_scaled(change)}
    stated = stated_scale(header) if silent else None
    if stated is None:
        return changes
    largest = max(ranks, default=1)
    if ranks:  # full matrices have none
        check_rank(stated, header, largest)
    scaled = {
        target: change.scaled(stated.of(PREFIX.sub("", target[0], count=1), largest))
        for target, change in silent.items()
        if change.rank is not None or stated.is_peft
    }
    return {**changes, **scaled}


def _is_scaled(change: Change) -> bool:
    """Whether alpha applies to a change: not to one that is stored as the exact difference."""
    return len(change.factors) > 1


def _scale(header: Header, *keys: str) -> int | None:
    """The first entry of the metadata that is there, a whole number."""
    key = next((key for key in keys if key in header.metadata), None)
    if key is None:
        return None
    value = header.metadata[key]
    if not re.fullmatch(r"[1-9]\d{0,3}(\.0+)?", value, re.ASCII):
        raise CheckpointError(
            f"{header.path.name} has damaged metadata", f"{key} is {shown(value)}, not a whole number"
        )
    return int(float(value))


def _hdr_transform(metadata: Mapping[str, str]) -> str | None:
    value = metadata.get("hdr_transform", metadata.get("use_hdr_transform", "false")).lower()
    return {"false": None, "true": "logc3"}.get(value, value)


def _refusal(matched: MatchedLora, checkpoint: Header) -> CheckpointError:
    """The error for a LoRA that does not fit, with its first few mismatches."""
    count, total = len(matched.unmatched), len(matched.changes) + len(matched.unmatched)
    first = [f"{shown(name, LONGEST_NAME)}: {why}" for name, why in list(matched.unmatched.items())[:SHOWN]]
    if count > SHOWN:
        first.append(f"and {count - SHOWN:,} more")
    return CheckpointError(
        f"{matched.path.name} does not fit {checkpoint.path.name}",
        f"{count:,} of {total:,} match nothing: {'; '.join(first)}" if first else matched.report,
        "--allow-partial-lora uses the others" if matched.changes else "use a LoRA that was made for this model",
    )
