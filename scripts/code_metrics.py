"""Measure the form of the code: `python scripts/code_metrics.py [ROOT …] [--json]`, by default of ltx2_core and
ltx2_cli.

For each root and each package in it, the script prints the number of files, lines and functions, the length of the
functions and the number of conditional expressions. Then it lists what should be rare: the longest functions, files
over 500 lines, expressions that hide a choice, and import cycles. It parses the source files and imports nothing.

The length of a function is the number of lines from `def` to its end; a nested function is also counted separately. A
percentile is the smallest length that this percentage of the functions does not exceed. A hidden choice is a literal
that is indexed by a truth value, `(a, b)[x > 0]` or `{True: a, False: b}[x]`, or a value that is chosen by `x and a or
b`.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

DEFAULT_ROOTS = ("ltx2_core", "ltx2_cli")
LONGEST, FILE_LIMIT = 10, 500
TRUTH_NAMES = ("is_", "has_", "can_", "should_", "needs_", "uses_", "keeps_", "allows_")
TRUTH_CALLS = ("all", "any", "bool", "callable", "hasattr", "isinstance", "issubclass")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Find = Callable[[ast.AST], Iterator[ast.expr]]


@dataclass(frozen=True)
class Module:
    """One file. name: its import name. package: the root, or the package in the root that contains the file."""

    path: str
    name: str
    package: str
    is_package: bool
    lines: int
    tree: ast.Module


@dataclass(frozen=True)
class Counts:
    """One row of the table. conditionals: number of conditional expressions, `a if x else b`."""

    name: str
    files: int
    lines: int
    functions: int
    p50: int
    p95: int
    longest: int
    conditionals: int

    @property
    def per_1000(self) -> float:
        return 1000 * self.conditionals / max(self.lines, 1)


@dataclass(frozen=True)
class Metrics:
    """All results to print; a place is "path:line"."""

    counts: list[Counts]
    longest_functions: list[tuple[int, str, str]]
    long_files: list[tuple[int, str]]
    spanning_conditionals: list[str]
    crowded_lines: list[str]
    indexed_choices: list[str]
    and_or_choices: list[str]
    circles_at_import: list[list[str]]
    circles_in_all: list[list[str]]


def read_modules(roots: Iterable[Path]) -> list[Module]:
    """All Python files under some packages, in the order of their names."""
    return [read_module(root, path) for root in roots for path in sorted(root.rglob("*.py"))]


def read_module(root: Path, path: Path) -> Module:
    source = path.read_text(encoding="utf-8")
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    is_package = parts[-1] == "__init__"
    package = ".".join(parts[:2]) if len(parts) > 2 else root.name
    name = ".".join(parts).removesuffix(".__init__")
    return Module(str(path), name, package, is_package, len(source.splitlines()), ast.parse(source))


def measure(modules: Sequence[Module]) -> Metrics:
    functions = sorted(
        ((length(node), node.name, place(module, node)) for module in modules for node in functions_of(module.tree)),
        key=lambda one: (-one[0], one[2]),
    )
    long_files = [(module.lines, module.path) for module in modules if module.lines > FILE_LIMIT]
    return Metrics(
        counts=[count(name, group) for name, group in groups(modules).items()],
        longest_functions=functions[:LONGEST],
        long_files=sorted(long_files, reverse=True),
        spanning_conditionals=places(modules, spanning_conditionals),
        crowded_lines=[f"{module.path}:{line}" for module in modules for line in crowded_lines(module.tree)],
        indexed_choices=places(modules, indexed_choices),
        and_or_choices=places(modules, and_or_choices),
        circles_at_import=circles(import_graph(modules, at_import=True)),
        circles_in_all=circles(import_graph(modules, at_import=False)),
    )


def groups(modules: Sequence[Module]) -> dict[str, list[Module]]:
    """All modules together, the modules of each root, and the modules of each package of a root with several
    packages.
    """
    found = {"all": list(modules)}
    for root in dict.fromkeys(module.name.split(".")[0] for module in modules):
        of_root = [module for module in modules if module.name.split(".")[0] == root]
        found[root] = of_root
        for package in dict.fromkeys(module.package for module in of_root if module.package != root):
            found[package] = [module for module in of_root if module.package == package]
    return found


def count(name: str, modules: Sequence[Module]) -> Counts:
    lengths = sorted(length(node) for module in modules for node in functions_of(module.tree))
    return Counts(
        name=name,
        files=len(modules),
        lines=sum(module.lines for module in modules),
        functions=len(lengths),
        p50=percentile(lengths, 0.5),
        p95=percentile(lengths, 0.95),
        longest=percentile(lengths, 1.0),
        conditionals=sum(1 for module in modules for _ in conditionals(module.tree)),
    )


# Functions


def functions_of(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def length(node: Function) -> int:
    """Number of lines from `def` to the last line, without decorators."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def percentile(values: Sequence[int], share: float) -> int:
    """The smallest of the sorted values that this share of the values does not exceed; 0 if there are no values."""
    return values[math.ceil(share * len(values)) - 1] if values else 0


