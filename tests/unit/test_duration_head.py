"""The duration head: its tensors, its attention, and how seconds become frames."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ltx2_core.checkpoint import BUILDERS, load_component
from ltx2_core.config.duration import DurationConfig
from ltx2_core.errors import CheckpointError
from ltx2_core.grids import frames_lasting
from ltx2_core.hub.published import tensor_list
from ltx2_core.keymap import official_name
from ltx2_core.models.duration import StackedAttention
from tests.unit.test_gemma4 import FILE

HEAD = FILE.with_name("duration_head.safetensors")


def test_the_published_head_has_the_tensors_that_are_loaded() -> None:
    listed = tensor_list("text-2.5")["duration_head"]["tensors"]
    with torch.device("meta"):
        head = BUILDERS["duration_head"]({})
    assert {official_name("duration_head", name): list(t.shape) for name, t in head.state_dict().items()} == listed


def test_the_published_head_is_described_without_a_config() -> None:
    made = DurationConfig.from_metadata({})
    assert (made.video_width, made.audio_width, made.width, made.mlp_width) == (4096, 2048, 256, 256)
    assert (made.queries, made.heads) == (1, 4)


def test_its_sizes_are_those_of_its_tensors_and_not_of_its_config() -> None:
    said = {"duration_head": {"pooler_hidden_dim": 999, "mlp_hidden": 7}, "transformer": {"cross_attention_dim": 5}}
    config = load_component("duration_head", HEAD, config=said).config
    assert config == DurationConfig(video_width=64, audio_width=32, width=16, mlp_width=24, queries=1, heads=4)


def test_heads_that_the_width_cannot_be_divided_into_are_refused() -> None:
    with pytest.raises(CheckpointError) as error:
        load_component("duration_head", HEAD, config={"duration_head": {"num_pooler_heads": 3}})
    assert error.value.why == "its 16 channels are not 3 heads"


def test_its_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    ours = StackedAttention(16, 4)
    ours.load_state_dict(theirs.state_dict())
    queries, tokens = torch.randn(2, 3, 16), torch.randn(2, 7, 16)
    torch.testing.assert_close(ours(queries, tokens), theirs(queries, tokens, tokens)[0])


def test_it_computes_in_the_dtype_of_the_run() -> None:
    head = load_component("duration_head", HEAD, dtype=torch.bfloat16, config={})
    seconds = head(torch.randn(1, 8, 64).bfloat16(), torch.randn(1, 8, 32).bfloat16())
    assert seconds.shape == (1,)
    assert seconds.dtype == torch.bfloat16
    assert seconds.item() > 0


@pytest.mark.parametrize("factor", [8, 16])
@pytest.mark.parametrize("fps", [1.0, 23.976, 24.0, 60.0])
@pytest.mark.parametrize("seconds", [0.0, 0.99, 3.21, 7.5, 19.99, 500.0])
def test_frames_lie_on_the_grid_and_within_the_bounds(seconds: float, fps: float, factor: int) -> None:
    frames = frames_lasting(seconds, fps, 1.0, 20.0, factor)
    assert frames % factor == 1
    assert round(fps) <= frames <= round(20 * fps)
