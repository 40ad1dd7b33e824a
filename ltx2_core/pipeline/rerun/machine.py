"""The machine of a recipe, as far as this one supports it: choices that affect the bits are used again."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from ...config.video_vae import VideoVAEConfig
from ...errors import RequestError
from ...machine import CHUNK_TOKENS, LEAN_CHUNK_TOKENS, Machine
from ...tiles import ENCODE_LEAST_OVERLAP, TilePlan
from ..resolve.machine import backends_on, choose_device, devices

THREADS_PER_CPU = 4  # more threads would only wait for each other


def same_machine(stored: Machine, own: Machine, layers: int, vae: VideoVAEConfig) -> Machine:
    """The recorded choices, replaced by this machine's own where it does not support them.

    Args: own: its choices for the same request. layers: of the transformer.
    """
    if stored.device.partition(":")[0] != own.device.partition(":")[0]:
        return own
    is_possible = {
        "device": False,  # several GPUs are of the same model, and the requested one is used
        "resident_blocks": 0 <= stored.resident_blocks <= layers,
        "chunk_tokens": stored.chunk_tokens in (CHUNK_TOKENS, LEAN_CHUNK_TOKENS),
        "kept_bytes": 0 <= stored.kept_bytes <= own.kept_bytes,
        "decode_tiles": _can_cut(stored.decode_tiles, vae),
        "encode_tiles": _can_cut(stored.encode_tiles, vae, ENCODE_LEAST_OVERLAP),
        "products": {*stored.products} <= {*own.products},
        "attention": stored.attention in ("sdpa", own.attention),
        "neighbours": stored.neighbours in ("boxes", own.neighbours),
        "ranks": False,  # determined from the result of `ranks_here`
        "gpus": False,
        "compiles": stored.compiles is own.compiles,
        "threads": 1 <= stored.threads <= THREADS_PER_CPU * (os.cpu_count() or 1),
    }
    own_choices: dict[str, Any] = {name: getattr(own, name) for name, is_so in is_possible.items() if not is_so}
    return replace(stored, **own_choices)


def ranks_here(stored: Machine) -> dict[str, int | str]:
    """The settings for as many ranks as before; none if this machine has too few GPUs, so that one process
    renders it.
    """
    if stored.ranks == 1:
        return {}
    if stored.device != "cpu":
        here = [device for device in devices() if device.kind == stored.device.partition(":")[0]]
        return {"ranks": stored.ranks, "device": "cuda"} if len(here) >= stored.ranks else {}
    return {"ranks": stored.ranks}


def same_backend(stored: Machine) -> str:
    """The attention kernel of a recipe, or the default one if this machine does not have it."""
    try:
        device = choose_device(stored.device)
    except RequestError:
        return "auto"
    return stored.attention if stored.attention in backends_on(device, stored.precision) else "auto"


def _can_cut(plan: TilePlan, vae: VideoVAEConfig, least_overlap: int = 0) -> bool:
    try:
        plan.check(vae.factors, least_overlap=least_overlap)
    except RequestError:
        return False
    return True
