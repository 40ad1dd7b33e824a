"""Drafts: only the first stage of a render, in few steps, with the initial noise of the full render.

Source: docs/batch.md, "Drafts and picks".
"""

from __future__ import annotations

from ...errors import RequestError
from ..request import Request
from .settings import Merged, required


def drafted(merged: Merged, request: Request) -> Request:
    """The draft of a request, if one is requested.

    Raises: RequestError if a draft would be the full render.
    """
    if not merged.settings.draft:
        return request
    recipe = request.recipe.drafted(required(merged.settings.draft_steps))
    draft = request.model_copy(update={"recipe": recipe, "full_recipe": request.recipe})
    if draft.steps_of_stages == request.steps_of_stages:
        (steps,) = request.steps_of_stages
        what = "--draft cannot be used here"
        raise RequestError(what, f"the full render is a single stage of {steps} steps too", "leave it out")
    return draft


def draft_notes(request: Request) -> list[str]:
    """A line for the user about what a draft leaves out."""
    if request.full_recipe is None:
        return []
    full = request.model_copy(update={"recipe": request.full_recipe})
    steps, full_steps = (" + ".join(map(str, one.steps_of_stages)) for one in (request, full))
    sizes = [f"{width}x{height}" for width, height in (request.file_size, full.file_size)]
    size = f", {sizes[0]} of {sizes[1]}" if sizes[0] != sizes[1] else ""
    return [f"draft: {steps} of {full_steps} steps{size}; the same seed without --draft is the full render"]
