"""Decode a finished render with another decoder: replace the file of the render's own video VAE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...config.video_vae import DecoderName
from ...errors import CheckpointError, RequestError, StorageError
from ...hub.find import video_vaes_in
from ...identity import identity
from ...paths import input_path, require_file
from ..job import Job
from ..parts import ModelHeaders
from .refusals import check_decoder

ROLE = "video_vae"


def with_decoder(job: Job, given: Mapping[str, Any]) -> Job:
    """The same render, decoded with the file of `video_vae`, or with one that has the decoder of `decoder`.

    Args: given: the given settings. Without these two nothing changes, and `auto` keeps the decoder.
    Raises: RequestError if no file beside the render's own has the decoder, or several have; StorageError;
    CheckpointError for a file that is not a video VAE, or has other latents.
    """
    asked = given.get("decoder", "auto")
    headers = ModelHeaders.of(job.task.files)
    before = headers.shapes.video_vae
    if ROLE in given:
        path = input_path(given[ROLE], "--video-vae", StorageError)
        require_file(path, f"--video-vae {given[ROLE]}", "check the path, or leave it out")
    elif asked in ("auto", before.decoder_name):
        return job
    else:
        path = _beside(headers.header("video_decoder").path, asked, headers)
    path = path.absolute()
    files = replace(job.task.files, paths={**job.task.files.paths, ROLE: path})
    others = ModelHeaders.of(files)
    vae = others.shapes.video_vae
    if vae.factors != before.factors:
        why = f"its latent cell is {tuple(vae.factors)} frames, rows and columns, and theirs is {tuple(before.factors)}"
        raise CheckpointError(f"--video-vae {path.name} does not go with these latents", why)
    check_decoder(asked, others)
    request = job.request.model_copy(update={"decoder": vae.decoder_name})
    task = job.task.model_copy(update={"files": files, "request": request})
    return replace(job, task=task, exchanged={ROLE: identity(path)})


def _beside(own: Path, asked: DecoderName, headers: ModelHeaders) -> Path:
    """The one file in the folder of the render's own video VAE that has a decoder. Raises: RequestError."""
    found = [path for path in video_vaes_in(own.parent, asked) if path != own]
    if not found:
        check_decoder(asked, headers)
    if len(found) > 1:
        why = f"{own.parent} holds more than one: {', '.join(path.name for path in found)}"
        raise RequestError(f"--decoder {asked} cannot be used", why, "--video-vae FILE chooses one of them")
    return found[0]
