"""Facts that `ltx2 inspect` prints about weight files and LoRAs."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.errors import CheckpointError, LTX2Error, StorageError
from ltx2_core.pipeline.describe.describe import describe

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
STYLE = "ltx-2-tiny-lora-style.safetensors"
DENOISER = "model.diffusion_model."
TO_Q = "diffusion_model.transformer_blocks.{}.attn1.to_q"

Sizes = Mapping[str, tuple[str, tuple[int, ...]]]
BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}


def write_weights(path: Path, sizes: Sizes, **metadata: str) -> Path:
    """A safetensors file of zeros. sizes: dtype and shape by name."""
    entries, end = {}, 0
    for name, (dtype, shape) in sizes.items():
        begin, end = end, end + torch.Size(shape).numel() * BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return path


def pair(layer: str, rank: int = 4, out: int = 8, into: int = 8) -> Sizes:
    return {f"{layer}.lora_A.weight": ("BF16", (rank, into)), f"{layer}.lora_B.weight": ("BF16", (out, rank))}


def lora(path: Path, *pairs: Sizes, **metadata: str) -> dict[str, str]:
    """The facts of a LoRA with some pairs."""
    sizes = {name: size for one in pairs for name, size in one.items()}
    return describe(write_weights(path / "style.safetensors", sizes, **metadata))


# --- checkpoints and parts


def test_a_whole_model_tells_what_it_holds_and_how_it_is_stored(tiny: Path) -> None:
    facts = describe(tiny / CHECKPOINT)
    assert facts["kind"] == "a whole model without its text encoder"
    assert facts["holds"].startswith("transformer, video connector, audio connector, text projection, video encoder")
    assert (facts["generation"], facts["precision"]) == ("2.0", "bf16")
    assert facts["dtypes"].startswith("BF16 ")
    assert facts["transformer"] == "4 blocks, 80 wide for video, 40 wide for audio"
    assert facts["video decoder"] == "128 channels; a cell is 8 frames of 32x32 pixels"
    assert facts["vocoder"] == "24000 Hz"
    assert "problem" not in facts


def test_dtypes_are_told_by_their_share_of_the_bytes(tmp_path: Path) -> None:
    sizes: Sizes = {
        f"{DENOISER}transformer_blocks.0.attn1.to_q.weight": ("BF16", (30, 1)),
        f"{DENOISER}scale_shift_table": ("F32", (5, 1)),
    }
    facts = describe(write_weights(tmp_path / "a.safetensors", sizes))
    assert facts["dtypes"] == "BF16 75.0 %, F32 25.0 %"


def test_a_dtype_of_hardly_any_bytes_is_named_all_the_same(tmp_path: Path) -> None:
    sizes: Sizes = {
        f"{DENOISER}transformer_blocks.0.attn1.to_q.weight": ("BF16", (4000, 1)),
        f"{DENOISER}scale_shift_table": ("U8", (1,)),
    }
    assert describe(write_weights(tmp_path / "a.safetensors", sizes))["dtypes"] == "BF16 100.0 %, U8 below 0.1 %"


def test_quantised_layers_are_counted_by_format(tmp_path: Path) -> None:
    block = f"{DENOISER}transformer_blocks.0.attn1."
    sizes: Sizes = {
        f"{block}to_q.weight": ("F8_E4M3", (4, 4)),
        f"{block}to_q.weight_scale": ("F32", ()),
        f"{block}to_k.weight": ("F8_E4M3", (4, 4)),
        f"{block}to_k.weight_scale": ("F32", ()),
        f"{block}to_v.weight": ("F8_E4M3", (4, 4)),
        f"{block}to_v.weight_scale": ("F32", (4,)),
        f"{block}norm.weight": ("BF16", (4,)),
    }
    facts = describe(write_weights(tmp_path / "a.safetensors", sizes))
    assert facts["quantised"] == "layers by format: fp8 (scaled) 2, fp8 (rowwise) 1"
    assert facts["precision"] == "fp8 (scaled), fp8 (rowwise)"


def test_what_keeps_a_file_from_being_used_is_told(tiny: Path, tmp_path: Path) -> None:
    weights = load_file(tiny / CHECKPOINT)
    name = f"{DENOISER}transformer_blocks.0.attn1.to_q.weight"
    path = tmp_path / "int8.safetensors"
    metadata = {"config": json.dumps(_config(tiny))}
    save_file({**weights, name: weights[name].to(torch.int8)}, path, metadata)
    facts = describe(path)
    assert "int8 without a marker" in facts["precision"]
    assert "int8 without a marker" in facts["problem"]


def test_a_config_that_is_not_implemented_is_a_problem_and_no_error(tiny: Path, tmp_path: Path) -> None:
    config = _config(tiny)
    config["transformer"]["qk_norm"] = "layer_norm"
    path = tmp_path / "other.safetensors"
    save_file(load_file(tiny / CHECKPOINT), path, {"config": json.dumps(config)})
    facts = describe(path)
    assert "qk_norm" in facts["problem"]
    assert "transformer" not in facts
    assert facts["vocoder"] == "24000 Hz"


def _config(tiny: Path) -> dict:
    with (tiny / CHECKPOINT).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(json.loads(file.read(length))["__metadata__"]["config"])


def test_a_duration_head_that_lacks_tensors_has_a_problem(tmp_path: Path) -> None:
    sizes: Sizes = {"duration_head.attention_pooler.query_tokens": ("BF16", (2, 2))}
    facts = describe(write_weights(tmp_path / "head.safetensors", sizes))
    assert facts["kind"] == "a duration head"
    assert facts["problem"]


def test_an_upsampler_tells_what_it_enlarges(tiny: Path) -> None:
    names = {name.name: name for name in tiny.glob("*upscaler*.safetensors")}
    enlarges = {name: describe(path)["upsampler"] for name, path in names.items()}
    assert enlarges == {
        "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors": "2x width and height",
        "ltx-2-tiny-spatial-upscaler-x1.5-1.0.safetensors": "1.5x width and height",
        "ltx-2-tiny-temporal-upscaler-x2-1.0.safetensors": "2x the frames",
    }


@pytest.mark.parametrize(
    ("content", "kind", "why"),
    [
        (b"", StorageError, "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", CheckpointError, "Git LFS pointer"),
        (b"<!doctype html>", CheckpointError, "web page"),
        (b"GGUF\x03\x00\x00\x00" + bytes(60), CheckpointError, "GGUF"),
        (b"PK\x03\x04" + bytes(60), CheckpointError, "pickle"),
        (b"a few words", CheckpointError, "not a safetensors file"),
        (struct.pack("<Q", 2) + b"{}", CheckpointError, "nothing at all"),
    ],
)
def test_a_file_that_is_nothing_of_these_models_is_an_error_of_weights(
    content: bytes, kind: type[LTX2Error], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(kind, match=why) as caught:
        describe(path)
    assert caught.value.exit_code == 7


# --- LoRAs


def test_a_lora_tells_rank_pairs_targets_and_names(tiny: Path) -> None:
    facts = describe(tiny / STYLE)
    assert facts["kind"] == "a LoRA"
    assert facts["rank"].isdigit()
    assert int(facts["pairs"]) * 2 == int(facts["tensors"])
    assert "attn1" in facts["targets"]
    assert facts["names"] == "prefix diffusion_model., with lora_A, lora_B"
    assert facts["scale"] == "1: no alpha is stated"
    assert "holds" not in facts


def test_a_few_ranks_are_listed_and_many_are_a_span(tmp_path: Path) -> None:
    few = lora(tmp_path, pair(TO_Q.format(0), 4), pair(TO_Q.format(1), 4), pair(TO_Q.format(2), 16))
    assert few["rank"] == "4 (2 pairs), 16 (1 pair)"
    many = lora(tmp_path, *(pair(TO_Q.format(number), rank) for number, rank in enumerate((2, 4, 8, 16))))
    assert many["rank"] == "2 to 16, 4 different ones"


def test_targets_are_counted_by_module_and_blocks(tmp_path: Path) -> None:
    facts = lora(
        tmp_path,
        pair(TO_Q.format(0)),
        pair(TO_Q.format(7)),
        pair("diffusion_model.transformer_blocks.7.audio_ff.net.2"),
        pair("diffusion_model.proj_out"),
    )
    assert facts["targets"] == "attn1 2, audio_ff 1, in 2 of the blocks; 1 outside them"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("transformer.transformer_blocks.0.attn1.to_q", "prefix transformer., with lora_A, lora_B"),
        ("transformer_blocks.0.attn1.to_q", "no prefix, with lora_A, lora_B"),
        ("lora_unet_transformer_blocks_0_attn1_to_q", "prefix lora_unet_, with lora_A, lora_B"),
    ],
)
def test_the_prefix_is_told_as_the_file_has_it(layer: str, expected: str, tmp_path: Path) -> None:
    facts = lora(tmp_path, pair(layer))
    assert facts["names"] == expected
    assert facts["targets"] == "attn1 1, in 1 of the blocks"


EVERY = "its layers are those of every generation"


@pytest.mark.parametrize(
    ("sizes", "generation"),
    [
        (pair(TO_Q.format(0)), EVERY),
        (pair("diffusion_model.caption_projection.linear_1"), "2.0"),
        (pair("diffusion_model.prompt_adaln_single.linear"), "2.3 or 2.5"),
        (pair("transformer.prompt_adaln.linear"), "2.3 or 2.5"),
        (pair("lora_unet_transformer_blocks_0_attn1_to_gate_logits"), "2.3 or 2.5"),
        (pair("diffusion_model.adaln_single.linear", out=48), "2.0"),
        (pair("transformer.time_embed.linear", out=48), "2.0"),
        (pair("diffusion_model.adaln_single.linear", out=72), "2.3 or 2.5"),
        ({"diffusion_model.transformer_blocks.0.ff.net.2.diff_b": ("BF16", (8,))}, "2.0 or 2.3"),
        ({"diffusion_model.transformer_blocks.0.audio_ff.net.2.diff_b": ("BF16", (8,))}, EVERY),
        (
            {
                **pair("diffusion_model.caption_projection.linear_1"),
                **pair(TO_Q.format(0).replace("to_q", "to_gate_logits")),
            },
            "it changes layers of several generations",
        ),
        (
            {
                **pair("diffusion_model.prompt_adaln_single.linear"),
                "diffusion_model.transformer_blocks.0.ff.net.2.diff_b": ("BF16", (8,)),
            },
            "2.3",
        ),
    ],
)
def test_the_generation_is_what_names_and_shapes_prove(sizes: Sizes, generation: str, tmp_path: Path) -> None:
    assert lora(tmp_path, sizes)["generation"] == generation


def save_lora(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> dict[str, str]:
    save_file(dict(tensors), path / "style.safetensors", metadata)
    return describe(path / "style.safetensors")


def tensors_of(*layers: str, rank: int = 4) -> dict[str, Tensor]:
    downs = {f"{layer}.lora_A.weight": torch.zeros(rank, 8) for layer in layers}
    return downs | {f"{layer}.lora_B.weight": torch.zeros(8, rank) for layer in layers}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_an_alpha_of_its_own_is_read_in_every_type(dtype: torch.dtype, tmp_path: Path) -> None:
    layer = TO_Q.format(0)
    facts = save_lora(tmp_path, {**tensors_of(layer), f"{layer}.alpha": torch.tensor(2, dtype=dtype)})
    assert facts["scale"] == "0.5: 1 of 1 changes have an alpha of their own"


def test_scales_that_differ_are_listed(tmp_path: Path) -> None:
    layers = [TO_Q.format(number) for number in range(3)]
    alphas = {f"{layer}.alpha": torch.tensor(float(2 * number + 2)) for number, layer in enumerate(layers)}
    assert save_lora(tmp_path, {**tensors_of(*layers), **alphas})["scale"].startswith("0.5, 1, 1.5: 3 of 3 changes")


def test_a_scale_that_metadata_state_is_told_with_its_place(tmp_path: Path) -> None:
    facts = save_lora(tmp_path, tensors_of(TO_Q.format(0)), ss_network_alpha="1", ss_network_dim="4")
    assert facts["scale"] == "0.25: alpha 1 in ss_network_alpha"


def test_an_in_context_lora_tells_the_reference_that_it_looks_at(tmp_path: Path) -> None:
    factors = {"reference_downscale_factor": "2", "reference_temporal_scale_factor": "4"}
    facts = lora(tmp_path, pair(TO_Q.format(0)), **factors, hdr_transform="logc3")
    assert facts["in context"] == "it looks at a reference with 1/2 of width and height and 1/4 of the frames"
    assert facts["colours"] == "HDR, logc3"
    assert "in context" not in lora(tmp_path, pair(TO_Q.format(0)))


def test_other_forms_are_counted_beside_the_pairs(tmp_path: Path) -> None:
    facts = lora(
        tmp_path,
        pair(TO_Q.format(0)),
        {f"{TO_Q.format(1)}.lokr_w1": ("BF16", (2, 2)), f"{TO_Q.format(1)}.lokr_w2": ("BF16", (4, 4))},
        {f"{TO_Q.format(2)}.diff": ("BF16", (8, 8))},
    )
    assert (facts["pairs"], facts["other changes"]) == ("1", "LoKr 1, whole difference 1")


def test_a_form_that_is_not_supported_is_a_problem_and_no_error(tmp_path: Path) -> None:
    facts = lora(tmp_path, pair(TO_Q.format(0)), {f"{TO_Q.format(0)}.dora_scale": ("BF16", (8,))})
    assert facts["kind"] == "a LoRA"
    assert "is a DoRA, which is not supported" in facts["problem"]


def test_damaged_metadata_are_a_problem_and_no_error(tmp_path: Path) -> None:
    facts = lora(tmp_path, pair(TO_Q.format(0)), reference_downscale_factor="half")
    assert "damaged metadata" in facts["problem"]
    assert facts["rank"] == "4"


def test_what_has_no_effect_and_what_is_left_out_by_rule_are_named(tmp_path: Path) -> None:
    half = {f"{TO_Q.format(1)}.lora_A.weight": ("BF16", (4, 8))}
    facts = lora(tmp_path, pair(TO_Q.format(0)), half, pair("text_embedding_projection.aggregate_embed"))
    assert facts["problem"] == f"1 without effect: {TO_Q.format(1)} (half of the pair is missing)"
    assert facts["left out"] == "1 of the text projection"


def test_what_a_trainer_says_that_it_trained_on_is_shown(tmp_path: Path) -> None:
    facts = lora(tmp_path, pair(TO_Q.format(0)), ss_base_model_version="ltx2")
    assert facts["trained on"] == "ltx2"
