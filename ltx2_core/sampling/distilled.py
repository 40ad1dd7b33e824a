"""The noise levels that the distilled models were trained on, by name; used exactly as written. Needs no torch.

Source: docs/reference/sampling.md, "Distilled lists".
"""

from __future__ import annotations

_STAGE_1 = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)

DISTILLED_SIGMAS: dict[str, tuple[float, ...]] = {
    "distilled-8": _STAGE_1,
    "distilled-3": _STAGE_1[5:],  # second stage, from the upsampled first one
    "temporal-4": _STAGE_1[4:],  # rounds that double the frame rate
    "tiled-2": (0.625, 0.4, 0.0),  # second stage in spatial tiles
    "hdr-2": (0.909375, 0.725, 0.0),
}
