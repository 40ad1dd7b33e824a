"""The forms of LoRAs that trainers write: names, dtypes, alphas in metadata, LoKr, LoHa and whole differences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ltx2_core.checkpoint import load_component
from ltx2_core.errors import CheckpointError
from ltx2_core.headers import FileKind, classify, read_header
from ltx2_core.hub.find import find_model
from ltx2_core.keymap import TRANSFORMER, from_official
from ltx2_core.lora import fuse, take_out
from ltx2_core.lora_file import match, read_lora
from ltx2_core.machine import Machine
from ltx2_core.pipeline.render.models import Models
from ltx2_core.tiles import TilePlan

CHECKPOINT, STYLE = "ltx-2-tiny-dev.safetensors", "ltx-2-tiny-lora-style.safetensors"
TO_Q, TO_OUT = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn1.to_out.0"
MACHINE = Machine(device="cpu", precision="fp32", kept_bytes=10**9, decode_tiles=TilePlan(), encode_tiles=TilePlan())
Tensors = dict[str, Tensor]


def numbers(*shape: int) -> Tensor:
    """Random numbers, always the same for the same shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pair(layer: str = TO_Q, a: str = ".lora_A.weight", b: str = ".lora_B.weight") -> Tensors:
    """A pair of rank 4 for one layer, with these endings."""
    return {f"{layer}{a}": numbers(4, 80), f"{layer}{b}": numbers(80, 4)}


def save(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = {}) -> Path:
    path = folder / "lora.safetensors"
    save_file(dict(tensors), path, dict(metadata))
    return path


@cache
def transformer(tiny: Path) -> nn.Module:
    """The denoiser of the tiny model; a test that changes it must undo the change."""
    return load_component("transformer", tiny / CHECKPOINT, dtype=torch.float32)


def difference(tiny: Path, lora: Path, layer: str = TO_Q, leaf: str = "weight", strength: float = 1.0) -> Tensor:
    """The change of a tensor of the tiny model by a LoRA."""
    model, checkpoint = transformer(tiny), read_header(tiny / CHECKPOINT)
    name = from_official(f"{layer}.{leaf}", TRANSFORMER)
    before = model.get_parameter(name)
    loras = [(match(read_lora(lora), checkpoint), strength)]
    try:
        fuse(model, loras)
        return model.get_parameter(name) - before
    finally:
        take_out(model, loras, checkpoint)


def product(tensors: Tensors) -> Tensor:
    down, up = tensors.values()
    return up @ down


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)


# --- names

FLAT = TO_OUT.replace(".", "_")
NAMES = {
    "PEFT with an adapter's name": (TO_Q, ".lora_A.my_style.weight", ".lora_B.my_style.weight"),
    "diffusers of old": (f"transformer.{TO_Q}", ".lora.down.weight", ".lora.up.weight"),
    "linear layers of diffusers": (TO_Q, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "without weight": (f"diffusion_model.{TO_Q}", ".lora_A", ".lora_B"),
    "model": (f"model.{TO_Q}", ".lora_A.weight", ".lora_B.weight"),
    "underscores": (f"lora_unet_{FLAT}", ".lora_down.weight", ".lora_up.weight"),
    "underscores with model": (f"lora_unet_model_{FLAT}", ".lora_down.weight", ".lora_up.weight"),
    "underscores with a prefix": (f"lora_unet_model_diffusion_model_{FLAT}", ".lora_down.weight", ".lora_up.weight"),
    "underscores of LyCORIS": (f"lycoris_{FLAT}", ".lora_down.weight", ".lora_up.weight"),
    "underscores of transformers": (f"lora_transformer_{FLAT}", ".lora_down.weight", ".lora_up.weight"),
    "output without its number": (f"diffusion_model.{TO_OUT.removesuffix('.0')}", ".lora_A.weight", ".lora_B.weight"),
    "flat output without its number": (f"lora_unet_{FLAT.removesuffix('_0')}", ".lora_down.weight", ".lora_up.weight"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_trainers_find_their_layer(name: str, tiny: Path, tmp_path: Path) -> None:
    layer, a, b = NAMES[name]
    official = TO_OUT if "to_out" in layer else TO_Q
    tensors = pair(layer, a, b)
    assert same(difference(tiny, save(tmp_path, tensors), official), product(tensors))


def test_two_adapters_in_one_file_are_not_mixed(tiny: Path, tmp_path: Path) -> None:
    path = save(tmp_path, pair(a=".lora_A.one.weight") | pair(b=".lora_B.two.weight"))
    with pytest.raises(CheckpointError, match="the same part is there under another name"):
        match(read_lora(path), read_header(tiny / CHECKPOINT))


# --- alpha


def of_diffusers(**values: Any) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"transformer.{name}": value for name, value in values.items()})}


