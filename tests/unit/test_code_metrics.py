"""The counts of scripts/code_metrics.py, on sources of a few lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import code_metrics
from scripts.code_metrics import Metrics, measure, percentile, read_modules


def measured(folder: Path, **sources: str) -> Metrics:
    """The metrics of a package `root` with these modules; `a__b` is the module b of the package a in it."""
    root = folder / "root"
    for name, source in sources.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(source)
    return measure(read_modules([root]))


def numbers(places: list[str]) -> list[int]:
    """The line numbers of some places."""
    return [int(place.rpartition(":")[2]) for place in places]


NESTED = """
@decorated
def outer():
    def inner():
        return 1

    return inner


class Thing:
    async def method(self): ...
"""


def test_functions_inside_others_count_too_and_decorators_do_not(tmp_path: Path):
    metrics = measured(tmp_path, a=NESTED)
    lengths = {name: lines for lines, name, _ in metrics.longest_functions}
    assert lengths == {"outer": 5, "inner": 2, "method": 1}
    assert (metrics.counts[0].functions, metrics.counts[0].longest) == (3, 5)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 10), (0.95, 19), (1.0, 20)])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(share: float, expected: int):
    assert percentile(range(1, 21), share) == expected


def test_nothing_has_no_percentile():
    assert percentile([], 0.5) == 0


CONDITIONALS = """
a = 1 if x else 2
b = (1 if x else 2) + (3 if y else 4)
c = 1 if x else 2 if y else 3
d = (
    1
    if x
    else 2
)
if x:
    e = 1
"""


def test_conditional_expressions_are_counted_by_line(tmp_path: Path):
    metrics = measured(tmp_path, a=CONDITIONALS)
    assert metrics.counts[0].conditionals == 6
    assert metrics.counts[0].per_1000 == pytest.approx(6000 / 11)
    assert numbers(metrics.crowded_lines) == [3, 4]
    assert numbers(metrics.spanning_conditionals) == [6]


@pytest.mark.parametrize(
    "expression",
    [
        "(a, b)[x > 0]",
        "[a, b][not x]",
        "(a, b)[is_video]",
        "(a, b)[self.has_audio]",
        "(a, b)[x.is_cuda and not y]",
        "(a, b)[bool(x)]",
        "(a, b)[isinstance(x, int)]",
        "{True: a, False: b}[x]",
    ],
)
def test_a_literal_that_a_truth_value_picks_from_is_a_choice(tmp_path: Path, expression: str):
    assert numbers(measured(tmp_path, a=f"y = {expression}").indexed_choices) == [1]


@pytest.mark.parametrize("expression", ["(a, b)[i]", "values[x > 0]", "{'a': 1}[name]", "values[is_video]", "x[-1]"])
def test_any_other_index_is_none(tmp_path: Path, expression: str):
    assert measured(tmp_path, a=f"y = {expression}").indexed_choices == []


@pytest.mark.parametrize("statement", ["y = x and a or b", "f(x and a or b or c)", "y = x > 0 and a or b"])
def test_a_value_that_and_and_or_choose_is_a_choice(tmp_path: Path, statement: str):
    assert numbers(measured(tmp_path, a=statement).and_or_choices) == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "if x and a or b: pass",
        "while x and a or b: pass",
        "y = 1 if x and a or b else 2",
        "y = [z for z in w if x and a or b]",
        "y = not (x and a or b)",
        "assert x and a or b",
        "y = x > 0 and is_video or z is None",
        "y = x or a and b",
        "y = x or b",
    ],
)
def test_a_condition_or_a_default_is_none(tmp_path: Path, statement: str):
    assert measured(tmp_path, a=statement).and_or_choices == []


def test_circles_at_import_time_and_of_all_imports_are_told_apart(tmp_path: Path):
    metrics = measured(
        tmp_path,
        a="from . import b",
        b="import root.c",
        c="from .a import name",
        late="from .typed import name",
        typed="def f():\n    from . import late",
        hinted="if TYPE_CHECKING:\n    from .late import name",
    )
    assert metrics.circles_at_import == [["root.a", "root.b", "root.c"]]
    assert metrics.circles_in_all == [["root.a", "root.b", "root.c"], ["root.late", "root.typed"]]


def test_what_only_a_type_checker_imports_closes_no_circle_at_import_time(tmp_path: Path):
    source = "if TYPE_CHECKING:\n    from {0} import x\nelse:\n    import math"
    metrics = measured(tmp_path, deep__a=source.format("..b"), b="from root.deep import a")
    assert metrics.circles_at_import == []
    assert metrics.circles_in_all == [["root.b", "root.deep.a"]]


def test_a_package_is_in_no_circle_just_for_holding_its_modules(tmp_path: Path):
    metrics = measured(tmp_path, deep__a="from . import b", deep__b="")
    assert metrics.circles_in_all == []


def test_packages_are_counted_one_by_one(tmp_path: Path):
    metrics = measured(tmp_path, a="x = 1\n", deep__b="y = 1 if x else 2\nz = 3\n", deep__more__c="w = 1\n")
    found = {one.name: (one.lines, one.conditionals) for one in metrics.counts}
    assert found == {"all": (4, 1), "root": (4, 1), "root.deep": (3, 1)}


def test_a_file_over_the_limit_is_named(tmp_path: Path):
    metrics = measured(tmp_path, short="x = 1\n" * 500, long="x = 1\n" * 501)
    assert [(lines, Path(path).name) for lines, path in metrics.long_files] == [(501, "long.py")]


def test_the_table_and_the_json_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    measured(tmp_path, a=CONDITIONALS)
    root = str(tmp_path / "root")
    assert code_metrics.main([root]) == code_metrics.main([root, "--json"]) == 0
    text, _, printed = capsys.readouterr().out.partition("{")
    assert json.loads("{" + printed)["counts"][0]["conditionals"] == 6
    assert [line.split() for line in text.splitlines()[1:3]] == [
        ["all", "2", "11", "0", "0", "0", "0", "6", "545.5"],
        ["root", "2", "11", "0", "0", "0", "0", "6", "545.5"],
    ]


def test_a_root_without_python_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    measured(tmp_path, a="x = 1\n")
    with pytest.raises(SystemExit) as caught:
        code_metrics.main([str(tmp_path / "root"), str(tmp_path / "nothing")])
    assert caught.value.code == 2
    assert "there is no Python file under" in capsys.readouterr().err
