"""Missing settings in configs: each setting in the config of LTX-2 is either required, or its default is LTX-2's
value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import pytest

from ltx2_core.config.audio import AudioVAEConfig, VocoderConfig
from ltx2_core.config.released import released_configs
from ltx2_core.config.text import ConnectorConfig, ProjectionConfig
from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.config.upsampler import UpsamplerConfig
from ltx2_core.config.video_vae import VideoVAEConfig
from ltx2_core.errors import CheckpointError
from ltx2_core.pipeline.parts import CONNECTORS

Path = tuple[str, ...]

RELEASED = released_configs()
READERS: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "transformer": TransformerConfig.from_metadata,
    "video VAE": VideoVAEConfig.from_metadata,
    "audio VAE": AudioVAEConfig.from_metadata,
    "vocoder": VocoderConfig.from_metadata,
    "text projection": ProjectionConfig.from_metadata,
    "connectors": lambda config: [ConnectorConfig.from_metadata(config, name.partition("_")[0]) for name in CONNECTORS],
    "upsampler": UpsamplerConfig.from_metadata,
}
CONFIGS = {"upsampler": "upsampler-spatial-x2"}  # the release of each config; the others are of "2.0"
OTHERWISE: dict[str, set[Path]] = {  # settings whose default is the value of earlier models
    "transformer": {("transformer", "av_ca_timestep_scale_multiplier"), ("transformer", "frequencies_precision")},
    "video VAE": {("vae", "timestep_conditioning")},
    "connectors": {
        ("transformer", "frequencies_precision"),
        ("transformer", "connector_positional_embedding_max_pos"),
    },
    "upsampler": {("mid_channels",)},
}


def paths(config: Mapping[str, Any], above: Path = ()) -> Iterator[Path]:
    for key, value in config.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from paths(value, (*above, key))


def without(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    left = deepcopy(config)
    section: Any = left
    for key in path[:-1]:
        section = section[key]
    del section[path[-1]]
    return left


@pytest.mark.parametrize("component", READERS)
def test_a_setting_that_is_left_out_is_needed_or_that_of_ltx_2(component: str) -> None:
    read, config = READERS[component], RELEASED[CONFIGS.get(component, "2.0")]
    whole, others = read(config), set()
    for path in paths(config):
        try:
            found = read(without(path, config))
        except CheckpointError as error:
            if not re.search("lacks|has no .* section|only .* is implemented", str(error)):
                raise
            continue
        if found != whole:
            others.add(path)
    assert others == OTHERWISE.get(component, set())
