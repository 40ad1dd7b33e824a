"""Facts about saved latents: what they decode to, and the stage and render that they belong to.

Source: docs/cli.md, "Latents first".
"""

from __future__ import annotations

import re
from contextlib import suppress

from ...errors import LTX2Error
from ...grids import AUDIO_LATENTS_PER_SECOND, Factors
from ...header_text import TensorInfo
from ...headers import Header
from ..job import ATTENTION, KEYFRAMES, Job
from ..values import show_fps
from ..windows import runs_of
from .words import Facts

STREAMS = ("video", "audio")
NAME = re.compile(r"(latents|stopped)-(\d+)\.safetensors")
RELEASED = Factors(8, 32, 32)  # factors of the video VAE in every released model


def is_latents(header: Header) -> bool:
    """Whether a file was saved by a stage of a render: streams, and the state of the generator after them."""
    names = header.tensors.keys()
    return (
        "generator" in names
        and "step" in header.metadata
        and {"generator"} < names <= {*STREAMS, KEYFRAMES, ATTENTION, "generator"}
    )


def facts(header: Header) -> Facts:
    """Facts about saved latents. The render is known if the file is in its job folder."""
    job = _job_of(header)
    named = NAME.fullmatch(header.path.name)
    is_whole = all(len(header.tensors[name].shape) > 3 for name in STREAMS if name in header.tensors)
    yield "kind", "saved latents" if is_whole else "latents of a stage that was stopped, as tokens"
    if named and job:
        yield "stage", runs_of(job.request)[int(named[2]) - 1].name.removeprefix("stage ")
    elif named:
        yield "stage", named[2]
    if not is_whole:
        yield "step", header.metadata["step"]
    for name in STREAMS:
        if info := header.tensors.get(name):
            yield name, f"{info.dtype} {'x'.join(map(str, info.shape))}"
    if keyframes := header.tensors.get(KEYFRAMES):
        yield "generated keyframes", f"{keyframes.shape[2]}, each as a latent frame of its own"
    if ATTENTION in header.tensors:
        yield "attention", "map of the audio's attention to the video"
    if is_whole:
        yield "decodes to", ", ".join(_decoded(header, job))
    if job:
        yield "of the render", f"{job.request.mode}, seed {job.request.seed}, {job.task.target.name}"
        yield "prompt", job.request.prompt or "none"
    yield "bytes", f"{header.nbytes:,}"


def _decoded(header: Header, job: Job | None) -> list[str]:
    """What each stream decodes to."""
    found = []
    if video := header.tensors.get("video"):
        found.append(_frames(video) + (f" at {show_fps(job.request.fps)} fps" if job else ""))
    if audio := header.tensors.get("audio"):
        found.append(f"{audio.shape[2] / AUDIO_LATENTS_PER_SECOND:g} s of audio")
    return found


def _frames(video: TensorInfo) -> str:
    """Frames of a latent (1 c f h w)."""
    frames, rows, columns = video.shape[-3:]
    count = (frames - 1) * RELEASED.time + 1
    return f"{count} frames of {columns * RELEASED.width}x{rows * RELEASED.height}"


def _job_of(header: Header) -> Job | None:
    """The render whose folder contains the file, if there is one."""
    with suppress(LTX2Error):
        job = Job.open(header.path.parent)
        return job if header.path.name in job.saved else None
    return None
