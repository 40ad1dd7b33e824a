"""LoRAs: read in every form, matched before weights are read, fused, and removed without a trace."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core import keymap
from ltx2_core import lora as fusing
from ltx2_core.checkpoint import load_component
from ltx2_core.components import DIT
from ltx2_core.errors import CheckpointError, RequestError, StorageError
from ltx2_core.headers import Header, TensorInfo, read_header
from ltx2_core.hub.published import TENSORS
from ltx2_core.lora import Addend, WeightedLora, fuse, fused_weight, take_out
from ltx2_core.lora_file import MatchedLora, match, read_lora, reference_scales
from ltx2_core.models.transformer import Transformer

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
DISTILLED = "ltx-2-tiny-distilled-lora.safetensors"
STYLE = "ltx-2-tiny-lora-style.safetensors"
IN_CONTEXT = "ltx-2-tiny-ic-lora-ref0.5.safetensors"
MANIFEST = TENSORS / "transformer-2.0.json.gz"
TO_Q = "transformer_blocks.0.attn1.to_q"

Tensors = dict[str, Tensor]


def matched(tiny: Path, name: str | Path) -> MatchedLora:
    """A LoRA of the tiny model, or another file, matched with the tiny checkpoint."""
    return match(read_lora(tiny / name), read_header(tiny / CHECKPOINT))


def transformer(tiny: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    model = load_component("transformer", tiny / CHECKPOINT, dtype=dtype)
    assert isinstance(model, Transformer)
    return model


def fused_weights(model: Transformer, *loras: WeightedLora, sums_in: torch.dtype = torch.float32) -> Tensors:
    """All weights of a model after LoRAs are fused."""
    own = dict(model.state_dict())
    fuse(model, loras, sums_in=sums_in)
    weights = dict(model.state_dict())
    model.load_state_dict(own, assign=True)
    return weights


def changed(tiny: Path, out: Path, change: Callable[[Tensors], Tensors], metadata: Mapping[str, str] = {}) -> Path:
    """The style LoRA with other tensors."""
    path = out / "changed.safetensors"
    save_file(change(load_file(tiny / STYLE)), path, dict(metadata))
    return path


def assert_same(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    assert all(tensor.equal(other[name]) for name, tensor in one.items())


def header_of(path: str, shapes: Mapping[str, tuple[int, ...]]) -> Header:
    """A header without a file."""
    return Header(Path(path), {}, {name: TensorInfo("BF16", shape, 0, 0) for name, shape in shapes.items()})


def pairs_for(layers: Mapping[str, tuple[int, ...]], rank: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a LoRA for linear layers."""
    downs = {f"{name}.lora_A.weight": (rank, shape[1]) for name, shape in layers.items()}
    return downs | {f"{name}.lora_B.weight": (shape[0], rank) for name, shape in layers.items()}


# --- reading and matching


def released_linears() -> dict[str, tuple[int, ...]]:
    """The linear layers of the released 2.0 denoiser, without its prefix."""
    tensors = json.loads(gzip.decompress(MANIFEST.read_bytes()))["tensors"]
    linears = {name: tuple(shape) for name, shape in tensors.items() if name.endswith(".weight") and len(shape) == 2}
    return {name.removeprefix(DIT).removesuffix(".weight"): shape for name, shape in linears.items()}


def released_checkpoint() -> Header:
    return header_of("dev.safetensors", {f"{DIT}{name}.weight": shape for name, shape in released_linears().items()})


def test_distilled_lora_of_2_0_is_reported_with_the_pair_that_is_skipped() -> None:
    layers = {f"diffusion_model.{name}": shape for name, shape in released_linears().items()}
    layers["text_embedding_projection.aggregate_embed"] = (3840, 188160)
    found = match(read_lora(header_of("distilled.safetensors", pairs_for(layers, 64))), released_checkpoint())
    assert found.report == "1,370 of 1,370 matched, 1 skipped: text projection"