# Hidden choices


def conditionals(tree: ast.AST) -> Iterator[ast.IfExp]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.IfExp))


def spanning_conditionals(tree: ast.AST) -> Iterator[ast.IfExp]:
    return (node for node in conditionals(tree) if node.lineno != node.end_lineno)


def crowded_lines(tree: ast.AST) -> list[int]:
    """Lines that contain the conditions of two or more conditional expressions."""
    conditions = Counter(node.test.lineno for node in conditionals(tree))
    return sorted(line for line, number in conditions.items() if number > 1)


def indexed_choices(tree: ast.AST) -> Iterator[ast.Subscript]:
    """Literals that are indexed by a truth value."""
    subscripts = (node for node in ast.walk(tree) if isinstance(node, ast.Subscript))
    return (node for node in subscripts if has_truth_keys(node.value) or is_picked_by_truth(node))


def has_truth_keys(node: ast.expr) -> bool:
    keys = node.keys if isinstance(node, ast.Dict) else []
    return any(isinstance(key, ast.Constant) and isinstance(key.value, bool) for key in keys)


def is_picked_by_truth(node: ast.Subscript) -> bool:
    return isinstance(node.value, ast.Tuple | ast.List | ast.Dict) and is_truth(node.slice)


def is_truth(node: ast.expr) -> bool:
    """Whether an expression is certainly a truth value, judged by its form and its names."""
    match node:
        case ast.Compare() | ast.UnaryOp(op=ast.Not()) | ast.Constant(value=bool()):
            return True
        case ast.BoolOp():
            return all(is_truth(value) for value in node.values)
        case ast.Call(func=ast.Name(id=name)):
            return name in TRUTH_CALLS or name.startswith(TRUTH_NAMES)
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Call(func=ast.Attribute(attr=name)):
            return name.lstrip("_").startswith(TRUTH_NAMES)
    return False


def and_or_choices(tree: ast.AST) -> Iterator[ast.BoolOp]:
    """Values that are chosen by `x and a or b`; conditions of this form are not included."""
    conditions = {id(node) for test in tests(tree) for node in ast.walk(test)}
    for node in ast.walk(tree):
        if isinstance(node, ast.BoolOp) and id(node) not in conditions and is_choice(node):
            yield node


def is_choice(node: ast.BoolOp) -> bool:
    has_guard = any(isinstance(value, ast.BoolOp) and isinstance(value.op, ast.And) for value in node.values[:-1])
    return isinstance(node.op, ast.Or) and has_guard and not is_truth(node)


def tests(tree: ast.AST) -> Iterator[ast.expr]:
    """Every expression that is only used as a truth value."""
    for node in ast.walk(tree):
        match node:
            case ast.If() | ast.While() | ast.IfExp() | ast.Assert():
                yield node.test
            case ast.comprehension():
                yield from node.ifs
            case ast.UnaryOp(op=ast.Not()):
                yield node.operand
            case ast.match_case(guard=ast.expr() as guard):
                yield guard


# Imports


