"""Products in the type in which a weight is stored, computed on the CPU without special kernels."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ltx2_core.cards import Card
from ltx2_core.errors import RequestError
from ltx2_core.headers import read_header
from ltx2_core.pipeline.resolve import machine
from ltx2_core.pipeline.resolve.machine import products_on
from ltx2_core.quantize import linear, products
from ltx2_core.quantize.blocks import E2M1
from ltx2_core.quantize.linear import QuantisedLinear, multiply_as_stored, quantised_linear
from ltx2_core.quantize.products import LEAST_OUT, LEAST_ROWS, PRODUCTS, multiply
from ltx2_core.quantize.rows import block_scales, in_pieces
from ltx2_core.stored.layer import Format
from ltx2_core.weights import map_tensors
from scripts.quantise import stored, with_markers

# Tolerance for a product with quantised inputs against one with unquantised inputs, root mean square over outputs.
ERRORS = {"fp8": 0.05, "fp8_rows": 0.05, "mxfp8": 0.05, "nvfp4": 0.2, "int8": 0.02, "convrot": 0.02, "w4a8": 0.02}
ERRORS |= {"w6a8": 0.02}
ALL: tuple[Format, ...] = tuple(PRODUCTS)


def linear_of(
    form: str, folder: Path, shape: tuple[int, int] = (128, 256), *, has_bias: bool = True
) -> QuantisedLinear:
    """A layer with random weights that was read from a file."""
    options = {"group": 64} if form in ("convrot", "w4a8", "w6a8") else {}
    generator = torch.Generator().manual_seed(1)
    tensors, marker = stored(form, torch.randn(shape, generator=generator) * 0.02, **options)
    tensors.pop("input_scale", None)
    path = folder / f"{form}.safetensors"
    save_file(with_markers({"a": (tensors, marker)}), path)
    header = read_header(path)
    (layer,) = header.stored.layers.values()
    found = map_tensors(header, layer.tensors.values())
    module = quantised_linear(layer, nn.Linear(shape[1], shape[0], bias=has_bias, device="meta"), header)
    state = {f"stored.{role}": found[name] for role, name in layer.tensors.items()}
    bias = {"bias": torch.randn(shape[0], generator=generator).bfloat16()} if has_bias else {}
    module.load_state_dict({**state, **bias}, assign=True)
    return module.requires_grad_(False)


def inputs(rows: int, columns: int = 256) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(2)).bfloat16()


@pytest.mark.parametrize("form", ERRORS)
def test_a_product_as_stored_is_near_that_of_the_decoded_weight(form: str, tmp_path: Path) -> None:
    module = linear_of(form, tmp_path)
    x = inputs(2 * LEAST_ROWS).unflatten(0, (2, LEAST_ROWS))
    decoded = module(x).float()
    multiply_as_stored(module, ALL)
    ours = module(x)
    assert ours.dtype == torch.bfloat16
    assert not torch.equal(ours.float(), decoded)  # the inputs were quantised
    error = (ours.float() - decoded).square().mean().sqrt() / (decoded - module.bias).square().mean().sqrt()
    assert error <= ERRORS[form]


@pytest.mark.parametrize("form", ["mxfp8", "nvfp4"])
def test_padding_of_a_weight_adds_nothing(form: str, tmp_path: Path) -> None:
    module = linear_of(form, tmp_path, (120, 200), has_bias=False)
    x = inputs(LEAST_ROWS, 200)
    decoded = module(x).float()
    multiply_as_stored(module, ALL)
    ours = module(x).float()
    assert ours.shape == (LEAST_ROWS, 120)
    assert (ours - decoded).square().mean().sqrt() <= ERRORS[form] * decoded.square().mean().sqrt()


@pytest.mark.parametrize("form", ERRORS)
def test_rows_do_not_depend_on_how_they_are_cut(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = linear_of(form, tmp_path), inputs(4 * LEAST_ROWS)
    tensors = dict(module.stored.named_buffers())
    whole = multiply(module.layer, tensors, x)
    monkeypatch.setattr(products, "CHUNK", 0)  # as few rows at a time as may be
    assert torch.equal(multiply(module.layer, tensors, x), whole)


def test_inputs_in_the_middle_of_two_codes_of_nvfp4_become_the_even_one(tmp_path: Path) -> None:
    layer = linear_of("nvfp4", tmp_path)
    tensors = {**dict(layer.stored.named_buffers()), "input_scale": torch.tensor(1.0)}
    middles = [(low + high) / 2 for low, high in pairwise(E2M1)]
    even = [E2M1[number + number % 2] for number in range(len(middles))]
    x, rounded = (torch.tensor([*some, 6.0, *(-value for value in some), 6.0]) for some in (middles, even))
    ours, wanted = (multiply(layer.layer, tensors, one.tile(LEAST_ROWS, 16)) for one in (x, rounded))
    assert torch.equal(ours, wanted)


@pytest.mark.parametrize(("form", "shape"), [("fp8", (LEAST_OUT // 2, 256)), ("fp8", (130, 256)), ("nvfp4", (128, 48))])
def test_what_a_card_does_not_take_is_decoded(form: str, shape: tuple[int, int], tmp_path: Path) -> None:
    module, x = linear_of(form, tmp_path, shape), inputs(LEAST_ROWS, shape[1])
    decoded = module(x)
    multiply_as_stored(module, ALL)
    assert torch.equal(module(x), decoded)


def test_few_rows_and_formats_that_the_machine_has_not_are_decoded(tmp_path: Path) -> None:
    module, x = linear_of("fp8", tmp_path), inputs(LEAST_ROWS)
    decoded = module(x)
    multiply_as_stored(module, ("fp8",))
    assert torch.equal(module(x[:-1]), torch.nn.functional.linear(x[:-1], module.weight, module.bias))
    multiply_as_stored(module, ("nvfp4",))
    assert torch.equal(module(x), decoded)


def test_inputs_of_zeros_give_the_bias(tmp_path: Path) -> None:
    for form in ERRORS:
        module = linear_of(form, tmp_path)
        multiply_as_stored(module, ALL)
        assert torch.equal(module(torch.zeros(LEAST_ROWS, 256).bfloat16()), module.bias.expand(LEAST_ROWS, -1)), form


def test_a_card_that_cannot_multiply_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Tensor:
        raise RuntimeError("no kernel for this card\nand more")

    monkeypatch.setattr(products.F, "scaled_mm", fails)
    module = linear_of("fp8", tmp_path)
    multiply_as_stored(module, ALL)
    with pytest.raises(RequestError, match="fp8") as error:
        module(inputs(LEAST_ROWS))
    assert (error.value.why, "--precision bf16" in error.value.hint) == ("no kernel for this card", True)


@pytest.mark.parametrize(("rows", "is_as_stored"), [(16, False), (17, True)])
def test_few_rows_are_multiplied_by_the_decoded_weight_as_int_mm_takes_no_fewer_than_17(
    rows: int, is_as_stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, seen = linear_of("convrot", tmp_path), []
    multiply_as_stored(module, ALL)
    monkeypatch.setattr(linear, "multiply", lambda *given: seen.append(given) or multiply(*given))
    module(inputs(rows))
    assert len(seen) == is_as_stored


def test_a_last_chunk_of_few_rows_is_filled_up_for_the_product_of_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x, seen = linear_of("convrot", tmp_path), inputs(2 * LEAST_ROWS + 1), []
    multiply_as_stored(module, ALL)
    whole, product = module(x), torch.ops.aten._int_mm

    def watched(codes: Tensor, weight: Tensor) -> Tensor:
        seen.append(len(codes))
        return product(codes, weight)

    monkeypatch.setattr(products, "CHUNK", 0)  # as few rows at a time as may be
    monkeypatch.setattr(torch.ops.aten, "_int_mm", watched)
    assert module(x).equal(whole)
    assert seen == [LEAST_ROWS] * 3


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (128, 4), (130, 5), (300, 9)])
def test_scales_come_back_from_pieces(rows: int, blocks: int) -> None:
    scales = torch.arange(rows * blocks).reshape(rows, blocks).byte()
    assert torch.equal(block_scales(in_pieces(scales), blocks, range(rows)), scales)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        (None, ()),
        ((8, 6), ()),
        ((8, 9), ("fp8", "fp8_rows")),
        ((9, 0), ("fp8", "fp8_rows")),
        ((12, 0), ("fp8", "fp8_rows", "mxfp8", "nvfp4")),
    ],
)
def test_products_are_those_of_the_card(
    capability: tuple[int, int] | None, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "has_fast_kernels", lambda: False)
    assert products_on(Card(name="a card", nbytes=1, capability=capability)) == expected


def test_integers_are_multiplied_where_a_fused_kernel_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_fast_kernels", lambda: True)
    assert products_on(Card(name="a card", nbytes=1, capability=(8, 6))) == ("int8", "w4a8", "w6a8")
    assert products_on(None) == ()


def test_the_fused_kernel_attends_in_bfloat16_on_cards_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (Card(name="a card", nbytes=1, capability=(major, 5)) for major in (7, 8))
    monkeypatch.setattr(machine, "has_fast_kernels", lambda: True)
    assert [machine.neighbours_on(card, "bf16") for card in (None, old, new)] == ["boxes", "boxes", "fused"]
    assert machine.neighbours_on(new, "fp32") == "boxes"
    monkeypatch.setattr(machine, "has_fast_kernels", lambda: False)
    assert machine.neighbours_on(new, "bf16") == "boxes"
