"""From a resolved request back to its settings: the inverse of `resolve`.

The settings are then resolved, like those of every other render. A recipe can therefore request nothing that a
user could not request on a command line, and each of its settings can be changed in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...sampling.guidance import GuidanceScales
from ..recipe import Edit
from ..request import AudioInput, ClipInput, EncodingSettings, Extension, ImageInput, LoraInput, ReferenceInput, Request
from ..resolve.edits import NO_CONTROL
from ..resolve.presets import recipe

MAIN = {"i2v": "image-1", "v2v": "clip", "a2v": "sound", "v2a": "clip"}  # the role of the input of each mode

MediaInput = ImageInput | ClipInput | AudioInput | ReferenceInput


def media_of(request: Request) -> dict[str, MediaInput]:
    """The images, clips and audio of a request, by the role of their file."""
    given = (*request.images, request.source, request.audio_source, *request.references, request.voice)
    return {one.role: one for one in given if one is not None}


def settings_of(request: Request, output: EncodingSettings | None, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """The settings that resolve to a request.

    Args: output: how its file was written; None if the recipe does not say. inputs: LoRAs and images, by role; those
    that are missing are left out.
    Raises: RequestError for an unknown preset.
    """
    found = {
        "preset": request.preset,
        "seed": request.seed,
        "negative": request.negative,
        "draft": request.full_recipe is not None,
        "draft_steps": request.recipe.stages[0].steps,
        "res": None if request.recipe.edit == Edit.UPSCALE else f"{request.width}x{request.height}",
        "video": request.video,
        "sound": request.audio,
        "segment": tuple((one.start_s, one.end_s, one.prompt) for one in request.segments) or None,
        "generated_keyframes": request.generated_keyframes,
        "loop": request.loops,
        "schedule_tokens": request.schedule_tokens,
        "text_rows": request.text_rows,
        "decoder": request.decoder if request.video == "generate" else None,
        **_length(request),
        **_sampling(request),
        **_guidance(request),
        **_edit(request),
        **_images(request, inputs),
        **_loras(request, inputs),
        **(output.model_dump() if output is not None else {}),
    }
    return {name: value for name, value in found.items() if value is not None}


def _length(request: Request) -> dict[str, Any]:
    """The used part of an input, and the length of the clip."""
    start_s = _start_s(request)
    part = {"start": start_s} if start_s else {}
    if request.video == "keep":  # it determines the rate and the length
        return part | {"duration": request.source.duration_s if request.source else None}
    if request.recipe.edit == Edit.UPSCALE:
        return part | {"duration": request.file_frames / request.fps, "fps": request.fps}
    extension = request.extension or Extension()
    found: dict[str, Any] = part | {"fps": request.fps}
    if (chain := request.chain) is not None:
        lengths = {"until": request.frames, "window": chain.frames, "overlap": chain.overlap}
        found |= {name: frames / request.fps for name, frames in lengths.items()}
    if chain is None or request.source is not None:
        found["frames"] = request.frames - extension.before - extension.after
    return found


def _start_s(request: Request) -> Fraction:
    """The start of the used part of the mode's input."""
    given = (request.source, *request.references, request.audio_source if request.mode == "a2v" else None)
    return next((one.start_s for one in given if one is not None), Fraction(0))


def _sampling(request: Request) -> dict[str, Any]:
    """The differences of the stages from the preset, and the number of steps."""
    own, full = recipe(request.preset), request.full_recipe or request.recipe
    first, usual = full.stages[0], own.stages[0]
    is_listed = isinstance(first.sigmas, tuple) and first.sigmas != usual.sigmas
    tiles = (stage.tiles for stage in full.stages if stage.tiles is not None)
    return {
        "sampler": None if own.names_its_sampler else first.sampler,
        "tiles": next(tiles, None),
        **({"sigmas": first.sigmas} if is_listed else {"steps": request.steps}),
    }


def _guidance(request: Request) -> dict[str, Any]:
    """The scales of the streams that are guided."""
    found: dict[str, Any] = {}
    for stream, mode, scales in zip(request.streams._fields, request.streams, request.guidance, strict=True):
        if scales is not None and mode != "keep":
            found |= {f"{stream}_{name}": getattr(scales, name) for name in _names(request)}
            if scales.stg_blocks:
                found["stg_blocks"] = scales.stg_blocks
    skips = (scales.skip_step for scales in request.guidance if isinstance(scales, GuidanceScales))
    return found | {"skip_step": next(skips, None), "cache_steps": request.cache_steps or None}


def _names(request: Request) -> Iterator[str]:
    yield from ("st", "stg", "rescale")
    if "off" not in request.streams:  # a single stream is not guided by another
        yield "sm"


def _edit(request: Request) -> dict[str, Any]:
    """The edit of a clip, without the LoRA for control."""
    start_s, fps = _start_s(request), request.fps
    found: dict[str, Any] = {"strength": request.strength}
    if request.recipe.edit == Edit.UPSCALE:
        found["upscale"] = 1 / request.recipe.stages[0].source_scale
    if request.window is not None:
        found["retake"] = (start_s + request.window.start_s, start_s + request.window.end_s)
    if request.extension is not None:
        after = 0 if request.chain is not None else request.extension.after  # the total length determines it
        grown = {"extend": after, "extend_before": request.extension.before}
        found |= {name: frames / fps for name, frames in grown.items() if frames}
    return found


def _images(request: Request, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """The images except the mode's input, and the references."""
    given = [one for one in request.images if one.role in inputs and one.role != MAIN.get(request.mode)]
    specs = [f"{inputs[one.role]}@{one.frame}:{Decimal(repr(one.strength)):f}" for one in given]
    crf = {image.crf for image in request.images}
    shown = [str(inputs[one.role]) for one in request.references if one.is_still and one.role in inputs]
    voice = request.voice and inputs.get(request.voice.role)
    references = {"ref": tuple(shown) or None, "voice_ref": voice and str(voice)}
    return {"image": tuple(specs) or None, "image_crf": min(crf, default=None), **references}


def _loras(request: Request, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """The LoRAs, the first one as `--control` if there is one. They matched before, possibly only in part."""
    specs = [_spec(inputs[one.role], one) for one in request.loras if one.role in inputs]
    control = NO_CONTROL if request.recipe.edit == Edit.UPSCALE else None
    if specs and not all(one.is_still for one in request.references):
        control = specs.pop(0)
    if not specs and control in (None, NO_CONTROL):
        return {"control": control}
    return {"control": control, "lora": tuple(specs) or None, "allow_partial_lora": True}


def _spec(path: Path, lora: LoraInput) -> str:
    return f"{path}:{lora.strength!r}"
