"""A transformer in a GGUF file gives the same render as the same numbers in a bfloat16 file; other parts are in the
folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx2_core.components import DIT
from ltx2_core.gguf_header import BLOCK_TYPES
from ltx2_core.headers import read_header
from ltx2_core.quantize.gguf import decode_blocks
from ltx2_core.weights import map_tensors
from scripts.gguf_quantise import PRECISIONS, gguf_tensors
from scripts.gguf_writer import gguf_bytes
from scripts.make_tiny_checkpoint import random_component, tiny_config
from tests.commands import ltx2, refused, rendered

pytestmark = pytest.mark.usefixtures("kept_models")

Render = Callable[..., bytes]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return tiny_config(is_wide=True)


@pytest.fixture(scope="module")
def weights(config: dict[str, Any]) -> dict[str, Tensor]:
    tensors = random_component("transformer", config, torch.Generator().manual_seed(1))
    return {name.removeprefix(DIT): tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module", params=PRECISIONS)
def gguf(
    request: pytest.FixtureRequest,
    weights: dict[str, Tensor],
    config: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "transformer.gguf"
    path.write_bytes(gguf_bytes(gguf_tensors(weights, request.param), {"config": json.dumps(config)}))
    return path


@pytest.fixture(scope="module")
def render(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """The bytes of a clip, without the recipe, which contains the names of the files."""

    def render(transformer: Path, *words: object) -> bytes:
        target = tmp_path_factory.mktemp("clip") / "a.mp4"
        common = ("--res", "128x128", "--frames", "9", "--steps", "2", "--seed", "7", "--no-metadata", "-o", target)
        return rendered("t2v", "a bell", "--model", tiny, "--transformer", transformer, *words, *common).read_bytes()

    return render


def decoded(gguf: Path, folder: Path, prefix: str = DIT) -> Path:
    """The same numbers in a safetensors file; those of blocks are rounded to bfloat16."""
    header = read_header(gguf)
    tensors = map_tensors(header, header.tensors)
    for name, info in header.tensors.items():
        if info.dtype in BLOCK_TYPES:
            tensors[name] = decode_blocks(tensors[name], info.dtype).bfloat16()
    path = folder / "decoded.safetensors"
    copies = {prefix + name: tensor.clone() for name, tensor in tensors.items()}
    save_file(copies, path, {"config": header.metadata["config"]})
    return path


def test_a_gguf_transformer_renders_what_its_decoded_numbers_render(gguf: Path, tmp_path: Path, render: Render) -> None:
    words = ("--preset", "smoke")
    assert render(gguf, *words) == render(decoded(gguf, tmp_path), *words)


def test_a_gguf_transformer_without_a_config_is_no_model_of_its_own(
    weights: dict[str, Tensor], tiny: Path, tmp_path: Path
) -> None:
    """The names of its tensors identify the release, but its widths differ from the release."""
    path = tmp_path / "t.gguf"
    path.write_bytes(gguf_bytes(gguf_tensors(weights, "gguf-q8_0")))
    result = ltx2(
        "t2v", "a bell", "--model", tiny, "--transformer", path, "--preset", "smoke", "-o", tmp_path / "a.mp4"
    )
    assert result.exit_code == 7
    assert "t.gguf does not hold the model that its config describes" in result.stderr


def test_a_scale_of_a_block_that_is_not_finite_ends_the_command_before_it_denoises(
    gguf: Path, tiny: Path, tmp_path: Path
) -> None:
    header, name = read_header(gguf), "transformer_blocks.1.attn1.to_q.weight"
    content = bytearray(gguf.read_bytes())
    start = header.tensors[name].start
    content[start : start + 2] = b"\x00\x7c"  # infinity in float16
    path = tmp_path / "wrong.gguf"
    path.write_bytes(content)
    words = ("--model", tiny, "--transformer", path, "--preset", "smoke", "-o", tmp_path / "a.mp4")
    told = refused(7, "t2v", "a bell", *words)
    assert f"{name}: the scales of its blocks hold NaN or infinite values" in told
