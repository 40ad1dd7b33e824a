"""No module imports from a higher layer, not even inside a function; and a few libraries may only be imported in one
place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = {
    0: (
        "cards",
        "components",
        "config",
        "costs",
        "diffusion_tiles",
        "disk",
        "errors",
        "grids",
        "folders",
        "gguf_header",
        "header_text",
        "headers",
        "home",
        "identity",
        "latents",
        "lock",
        "log",
        "machine",
        "paths",
        "records",
        "stored",
        "tiles",
        "types",
        "version",
        "yaml_file",
    ),
    1: ("models",),
    2: (
        "checkpoint",
        "compiling",
        "keymap",
        "lora",
        "lora_costs",
        "lora_file",
        "lora_forms",
        "lora_scale",
        "memory",
        "read_ahead",
        "streaming",
        "parallel",
        "quantize",
        "weights",
    ),
    3: ("conditioning", "hub", "media", "sampling", "text", "tiling"),
    4: ("pipeline",),
}
LAYER_OF = {home: layer for layer, homes in LAYERS.items() for home in homes}
ONLY_LAYER_0 = {"media", "hub"}  # of layer 3, these two must not use models and weights
ONLY_HERE = {
    "av": "ltx2_core.media",
    "PIL": "ltx2_core.media",
    "soundfile": "ltx2_core.media",
    "huggingface_hub": "ltx2_core.hub",
    "pynvml": "ltx2_core.cards",
    "jinja2": "ltx2_core.pipeline.report",
    "typer": "ltx2_cli",
    "rich": "ltx2_cli",
}
FILES = sorted([*ROOT.glob("ltx2_core/**/*.py"), *ROOT.glob("ltx2_cli/**/*.py")])


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path) for path in FILES}


def within(module: str, home: str) -> bool:
    return module == home or module.startswith(home + ".")


def imports_of(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every module that a source imports, at any place, by its absolute name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: None if is_package else -1]
            above = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def is_allowed(importer: str, imported: str) -> bool:
    """Whether the table allows one of our modules to import another."""
    if within(importer, "ltx2_cli"):
        return imported == "ltx2_core" or within(imported, "ltx2_cli")
    if importer == "ltx2_core":
        return within(imported, "ltx2_core")
    if not imported.startswith("ltx2_core."):
        return False
    here, there = importer.split(".")[1], imported.split(".")[1]
    if here == there:
        return True
    if here in ONLY_LAYER_0:
        return LAYER_OF[there] == 0
    return LAYER_OF[there] < LAYER_OF[here] or LAYER_OF[there] == LAYER_OF[here] in (0, 2)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    found = []
    for imported in imports_of(source, module, is_package):
        if within(imported, "ltx2_core") or within(imported, "ltx2_cli"):
            wrong = not is_allowed(module, imported)
        else:
            home = ONLY_HERE.get(imported.split(".")[0])
            wrong = home is not None and not within(module, home)
        if wrong:
            found.append(f"{module} imports {imported}")
    return found


def test_every_module_has_its_place_in_the_table():
    homes = {name.split(".")[1] for name in MODULES if name.startswith("ltx2_core.")}
    assert homes <= LAYER_OF.keys()


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_nothing_above_it(path: Path):
    assert violations(path.read_text(), module_name(path), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ltx2_core.config.section", "import torch; from ..checkpoint import load_component"),
        ("ltx2_core.models.rope", "def late():\n    from ltx2_core import keymap"),
        ("ltx2_core.models.rope", "from ..sampling import samplers"),
        ("ltx2_core.sampling.samplers", "from ..text import encode"),
        ("ltx2_core.media.audio", "from ..models import mel"),
        ("ltx2_core.checkpoint", "import ltx2_core"),
        ("ltx2_core.errors", "import ltx2_cli.app"),
        ("ltx2_core.errors", "import rich.console"),
        ("ltx2_core.text.encode", "import av"),
        ("ltx2_cli.app", "from ltx2_core import errors"),
        ("ltx2_cli.app", "from ltx2_core.errors import LTX2Error"),
    ],
)
def test_an_import_upwards_or_sideways_is_noticed(module: str, source: str):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ltx2_core.models.transformer", "from ..config.section import Section; from .rope import x"),
        ("ltx2_core.checkpoint", "from . import keymap"),
        ("ltx2_core.pipeline.engine", "from ..text.encode import x; from ..media import video"),
        ("ltx2_cli.app", "import ltx2_core as core; from .display import show_error; import typer"),
    ],
)
def test_an_import_downwards_is_allowed(module: str, source: str):
    assert violations(source, module) == []
