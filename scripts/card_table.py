"""Write the table of docs/cards.md from plans: `python scripts/card_table.py [--check]`.

With --check nothing is written, and the script fails if the page differs from what it would write.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ltx2_core.machine import Machine
from ltx2_core.pipeline.resolve.resolve import Planning, plan_render
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from scripts.model_table import table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cards.md"
BLOCK = re.compile(r"(<!-- cards: scripts/card_table.py writes this table -->\n).*?(<!-- end -->)", re.DOTALL)
MODELS = (
    "ltx-2",
    "ltx-2-fp8",
    "ltx-2-nvfp4",
    "ltx-2-distilled",
    "ltx-2-distilled-fp8",
    "ltx-2.3",
    "ltx-2.3-fp8",
    "ltx-2.3-nvfp4",
    "ltx-2.5",
    "ltx-2.5-int8",
    "ltx-2.5-distilled-nvfp4",
)
SIZES = ("480p", "720p", "1080p", "4k")
CARDS_GB = (8, 12, 16, 24, 32, 80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check whether the page is up to date")
    is_check = parser.parse_args().check
    before = PAGE.read_text(encoding="utf-8")
    after = written(before)
    if is_check:
        sys.exit("docs/cards.md is not what is planned: run scripts/card_table.py" if after != before else 0)
    PAGE.write_text(after, encoding="utf-8")


def written(page: str) -> str:
    """The page with a table of what `plan` says if no model is installed."""
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"LTX2_HOME": home, "HF_HUB_CACHE": home}
        cells = table(("Model", "Size", *(f"{gb} GB" for gb in CARDS_GB)), rows(MODELS))
    return BLOCK.sub(lambda block: f"{block[1]}\n{cells}\n{block[2]}", page)


def rows(models: Iterable[str]) -> list[tuple[str, ...]]:
    """A row for each model and size."""
    return [
        (f"`{model}`", size, *(cell(planned(model, size, gb)) for gb in CARDS_GB)) for model in models for size in SIZES
    ]


def planned(model: str, size: str, vram_gb: int) -> Planning:
    return plan_render("t2v", "x", [(COMMAND_LINE, {"model": model, "res": size, "output": "x.mp4"})], vram_gb=vram_gb)


def cell(planning: Planning) -> str:
    """The cell of the table for a plan."""
    return mode(planning.resolved.task.machine) if planning.plan.fits else "–"


def mode(machine: Machine) -> str:
    """The memory mode, and how many blocks stay on the GPU if the others are streamed."""
    return f"streamed, {machine.resident_blocks}" if machine.memory == "streamed" else machine.memory


if __name__ == "__main__":
    main()
