"""The libraries that a module may import: light modules none of the heavy ones, bare modules only torch and what loads
weights.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIGHT = (
    "ltx2_core",
    "ltx2_core.cards",
    "ltx2_core.components",
    "ltx2_core.errors",
    "ltx2_core.types",
    "ltx2_core.grids",
    "ltx2_core.home",
    "ltx2_core.diffusion_tiles",
    "ltx2_core.tiles",
    "ltx2_core.config",
    "ltx2_core.costs",
    "ltx2_core.folders",
    "ltx2_core.headers",
    "ltx2_core.hub",
    "ltx2_core.lora_file",
    "ltx2_core.lora_forms",
    "ltx2_core.lora_scale",
    "ltx2_core.paths",
    "ltx2_core.records",
    "ltx2_core.stored",
    "ltx2_core.yaml_file",
    "ltx2_core.machine",
    "ltx2_core.sampling.table",
    "ltx2_core.pipeline.batch.jobs",
    "ltx2_core.pipeline.batch.options",
    "ltx2_core.pipeline.batch.run",
    "ltx2_core.pipeline.batch.settle",
    "ltx2_core.pipeline.convert.plan",
    "ltx2_core.pipeline.describe",
    "ltx2_core.pipeline.made",
    "ltx2_core.pipeline.rerun",
    "ltx2_core.media.installed",
    "ltx2_core.pipeline.doctor.facts",
    "ltx2_core.pipeline.request",
    "ltx2_core.pipeline.recipe",
    "ltx2_core.pipeline.resolve",
    "ltx2_core.pipeline.resolved",
    "ltx2_core.pipeline.synchrony",
    "ltx2_cli",
)
BARE = (
    "ltx2_core.models",
    "ltx2_core.sampling",
    "ltx2_core.conditioning",
    "ltx2_core.latents",
    "ltx2_core.config",
    "ltx2_core.checkpoint",
    "ltx2_core.components",
    "ltx2_core.keymap",
    "ltx2_core.lora",
    "ltx2_core.memory",
    "ltx2_core.quantize",
    "ltx2_core.tiling",
    "ltx2_core.weights",
    "ltx2_core.text",
    "scripts.benchmarks",
)

IMPORT_LIGHT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    heavy = {"torch", "transformers", "av", "numpy"} & sys.modules.keys()
    if heavy:
        sys.exit(f"{name} imports {sorted(heavy)}")
"""
# huggingface_hub is allowed: transformers needs it, and test_import_layers keeps it out of our modules.
IMPORT_BARE = """
import importlib, importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "yaml", "typer", "rich", "av", "soundfile", "PIL"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def modules(homes: tuple[str, ...]) -> list[str]:
    """The modules of the existing packages, with all submodules; of ltx2_core itself only its __init__."""
    found = []
    for home in homes:
        path = ROOT.joinpath(*home.split("."))
        if path.with_suffix(".py").is_file():
            found.append(home)
        elif (path / "__init__.py").is_file():
            inner = [] if home == "ltx2_core" else sorted(path.glob("**/[!_]*.py"))
            found += [home, *(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in inner)]
    return found


@pytest.mark.parametrize(("script", "homes"), [(IMPORT_LIGHT, LIGHT), (IMPORT_BARE, BARE)], ids=["light", "bare"])
def test_the_guarded_modules_stay_within_their_set(script: str, homes: tuple[str, ...]):
    names = modules(homes)
    assert len(names) > 5
    done = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
