"""Configs of checkpoints are read by type: for any value of a wrong type, the error names its key."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ltx2_core.config.audio import AudioVAEConfig, VocoderConfig
from ltx2_core.config.released import released_configs
from ltx2_core.config.section import Section
from ltx2_core.config.text import ConnectorConfig, ProjectionConfig
from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.config.upsampler import UpsamplerConfig
from ltx2_core.config.video_vae import VideoVAEConfig
from ltx2_core.errors import CheckpointError

WRONG = [
    None,
    "x",
    "",
    [],
    {},
    -1,
    0,
    1.5,
    10**30,
    10**400,
    float("inf"),
    float("nan"),
    True,
    [[1]],
    {"a": [1]},
    [None],
    [10**400],
]
READERS: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "transformer": TransformerConfig.from_metadata,
    "video connector": lambda config: ConnectorConfig.from_metadata(config, "video"),
    "text projection": ProjectionConfig.from_metadata,
    "video VAE": VideoVAEConfig.from_metadata,
    "audio VAE": AudioVAEConfig.from_metadata,
    "vocoder": VocoderConfig.from_metadata,
}


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in a config."""
    if path:
        yield path
    inner = {dict: lambda: value.items(), list: lambda: enumerate(value[:3])}.get(type(value), tuple)()
    for key, part in inner:
        yield from places(part, (*path, key))


@contextmanager
def changed(config: dict[str, Any], path: tuple, value: Any) -> Iterator[None]:
    """Put another value at a place of a config, for the length of a `with` block."""
    holder: Any = config
    for key in path[:-1]:
        holder = holder[key]
    own = holder[path[-1]]
    holder[path[-1]] = value
    yield
    holder[path[-1]] = own


def _refusal(reader: Callable[[Mapping[str, Any]], object], config: dict[str, Any], otherwise: str) -> str:
    """The error of a reader for a config, or something else if it accepts the config."""
    try:
        reader(config)
    except CheckpointError as error:
        return str(error)
    return otherwise


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_wrong_value_anywhere_is_read_or_refused_by_name(reader: Callable[[Mapping[str, Any]], object]):
    config = copy.deepcopy(released_configs()["2.0"])
    for path in list(places(config)):
        for value in WRONG:
            with changed(config, path, value):
                assert path[0] in _refusal(reader, config, path[0])


def test_a_wrong_value_of_an_upsampler_is_read_or_refused():
    config = copy.deepcopy(released_configs()["upsampler-temporal-x2"])
    for path in list(places(config)):
        for value in WRONG:
            with changed(config, path, value):
                assert "checkpoint" in _refusal(UpsamplerConfig.from_metadata, config, "checkpoint")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_layers", "48"),
        ("num_layers", None),
        ("num_layers", 10**30),
        ("num_layers", True),
        ("norm_eps", float("nan")),
        ("norm_eps", float("inf")),
        ("positional_embedding_max_pos", {"a": 1}),
        ("positional_embedding_max_pos", [20, "2048", 2048]),
        ("apply_gated_attention", "no"),
        ("caption_channels", [3840]),
        ("frequencies_precision", 64),
    ],
)
def test_the_error_names_the_key(key: str, value: Any):
    config = copy.deepcopy(released_configs()["2.0"])
    config["transformer"][key] = value
    with pytest.raises(CheckpointError) as caught:
        TransformerConfig.from_metadata(config)
    assert f"transformer.{key}" in caught.value.what
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("key", ["upsample_kernel_sizes", "resblock_dilation_sizes"])
def test_lists_of_the_vocoder_that_belong_together_are_as_long(key: str):
    config = copy.deepcopy(released_configs()["2.0"])
    config["vocoder"][key] = config["vocoder"][key][:-1]
    with pytest.raises(CheckpointError, match=f"vocoder.{key}"):
        VocoderConfig.from_metadata(config)


def test_a_value_of_many_levels_is_told_in_a_few_words():
    deep = json.loads("[" * 900 + "]" * 900)
    with pytest.raises(CheckpointError) as caught:
        Section({"a": deep}).whole("a")
    assert len(caught.value.what) < 200


def test_shapes_that_a_file_claims_are_not_believed(tmp_path: Path):
    config = {**released_configs()["2.0"], "shapes": {"x.weight": [7]}}
    assert ProjectionConfig.from_metadata(config).features == 49 * 3840
