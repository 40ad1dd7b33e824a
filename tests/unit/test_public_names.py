"""The public names of `import ltx2_core`."""

import ast
from importlib import metadata
from pathlib import Path

import pytest

import ltx2_core

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ltx2_core.__all__)
def test_every_public_name_leads_somewhere(name: str):
    assert getattr(ltx2_core, name).__name__ == name
    assert name in dir(ltx2_core)


def test_the_names_for_readers_type_checkers_and_import_are_the_same():
    tree = ast.parse(Path(ltx2_core.__file__).read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(ltx2_core.__all__) == ltx2_core._MODULES.keys()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ltx2_core.nonsense


def test_the_version_is_that_of_the_distribution():
    assert ltx2_core.__version__ == metadata.version("ltx2")
