"""The int8 or fp8 form of a matrix, compared with independent formulas; and which matrices of a file are converted."""

from __future__ import annotations

import json

import pytest
import torch

from ltx2_core.header_text import TensorInfo
from ltx2_core.quantize import encode
from ltx2_core.quantize.encode import encode_fp8, encode_int8
from ltx2_core.stored.encoding import DENOISER_MATRIX, GEMMA_MATRIX, Encoding, lay_out, plan_encodings
from scripts.quantise import rotation

DIT = "model.diffusion_model."


def matrix(rows: int = 12, columns: int = 512) -> torch.Tensor:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02
    weight[:, 3] *= 20
    return weight.bfloat16()


@pytest.mark.parametrize("group", [16, 64, 256])
def test_int8_is_the_rotated_matrix_rounded_to_steps_of_its_rows(group: int) -> None:
    weight = matrix()
    stored = encode_int8(weight, group)
    turned = (weight.double().unflatten(-1, (-1, group)) @ rotation(group).double()).flatten(-2)
    scale = turned.abs().amax(-1, keepdim=True) / 127
    torch.testing.assert_close(stored["weight_scale"].double(), scale, rtol=3e-7, atol=0)
    steps = turned / scale
    is_clear = (steps - steps.floor() - 0.5).abs() > 1e-3
    assert torch.equal(stored["weight"].double()[is_clear], steps.round()[is_clear])
    assert is_clear.float().mean() > 0.99
    assert stored["weight"].abs().max() == 127


def test_fp8_is_the_matrix_in_steps_of_one_scale() -> None:
    weight = matrix()
    stored = encode_fp8(weight, 1)
    scale = weight.float().abs().max() / 448
    assert stored["weight_scale"].shape == ()
    assert stored["weight_scale"] == scale
    expected = (weight.float() * (1 / scale)).clamp(-448, 448).to(torch.float8_e4m3fn)
    assert torch.equal(stored["weight"].view(torch.uint8), expected.view(torch.uint8))
    assert stored["weight"].float().abs().max() == 448


@pytest.mark.parametrize("encoder", [encode_int8, encode_fp8])
def test_zeros_stay_zeros_with_a_scale_above_zero(encoder: encode.Encoder) -> None:
    stored = encoder(torch.zeros(4, 64), 16)
    assert (stored["weight"].float() == 0).all()
    assert (stored["weight_scale"] > 0).all()


@pytest.mark.parametrize("encoder", [encode_int8, encode_fp8])
def test_a_matrix_in_chunks_of_rows_has_the_same_codes(
    encoder: encode.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encoder(matrix(), 256)
    monkeypatch.setattr(encode, "CPU_CHUNK", 5 * 512)
    chunks = encoder(matrix(), 256)
    assert all(torch.equal(whole[role].float(), chunks[role].float()) for role in whole)


def test_large_matrices_of_blocks_and_connectors_are_encoded_and_nothing_else() -> None:
    block, connector = "transformer_blocks.7.", "audio_embeddings_connector.transformer_1d_blocks.0."
    attentions = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
    wanted = {f"{block}{name}.{part}" for name in attentions for part in ("to_q", "to_k", "to_v", "to_out.0")}
    wanted |= {f"{block}{name}.net.{part}" for name in ("ff", "audio_ff") for part in ("0.proj", "2")}
    wanted |= {f"{connector}attn1.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")}
    wanted |= {f"{connector}ff.net.{part}" for part in ("0.proj", "2")}
    others = {f"{block}attn1.to_gate_logits", f"{block}scale_shift_table", f"{connector}attn1.to_gate_logits"}
    others |= {"adaln_single.linear", "patchify_proj", "audio_proj_out", "caption_projection.linear_1"}
    names = [f"{DIT}{name}.weight" for name in wanted | others]
    names += ["vae.decoder.transformer_blocks.0.attn1.to_q.weight", "vocoder.ups.0.weight"]
    infos = {name: TensorInfo("BF16", (8, 64), 0, 1024) for name in names}
    found = plan_encodings(infos, DENOISER_MATRIX, "int8")
    assert {encoding.layer.removeprefix(DIT) for encoding in found.values()} == wanted


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "model.", ""])
def test_the_seven_projections_of_a_language_layer_are_encoded(prefix: str) -> None:
    parts = [f"self_attn.{one}_proj" for one in "qkvo"] + [f"mlp.{one}_proj" for one in ("gate", "up", "down")]
    names = [f"{prefix}layers.3.{part}.weight" for part in parts]
    others = [f"{prefix}embed_tokens.weight", "vision_tower.vision_model.encoder.layers.3.self_attn.q_proj.weight"]
    infos = {name: TensorInfo("BF16", (8, 64), 0, 1024) for name in names + others}
    assert list(plan_encodings(infos, GEMMA_MATRIX, "fp8")) == names


@pytest.mark.parametrize(("columns", "group"), [(4096, 256), (2048, 256), (320, 64), (80, 16), (40, None)])
def test_the_largest_group_that_divides_the_columns_is_rotated(columns: int, group: int | None) -> None:
    name = f"{DIT}transformer_blocks.0.attn1.to_q.weight"
    found = plan_encodings({name: TensorInfo("BF16", (8, columns), 0, 16 * columns)}, DENOISER_MATRIX, "int8")
    assert [encoding.group for encoding in found.values()] == ([] if group is None else [group])


def test_the_marker_is_the_text_of_the_official_files() -> None:
    marker = Encoding(name="a.weight", to="int8", shape=(8, 256), group=256).marker
    assert marker == b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}'
    assert len(marker) == 72


def test_tensors_keep_their_order_and_the_first_lies_at_a_multiple_of_eight() -> None:
    names = ["z.weight", "a.weight", "m.bias"]
    source = {name: TensorInfo("BF16", (8, 64), 1024 * at, 1024 * at + 1024) for at, name in enumerate(names)}
    encodings = {"a.weight": Encoding(name="a.weight", to="int8", shape=(8, 64), group=64)}
    begin, tensors = lay_out(source, {"config": "{}"}, encodings)
    assert list(tensors) == ["z.weight", "a.weight", "a.weight_scale", "m.bias", "a.comfy_quant"]
    assert len(begin) % 8 == 0
    assert tensors["z.weight"].start == len(begin)
    assert json.loads(begin[8:])["__metadata__"] == {"config": "{}"}