SPELLINGS: dict[str, Callable[[str], str]] = {
    "official": lambda name: f"diffusion_model.{name}",
    "as in a checkpoint": lambda name: f"model.diffusion_model.{name}",
    "without prefix": lambda name: name,
    "peft": lambda name: f"base_model.model.{name}",
    "peft over official": lambda name: f"base_model.model.diffusion_model.{name}",
    "diffusers": lambda name: f"transformer.{keymap.from_official(name, keymap.DIFFUSERS)}",
    "underscores": lambda name: f"lora_unet_{name.replace('.', '_')}",
    "underscores of diffusers": lambda name: (
        f"lora_unet_{keymap.from_official(name, keymap.DIFFUSERS).replace('.', '_')}"
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_every_released_layer_is_understood(spelling: str) -> None:
    layers = released_linears()
    named = {SPELLINGS[spelling](name): shape for name, shape in layers.items()}
    found = match(read_lora(header_of("lora.safetensors", pairs_for(named, 8))), released_checkpoint())
    assert {name.removesuffix(".weight"): change.shape for name, change in found.changes.items()} == layers
    for name, change in found.changes.items():
        assert change.factors[0] == SPELLINGS[spelling](name.removesuffix(".weight")) + ".lora_B.weight"


@pytest.mark.parametrize("prefix", ["diffusion_model.", ""])
def test_pairs_find_their_layers_whatever_prefix_the_checkpoint_has(tiny: Path, prefix: str) -> None:
    official = read_header(tiny / CHECKPOINT)
    renamed = {name.replace(DIT, prefix): info for name, info in official.tensors.items()}
    lora = read_lora(tiny / DISTILLED)
    assert match(lora, Header(official.path, official.metadata, renamed)).changes == match(lora, official).changes


def test_underscores_that_could_mean_two_layers_are_refused() -> None:
    blocks, flat = "transformer_blocks.0", "lora_unet_transformer_blocks_0_a_b_c"
    layers = {f"{blocks}.a.b_c": (4, 4), f"{blocks}.a_b.c": (4, 4), f"{blocks}.d": (4, 4)}
    checkpoint = header_of("dev.safetensors", {f"{DIT}{name}.weight": shape for name, shape in layers.items()})
    lora = read_lora(header_of("lora.safetensors", pairs_for({flat: (4, 4), f"{blocks}.d": (4, 4)}, 2)))
    with pytest.raises(CheckpointError, match=f"{flat}: it matches several layers"):
        match(lora, checkpoint)
    assert list(match(lora, checkpoint, allow_partial=True).changes) == [f"{blocks}.d.weight"]


def test_every_pair_of_the_tiny_distilled_lora_finds_its_weight(tiny: Path) -> None:
    found = matched(tiny, DISTILLED)
    weights = transformer(tiny).state_dict()
    own = {keymap.from_official(name, keymap.TRANSFORMER): change for name, change in found.changes.items()}
    linears = {name for name, t in weights.items() if name.endswith(".weight") and t.dim() == 2}
    assert own.keys() == linears
    assert all(weights[name].shape == change.shape for name, change in own.items())
    assert found.report == f"{len(linears)} of {len(linears)} matched, 1 skipped: text projection"


def test_lora_without_a_skipped_pair_says_so_in_its_report(tiny: Path) -> None:
    found = matched(tiny, STYLE)
    assert found.report == f"{len(found.changes)} of {len(found.changes)} matched"


def test_pair_that_matches_nothing_is_refused_unless_allowed(tiny: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> Tensors:
        return {name.replace(f"{TO_Q}.", f"{TO_Q}ueer."): t for name, t in tensors.items()}

    lora = read_lora(changed(tiny, tmp_path, change))
    checkpoint = read_header(tiny / CHECKPOINT)
    with pytest.raises(CheckpointError) as caught:
        match(lora, checkpoint)
    total = len(lora.changes)
    why = f"1 of {total} match nothing: diffusion_model.{TO_Q}ueer: the model has no such linear layer"
    assert caught.value.why == why
    assert "--allow-partial-lora" in caught.value.hint
    found = match(lora, checkpoint, allow_partial=True)
    assert found.report == f"{total - 1} of {total} matched"
    assert f"{TO_Q}.weight" not in found.changes


def test_lora_for_a_wider_model_is_refused_with_both_shapes(tiny: Path) -> None:
    lora = read_lora(header_of("wide.safetensors", pairs_for({f"diffusion_model.{TO_Q}": (4096, 4096)}, 8)))
    for allow_partial in (False, True):  # no layer would remain
        with pytest.raises(CheckpointError) as caught:
            match(lora, read_header(tiny / CHECKPOINT), allow_partial=allow_partial)
        assert f"{TO_Q}: made for [4096, 4096], the model has [80, 80]" in caught.value.why
        assert "--allow-partial-lora" not in caught.value.hint


def test_lora_with_skipped_pairs_alone_is_refused() -> None:
    lora = read_lora(header_of("text.safetensors", pairs_for({"text_embedding_projection.aggregate_embed": (4, 4)}, 2)))
    with pytest.raises(CheckpointError, match="0 of 0 matched, 1 skipped: text projection"):
        match(lora, released_checkpoint())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: {n: v for n, v in t.items() if n != f"diffusion_model.{TO_Q}.lora_B.weight"}, "half of the pair"),
        (lambda t: t | {f"diffusion_model.{TO_Q}.lora_A.weight": torch.zeros(3, 80)}, "are no low-rank pair"),
        (lambda t: t | {f"diffusion_model.{TO_Q}.lora_A.weight": torch.zeros(4, 80).char()}, "stored as I8"),
        (lambda t: t | {f"diffusion_model.{TO_Q}.alpha": torch.zeros(2)}, "alpha is not one number"),
        (lambda t: t | {f"diffusion_model.{TO_Q}.lora_B.bias": torch.zeros(80)}, "not a part of a low-rank pair"),
        (lambda t: t | {f"diffusion_model.{TO_Q}.lora_A.weight": torch.zeros(4, 80, 1, 1)}, "are no low-rank pair"),
        (lambda t: t | {f"diffusion_model.{TO_Q}.lora_B.weight": torch.zeros(80, 4, 1, 1)}, "are no low-rank pair"),
        (lambda t: t | {f"diffusion_model.{TO_Q}.lora_down.weight": torch.zeros(4, 80)}, "under another name"),
        (
            lambda t: t | {f"{TO_Q}.lora_A.weight": torch.zeros(4, 80), f"{TO_Q}.lora_B.weight": torch.zeros(80, 4)},
            "its layer has a pair already",
        ),
    ],
)
def test_what_is_no_usable_pair_is_named(
    tiny: Path, tmp_path: Path, change: Callable[[Tensors], Tensors], why: str
) -> None:
    lora = read_lora(changed(tiny, tmp_path, change))
    with pytest.raises(CheckpointError) as caught:
        match(lora, read_header(tiny / CHECKPOINT))
    assert why in caught.value.why
    assert TO_Q in caught.value.why


