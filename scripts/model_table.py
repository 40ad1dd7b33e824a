"""Write the tables of docs/models.md from the catalogue: `python scripts/model_table.py [--check]`.

With --check nothing is written, and the script fails if the page differs from what it would write.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ltx2_core.disk import show_bytes
from ltx2_core.hub.registry import Catalogue, Control, Reference, RegisteredModel, read_shipped

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
BLOCK = re.compile(r"(<!-- (?P<name>\w+): scripts/model_table.py writes this table -->\n).*?(<!-- end -->)", re.DOTALL)
DISTILLED, FULL = "few steps without guidance: least computation", "many steps with guidance and a negative prompt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check whether the page is up to date")
    is_check = parser.parse_args().check
    before = PAGE.read_text(encoding="utf-8")
    after = written(before, read_shipped())
    if is_check:
        sys.exit("docs/models.md is not what the catalogue says: run scripts/model_table.py" if after != before else 0)
    PAGE.write_text(after, encoding="utf-8")


def written(page: str, catalogue: Catalogue) -> str:
    """The page with the tables that follow from the catalogue."""
    tables = {"models": models_table(catalogue), "files": files_table(catalogue), "loras": loras_table(catalogue)}
    return BLOCK.sub(lambda block: f"{block[1]}\n{tables[block['name']]}\n{block[3]}", page)


def models_table(catalogue: Catalogue) -> str:
    """Which model to download for which GPU and purpose."""
    models = sorted(catalogue.models.items(), key=lambda item: (item[1].generation, item[0]))
    rows = [
        (
            f"`{name}`",
            f"{model.precision}",
            show_bytes(total(model, catalogue)),
            f"{model.card_gb} GB",
            purpose(name),
            ", ".join(gated(model, catalogue)) or "no",
            usable(model),
        )
        for name, model in models
        if model.folder is None
    ]
    return table(("Name", "Weights", "Download", "GPU", "Best for", "Gated", "Usable"), rows)


def purpose(name: str) -> str:
    return DISTILLED if "distilled" in name else FULL


def usable(model: RegisteredModel) -> str:
    return "yes" if model.lacking is None else f"not yet: {model.lacking}"


def files_table(catalogue: Catalogue) -> str:
    """The files that each model consists of."""
    models = sorted(catalogue.models.items(), key=lambda item: (item[1].generation, item[0]))
    rows = [
        (f"`{name}`", role.replace("_", " "), f"`{reference}`", size_text(place, catalogue))
        for name, model in models
        for role, place in model.files.items()
        if (reference := Reference.parse(place)) and model.folder is None
    ]
    return table(("Model", "Part", "Where it is published", "Size"), rows)


def loras_table(catalogue: Catalogue) -> str:
    """The LoRAs that have a name in the catalogue."""
    rows = [
        (
            f"`{name}`",
            control.summary,
            option(control),
            made,
            f"{control.strength:g}",
            reference(control),
            size_text(place, catalogue),
        )
        for name, control in sorted(catalogue.controls.items())
        for made, place in control.files.items()
    ]
    return table(("Name", "What it does", "Option", "For", "Strength", "Reference", "Size"), rows)


def option(control: Control) -> str:
    if control.refused is not None:
        return "not yet"
    if control.looks_at == "images":
        return "`--lora` with `--ref`, `v2v --control`"
    return "`v2v --control`" if control.in_context else "`--lora`"


def reference(control: Control) -> str:
    """The size of the reference clip, relative to the result."""
    if not control.in_context:
        return "none"
    return "full size" if control.spatial_scale == 1 else f"1/{control.spatial_scale}"


def total(model: RegisteredModel, catalogue: Catalogue) -> int:
    files = [file for place in model.files.values() for file in catalogue.files_of(place)]
    return sum(catalogue.published(file).size or 0 for file in files)


def gated(model: RegisteredModel, catalogue: Catalogue) -> list[str]:
    """The repositories of a model whose licence must be accepted on the Hub first."""
    references = [reference for place in model.files.values() if (reference := Reference.parse(place))]
    return list(dict.fromkeys(one.repository for one in references if catalogue.repository(one.repository).gated))


def size_text(place: str, catalogue: Catalogue) -> str:
    """The total size of the files at a source; with "about" if the exact size of one of them is not known."""
    known = [catalogue.published(file) for file in catalogue.files_of(place)]
    if not any(one.size for one in known):
        return "not known"
    about = "" if all(one.bytes for one in known) else "about "
    return about + show_bytes(sum(one.size or 0 for one in known))


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
