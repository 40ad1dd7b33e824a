"""The number of ranks for a clip and their GPUs, and refusals because of them.

Source: docs/ranks.md.
"""

from __future__ import annotations

import sys

from ...config.transformer import TransformerConfig
from ...errors import RequestError
from ...machine import Machine, RankLayout
from ...sampling.guidance import plan_passes
from ..request import Request
from ..values import counted
from .machine import Device, choose_device
from .settings import COMMAND_LINE, Merged, Settings, required

MOST_NAMED = 16  # messages list possible numbers of ranks up to this one


def first_device(merged: Merged, planned: Device | None) -> Device:
    """The device for `--device` and `--gpus`: that of the first rank.

    Args: planned: that of `--vram`, which takes precedence. Raises: RequestError if it does not exist, and if the
    options contradict each other or `--ranks`.
    """
    settings = merged.settings
    ranks, gpus, asked = required(settings.ranks), settings.gpus, required(settings.device)
    if planned is not None and merged.sources["device"] == COMMAND_LINE and asked.startswith(("cpu", "mps")):
        raise RequestError(f"--vram cannot be used with --device {asked}", "it plans for a card", "leave one out")
    if gpus is None:
        if ranks > 1 and ":" in asked:
            why = "each rank has a card of its own"
            raise RequestError(f"--device {asked} cannot be used with --ranks", why, "--gpus names the cards")
        return planned or choose_device(asked)
    what, first = f"--gpus {','.join(map(str, gpus))} cannot be used", f"cuda:{next(iter(gpus))}"
    if len(gpus) != ranks:
        more = f"--ranks {len(gpus)} renders the clip on all of them"
        hint = more if len(gpus) > 1 else f"--device {first}"
        raise RequestError(f"{what} with {counted(ranks, 'rank')}", "each rank has one card", hint)
    if asked not in ("auto", "cuda"):
        raise RequestError(f"{what} with --device {asked}", "it names cards", "leave one out")
    try:
        return planned or choose_device(first)
    except RequestError as error:
        raise RequestError(what, error.why, "ltx2 doctor lists the cards") from error


def cards_of(settings: Settings, device: Device) -> tuple[int, ...]:
    """The numbers of the ranks' GPUs; none for one process, and on the CPU.

    Args: device: that of the first rank. Raises: RequestError for GPUs that do not exist or are not of the same model.
    """
    ranks = required(settings.ranks)
    if ranks == 1 or device.kind == "cpu":
        return ()
    gpus = tuple(range(ranks)) if settings.gpus is None else settings.gpus
    if device.card is None or device.card.free_bytes is None:  # a hypothetical GPU of a plan
        return gpus
    for number in gpus:
        try:
            card = choose_device(f"cuda:{number}").card
        except RequestError as error:
            hint = "ltx2 doctor lists the cards"
            raise RequestError(f"--ranks {ranks} cannot be used here", error.why, hint) from error
        if card is not None and (card.name, card.gb) != (device.card.name, device.card.gb):
            why = f"{device.name} is {device.card.name}, and cuda:{number} is {card.name}"
            raise RequestError("ranks need cards that are alike", why, "--gpus names other cards")
    return gpus


def check_ranks(machine: Machine, settings: Settings, request: Request, config: TransformerConfig) -> None:
    """Raises: RequestError for a number of ranks that cannot share a request."""
    ranks = machine.ranks
    if ranks == 1:
        return
    what = f"--ranks {ranks} cannot be used"
    if machine.device == "mps":
        raise RequestError(what, "a Mac has one GPU", "leave it out")
    if sys.platform != "linux":
        raise RequestError(what, "several ranks are supported on Linux only", "leave it out")
    if settings.compile:
        raise RequestError(
            f"{what} with --compile", "blocks that communicate with other ranks are not compiled", "leave one out"
        )
    problem = _problem(ranks, request, config)
    if problem:
        counts = [str(count) for count in range(2, MOST_NAMED + 1) if not _problem(count, request, config)]
        hint = " or ".join(f"--ranks {count}" for count in counts) or "leave it out"
        raise RequestError(what, problem, hint)


def _problem(ranks: int, request: Request, config: TransformerConfig) -> str:
    """Why so many ranks cannot share a request; "" if they can."""
    for number, stage in enumerate(request.recipe.stages, 1):
        passes = len(plan_passes(request.guidance_in(stage), 0))
        width = RankLayout.of(ranks, passes).width
        if width == 1:
            continue
        has = "1 pass" if passes == 1 else f"{passes} passes"
        if request.video == "off":
            return f"stage {number} has {has}, and no video tokens to share out"
        heads = {config.video.heads} if config.video is not None else set()
        if config.streams.has_both:
            heads.add(config.exchange_heads)
        if any(count % width for count in heads):
            counts = " and ".join(map(str, sorted(heads)))
            return f"stage {number} has {has}, so {width} ranks would share {counts} heads, which do not divide evenly"
    return ""