METADATA: dict[str, tuple[dict[str, str], float]] = {
    "diffusers": (of_diffusers(r=4, lora_alpha=2), 0.5),
    "diffusers with the root of the rank": (of_diffusers(r=4, lora_alpha=2, use_rslora=True), 1.0),
    "diffusers with an alpha for this layer": (
        of_diffusers(r=4, lora_alpha=8, alpha_pattern={"attn2.to_q": 1, "attn1.to_q": 2}),
        0.5,
    ),
    "diffusers with a rank for this layer": (of_diffusers(r=16, lora_alpha=8, rank_pattern={f"^{TO_Q}$": 4}), 2.0),
    "diffusers with a text encoder beside it": (
        {"lora_adapter_metadata": '{"text_encoder.lora_alpha": 9, "transformer.lora_alpha": 2, "transformer.r": 4}'},
        0.5,
    ),
    "kohya": ({"ss_network_alpha": "2.0", "ss_network_dim": "4"}, 0.5),
    "kohya without rank": ({"ss_network_alpha": "8"}, 2.0),
    "kohya with alphas of each layer": ({"ss_network_alpha": "Dynamic", "ss_network_dim": "Dynamic"}, 1.0),
    "nothing": ({"format": "pt"}, 1.0),
}


@pytest.mark.parametrize("name", METADATA)
def test_alpha_of_the_metadata_counts(name: str, tiny: Path, tmp_path: Path) -> None:
    metadata, scale = METADATA[name]
    assert same(difference(tiny, save(tmp_path, pair(), metadata)), scale * product(pair()))


def test_alpha_of_a_tensor_goes_before_that_of_the_metadata(tiny: Path, tmp_path: Path) -> None:
    alphas = {f"{TO_Q}.alpha": torch.tensor(8)}  # an integer, as some trainers store it
    path = save(tmp_path, pair() | alphas, {"ss_network_alpha": "1", "ss_network_dim": "4"})
    assert same(difference(tiny, path), 2 * product(pair()))


def test_alpha_of_a_peft_config_beside_the_file_counts(tiny: Path, tmp_path: Path) -> None:
    path = save(tmp_path, pair())
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 12}')
    assert same(difference(tiny, path, strength=0.5), 1.5 * product(pair()))


def test_alpha_of_the_file_goes_before_the_peft_config_beside_it(tiny: Path, tmp_path: Path) -> None:
    path = save(tmp_path, pair(), {"ss_network_alpha": "2"})
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 12}')
    assert same(difference(tiny, path), 0.5 * product(pair()))


def test_layers_of_smaller_rank_are_scaled_as_the_others(tiny: Path, tmp_path: Path) -> None:
    narrow = {f"{TO_OUT}.lora_A.weight": numbers(2, 80), f"{TO_OUT}.lora_B.weight": numbers(80, 2)}
    path = save(tmp_path, pair() | narrow, {"ss_network_alpha": "4"})
    assert same(difference(tiny, path, TO_OUT), product(narrow))


