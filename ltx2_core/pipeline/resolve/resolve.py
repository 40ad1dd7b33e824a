"""From flags, files and presets to one record with every value settled. Opens nothing but headers.

Source: spec cli, sections 1 to 3; spec pipelines, section 1.
"""

from __future__ import annotations

import math
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import RequestError
from ...media.inputs import ImageSource, check_input
from ...sampling.guidance import GuidanceScales
from ...types import Streams
from ..request import (
    Mode,
    OutputSettings,
    Request,
    Resolved,
    StreamMode,
)
from .basis import Basis, settle_basis
from .edits import add_clip, control_lora, scaling
from .follow import dub_clip, follow_sound
from .inputs import Inputs, add_images, add_loras
from .refusals import (
    checked_prompt,
)
from .settings import Layer, required
from .sizes import ClipLength, RenderSize, choose_length, choose_size, choose_working_size
from .target import SLUG_LENGTH, require_apart, target_of

TAKEN_AS_SET = ("video", "sound", "schedule_tokens", "text_rows", "precision", "device")


def resolve(
    mode: Mode,
    prompt: str,
    layers: Sequence[Layer],
    own_presets: Mapping[str, Any] | None = None,
    main: Path | None = None,
) -> Resolved:
    """Settle every value, find every file and check everything that can be checked before a model is read.

    Args: layers: what was set and where, most important first: flags, environment, files. own_presets: the user's, by
    name, each a mapping of settings. main: the image that i2v begins with, the clip of v2v and v2a, the sound of a2v.
    Raises: RequestError, StorageError, CheckpointError, MediaError.
    """
    prompt = checked_prompt(mode, prompt)
    basis = settle_basis(mode, layers, own_presets or {})
    settings, sources = basis.merged.settings, basis.merged.sources
    command = " ".join([f"ltx2 {mode}", *([shlex.quote(str(main))] if main else []), *_quoted(prompt)])
    inputs, length, frame = _gather_inputs(basis, mode, main, command)
    request = Request(
        mode=mode,
        prompt=prompt,
        negative=settings.negative if basis.recipe.is_guided else None,
        seed=secrets.randbelow(2**31) if settings.seed is None else settings.seed,
        width=frame.size[0],
        height=frame.size[1],
        crop=frame.crop,
        frames=length.frames,
        fps=length.fps,
        preset=basis.preset,
        recipe=basis.recipe,
        steps=len(settings.sigmas) - 1 if settings.sigmas else required(settings.steps),
        guidance=_guidance(basis),
        **inputs.fields,
        **{name: getattr(settings, name) for name in TAKEN_AS_SET},
    )
    output = OutputSettings(**{key: getattr(settings, key) for key in OutputSettings.model_fields} | inputs.output)
    _ = output.encoding  # refuses a crf that the codec does not have
    target = target_of(settings, request, inputs.suffix)
    require_apart(target, inputs.paths.values())
    return Resolved(
        request=request,
        output=output,
        files=basis.files,
        inputs=inputs.paths,
        target=target,
        job_dir=Path(settings.job_dir).expanduser() if settings.job_dir else target.with_name(target.name + ".job"),
        overwrite=bool(settings.overwrite),
        skip_existing=bool(settings.skip_existing),
        uses_cache=bool(settings.cache),
        sources={**sources, **inputs.sources},
        notes=(*basis.notes, *frame.notes, *length.notes, *inputs.notes),
        warnings=length.warnings,
    )


def _gather_inputs(basis: Basis, mode: Mode, main: Path | None, command: str) -> tuple[Inputs, ClipLength, RenderSize]:
    """The files of a request, and how long and how large what the model makes of them, or looks at, becomes."""
    merged, frames_per_latent = basis.merged, basis.recipe.frame_multiple(basis.vae.factors.time)
    settings, sources, inputs = merged.settings, merged.sources, Inputs()
    loras = (*(control_lora(settings) if basis.edit else ()), *(settings.lora or ()))
    add_loras(inputs, loras, basis.header, allow_partial=bool(settings.allow_partial_lora))
    if basis.edit is not None or mode == Mode.V2A:
        main = required(main)
        length, shown = (add_clip if basis.edit else dub_clip)(inputs, main, merged, frames_per_latent, command)
        if settings.video == "keep":
            return inputs, length, choose_working_size(settings, sources, basis.recipe, basis.vae, shown, command)
        scale = max((reference.spatial_scale for reference in inputs.fields.get("references", ())), default=1)
        frame = choose_size(settings, sources, basis.recipe, basis.vae, shown, command, scale)
        return inputs, length, replace(frame, notes=(*frame.notes, *scaling(main.name, shown, frame.size)))
    images = list(settings.image or ())
    if mode == Mode.A2V:
        length = follow_sound(inputs, required(main), merged, frames_per_latent, command)
    else:
        length = choose_length(settings, sources, frames_per_latent, command)
        images = [*([str(main)] if main else []), *images]
    add_images(inputs, images, length, required(settings.image_crf))
    shown = None
    if mode != Mode.T2V and images:
        still = check_input(inputs.paths[inputs.fields["images"][0].role], ImageSource)
        shown = (still.width, still.height)
    return inputs, length, choose_size(settings, sources, basis.recipe, basis.vae, shown, command)


def _guidance(basis: Basis) -> Streams[GuidanceScales]:
    """The scales of both streams. One that is alone has no other to be pulled towards; one that is kept has none."""
    settings, layers = basis.merged.settings, basis.transformer.layers
    is_alone = "off" in (settings.video, settings.sound)
    skip_step = required(settings.skip_step)
    blocks = settings.stg_blocks
    if blocks is None:
        blocks = (math.floor(basis.stg_share * layers),)
    unknown = [block for block in blocks if block >= layers]
    if unknown:
        raise RequestError(f"--stg-blocks {unknown[0]} cannot be used", f"the model has the blocks 0 to {layers - 1}")

    def scales(stream: str, mode: StreamMode | None) -> GuidanceScales:
        if mode == "keep":
            return GuidanceScales(skip_step=skip_step)

        def of(name: str) -> float:
            return required(getattr(settings, f"{stream}_{name}"))

        stg = of("stg")
        return GuidanceScales(
            st=of("st"),
            sm=1.0 if is_alone else of("sm"),
            stg=stg,
            stg_blocks=blocks if stg else (),
            rescale=of("rescale"),
            skip_step=skip_step,
        )

    return Streams(scales("video", settings.video), scales("audio", settings.sound))


def _quoted(prompt: str) -> list[str]:
    """The prompt as part of a command in a hint, if there is one."""
    line = " ".join(prompt.split()).replace('"', "'")
    line = line if len(line) <= SLUG_LENGTH else line[: SLUG_LENGTH - 1] + "…"
    return [f'"{line}"'] if line else []
