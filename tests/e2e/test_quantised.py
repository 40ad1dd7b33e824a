"""The tiny model with quantised weights through the real command line: two stages with LoRAs give the same as the
decoded weights, and differ from bf16 by no more than the error of the format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.checkpoint import load_component
from ltx2_core.components import components_in
from ltx2_core.headers import read_header
from ltx2_core.quantize.linear import QuantisedLinear
from ltx2_core.weights import map_tensors
from scripts import gguf_quantise
from scripts.quantise import PRECISIONS, stored, with_markers
from tests.commands import UNGUIDED, ltx2, refused, rendered
from tests.tolerances import LORA_BRANCHES

pytestmark = pytest.mark.usefixtures("kept_models")

CHECKPOINT, STYLE = "ltx-2-tiny-dev.safetensors", "ltx-2-tiny-lora-style.safetensors"
MAIN = "ltx-2-tiny-dev*"  # the file with the quantised weights
# Largest difference of the latents from those of the bf16 file, relative to their root mean square. The errors of the
# weights are 0.027, 0.007 and 0.099; guidance multiplies them by up to 2.
BOUNDS = {"fp8": 0.06, "int8": 0.02, "nvfp4": 0.2, "mixed": 0.12}
Latents = Mapping[str, Tensor]


def latents(model: Path, target: Path) -> Latents:
    """The latents of a clip of two stages, computed in float32. The style LoRA acts in both stages, the distilled LoRA
    only in the second.
    """
    few = target.with_suffix(".yaml")
    few.write_text("steps: 2\npreset: two-stage\nprecision: fp32\n")
    size = ("--res", "128x128", "--frames", 9, "--seed", 7, "--config", few, *UNGUIDED)
    words = ("--model", model, "--lora", f"{model / STYLE}:0.7", "--keep-latents", "-o", target)
    rendered("t2v", "a bell rings", *size, *words)
    stages = [load_file(Path(f"{target}.job") / f"latents-{stage}.safetensors") for stage in (1, 2)]
    return {f"{stream} {i}": stage[stream] for i, stage in enumerate(stages, 1) for stream in ("video", "audio")}


def error(ours: Latents, theirs: Latents) -> float:
    """The largest relative error of the latents."""
    return max(((ours[name] - x).norm() / x.norm()).item() for name, x in theirs.items())


def decoded(model: Path, out: Path) -> Path:
    """The same model with its quantised matrices decoded, in bfloat16."""
    (main,) = model.glob(MAIN)
    out.mkdir()
    for path in model.iterdir():
        if path != main:
            (out / path.name).symlink_to(path)
    header = read_header(main)
    tensors = map_tensors(header, header.tensors.keys() - header.stored.layers.keys() - header.stored.companions)
    layers = quantised_layers(main)
    tensors |= {layer.layer.tensors["weight"]: layer.weight for layer in layers}
    assert len(layers) == len(header.stored.layers) > 20
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(copies, out / CHECKPOINT, {"config": header.metadata["config"]})
    return out


def quantised_layers(path: Path) -> list[QuantisedLinear]:
    """The quantised layers of a file's denoiser and connectors."""
    holds = [name for name in components_in(read_header(path)) if name == "transformer" or "connector" in name]
    models = [load_component(name, path, dtype=torch.bfloat16) for name in holds]
    return [layer for model in models for layer in model.modules() if isinstance(layer, QuantisedLinear)]


@pytest.fixture(scope="module", params=[*PRECISIONS, *gguf_quantise.PRECISIONS])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(precision: str, tiny_in: Callable[[str], Path]) -> Path:
    """The tiny model in a precision."""
    return tiny_in(precision)


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Latents:
    """The result of the render."""
    return latents(model, tmp_path_factory.mktemp("quantised") / "a.mp4")


@pytest.fixture(scope="module")
def from_bf16(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Latents:
    """The result of the model in bf16."""
    return latents(tiny, tmp_path_factory.mktemp("bf16") / "a.mp4")


def test_loras_beside_quantised_weights_render_what_they_do_fused_into_the_decoded_ones(
    model: Path, made: Latents, tmp_path: Path
) -> None:
    assert error(made, latents(decoded(model, tmp_path / "model"), tmp_path / "a.mp4")) < LORA_BRANCHES


@pytest.mark.parametrize("precision", PRECISIONS, indirect=True)
def test_a_quantised_model_renders_within_the_error_of_its_format(
    precision: str, made: Latents, from_bf16: Latents
) -> None:
    assert 0 < error(made, from_bf16) < BOUNDS[precision]


def test_the_command_line_names_the_formats_of_a_file(model: Path) -> None:
    (main,) = model.glob(MAIN)
    result = ltx2("inspect", main)
    assert result.exit_code == 0
    assert ", ".join(read_header(main).stored.titles) in " ".join(result.stdout.split())


def test_a_scale_that_makes_no_sense_ends_the_command_with_its_name(tiny: Path, tmp_path: Path) -> None:
    tensors, name = load_file(tiny / CHECKPOINT), "model.diffusion_model.transformer_blocks.1.attn1.to_q"
    tensors |= with_markers({name: stored("int8", tensors[f"{name}.weight"])})
    tensors[f"{name}.weight_scale"][0] = float("nan")
    path = tmp_path / "wrong.safetensors"
    save_file(tensors, path, dict(read_header(tiny / CHECKPOINT).metadata))
    words = ("--text-encoder", tiny / "gemma", "--res", "128x128", "--frames", 9, "--preset", "distilled-one-stage")
    told = refused(7, "t2v", "a bell rings", "--model", path, *words, "-o", tmp_path / "a.mp4")
    assert "attn1.to_q.weight_scale: it holds NaN or infinite values" in told
    assert not (tmp_path / "a.mp4").exists()
