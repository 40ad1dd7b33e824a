"""The seams of a chain: the latents that a window takes over, and joining the windows.

Source: docs/long-clips.md, "How it works".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...conditioning.conditions import Condition, GivenTokens
from ...latents import Latents, patchify_audio
from ..recipe import Stage
from ..request import Request


def first_new_latent(request: Request, stage: Stage, frames_per_latent: int) -> int:
    """The index of the first new latent frame in a stage of a window; 0 in the first window.

    Before it are one that is generated and discarded, and those that are taken over.
    """
    carried = int(request.place.carried * stage.rate) // frames_per_latent
    return carried + 1 if request.place.number else 0


def first_new_step(request: Request) -> int:
    """The index of the first new audio latent step in a window; 0 in the first window."""
    place = request.place
    before = place.audio_steps(place.carried + 1, request.fps)  # steps that the window before shares with this one
    return len(before) if place.number else 0


def carried_video(request: Request, stage: Stage, before: Latents, frames_per_latent: int) -> list[Condition]:
    """The last latent frames of the previous window, as a condition for a stage, if video is generated.

    Args: request: of the window. before: the latents of the same stage of the previous window.
    """
    if request.video != "generate" or before.video is None:
        return []
    count = first_new_latent(request, stage, frames_per_latent) - 1
    return [GivenTokens.frames(before.video[:, :, -count:], 1)]


def carried_audio(request: Request, before: Latents) -> list[Condition]:
    """The last audio steps of the previous window, as a condition, if audio is generated."""
    if request.audio != "generate" or before.audio is None:
        return []
    count = first_new_step(request) - 1
    return [GivenTokens(tokens=patchify_audio(before.audio[:, :, -count:]), start=1)]


def joined(latents: Sequence[Tensor | None], firsts: Sequence[int]) -> Tensor | None:
    """Join the latents of windows, (1 c f h w) or (1 c t m), to those of the whole clip; None for an absent stream.

    Args: firsts: the index of the first new latent frame or step of each window.
    """
    new = [latent[:, :, first:] for latent, first in zip(latents, firsts, strict=True) if latent is not None]
    if len(new) < 2:
        return next(iter(new), None)
    return torch.cat(new, dim=2)
