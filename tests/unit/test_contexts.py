"""The output of the connectors has the width that the transformer needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ltx2_core.errors import CheckpointError
from ltx2_core.hub.published import published_header
from ltx2_core.hub.registry import read_catalogue
from ltx2_core.pipeline.parts import ModelHeaders


def headers(model: str, **changes: int) -> ModelHeaders:
    """The headers of a published model with changes to the config of its transformer."""
    role = "checkpoint"
    header = published_header(read_catalogue().models[model], role, Path("model.safetensors"))
    assert header is not None
    config = header.config | {"transformer": header.config["transformer"] | changes}
    return ModelHeaders({role: replace(header, metadata=header.metadata | {"config": json.dumps(config)})})


@pytest.mark.parametrize("model", ["ltx-2", "ltx-2.3"])
def test_contexts_of_published_models_are_taken(model: str) -> None:
    parts = headers(model)
    parts.check_contexts()
    assert parts.shapes.transformer.video is not None


@pytest.mark.parametrize(
    ("model", "changes", "why"),
    [
        (
            "ltx-2",
            {"connector_attention_head_dim": 64},
            "video connector have 1920 values, and the transformer takes 3840",
        ),
        (
            "ltx-2.3",
            {"audio_connector_attention_head_dim": 32},
            "audio connector have 1024 values, and the transformer",
        ),
    ],
)
def test_contexts_of_another_width_are_refused(model: str, changes: dict[str, int], why: str) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be used to render") as caught:
        headers(model, **changes).check_contexts()
    assert why in caught.value.why
