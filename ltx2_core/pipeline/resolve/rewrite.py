"""Resume a render, or write it again from its latents, with the flags for the output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ...costs.decoding import plan_of_sizes
from ...disk import require_free
from ...errors import RequestError, shown
from ...machine import MemoryMode
from ...media.accept import check_input
from ...media.inputs import AudioSource
from ...paths import in_shell
from ...tiles import TilePlan
from ..job import Job
from ..outputs import lies_beside
from ..parts import ModelHeaders
from ..request import COPY, OutputSettings, RenderTask
from ..values import OFF
from .fit import decode_tiles as usual_tiles
from .follow import check_copy
from .machine import choose_device
from .other_decoder import with_decoder
from .refusals import check_loudness, nothing_to_copy, refuse, without_effect
from .settings import COMMAND_LINE, Settings, check_layer
from .target import attention_of, require_apart, suffixes_of, target_of


def continued(job: Job, flags: Mapping[str, Any]) -> Job:
    """The same render, to be resumed: `output` is the target, `overwrite` what it may replace.

    `memory` is the memory mode. What is computed from then on has the bits of that mode; they equal those of the other
    modes except for rounding if a stream has more tokens than the mode processes at a time.

    Raises: RequestError for a target that cannot be written, also one that comes from the record only and is not beside
    the folder.
    """
    given = check_layer(COMMAND_LINE, flags)
    found = _redirected(job, given)
    found.require_target()
    require_apart(found.task)
    if (
        found.has_all_latents
        and found.task.output.keep_latents
        and not given.keys() - {"memory"}
        and found.task.target.is_file()
    ):
        for path in found.task.results:
            if not path.exists():
                raise unwritten(job, path)
        what = f"{job.folder} holds a finished render"
        raise RequestError(what, f"{found.task.target} was made from it", f"{decode_command(job)} writes it again")
    overlay = found.task.output.attention
    is_near = overlay is None or lies_beside(job.folder, overlay)  # otherwise the record must not replace a file
    overwrite = found.task.output.overwrite and is_near and not found.is_redirected
    output = found.task.output.model_copy(update={"overwrite": given.get("overwrite", overwrite)})
    _ = output.encoding
    machine = found.task.machine
    asked = given.get("memory", "auto")
    if asked not in ("auto", machine.memory):
        machine = machine.in_mode(cast("MemoryMode", asked))
    return replace(found, task=found.task.model_copy(update={"output": output, "machine": machine}))


def rewritten(job: Job, flags: Mapping[str, Any], tiles: str | None = None) -> Job:
    """The same render, to be written again: the flags apply to the output, and the latents stay.

    Args: tiles: how the video is decoded, as for `decode_tiles`; None as before, unless the decoder changes.
    Raises: RequestError if its latents are not finished, for a flag that does not fit, and if the target exists.
    """
    task, request = job.task, job.task.request
    if not job.has_all_latents:
        raise RequestError(f"{job.folder} has no finished latents", hint=job.resume_command)
    given = check_layer(COMMAND_LINE, flags)
    refuse(given, _without_effect(task))
    changed = {name: value for name, value in given.items() if name in OutputSettings.model_fields}
    changed = {"overwrite": False, "attention": None, "preview": OFF} | changed | {"keep_latents": True}
    output = task.output.model_copy(update=changed)
    _ = output.encoding  # this refuses a crf that the codec does not support
    check_loudness(output)
    if output.audio_codec == COPY != task.output.audio_codec:
        _check_copy(task)
    found = _redirected(job, given)
    found.require_target()
    overlay = Settings(attention=given.get("attention"), overwrite=True)  # whether the file exists is checked below
    output = output.model_copy(update={"attention": attention_of(overlay, request, found.task.target)})
    found = replace(found, task=found.task.model_copy(update={"output": output}))
    require_apart(found.task)
    if not output.overwrite:
        for path in found.task.results:
            if path == output.attention:
                require_free(path, hint="--overwrite replaces it, or --attention FILE names another")
            require_free(path)
    found = with_decoder(found, given)
    if tiles is None and found.exchanged:
        tiles = "auto"  # tiles for one decoder do not fit another
    machine = task.machine
    if tiles is not None:
        machine = replace(machine, decode_tiles=decode_tiles(tiles, found.task))
    return replace(found, task=found.task.model_copy(update={"machine": machine}))


def _without_effect(task: RenderTask) -> dict[str, str]:
    """Settings without effect when latents are decoded, each with the reason."""
    request = task.request
    without = without_effect(request.video, request.audio)
    if task.output.attention is None:
        without["attention"] = "this render was made without --attention"
    if "decoder" in without:
        without["video_vae"] = without["decoder"]
    if not request.keyframe_count:
        without["keyframe_stills"] = "this render generated no keyframes"
    return without


def _check_copy(task: RenderTask) -> None:
    """Raises: RequestError if there are no audio packets to copy, because the audio is generated or cut; MediaError."""
    request = task.request
    given = request.audio_source if request.audio == "keep" else None
    if given is None:
        raise nothing_to_copy()
    audio = check_input(task.inputs[given.role], AudioSource)
    is_cut = given.duration_s is not None and audio.duration_s > given.duration_s + 1 / request.fps
    check_copy(audio, is_whole=not (given.start_s or is_cut))


def decode_tiles(asked: str, task: RenderTask) -> TilePlan:
    """The requested tile plan: off, auto or FRAMESxHEIGHTxWIDTH.

    Raises: RequestError for anything else, for impossible tiles, and for a render that decodes no video.
    """
    if task.request.video != "generate":
        raise RequestError("--tiles cannot be used", "no video of this render is decoded")
    headers = ModelHeaders.of(task.files)
    vae = headers.shapes.video_vae
    if asked == "auto":
        device = choose_device(task.machine.device)
        return usual_tiles(headers, task.request.decoded_grid(vae.factors), device, task.machine.precision)
    if asked == "off":
        return TilePlan()
    sizes = re.fullmatch(r"(\d{1,5})x(\d{1,5})x(\d{1,5})", asked, re.ASCII)
    if sizes is None:
        why = "it is off, auto, or frames, height and width of a tile"
        raise RequestError(f"--tiles {shown(asked)} cannot be used", why, "--tiles 40x384x384")
    return plan_of_sizes(vae, [int(size) for size in sizes.groups()])


def decode_command(job: Job) -> str:
    """The command that writes a finished render again, under another name."""
    return f"ltx2 decode {in_shell(job.folder)} -o other{job.task.target.suffix}"


def unwritten(job: Job, path: Path) -> RequestError:
    """The error for a file beside a finished clip whose process was killed before it wrote that file."""
    why = f"the render ended when {job.task.target.name} was finished"
    command = f"ltx2 decode {in_shell(job.folder)} --overwrite"
    if (overlay := job.task.output.attention) is not None:
        command += f" --attention {in_shell(overlay)}"
    return RequestError(f"{path} was not written", why, f"{command} writes all of it again")


def _redirected(job: Job, given: Mapping[str, Any]) -> Job:
    """The same render with the target of `output`. Raises: RequestError for a target of another kind."""
    task, target = job.task, job.task.target
    if "output" in given:
        suffix = target.suffix if task.request.video == "keep" else None
        settings = Settings(output=given["output"], overwrite=True)  # whether the file exists is checked later
        target = target_of(settings, task.request, suffix).absolute()
    if target.suffix.lower() not in suffixes_of(task.request):
        what = f"{job.folder} cannot be used"
        raise RequestError(what, f"its output {target} is not the name of a result", "-o FILE says where")
    is_redirected = job.is_redirected or "output" in given
    return replace(job, task=task.model_copy(update={"target": target}), is_redirected=is_redirected)
