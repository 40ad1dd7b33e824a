"""The model that rewrites the prompt: the model's own text encoder, or a named language model.

Source: docs/cli.md, "Rewriting the prompt".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...components import components_in
from ...errors import CheckpointError, RequestError, StorageError
from ...paths import input_path
from ...text.enhancers import HINT, READS_ONLY, EnhancerFiles, enhancer_of_encoder, find_enhancer
from ...text.files import find_encoder
from ..request import ENHANCER
from .basis import Basis
from .inputs import ModeInputs
from .refusals import refuse
from .settings import COMMAND_LINE


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """The model that rewrites a prompt.

    Args: files: the named folder, by its role. apart: its files, if it is loaded separately from the text encoder.
    warnings: for the user.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    apart: EnhancerFiles | None = None
    warnings: tuple[str, ...] = ()


def settle_enhancement(basis: Basis, inputs: ModeInputs, prompt: str, *, is_planned: bool) -> Enhancement:
    """Find the model that rewrites the prompt; none if this is not requested.

    Raises: RequestError if the model's text encoder cannot do it, and if there is nothing to rewrite; StorageError and
    CheckpointError for a named folder that cannot be used.
    """
    settings = basis.settings
    if not settings.enhance:
        if basis.sources.get(ENHANCER) is COMMAND_LINE:  # a settings file may be meant for other renders
            refuse([ENHANCER], {ENHANCER: "nothing is rewritten without --enhance"})
        return Enhancement()
    what = "--enhance cannot be used"
    if settings.enhancer is not None:
        path = input_path(settings.enhancer, "--enhancer", StorageError)
        found, files = find_enhancer(path), {ENHANCER: path}
    else:
        found, files = _of_model(basis, what), {}
    begins_with_image = settings.video == "generate" and any(image.frame == 0 for image in inputs.images)
    is_shown = begins_with_image and found is not None and found.sees_images
    if not prompt.strip() and not is_shown and not is_planned:
        raise RequestError(what, "there is no prompt to rewrite", "give a prompt, or have none rewritten")
    apart = found if files or is_shown else None
    if begins_with_image and found is not None and not is_shown:
        missing = f"{found.enhancer.title} in {found.files.tokenizer.parent.name} has no vision part here"
        if found.enhancer.image_style is None:
            missing = f"{found.enhancer.title} rewrites from text only here"
        return Enhancement(
            files=files, apart=apart, warnings=(f"the image is not used for rewriting the prompt: {missing}",)
        )
    return Enhancement(files=files, apart=apart)


def _of_model(basis: Basis, what: str) -> EnhancerFiles | None:
    """The model's own text encoder; None if it is missing, and only planned with.

    Raises: RequestError if it cannot generate text.
    """
    assumed = basis.files.assumed.get("text_encoder")
    if assumed is not None:
        if "text_projection" in components_in(assumed):
            raise RequestError(what, f"the model's own is {READS_ONLY}", HINT)
        return None
    try:
        return enhancer_of_encoder(find_encoder(basis.files.require_file("text_encoder")))
    except CheckpointError as error:
        raise RequestError(what, error.why, error.hint) from error
