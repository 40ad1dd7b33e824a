"""From flags, files and presets to one record with every value resolved. Opens only headers."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import RequestError
from ...hub.find import ModelFiles
from ...machine import Machine
from ...sampling.guidance import GuidanceScales
from ...types import Streams
from ..parts import ALWAYS_READ, components_of
from ..request import COPY, OutputSettings, RenderTask, Request
from ..resolved import Resolved
from ..values import OFF
from .as_written import named_as_written
from .assumed import assumed_inputs
from .basis import Basis, Planned, settle_basis
from .draft import draft_notes, drafted
from .enhancement import settle_enhancement
from .fit import settle_machine
from .inputs import ModeInputs
from .lint import prompt_advice
from .looping import looped
from .machine import Device
from .modes import mode_of
from .phases import Costs
from .refusals import (
    check_attention,
    check_audio_length,
    check_cached_steps,
    check_guidance,
    check_loudness,
    check_prompt,
    check_text,
    check_tiles,
    nothing_to_copy,
)
from .segments import settle_segments
from .settings import COMMAND_LINE, Layer, Place, required
from .target import TAKEN_HINT, attention_of, early_steps, job_dir_of, require_apart, require_places, target_of


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A resolved request, its costs, and its device.

    Args: chooses_decoder: whether the video decoder is not set. chooses_files: whether `--preset auto` may take other
    files of the same model.
    """

    resolved: Resolved
    costs: Costs
    device: Device
    is_forced: bool
    chooses_decoder: bool
    chooses_files: bool

    def on(self, machine: Machine) -> Settled:
        """The same with these choices of the machine."""
        task = self.resolved.task.model_copy(update={"machine": machine})
        resolved, costs = replace(self.resolved, task=task), replace(self.costs, machine=machine)
        return replace(self, resolved=resolved, costs=costs)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asks for.

    Args: mode: t2v, i2v, v2v, a2v or v2a. layers: settings with their places, most important first: flags, environment,
    files. own_presets: the user's, by name, each a mapping of settings. main: the image of i2v, the clip of v2v and
    v2a, the audio of a2v. found: the model's files, if they are known already.
    """

    mode: str
    prompt: str
    layers: Sequence[Layer]
    own_presets: Mapping[str, Any] = field(default_factory=dict)
    main: Path | None = None
    found: ModelFiles | None = None

    def settle(
        self, planned: Planned | None = None, flags: Mapping[str, Any] | None = None, place: Place = COMMAND_LINE
    ) -> Settled:
        """Resolve every value, find every file and check everything that can be checked before a model is read.

        Args: planned: for a plan without a render. flags: replace those that it has. place: where those come from, for
        messages.
        Raises: RequestError, StorageError, CheckpointError, MediaError.
        """
        asked = replace(self, layers=[(place, dict(flags)), *self.layers]) if flags else self
        with named_as_written(asked.layers, asked.own_presets):
            return _settle(asked, planned)


def _settle(asked: Asked, planned: Planned | None) -> Settled:
    row, prompt = mode_of(asked.mode), asked.prompt
    check_prompt(prompt, is_needed=row.main is None and planned is None)
    basis = settle_basis(row, asked.layers, asked.own_presets, planned, asked.found)
    check_text(basis.settings.negative or "", "the negative prompt")
    is_left_out = planned is not None and asked.main is None and row.main is not None
    inputs = looped(basis, assumed_inputs(basis) if is_left_out else row.settle(basis, asked.main))
    if inputs.sound is not None:
        basis = basis.with_sound(inputs.sound)
    enhancement = settle_enhancement(basis, inputs, prompt, is_planned=planned is not None)
    request = drafted(basis.merged, _request(basis, inputs, prompt))
    check_guidance(basis.merged, request)
    check_audio_length(request)
    basis.headers.check(component for component in components_of(request) if component not in ALWAYS_READ)
    settings = basis.settings
    if planned is not None:  # which writes nothing
        settings = settings.model_copy(update={"overwrite": True})
    target = target_of(settings, request, inputs.suffix)
    output = _output(basis, inputs)
    check_cached_steps(basis.merged, request)
    check_tiles(basis.merged, request, basis.vae.factors)
    if output.attention:
        output = _with_attention(output, basis, request, attention_of(settings, request, target))
    job_dir = job_dir_of(settings, target)
    costs, notes, warnings = settle_machine(basis, request, enhancement.apart, captures=output.attention is not None)
    loras = {lora.input.role: lora.file.path for lora in basis.loras}
    task = RenderTask(
        request=request,
        machine=costs.machine,
        output=output,
        files=basis.files,
        inputs={**loras, **inputs.files, **enhancement.files},
        target=target,
        uses_cache=required(settings.cache),
    )
    require_apart(task, job_dir)
    if not (settings.skip_existing and target.exists()):
        require_places(task, job_dir, skip_existing=required(settings.skip_existing))
    if target.exists() and not (basis.settings.overwrite or settings.skip_existing):  # seen by a plan only
        warnings = (*warnings, f"{target.name} already exists; {TAKEN_HINT}")
    return Settled(
        resolved=_resolved(basis, inputs, task, job_dir, notes, (*enhancement.warnings, *warnings)),
        costs=costs,
        device=basis.device,
        is_forced=bool(settings.force),
        chooses_decoder=settings.decoder == "auto" and request.video == "generate",
        chooses_files=basis.chooses_files,
    )


def _resolved(
    basis: Basis,
    inputs: ModeInputs,
    task: RenderTask,
    job_dir: Path,
    machine_notes: Sequence[str],
    warnings: Sequence[str],
) -> Resolved:
    """The task with all messages about it. warnings: about the prompt and the machine."""
    sources = {**basis.sources, **inputs.sources}
    lora_notes = (lora.note for lora in basis.loras)
    lora_warnings = (lora.warning for lora in basis.loras if lora.warning is not None)
    return Resolved(
        task=task,
        job_dir=job_dir,
        preset=basis.named.name,
        overridden=basis.merged.overridden,
        skip_existing=required(basis.settings.skip_existing),
        sources={name: str(place) for name, place in sources.items()},
        notes=(
            *basis.notes,
            *inputs.size.notes,
            *inputs.length.notes,
            *draft_notes(task.request),
            *lora_notes,
            *inputs.notes,
            *machine_notes,
        ),
        warnings=(*inputs.length.warnings, *lora_warnings, *warnings),
        advice=prompt_advice(task.request, basis.files),
    )


def _request(basis: Basis, inputs: ModeInputs, prompt: str) -> Request:
    """Everything that determines the result, down to the bit."""
    settings = basis.settings
    return Request(
        mode=basis.mode.name,
        prompt=prompt,
        negative=settings.negative if basis.recipe.is_guided else None,
        seed=secrets.randbelow(2**31) if settings.seed is None else settings.seed,
        width=inputs.size.size[0],
        height=inputs.size.size[1],
        crop=inputs.size.crop,
        frames=inputs.length.frames,
        kept_frames=inputs.kept_frames,
        loops=inputs.loops,
        fps=inputs.length.fps,
        video=required(settings.video),
        audio=required(settings.sound),
        preset=basis.preset,
        recipe=inputs.recipe or basis.recipe,
        steps=len(settings.sigmas) - 1 if settings.sigmas else required(settings.steps),
        guidance=_guidance(basis),
        cache_steps=required(settings.cache_steps) if basis.recipe.is_guided else 0.0,
        loras=tuple(lora.input for lora in basis.loras),
        images=inputs.images,
        source=inputs.source,
        audio_source=inputs.audio_source,
        references=inputs.references,
        voice=inputs.voice,
        strength=inputs.strength,
        window=inputs.window,
        extension=inputs.extension,
        chain=inputs.length.chain,
        enhances=required(settings.enhance),
        segments=settle_segments(basis, inputs.length),
        auto_length=inputs.length.auto,
        generated_keyframes=inputs.generated_keyframes,
        schedule_tokens=required(settings.schedule_tokens),
        text_rows=required(settings.text_rows),
        decoder=basis.vae.decoder_name,
    )


def _output(basis: Basis, inputs: ModeInputs) -> OutputSettings:
    """How the result is written.

    Raises: RequestError for a crf that the codec does not support, if there is no audio to copy, and for a loudness of
    copied audio.
    """
    chosen = {name: getattr(basis.settings, name) for name in OutputSettings.model_fields}
    if chosen["audio_codec"] == COPY and not inputs.copies_audio:
        raise nothing_to_copy()
    if inputs.copies_audio:
        chosen["audio_codec"] = COPY
    is_flag = basis.merged.sources.get("loudness") == COMMAND_LINE
    if not is_flag and (inputs.copies_audio or basis.settings.sound == "off"):
        chosen["loudness"] = OFF  # it comes from a settings file for all renders, and does not apply here
    if "off" in (basis.settings.video, basis.settings.sound) or inputs.length.chain is not None:
        chosen["attention"] = None  # the same
    if basis.settings.video != "generate":
        chosen["preview"] = OFF  # the same
    if chosen["attention"] is None:
        chosen |= {"attention_blocks": None, "attention_steps": None}
    output = OutputSettings(**chosen)
    check_loudness(output)
    _ = output.encoding
    return output


def _with_attention(output: OutputSettings, basis: Basis, request: Request, path: Path | None) -> OutputSettings:
    """The same with the path of the attention clip, and the steps that it shows. Raises: RequestError."""
    check_attention(basis.merged, request, basis.transformer.layers)
    steps = output.attention_steps or early_steps(request)
    return output.model_copy(update={"attention": path, "attention_steps": steps})


def _guidance(basis: Basis) -> Streams[GuidanceScales]:
    """The scales of both streams. A single stream has no other one to be guided by; a kept one has none."""
    settings, blocks = basis.settings, _perturbed_blocks(basis)
    is_alone = "off" in (settings.video, settings.sound)
    skip_step = required(settings.skip_step)

    def scales(stream: str, mode: str | None) -> GuidanceScales:
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


def _perturbed_blocks(basis: Basis) -> tuple[int, ...]:
    """The blocks of spatio-temporal guidance. Raises: RequestError for one that the model lacks."""
    layers, blocks = basis.transformer.layers, basis.settings.stg_blocks
    if blocks is None:
        return (math.floor(basis.stg_share * layers),)
    unknown = next((block for block in blocks if block >= layers), None)
    if unknown is not None:
        raise RequestError(f"--stg-blocks {unknown} cannot be used", f"the model has the blocks 0 to {layers - 1}")
    return blocks
