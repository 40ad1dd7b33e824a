"""Facts about the folder of a text encoder.

Source: docs/reference/text.md, "Files of the text encoder".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...config.section import Section
from ...errors import CheckpointError, LTX2Error
from ...folders import snapshot_of
from ...headers import read_json, together
from ...text.files import find_encoder
from .words import Facts, stored_facts

CONFIG = "config.json"


def facts(path: Path) -> Facts:
    """Facts about the folder of a text encoder, also of one that cannot be used."""
    config = read_json(snapshot_of(path) / CONFIG)
    yield "kind", "the folder of a text encoder"
    yield "model type", str(config.get("model_type"))
    yield from _language_model(config)
    try:
        found = find_encoder(path)
    except LTX2Error as error:
        yield "problem", error.sentence
        return
    yield "tokenizer", found.tokenizer.name
    yield "weights", ", ".join(shard.path.name for shard in found.weights)
    yield from stored_facts(together(found.weights))


def _language_model(config: Mapping[str, Any]) -> Facts:
    """The size of the language model, as far as its config says."""
    try:
        text = Section({"text_config": config, **config}, "text_config")
        layers, width = text.whole("num_hidden_layers"), text.whole("hidden_size")
    except CheckpointError:
        return
    yield "language model", f"{layers} layers, {width} wide"
