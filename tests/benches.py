"""Code that the tests of the benches share."""

from __future__ import annotations

import pytest

from ltx2_core.config.released import released_configs
from scripts.benchmarks import decoders


def narrow_the_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the benches time decoders of 2.0 with an eighth of their channels."""
    config = released_configs()["2.0"]
    vae = config["vae"] | {f"{half}_base_channels": 16 for half in ("encoder", "decoder")}
    narrow = config | {"vae": vae, "vocoder": config["vocoder"] | {"upsample_initial_channel": 128}}
    monkeypatch.setattr(decoders, "released_configs", lambda: {"2.0": narrow})
