"""The pages and sections that the code and the documentation cite exist in this repository."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted(
    path
    for folder in ("ltx2_core", "ltx2_cli", "scripts", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
)
PAGES = sorted((ROOT / "docs").rglob("*.md"))
CITATION = re.compile(r'([\w./-]+\.md)\)?((?:,? (?:and )?"[^"]+")+)')  # docs/page.md, "One section" and "Another"
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")  # to a file, and a section of it
PRIVATE = re.compile(r"Sources?: specs?\b|\bspec [a-z-]+, (?:section|\")")  # a text that nobody outside can find


def joined(text: str) -> str:
    """A text on one line, without comment signs, because a citation may be broken over lines."""
    return re.sub(r"\s*\n\s*(?:# )?", " ", text)


@cache
def headings(page: Path) -> frozenset[str]:
    """The headings of a page, without those inside code blocks."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return frozenset(re.findall(r"^#+ (.+)$", prose, re.MULTILINE))


def misses(text: str, folder: Path = ROOT) -> list[str]:
    """Cited pages and sections that do not exist. folder: base of page names that do not begin with docs/."""
    found = []
    for name, sections in CITATION.findall(joined(text)):
        page = (ROOT if name.startswith("docs/") else folder) / name
        if not page.is_file():
            found.append(name)
            continue
        cited = re.findall(r'"([^"]+)"', sections)
        found += [f'{name}, "{section}"' for section in cited if section not in headings(page)]
    return found


def test_every_section_that_the_code_cites_is_there():
    assert {path.name: lost for path in CODE if (lost := misses(path.read_text(encoding="utf-8")))} == {}


def test_nothing_cites_a_text_that_is_not_in_the_repository():
    assert [path.name for path in CODE if PRIVATE.search(joined(path.read_text(encoding="utf-8")))] == []


def test_every_section_that_a_page_cites_is_there():
    assert {page.name: lost for page in PAGES if (lost := misses(page.read_text(encoding="utf-8"), page.parent))} == {}


def dead_links(page: Path) -> list[str]:
    """The links of a page to files and sections that are not there."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lost = []
    for name, section in LINK.findall(prose):
        target = page.parent / name if name else page
        if name.startswith("https://"):
            continue
        known = {anchor(heading) for heading in headings(target)} if section and target.is_file() else {section}
        if not target.exists() or section not in known:
            lost.append(f"{name}#{section}")
    return lost


def anchor(heading: str) -> str:
    """The end of an address that leads to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_link_leads_somewhere():
    assert {page.name: lost for page in (ROOT / "README.md", *PAGES) if (lost := dead_links(page))} == {}


def test_a_dead_link_is_noticed(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One, two\n[a](page.md#one-two) [b](#one-two) [c](https://x.example/y.md) [d](no.md) [e](#three)\n"
    )
    assert dead_links(page) == ["no.md#", "#three"]


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ('Source: docs/toy.md, "The world".', []),
        ('Source: docs/toy.md, "The world" and "Training"; docs/toy.md, "Evaluation".', []),
        ('# Broken over\n    # lines: docs/toy.md,\n    # "The world"', []),
        ('Source: docs/toy.md, "No such section".', ['docs/toy.md, "No such section"']),
        ('Source: docs/toy.md, "The world", "Nowhere" and "Training".', ['docs/toy.md, "Nowhere"']),
        ('Source: docs/no-such-page.md, "The world".', ["docs/no-such-page.md"]),
        ('[docs/toy.md](docs/toy.md), "The world" and "Nowhere"', ['docs/toy.md, "Nowhere"']),
    ],
)
def test_a_citation_of_nothing_is_noticed(text: str, lost: list[str]):
    assert misses(text) == lost
