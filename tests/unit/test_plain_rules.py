"""Decoded matrices of any width, group and seed, compared with the rule of each format written out for every number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ltx2_core.quantize.decode import decode
from ltx2_core.stored.layer import StoredLayer
from scripts.quantise import E2M1, WRITERS, rotation, stored

ROTATED, BY_GROUPS = ("convrot", "w4a8", "w6a8"), ("w4a8", "w6a8")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A matrix, the number of columns that are rotated together, and the number that share a scale in a row."""

    weight: Tensor
    group: int
    small_group: int


@dataclass(frozen=True)
class Numbers:
    """The inputs of a rule: the tensors of a layer, and the row r and the column k of every number, as (rows 1) and
    (columns).
    """

    stored: Tensors
    r: Tensor
    k: Tensor
    case: Case

    def q(self, dtype: torch.dtype | None = None) -> Tensor:
        weight = self.stored["weight"]
        return weight if dtype is None else weight.view(dtype)

    def block_scale(self, block: int, dtype: torch.dtype) -> Tensor:
        """The scale of each number, from block scales that are stored in pieces."""
        scales = self.stored["weight_scale"]
        c, r = self.k // block, self.r
        at = (r // 128 * (scales.shape[1] // 4) + c // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4
        return scales.view(torch.uint8).flatten()[at].view(dtype).float()


def mxfp8(n: Numbers) -> Tensor:
    return n.q().float() * n.block_scale(32, torch.float8_e8m0fnu)


def nvfp4(n: Numbers) -> Tensor:
    code = n.q()[n.r, n.k // 2] >> torch.where(n.k % 2 == 0, 4, 0) & 15
    value = torch.where(code > 7, -1, 1) * E2M1[code.int() & 7]
    return value * (n.stored["weight_scale_2"] * n.block_scale(16, torch.float8_e4m3fn))


def turned_back(whole: Tensor, scale: Tensor, group: int) -> Tensor:
    """Integers with the rotation undone by its matrix: the sums are exact, and one product is rounded."""
    sums = whole.double().unflatten(-1, (-1, group)) @ (rotation(group).double() * isqrt(group))
    return sums.flatten(-2).float() * (scale.reshape(-1, 1) / isqrt(group))


def relative(n: Numbers, value: Tensor) -> Tensor:
    """The values of the codes of small groups, as integers, with the rotation undone."""
    scale = n.stored["weight_s_rel"][n.r, n.k // n.case.small_group].float()
    whole = (value * scale).round().clamp(-127, 127)
    return turned_back(whole, n.stored["weight_s_channel"], n.case.group)


def four_bits(n: Numbers, columns: int) -> Tensor:
    packed = n.q(torch.uint8)[:, : columns // 2]
    return (packed[n.r, n.k // 2] >> torch.where(n.k % 2 == 0, 0, 4) & 15).int()


def w4a8(n: Numbers) -> Tensor:
    return relative(n, n.stored["weight_codebook"][four_bits(n, len(n.k))])


def w6a8(n: Numbers) -> Tensor:
    columns = len(n.k)
    high = n.q(torch.uint8)[n.r, columns // 2 + n.k // 4] >> 2 * (n.k % 4) & 3
    return relative(n, (four_bits(n, columns) + 16 * high.int()).float() - 32)


RULES: dict[str, Callable[[Numbers], Tensor]] = {
    "fp8": lambda n: n.q().float() * n.stored["weight_scale"],
    "fp8_rows": lambda n: n.q().float() * n.stored["weight_scale"][n.r],
    "fp8_tiles": lambda n: n.q().float() * n.stored["weight_scale"][n.r // 128, n.k // 128],
    "fp8_cast": lambda n: n.q().float(),
    "mxfp8": mxfp8,
    "nvfp4": nvfp4,
    "int8": lambda n: n.q().float() * n.stored["weight_scale"],
    "convrot": lambda n: turned_back(n.q(), n.stored["weight_scale"], n.case.group),
    "w4a8": w4a8,
    "w6a8": w6a8,
}


@st.composite
def cases(draw: st.DrawFn, form: str) -> Case:
    group = draw(st.sampled_from([4, 16, 64, 256])) if form in ROTATED else 1
    small_group = draw(st.sampled_from([16, 32])) if form in BY_GROUPS else 1
    step = 128 if form == "fp8_tiles" else max(group, small_group, 32 if form in BY_GROUPS else 1)
    rows = draw(st.integers(1, 3)) * 128 if form == "fp8_tiles" else draw(st.integers(1, 300))
    columns = draw(st.integers(1, max(1, 640 // step))) * step
    seed, exponent = draw(st.integers(0, 2**32)), draw(st.integers(-9, 3))
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    return Case(weight, group, small_group)


def test_every_format_has_a_rule() -> None:
    assert RULES.keys() == WRITERS.keys()


@pytest.mark.parametrize("form", RULES)
@given(data=st.data())
@settings(max_examples=12)
def test_a_matrix_decodes_to_the_bits_of_its_rule(form: str, data: st.DataObject) -> None:
    case = data.draw(cases(form))
    options = {"group": case.group} if form in ROTATED else {}
    options |= {"small_group": case.small_group} if form in BY_GROUPS else {}
    tensors, _ = stored(form, case.weight, **options)
    rows, columns = tensors["weight"].shape
    columns = {"nvfp4": 2 * columns, "w4a8": 2 * columns, "w6a8": columns * 4 // 3}.get(form, columns)
    layer = StoredLayer(
        name="a",
        format="int8" if form == "convrot" else form,  # type: ignore[arg-type]
        tensors={},
        shape=(rows, columns),
        rotation=case.group,
        group=case.small_group,
    )
    numbers = Numbers(tensors, torch.arange(rows)[:, None], torch.arange(columns), case)
    assert torch.equal(decode(layer, tensors, range(rows)), RULES[form](numbers))
