"""What a LoRA file holds, and to which layers of a model its pairs belong: from headers alone, before a weight is read.

Source: docs/reference/checkpoints.md, "LoRAs".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from . import keymap
from .components import COMPONENTS
from .errors import CheckpointError, RequestError
from .headers import FLOATS, FileKind, Header, TensorInfo, classify, read_header

# How the tensors of a pair may end after the name of their layer: the change of a weight is scale · up @ down.
PARTS = {
    ".lora_A.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.default.weight": "up",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
DORA_ENDINGS = (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
PREFIX = re.compile(r"(base_model\.model\.)?((model\.)?diffusion_model\.|transformer\.)?")
FLAT_PREFIX = "lora_unet_"  # followed by the layer's name with underscores for dots
# Layers outside the denoiser whose pairs the official code leaves out, as its distilled LoRA of 2.0 has one.
SKIPPED = {"text projection": re.compile(rf"({FLAT_PREFIX})?text_embedding_projection[._]|(\w+_)?text_proj_in$")}
SPATIAL_KEYS = ("reference_downscale_factor", "reference_spatial_scale_factor")
IN_CONTEXT_NAME = "ic-lora"
SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The low-rank change of one linear layer. down (rank in), up (out rank), alpha (): names of tensors in the file.

    shape: (out in) of the layer.
    """

    down: str
    up: str
    alpha: str | None
    rank: int
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFile:
    """A LoRA, by its header.

    Args: pairs: by the name of their layer in the file. rejected: what is no usable pair, with the reason.
    spatial_scale: how much larger the made clip is than the reference that an in-context LoRA looks at; temporal_scale:
    how many more frames it has; None where the file does not say. hdr_transform: what turns the made colours into
    linear light; None for ordinary ones.
    """

    path: Path
    pairs: Mapping[str, Pair]
    rejected: Mapping[str, str]
    spatial_scale: int | None
    temporal_scale: int | None
    hdr_transform: str | None

    @property
    def is_in_context(self) -> bool:
        """Whether it looks at a reference: its header tells its scale, or it is named as the published ones are."""
        has_scale = self.spatial_scale is not None or self.temporal_scale is not None
        return has_scale or IN_CONTEXT_NAME in self.path.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedLora:
    """A LoRA beside a model.

    Args: pairs: those that belong to the denoiser, by the official name of the linear layer, without prefix and
    `.weight`. skipped: what is left out by rule, once for each pair. unmatched: what fits nothing, with the reason.
    """

    path: Path
    pairs: Mapping[str, Pair]
    skipped: tuple[str, ...]
    unmatched: Mapping[str, str]

    @property
    def tensor_names(self) -> list[str]:
        """The names in the file of all tensors of the pairs."""
        names = [name for pair in self.pairs.values() for name in (pair.up, pair.down, pair.alpha)]
        return [name for name in names if name is not None]

    @property
    def report(self) -> str:
        """One line for a person: `1,370 of 1,370 matched, 1 skipped: text projection`."""
        line = f"{len(self.pairs):,} of {len(self.pairs) + len(self.unmatched):,} matched"
        if not self.skipped:
            return line
        return f"{line}, {len(self.skipped):,} skipped: {', '.join(dict.fromkeys(self.skipped))}"


def read_lora(source: Header | Path) -> LoraFile:
    """Read what a LoRA file holds, in any of the forms that are in use.

    Raises: StorageError; CheckpointError if the file is something else or a DoRA, or its metadata makes no sense.
    """
    header = source if isinstance(source, Header) else read_header(source)
    kind = classify(header)
    if kind is not FileKind.LORA:
        raise CheckpointError(f"{header.path.name} is not a LoRA", f"it is {kind.value}")
    dora = next((name for name in header.tensors if name.endswith(DORA_ENDINGS)), None)
    if dora is not None:
        raise CheckpointError(f"{header.path.name} is a DoRA, which is not supported", f"it holds {dora}")
    grouped, rejected = _grouped(header)
    pairs: dict[str, Pair] = {}
    for layer, parts in grouped.items():
        problem = _problem({part: header.tensors[name] for part, name in parts.items()})
        if problem is None:
            pairs[layer] = _pair(header, parts["down"], parts["up"], parts.get("alpha"))
        else:
            rejected[layer] = problem
    return LoraFile(
        path=header.path,
        pairs=pairs,
        rejected=rejected,
        spatial_scale=_scale(header, *SPATIAL_KEYS) or (2 if "ref0.5" in header.path.name else None),
        temporal_scale=_scale(header, "reference_temporal_scale_factor"),
        hdr_transform=_hdr_transform(header.metadata),
    )


