"""Files with the diffusion decoder that contain more than the released one: gates are fused into weights, the rest is
refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx2_core.checkpoint import load_component
from ltx2_core.errors import CheckpointError
from ltx2_core.models.diffusion_decoder import DiffusionDecoder
from tests.diffusion_vae import random_decoder, vae_metadata

DEEP, LAST = "decoder.det_stages.1.0", "decoder.diff_blocks.0"


def loaded(folder: Path, extra: dict[str, Tensor], dtype: torch.dtype | None = None) -> DiffusionDecoder:
    """A decoder from a file that also contains these tensors."""
    weights = random_decoder().state_dict()
    own = {name if name.startswith("per_channel") else f"decoder.{name}": t for name, t in weights.items()}
    save_file({**own, **extra}, folder / "vae.safetensors", {"config": json.dumps(vae_metadata())})
    decoder = load_component("video_decoder", folder / "vae.safetensors", dtype=dtype)
    assert isinstance(decoder, DiffusionDecoder)
    return decoder


def values(count: int) -> Tensor:
    return torch.linspace(0.5, 2, count)


def test_gates_scale_what_their_layers_add_and_are_gone(tmp_path: Path) -> None:
    gates = {f"{DEEP}.gate_msa": values(16), f"{DEEP}.gate_mlp": values(16)}
    gates |= {f"{LAST}.gate_{name}": values(8) for name in ("msa", "mlp", "ctx")}
    plain, gated = random_decoder(), loaded(tmp_path, gates)
    assert gated.state_dict().keys() == plain.state_dict().keys()
    scaled = {f"{block}.{layer}" for block in (DEEP, LAST) for layer in ("attn.proj", "mlp.w_down")}
    scaled = {name.removeprefix("decoder.") for name in (*scaled, f"{LAST}.context_proj")}
    for name, weight in gated.state_dict().items():
        before = plain.state_dict()[name]
        if name.rpartition(".")[0] in scaled:
            before = before * values(len(before)).unflatten(0, (-1, *[1] * (before.dim() - 1)))
        torch.testing.assert_close(weight, before, rtol=0, atol=0)


def test_gates_are_multiplied_in_float32_before_the_one_rounding(tmp_path: Path) -> None:
    gate = values(8)
    decoder = loaded(tmp_path, {f"{LAST}.gate_ctx": gate}, torch.bfloat16)
    before = random_decoder().get_parameter("diff_blocks.0.context_proj.weight").bfloat16()
    assert torch.equal(decoder.get_parameter("diff_blocks.0.context_proj.weight"), (before * gate[:, None]).bfloat16())


def test_tensors_of_a_coarse_prediction_are_left_out(tmp_path: Path) -> None:
    decoder = loaded(tmp_path, {"decoder.coarse_head.weight": values(3), "decoder.type_emb": values(4)})
    assert decoder.state_dict().keys() == random_decoder().state_dict().keys()


@pytest.mark.parametrize(
    ("name", "count", "told"),
    [
        (f"{DEEP}.gate_ctx", 16, "1 unexpected"),  # a block that reads no context
        (f"{LAST}.gate_other", 8, "1 unexpected"),
        ("decoder.gate_msa", 8, "1 unexpected"),
        (f"{LAST}.gate_msa", 7, r"expected \[8\]"),
    ],
)
def test_a_gate_of_nothing_is_refused_by_name(name: str, count: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=told) as caught:
        loaded(tmp_path, {name: values(count)})
    assert name in caught.value.why
