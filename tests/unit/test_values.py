"""Exact numbers in files and records."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from ltx2_core.pipeline.values import parse_fraction, parse_portion


@pytest.mark.parametrize("value", ["2/3", "-1.5", 0.5, 1, "0", 0.1 + 0.2, Fraction(1, 3)])
def test_fraction_is_exact_and_its_text_gives_it_again(value: Any) -> None:
    found = parse_fraction(value)
    assert found == Fraction(str(value))
    assert parse_fraction(str(found)) == found


@pytest.mark.parametrize(
    "value",
    ["1/0", "1e999999999", 1e308, float("inf"), float("nan"), None, True, [], {}, "", "x", "9" * 31, "٣"],
)
@pytest.mark.parametrize("parse", [parse_fraction, parse_portion])
def test_what_is_no_fraction_is_refused(parse: Any, value: Any) -> None:
    with pytest.raises(ValueError, match="it is not a number"):
        parse(value)