def match(lora: LoraFile, checkpoint: Header, *, allow_partial: bool = False) -> MatchedLora:
    """Find the layer of each pair in the denoiser of a checkpoint.

    Args: allow_partial: leave out what matches nothing, as long as anything matches.
    Raises: CheckpointError that names the pairs.
    """
    shapes = {
        inside.removesuffix(".weight"): checkpoint.tensors[name].shape
        for name, inside in COMPONENTS["transformer"].names_in(checkpoint).items()
        if inside.endswith(".weight")
    }
    layers = _spellings(shapes)
    pairs: dict[str, Pair] = {}
    skipped: list[str] = []
    unmatched = dict(lora.rejected)
    for given, pair in lora.pairs.items():
        name = PREFIX.sub("", given, count=1)
        left_out = next((what for what, pattern in SKIPPED.items() if pattern.match(name)), None)
        layer = layers.get(name)
        if left_out is not None:
            skipped.append(left_out)
        elif name not in layers:
            unmatched[given] = "the model has no such linear layer"
        elif layer is None:
            unmatched[given] = "several layers could be meant"
        elif layer in pairs:
            unmatched[given] = "its layer has a pair already"
        elif pair.shape != shapes[layer]:
            unmatched[given] = f"made for {list(pair.shape)}, the model has {list(shapes[layer])}"
        else:
            pairs[layer] = pair
    matched = MatchedLora(path=lora.path, pairs=pairs, skipped=tuple(skipped), unmatched=unmatched)
    if not pairs or (unmatched and not allow_partial):
        raise _refusal(matched, checkpoint)
    return matched


def reference_scales(loras: Sequence[LoraFile]) -> tuple[int, int]:
    """The one spatial and temporal scale at which all in-context LoRAs look at a reference; 1 where none says.

    Raises: RequestError if they differ.
    """
    scales = []
    for kind in ("spatial", "temporal"):
        said = {scale: lora for lora in loras if (scale := getattr(lora, f"{kind}_scale")) is not None}
        if len(said) > 1:
            each = " and ".join(f"{lora.path.name} 1/{scale}" for scale, lora in said.items())
            raise RequestError(
                "these LoRAs cannot be used together", f"they look at references of another {kind} scale: {each}"
            )
        scales.append(next(iter(said), 1))
    return scales[0], scales[1]


def _grouped(header: Header) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The tensors of each layer by their part in the pair, and the tensors that are no such part."""
    grouped: dict[str, dict[str, str]] = {}
    rejected = {}
    for name in header.tensors:
        ending = next((ending for ending in PARTS if name.endswith(ending)), None)
        if ending is None:
            rejected[name] = "not a part of a low-rank pair"
        elif grouped.setdefault(name.removesuffix(ending), {}).setdefault(PARTS[ending], name) != name:
            rejected[name] = "the same part is there under another name"
    return grouped, rejected


def _problem(parts: Mapping[str, TensorInfo]) -> str | None:
    """Why the tensors of a layer are no usable pair."""
    if not parts.keys() >= {"down", "up"}:
        return "half of the pair is missing"
    stored = next((info.dtype for info in parts.values() if info.dtype not in FLOATS), None)
    if stored is not None:
        return f"stored as {stored}, which is not supported"
    down, up = parts["down"].shape, parts["up"].shape
    if len(down) != 2 or len(up) != 2 or not 0 < down[0] == up[1]:
        return f"{list(down)} and {list(up)} are no low-rank pair"
    if "alpha" in parts and prod(parts["alpha"].shape) != 1:
        return "its alpha is not one number"
    return None


def _spellings(layers: Mapping[str, object]) -> dict[str, str | None]:
    """The layer that each name in use stands for; None where it could be several."""
    found: dict[str, str | None] = {}
    for layer in layers:
        dotted = {layer, keymap.from_official(layer, keymap.DIFFUSERS)}
        for name in dotted | {FLAT_PREFIX + name.replace(".", "_") for name in dotted}:
            found[name] = None if name in found else layer
    return found


def _pair(header: Header, down: str, up: str, alpha: str | None) -> Pair:
    (rank, columns), (rows, _) = header.tensors[down].shape, header.tensors[up].shape
    return Pair(down=down, up=up, alpha=alpha, rank=rank, shape=(rows, columns))


def _scale(header: Header, *keys: str) -> int | None:
    """The first entry of the metadata that is there, a whole number."""
    key = next((key for key in keys if key in header.metadata), None)
    if key is None:
        return None
    value = header.metadata[key]
    if not re.fullmatch(r"[1-9]\d{0,3}(\.0+)?", value, re.ASCII):
        raise CheckpointError(f"{header.path.name} has damaged metadata", f"{key} is {value}, not a whole number")
    return int(float(value))


def _hdr_transform(metadata: Mapping[str, str]) -> str | None:
    value = metadata.get("hdr_transform", metadata.get("use_hdr_transform", "false")).lower()
    return {"false": None, "true": "logc3"}.get(value, value)


def _refusal(matched: MatchedLora, checkpoint: Header) -> CheckpointError:
    """The error for a LoRA that does not fit, with its first few misfits."""
    count, total = len(matched.unmatched), len(matched.pairs) + len(matched.unmatched)
    shown = [f"{name}: {why}" for name, why in list(matched.unmatched.items())[:SHOWN]]
    shown += [f"and {count - SHOWN:,} more"] if count > SHOWN else []
    return CheckpointError(
        f"{matched.path.name} does not fit {checkpoint.path.name}",
        f"{count:,} of {total:,} match nothing: {'; '.join(shown)}" if shown else matched.report,
        "--allow-partial-lora uses the others" if matched.pairs else "use a LoRA that was made for this model",
    )