def test_peft_config_of_another_file_is_not_used(tmp_path: Path) -> None:
    path = save(tmp_path, pair())
    (tmp_path / "adapter_config.json").write_text('{"r": 16, "lora_alpha": 32}')
    with pytest.raises(CheckpointError, match="does not go with the adapter_config") as caught:
        read_lora(path)
    assert "has rank 4" in caught.value.why


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"ss_network_alpha": "nan"}, "ss_network_alpha is nan"),
        ({"ss_network_alpha": "4", "ss_network_dim": "0"}, "ss_network_dim is 0"),
        (of_diffusers(r=True, lora_alpha=2), "r in lora_adapter_metadata is True"),
        (of_diffusers(r=4, lora_alpha=[2]), "alpha in lora_adapter_metadata is "),
        (of_diffusers(r=4, lora_alpha=2, alpha_pattern=[2]), "alpha_pattern in lora_adapter_metadata is not"),
        (of_diffusers(r=4, lora_alpha=2, alpha_pattern={"(a+)+$": 2}), r"the pattern \(a\+\)\+\$ is not the name"),
        ({"lora_adapter_metadata": "[]"}, "is not a JSON object"),
        ({"ss_network_alpha": "1_0"}, "ss_network_alpha is 1_0"),
        (of_diffusers(r=4, lora_alpha=2, use_rslora="true"), "use_rslora in lora_adapter_metadata is true, neither"),
        (of_diffusers(r=4, lora_alpha=2, use_rslora=1), "use_rslora in lora_adapter_metadata is 1, neither"),
        ({"reference_downscale_factor": "9" * 5000}, "reference_downscale_factor is 9{59}…, not a whole number"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(metadata: dict[str, str], why: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"damaged metadata\n.*{why}"):
        read_lora(save(tmp_path, pair(), metadata))


@pytest.mark.parametrize(
    "metadata",
    [
        {"ss_network_alpha": "1e300"},
        {"ss_network_alpha": "4", "ss_network_dim": "1e-320"},
        of_diffusers(r=4, lora_alpha=-1e6),
    ],
)
def test_metadata_with_an_alpha_that_no_training_gives_are_refused(metadata: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"an alpha that cannot be used\n.* more than 10,000 times its rank"):
        read_lora(save(tmp_path, pair(), metadata))


def test_dora_without_its_magnitudes_is_known_by_its_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a DoRA, which is not supported"):
        read_lora(save(tmp_path, pair(), of_diffusers(r=4, lora_alpha=2, use_dora=True)))


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_metadata_that_are_no_json_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has a damaged lora_adapter_metadata"):
        read_lora(save(tmp_path, pair(), {"lora_adapter_metadata": text}))


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_peft_config_that_cannot_be_read_is_refused(content: str, tmp_path: Path) -> None:
    path = save(tmp_path, pair())
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is damaged"):
        read_lora(path)


# --- dtypes and forms


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.float64])
def test_factors_of_any_float_are_computed_with_in_the_dtype_of_the_sums(
    dtype: torch.dtype, tiny: Path, tmp_path: Path
) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in pair().items()}
    rounded = {name: tensor.float() for name, tensor in stored.items()}
    assert same(difference(tiny, save(tmp_path, stored)), product(rounded))