def test_dora_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = changed(tiny, tmp_path, lambda t: t | {f"diffusion_model.{TO_Q}.dora_scale": torch.ones(80, 1)})
    with pytest.raises(CheckpointError, match="is a DoRA"):
        read_lora(path)


def test_files_that_are_no_lora_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a LoRA\nit is a whole model"):
        read_lora(tiny / CHECKPOINT)
    for start, what in ((b"GGUF" + bytes(60), "GGUF"), (b"PK\x03\x04" + bytes(60), "pickle")):
        path = tmp_path / "lora.safetensors"
        path.write_bytes(start)
        with pytest.raises(CheckpointError, match=what):
            read_lora(path)


# --- metadata


def test_in_context_lora_says_how_large_its_reference_is(tiny: Path, tmp_path: Path) -> None:
    assert reference_scales([read_lora(tiny / IN_CONTEXT)]) == (2, 1)
    assert reference_scales([read_lora(tiny / STYLE)]) == (1, 1)
    metadata = {"reference_spatial_scale_factor": "3", "reference_temporal_scale_factor": "4.0"}
    assert reference_scales([read_lora(changed(tiny, tmp_path, dict, metadata))]) == (3, 4)


def test_file_name_stands_in_for_a_missing_reference_factor(tiny: Path, tmp_path: Path) -> None:
    assert read_lora(changed(tiny, tmp_path, dict).rename(tmp_path / "a-ref0.5.safetensors")).spatial_scale == 2
    said = changed(tiny, tmp_path, dict, {"reference_downscale_factor": "3"}).rename(tmp_path / "b-ref0.5.safetensors")
    assert read_lora(said).spatial_scale == 3


def test_reference_scales_that_differ_are_refused(tiny: Path, tmp_path: Path) -> None:
    two, plain = read_lora(tiny / IN_CONTEXT), read_lora(tiny / STYLE)
    three = read_lora(changed(tiny, tmp_path, dict, {"reference_downscale_factor": "3"}))
    assert reference_scales([plain, two, two]) == (2, 1)
    with pytest.raises(RequestError, match=r"ref0\.5\.safetensors 1/2 and changed\.safetensors 1/3"):
        reference_scales([two, plain, three])
    silent = read_lora(changed(tiny, tmp_path, dict).rename(tmp_path / "depth-ic-lora.safetensors"))
    with pytest.raises(RequestError, match=r"depth-ic-lora\.safetensors 1/1 and .*ref0\.5\.safetensors 1/2"):
        reference_scales([silent, two])


