"""The table in docs/cards.md is up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.card_table import PAGE, rows


def test_the_page_says_what_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("scripts.card_table.CARDS_GB", (8, 80))
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for row in rows(["ltx-2-fp8"]):
        (line,) = (line for line in lines if line.startswith(f"| {row[0]} | {row[1]} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert (cells[2], cells[-1]) == row[2:]