def kronecker(one: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product by its definition, element by element."""
    blocks = torch.einsum("ab,cd->acbd", one, other)
    return blocks.reshape(one.shape[0] * other.shape[0], -1)


W1, W1_A, W1_B = numbers(8, 4), numbers(8, 2), numbers(2, 4)
W2, W2_A, W2_B = numbers(10, 20), numbers(10, 2), numbers(2, 20)
LOKR: dict[str, tuple[Tensors, Tensor]] = {
    "whole": ({"lokr_w1": W1, "lokr_w2": W2}, kronecker(W1, W2)),
    "whole, whose alpha means nothing": (
        {"lokr_w1": W1, "lokr_w2": W2, "alpha": torch.tensor(1e10)},
        kronecker(W1, W2),
    ),
    "second factored": (
        {"lokr_w1": W1, "lokr_w2_a": W2_A, "lokr_w2_b": W2_B, "alpha": torch.tensor(6.0)},
        3 * kronecker(W1, W2_A @ W2_B),
    ),
    "first factored": (
        {"lokr_w1_a": W1_A, "lokr_w1_b": W1_B, "lokr_w2": W2, "alpha": torch.tensor(1.0)},
        kronecker(W1_A @ W1_B, W2) / 2,
    ),
    "both factored": (
        {"lokr_w1_a": W1_A, "lokr_w1_b": W1_B, "lokr_w2_a": W2_A, "lokr_w2_b": W2_B},
        kronecker(W1_A @ W1_B, W2_A @ W2_B),
    ),
}


@pytest.mark.parametrize("form", LOKR)
@pytest.mark.parametrize("layer", [TO_Q, "lora_unet_" + TO_Q.replace(".", "_")])
def test_lokr_adds_a_kronecker_product(form: str, layer: str, tiny: Path, tmp_path: Path) -> None:
    parts, expected = LOKR[form]
    path = save(tmp_path, {f"{layer}.{part}": tensor for part, tensor in parts.items()})
    assert classify(read_header(path)) is FileKind.LORA
    assert same(difference(tiny, path, strength=0.5), expected / 2)


def test_peft_scales_a_lokr_of_whole_matrices_too(tiny: Path, tmp_path: Path) -> None:
    path = save(tmp_path, {f"base_model.model.{TO_Q}.lokr_w1": W1, f"base_model.model.{TO_Q}.lokr_w2": W2})
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "alpha": 16}')
    assert same(difference(tiny, path), 2 * kronecker(W1, W2))


def test_loha_adds_a_product_of_two_low_rank_matrices(tiny: Path, tmp_path: Path) -> None:
    a, b = numbers(80, 3), numbers(3, 80)
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": -a, "hada_w2_b": 2 * b, "alpha": torch.tensor(6.0)}
    path = save(tmp_path, {f"{TO_Q}.{part}": tensor for part, tensor in parts.items()})
    assert same(difference(tiny, path), -4 * (a @ b) ** 2)


@pytest.mark.parametrize(
    ("ending", "layer", "leaf", "shape"),
    [
        ("diff", TO_Q, "weight", (80, 80)),
        ("diff", "transformer_blocks.0.attn1.q_norm", "weight", (80,)),
        ("diff_b", TO_Q, "bias", (80,)),
    ],
)
def test_whole_differences_are_added_as_they_are(
    ending: str, layer: str, leaf: str, shape: tuple[int, ...], tiny: Path, tmp_path: Path
) -> None:
    path = save(tmp_path, {f"diffusion_model.{layer}.{ending}": numbers(*shape)}, {"ss_network_alpha": "7"})
    assert same(difference(tiny, path, layer, leaf, strength=0.5), numbers(*shape) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forms_one_after_another_are_summed_and_taken_out_exactly(
    dtype: torch.dtype, tiny: Path, tmp_path: Path
) -> None:
    parts: Tensors = {f"{TO_Q}.{part}": tensor for part, tensor in LOKR["both factored"][0].items()}
    parts |= {f"{TO_Q}.diff_b": numbers(80)}
    checkpoint = read_header(tiny / CHECKPOINT)
    loras = [
        (match(read_lora(path), checkpoint), strength)
        for path, strength in ((tiny / STYLE, 0.7), (save(tmp_path, parts), -0.5))
    ]
    model = load_component("transformer", tiny / CHECKPOINT, dtype=dtype)
    own = {name: tensor.clone() for name, tensor in model.named_parameters()}
    name = from_official(f"{TO_Q}.weight", TRANSFORMER)
    style = load_file(tiny / STYLE)
    down, up = (style[f"diffusion_model.{TO_Q}.lora_{part}.weight"].float() for part in "AB")
    expected = own[name].float() + 0.7 * (up @ down) - 0.5 * LOKR["both factored"][1]
    fuse(model, loras)
    torch.testing.assert_close(model.get_parameter(name).float(), expected, rtol=1e-2, atol=1e-4)
    take_out(model, loras, checkpoint)
    assert all(tensor.equal(own[name]) for name, tensor in model.named_parameters())


WRONG_FORMS: dict[str, tuple[Tensors, str]] = {
    "half of LoKr": ({"lokr_w1": W1}, "lokr_w2 is neither whole nor two factors"),
    "matrix that is whole and factored": (
        {"lokr_w1": W1, "lokr_w1_a": W1_A, "lokr_w2": W2},
        "lokr_w1 is neither whole nor two factors",
    ),
    "LoKr of a convolution": ({"lokr_w1": W1, "lokr_w2": numbers(10, 20, 1, 1)}, "are not two matrices"),
    "LoKr for another width": ({"lokr_w1": W1, "lokr_w2": W2_A}, r"made for \[80, 8\], the model has \[80, 80\]"),
    "half of LoHa": ({"hada_w1_a": W1_A, "hada_w1_b": W1_B}, "hada_w2_a is missing"),
    "LoHa of two sizes": (
        {"hada_w1_a": W1_A, "hada_w1_b": W1_B, "hada_w2_a": W2_A, "hada_w2_b": W2_B},
        r"\[8, 4\] and \[10, 20\] differ",
    ),
    "two forms for one layer": ({"lora_A.weight": W1_B, "lora_B.weight": W1_A, "lokr_w1": W1}, "beside another form"),
    "alpha alone": ({"alpha": torch.ones(()), "diff_b": numbers(80)}, "an alpha without a change"),
    "difference of another size": ({"diff": numbers(80, 4)}, r"made for \[80, 4\]"),
    "factors in whole numbers": ({"lokr_w1": W1.int(), "lokr_w2": W2}, "stored as I32"),
    "scaled fp8": (
        {"lora_A.weight": W1_B, "lora_B.weight": W1_A, "lora_A.weight_scale": torch.ones(())},
        "not a part of a low-rank pair",
    ),
}


@pytest.mark.parametrize("name", WRONG_FORMS)
def test_parts_that_do_not_go_together_are_named(name: str, tiny: Path, tmp_path: Path) -> None:
    parts, why = WRONG_FORMS[name]
    path = save(tmp_path, {f"{TO_Q}.{part}": tensor for part, tensor in parts.items()})
    with pytest.raises(CheckpointError, match=why):
        match(read_lora(path), read_header(tiny / CHECKPOINT))


def test_difference_of_a_bias_that_the_model_lacks_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = save(tmp_path, {"transformer_blocks.0.attn1.q_norm.diff_b": numbers(80)})
    with pytest.raises(CheckpointError, match=r"q_norm\.bias: the layer has no bias in the model"):
        match(read_lora(path), read_header(tiny / CHECKPOINT))


FOREIGN = {
    "a DoRA": "dora_scale",
    "a DoRA of PEFT": "lora_magnitude_vector.default.weight",
    "an OFT": "oft_blocks",
    "an IA3": "ia3_l",
    "a LoCon with Tucker cores": "lokr_t2",
}


@pytest.mark.parametrize("form", FOREIGN)
def test_forms_that_are_not_supported_are_called_by_their_name(form: str, tmp_path: Path) -> None:
    path = save(tmp_path, {f"{TO_Q}.lokr_w1": W1, f"{TO_Q}.{FOREIGN[form]}": torch.ones(4)})
    with pytest.raises(CheckpointError, match=f"lora.safetensors is {form.removesuffix(' of PEFT')}, which is not"):
        read_lora(path)


# --- values that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", [".lora_A.weight", ".lora_B.weight", ".alpha"])
def test_lora_with_values_that_are_not_finite_is_refused_with_its_tensor(
    part: str, value: float, tiny: Path, tmp_path: Path
) -> None:
    tensors = pair() | {f"{TO_Q}.alpha": torch.ones(())}
    tensors[f"{TO_Q}{part}"].view(-1)[-1] = value
    with pytest.raises(CheckpointError, match=f"lora.safetensors holds NaN or infinite values\n.*{TO_Q}{part}"):
        difference(tiny, save(tmp_path, tensors))


def test_lora_with_an_alpha_that_no_training_gives_is_refused_with_its_tensor(tiny: Path, tmp_path: Path) -> None:
    tensors = pair() | {f"{TO_Q}.alpha": torch.tensor(1e300, dtype=torch.float64)}
    with pytest.raises(CheckpointError, match=rf"an alpha that cannot be used\n.*{TO_Q}\.alpha is 1e\+300"):
        difference(tiny, save(tmp_path, tensors))


def test_name_of_a_layer_in_a_message_is_of_a_length_that_can_be_read(tiny: Path, tmp_path: Path) -> None:
    path = save(tmp_path, pair() | pair("x" * 5000))
    with pytest.raises(CheckpointError) as caught:
        difference(tiny, path)
    assert len(str(caught.value)) < 400


def test_models_have_their_own_weights_after_a_lora_that_could_not_be_fused(tiny: Path, tmp_path: Path) -> None:
    bad = pair() | pair(TO_OUT)
    bad[f"{TO_OUT}.lora_B.weight"][0] = float("nan")
    models = Models(find_model(str(tiny), {}), MACHINE)
    checkpoint = read_header(tiny / CHECKPOINT)
    with models.transformer([]) as model:
        own = {name: tensor.clone() for name, tensor in model.named_parameters()}
    lora = match(read_lora(save(tmp_path, bad)), checkpoint)
    with pytest.raises(CheckpointError), models.transformer([(lora, 1.0)]):
        pass
    with models.transformer([]) as model:
        assert all(tensor.equal(own[name]) for name, tensor in model.named_parameters())