@pytest.mark.parametrize("value", ["0", "-2", "0.5", "two", "", "nan", "1e3"])
def test_reference_factor_that_is_no_whole_number_is_refused(tiny: Path, tmp_path: Path, value: str) -> None:
    with pytest.raises(CheckpointError, match="damaged metadata"):
        read_lora(changed(tiny, tmp_path, dict, {"reference_downscale_factor": value}))


@pytest.mark.parametrize(
    ("metadata", "transform"),
    [
        ({}, None),
        ({"use_hdr_transform": "false"}, None),
        ({"use_hdr_transform": "True"}, "logc3"),
        ({"hdr_transform": "ACEScct"}, "acescct"),
    ],
)
def test_lora_for_high_dynamic_range_names_its_transform(
    tiny: Path, tmp_path: Path, metadata: dict[str, str], transform: str | None
) -> None:
    assert read_lora(changed(tiny, tmp_path, dict, metadata)).hdr_transform == transform


# --- fusing


@pytest.mark.parametrize("strength", [1.0, 0.8, -0.5])
def test_every_pair_is_added_to_its_weight_and_nothing_else_changes(tiny: Path, strength: float) -> None:
    model, lora = transformer(tiny), load_file(tiny / DISTILLED)
    before = dict(model.state_dict())
    after = fused_weights(model, (matched(tiny, DISTILLED), strength))
    for name, weight in after.items():
        key = "diffusion_model." + keymap.to_official(name, keymap.TRANSFORMER).removesuffix(".weight")
        if f"{key}.lora_A.weight" in lora:
            up, down = (lora[f"{key}.lora_{part}.weight"].float() for part in "BA")
            torch.testing.assert_close(weight, before[name] + strength * (up @ down), rtol=1e-6, atol=1e-6)
            assert not weight.equal(before[name])
        else:
            assert weight.equal(before[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_taken_out_again_the_weights_are_those_of_the_file(tiny: Path, dtype: torch.dtype) -> None:
    model = transformer(tiny, dtype)
    own = {name: tensor.clone() for name, tensor in model.named_parameters()}
    loras = [(matched(tiny, DISTILLED), 0.8), (matched(tiny, STYLE), -2.0)]
    fuse(model, loras)
    assert not model.get_parameter("blocks.0.video.self_attn.to_q.weight").equal(
        own["blocks.0.video.self_attn.to_q.weight"]
    )
    take_out(model, loras, read_header(tiny / CHECKPOINT))
    assert_same(dict(model.state_dict()), own)


def test_lora_that_lost_a_pair_since_it_was_matched_is_refused(tiny: Path, tmp_path: Path) -> None:
    stale = matched(tiny, changed(tiny, tmp_path, dict))
    changed(tiny, tmp_path, lambda t: dict(list(t.items())[:-1]))
    with pytest.raises(StorageError, match="has changed since it was checked"):
        fuse(transformer(tiny), [(stale, 1.0)])


def test_bfloat16_weights_are_the_float32_ones_rounded_once(tiny: Path) -> None:
    loras = [(matched(tiny, DISTILLED), 0.8), (matched(tiny, STYLE), 0.3)]
    wide = fused_weights(transformer(tiny), *loras)
    narrow = fused_weights(transformer(tiny, torch.bfloat16), *loras)
    assert_same(narrow, {name: tensor.bfloat16() for name, tensor in wide.items()})


def test_official_sums_are_in_bfloat16_in_the_order_of_the_loras(tiny: Path) -> None:
    model, files = transformer(tiny, torch.bfloat16), (DISTILLED, STYLE, IN_CONTEXT)
    loras = [(matched(tiny, name), strength) for name, strength in zip(files, (0.8, 0.3, 1.7), strict=True)]
    before = dict(model.state_dict())
    after = fused_weights(model, *loras, sums_in=torch.bfloat16)
    keys = [f"diffusion_model.{name.removesuffix('weight')}lora_{{}}.weight" for name in loras[1][0].changes]
    tensors = [load_file(tiny / name) for name in files]
    for key in keys:
        (b1, a1), *others = [(t[key.format("B")], t[key.format("A")]) for t in tensors]
        change = (b1 * 0.8) @ a1
        for (b, a), strength in zip(others, (0.3, 1.7), strict=True):
            change = torch.addmm(change, b, a, alpha=strength)
        name = keymap.from_official(key.split(".", 1)[1].replace("lora_{}.", ""), keymap.TRANSFORMER)
        assert after[name].dtype == torch.bfloat16
        assert after[name].equal(change + before[name])
    backwards = fused_weights(model, *reversed(loras), sums_in=torch.bfloat16)
    assert any(not tensor.equal(backwards[name]) for name, tensor in after.items())


def test_sums_in_float32_are_nearer_to_the_truth_than_the_official_ones(tiny: Path) -> None:
    loras = [(matched(tiny, DISTILLED), 0.8), (matched(tiny, STYLE), 0.3)]
    truth = fused_weights(transformer(tiny, torch.float64), *loras)

    def error(sums_in: torch.dtype) -> float:
        weights = fused_weights(transformer(tiny, torch.bfloat16), *loras, sums_in=sums_in)
        return sum((tensor - truth[name]).abs().sum().item() for name, tensor in weights.items())

    assert error(torch.float32) < 0.9 * error(torch.bfloat16)


def test_float32_weights_are_never_summed_in_less(tiny: Path) -> None:
    model, lora = transformer(tiny), (matched(tiny, DISTILLED), 0.8)
    assert_same(fused_weights(model, lora, sums_in=torch.bfloat16), fused_weights(model, lora))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 300, 2**22])
