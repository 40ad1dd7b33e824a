"""The report of a bench in Markdown: a table with the facts that it depends on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report with one table.

    facts: lines before the table. rows: cells by column. verdict: the line after the table; is_good: whether it is a
    success. runs: the seconds of ours in each run, by name of the work, for `compare`.
    """

    title: str
    facts: Sequence[str]
    rows: Sequence[Mapping[str, str]]
    verdict: str
    is_good: bool
    runs: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def markdown(self) -> str:
        facts = [f"- {fact}" for fact in self.facts]
        return "\n".join([f"## {self.title}\n", *facts, "", table(self.rows), "", self.verdict])


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of cells by column as a Markdown table; every row needs all columns."""
    lines = [[*rows[0]], *([row[column] for column in rows[0]] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def machine() -> list[str]:
    """The facts that every figure depends on: processor, GPUs, threads, versions."""
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        *(f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards),
        f"{_version('torch')}, {_version('diffusers')}, Python {platform.python_version()}, {platform.system()}",
    ]


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def _processor() -> str:
    """The model name of the processor, if the system provides it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
