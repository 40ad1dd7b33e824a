"""Rewrite the prompt with a language model before anything else.

Source: docs/reference/text.md, "Rewriting prompts".
"""

from __future__ import annotations

from torch import Tensor

from ...media.accept import check_input
from ...media.image import image_to_look_at
from ...media.inputs import ImageSource
from ...text.answers import as_prompt, problem_with
from ...text.enhancers import enhancer_of_encoder, find_enhancer
from ...text.files import find_encoder
from ..events import PromptRewritten, Watch
from ..request import ENHANCER, RenderTask
from .models import Models, computing


def rewrite_prompt(task: RenderTask, models: Models, watch: Watch) -> PromptRewritten:
    """The prompt of a task rewritten by a language model, with the task's seed; the original if the answer is
    unusable.
    """
    path, request = task.inputs.get(ENHANCER), task.request
    if path is None:
        enhancer = enhancer_of_encoder(find_encoder(task.files.require_file("text_encoder")))
    else:
        enhancer = find_enhancer(path)
    image = _first_image(task) if enhancer.sees_images else None
    with (
        computing(task.machine.threads),
        watch.phase("enhance", "rewriting the prompt", enhancer.enhancer.most_tokens) as on_token,
        models.writer(enhancer, is_encoder=path is None, with_image=image is not None) as writer,
    ):
        answer = writer.write(request.prompt, request.seed, image, on_token)
    problem = problem_with(answer.text, request.prompt, has_ended=answer.has_ended)
    prompt = request.prompt if problem else as_prompt(answer.text)
    return PromptRewritten(prompt=prompt, given=request.prompt, seed=request.seed, problem=problem)


def _first_image(task: RenderTask) -> Tensor | None:
    """The image (3 H W) uint8 that the video starts with, if there is one."""
    image = task.request.first_image
    return None if image is None else image_to_look_at(check_input(task.inputs[image.role], ImageSource))