def test_rows_are_fused_in_pieces_to_the_whole_and_in_place(
    dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    drawn = lambda *shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
    weight = drawn(37, 24)
    addends = [
        Addend([[drawn(37, 4), drawn(4, 24)]], None, 0.5),
        Addend([[drawn(37, 2), drawn(2, 24)]], None, -1.5),
    ]
    summed = sum(scale * (up.double() @ down.double()) for ((up, down),), _, scale in addends)
    monkeypatch.setattr(fusing, "SUMMED_AT_ONCE", at_once)
    fused = fused_weight(weight, addends)
    torch.testing.assert_close(fused, (weight.double() + summed).to(dtype))
    assert fused_weight(weight, addends, out=weight) is weight
    assert torch.equal(weight, fused)


def test_two_loras_together_are_one_after_the_other(tiny: Path) -> None:
    model, loras = transformer(tiny, torch.float64), [(matched(tiny, DISTILLED), 0.8), (matched(tiny, STYLE), -0.3)]
    together = fused_weights(model, *loras)
    fuse(model, loras[:1])
    after_each_other = fused_weights(model, loras[1])
    assert all(torch.allclose(t, after_each_other[name], rtol=0, atol=1e-14) for name, t in together.items())


def renamed(
    spelling: Callable[[str], str], endings: tuple[str, str] = ("lora_A", "lora_B")
) -> Callable[[Tensors], Tensors]:
    """Convert the tensor names of an official LoRA to another form."""

    def change(tensors: Tensors) -> Tensors:
        named = {}
        for name, tensor in tensors.items():
            layer, part = name.removeprefix("diffusion_model.").removesuffix(".weight").rsplit(".", 1)
            named[f"{spelling(layer)}.{endings[part == 'lora_B']}.weight"] = tensor
        return named

    return change


@pytest.mark.parametrize(
    "endings", [("lora_A", "lora_B"), ("lora_down", "lora_up"), ("lora_A.default", "lora_B.default")]
)
@pytest.mark.parametrize("spelling", ["official", "diffusers", "underscores"])
def test_other_names_change_nothing(tiny: Path, tmp_path: Path, spelling: str, endings: tuple[str, str]) -> None:
    model = transformer(tiny)
    other = changed(tiny, tmp_path, renamed(SPELLINGS[spelling], endings))
    assert_same(fused_weights(model, (matched(tiny, other), 0.7)), fused_weights(model, (matched(tiny, STYLE), 0.7)))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_alpha_counts_in_parts_of_the_rank(tiny: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    def with_alpha(tensors: Tensors) -> Tensors:
        layers = {name.rsplit(".", 2)[0]: min(tensor.shape) for name, tensor in tensors.items()}
        return tensors | {f"{layer}.alpha": torch.full(shape, rank / 2) for layer, rank in layers.items()}

    model = transformer(tiny)
    halved = fused_weights(model, (matched(tiny, changed(tiny, tmp_path, with_alpha)), 0.8))
    assert_same(halved, fused_weights(model, (matched(tiny, STYLE), 0.4)))


def test_with_partial_lora_the_layers_that_match_are_fused(tiny: Path, tmp_path: Path) -> None:
    path = changed(tiny, tmp_path, lambda t: t | {f"elsewhere.lora_{part}.weight": torch.ones(2, 2) for part in "AB"})
    partial = match(read_lora(path), read_header(tiny / CHECKPOINT), allow_partial=True)
    model = transformer(tiny)
    assert_same(fused_weights(model, (partial, 1.0)), fused_weights(model, (matched(tiny, STYLE), 1.0)))
