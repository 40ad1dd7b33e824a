"""The page itself: results in groups of one prompt, written as one self-contained HTML file.

Source: docs/report.md.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...media.overview import LEVELS
from ..values import counted
from .cells import (
    Badge,
    Recipes,
    Result,
    address,
    badges,
    data_address,
    facts,
    highest,
    picked_line,
    rerun_command,
)

FOLDER = Path(__file__).parent
SCRIPTS = ("compare.js", "page.js")  # in the order of the page; the last one starts the page
MOST_COLUMNS = 8  # columns per group on a wide screen; more seeds continue in the next row


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A result in its place. number: among all, from 0. title: the difference from its neighbours."""

    number: int
    result: Result
    title: str
    labels: tuple[str, ...] = ()
    badges: tuple[Badge, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Results of one prompt, in the order of the seeds of all groups; None if this one lacks a seed."""

    heading: str
    cells: tuple[Cell | None, ...]


def clip_page(result: Result) -> bytes:
    """The page about one file."""
    cell = Cell(number=0, result=result, title=_title(result), badges=_badges(result))
    return _render([Group(heading=result.heading, cells=(cell,))], [result], folder="", columns=1)


def batch_page(folder: str, results: Sequence[Result]) -> bytes:
    """The page about the results of a batch. folder: the name of their folder."""
    groups, columns = grouped(results)
    return _render(groups, results, folder=folder, columns=columns)


def grouped(results: Sequence[Result]) -> tuple[list[Group], int]:
    """Results by prompt and seed, and the number of columns. If no prompt has two, all are in one group."""
    by_prompt: dict[str, list[int]] = {}
    for number, result in enumerate(results):
        by_prompt.setdefault(result.heading, []).append(number)
    recipes = Recipes.of(results)
    if all(len(numbers) == 1 for numbers in by_prompt.values()):
        cells = (_cell(number, result, (result.heading,)) for number, result in enumerate(results))
        return [Group(heading="", cells=tuple(cells))], min(len(results), MOST_COLUMNS)
    groups = []
    seeds = dict.fromkeys(result.seed for result in results)
    for prompt, numbers in by_prompt.items():
        labels = recipes.labels(numbers)
        cells = [_cell(number, results[number], tuple(labels[number])) for number in numbers]
        groups.append(Group(heading=prompt, cells=_in_columns(cells, [*seeds])))
    return groups, min(max(len(group.cells) for group in groups), MOST_COLUMNS)


def _in_columns(cells: list[Cell], seeds: Sequence[int | None]) -> tuple[Cell | None, ...]:
    """Cells in the order of seeds with gaps, if each has a unique seed and there are few gaps."""
    by_seed = {cell.result.seed: cell for cell in cells}
    if len(by_seed) < len(cells) or 2 * len(cells) < len(seeds):
        return tuple(cells)
    return tuple(by_seed.get(seed) for seed in seeds)


def _cell(number: int, result: Result, labels: tuple[str, ...]) -> Cell:
    return Cell(number=number, result=result, title=_title(result), labels=labels, badges=_badges(result))


def _title(result: Result) -> str:
    return f"seed {result.seed}" if result.seed is not None else result.file


def _badges(result: Result) -> tuple[Badge, ...]:
    return tuple(badges(result.overview, result.seam)) if result.overview else ()


def _render(groups: Sequence[Group], results: Sequence[Result], *, folder: str, columns: int) -> bytes:
    script = Markup("\n").join(_part(name) for name in SCRIPTS)
    data = {"folder": folder, "levels": LEVELS, "recipes": Recipes.of(results).dump()}
    page = _environment().get_template("page.html")
    text = page.render(
        title=folder or results[0].file,
        folder=folder,
        groups=groups,
        columns=columns,
        counts=_counts(results),
        style=_part("page.css"),
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        data=data,
    )
    return text.encode("utf-8", "replace")


def _counts(results: Sequence[Result]) -> str:
    """How many results, prompts and seeds there are, and what is missing, as text."""
    prompts = {result.heading for result in results if result.made}
    seeds = {result.seed for result in results}
    words = [counted(len(results), "job"), counted(len(prompts), "prompt"), counted(len(seeds), "seed")]
    states = [result.state for result in results if result.state != "done"]
    return ", ".join([*words, *(f"{states.count(state)} {state}" for state in dict.fromkeys(states))])


@cache
def _environment() -> Environment:
    """Templates whose values are escaped, and in which a missing value is an error."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Mapping[str, Any] = {
        "address": address,
        "data_address": data_address,
        "facts": facts,
        "highest": highest,
        "picked_line": picked_line,
        "rerun_command": rerun_command,
    }
    environment.filters.update(filters)
    return environment


@cache
def _part(name: str) -> Markup:
    """A file that is included in the page unchanged, except for its indentation."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return Markup("\n".join(line.strip() for line in text.splitlines()))