def import_graph(modules: Sequence[Module], *, at_import: bool) -> dict[str, set[str]]:
    """The modules that each of these modules imports: anywhere in the file, or only at its import time.

    Importing a module also imports its package; this alone does not count as an edge.
    """
    names = {module.name for module in modules}
    return {
        module.name: {
            imported
            for node in (immediate(module.tree) if at_import else ast.walk(module.tree))
            for imported in imported_by(node, module, names)
        }
        for module in modules
    }


def immediate(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run at import time: not those inside functions or in blocks for type checkers."""
    yield node
    if isinstance(node, Function | ast.Lambda):
        return
    for child in ast.iter_child_nodes(node):
        is_hidden = isinstance(node, ast.If) and is_type_checking(node.test) and child in node.body
        if not is_hidden:
            yield from immediate(child)


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported_by(node: ast.AST, module: Module, names: set[str]) -> Iterator[str]:
    """The modules, out of these names, that a statement imports; `from package import name` may mean the module or its
    package.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in names)
    if isinstance(node, ast.ImportFrom):
        base = base_of(node, module)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            found = inner if inner in names else base
            if found in names:
                yield found


def base_of(node: ast.ImportFrom, module: Module) -> str:
    """The absolute name of the module in a `from … import`, which may be relative."""
    if not node.level:
        return node.module or ""
    above = module.name.split(".")
    above = above[: len(above) - node.level + module.is_package]
    return ".".join([*above, *filter(None, [node.module])])


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Import cycles: groups of modules that can all be reached from each other, each with its names sorted."""
    reached = {name: reachable(graph, name) for name in graph}
    found = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return sorted(sorted(group) for group in found if group)


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """The modules that can be reached from a module in one step or more."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


# Output


def places(modules: Sequence[Module], find: Find) -> list[str]:
    return [place(module, node) for module in modules for node in find(module.tree)]


def place(module: Module, node: ast.expr | ast.stmt) -> str:
    return f"{module.path}:{node.lineno}"


def as_text(metrics: Metrics) -> str:
    longest = [f"{lines:4}  {name}  {where}" for lines, name, where in metrics.longest_functions]
    long_files = [f"{lines:4}  {path}" for lines, path in metrics.long_files]
    sections = {
        "longest functions": longest,
        f"files over {FILE_LIMIT} lines": long_files,
        "conditional expressions that span lines": metrics.spanning_conditionals,
        "lines with two conditional expressions or more": metrics.crowded_lines,
        "literals indexed by a truth value": metrics.indexed_choices,
        "values chosen by and/or": metrics.and_or_choices,
        "import circles at import time": [" ".join(circle) for circle in metrics.circles_at_import],
        "import circles of all imports": [" ".join(circle) for circle in metrics.circles_in_all],
    }
    listed = ["\n  ".join([f"{title}: {len(lines)}", *lines]) for title, lines in sections.items()]
    return "\n\n".join([table(metrics.counts), *listed])


def table(counts: Sequence[Counts]) -> str:
    """One row for each group of modules."""
    head = ("", "files", "lines", "functions", "p50", "p95", "max", "if-else", "per 1,000")
    rows = [head] + [
        (c.name, c.files, c.lines, c.functions, c.p50, c.p95, c.longest, c.conditionals, f"{c.per_1000:.1f}")
        for c in counts
    ]
    name_width = max(len(str(row[0])) for row in rows)
    return "\n".join(f"{name:{name_width}}" + "".join(f"{value:>11}" for value in values) for name, *values in rows)


def as_json(metrics: Metrics) -> str:
    counts = [asdict(one) | {"per_1000": round(one.per_1000, 2)} for one in metrics.counts]
    return json.dumps(asdict(metrics) | {"counts": counts}, indent=1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="*", type=Path, metavar="ROOT", default=[Path(name) for name in DEFAULT_ROOTS])
    parser.add_argument("--json", action="store_true", dest="is_json")
    options = parser.parse_args(arguments)
    for root in options.roots:
        if not any(root.rglob("*.py")):
            parser.error(f"there is no Python file under {root}")
    modules = read_modules(options.roots)
    show = as_json if options.is_json else as_text
    print(show(measure(modules)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
