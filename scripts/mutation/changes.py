"""The mutations: small changes to an operator, a comparison, a number, a condition, a slice, a call or a preset."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
WORDS = {  # values in presets, each with another value that is valid there
    "distilled-8": "distilled-3",
    "distilled-3": "distilled-8",
    "temporal-4": "distilled-3",
    "upsampled": "noise",
    "source": "noise",
    "first": "last",
    "append": "replace-first",
    "res2s": "euler",
    "grid": "fixed",
    "images": "all",
}
UNTOUCHED_KEYS = ("summary",)  # only shown to the user


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One small change. file: path from the root. lines: the changed lines. is_global: outside of function bodies."""

    file: str
    kind: str
    lines: tuple[int, ...]
    is_global: bool
    before: str
    after: str

    @property
    def diff(self) -> str:
        """The change as a diff without context lines."""
        pairs = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), self.file, self.file, "", "", 0)
        return "\n".join(line.rstrip() for line in pairs)


def changes_of(root: Path, file: str) -> list[Change]:
    """Every possible change to a file, in the order of its lines."""
    before = (root / file).read_text(encoding="utf-8")
    spans = _yaml_spans(before) if file.endswith(".yaml") else _python_spans(before)
    found = []
    for kind, start, end, text, is_global in spans:
        after = before[:start] + text + before[end:]
        first, last = before.count("\n", 0, start) + 1, before.count("\n", 0, end) + 1
        if after != before and (file.endswith(".yaml") or _is_python(after)):
            lines = tuple(range(first, last + 1))
            found.append(Change(file=file, kind=kind, lines=lines, is_global=is_global, before=before, after=after))
    return found


Span = tuple[str, int, int, str, bool]  # kind, start, end, new text, whether it is outside of functions


def _python_spans(source: str) -> Iterator[Span]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = source.splitlines(keepends=True)

    def place(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    for node, is_global in _nodes(ast.parse(source), True):
        for kind, target, text in _replacements(node):
            start = place(target.lineno, target.col_offset)
            end = place(target.end_lineno or target.lineno, target.end_col_offset or 0)
            yield kind, start, end, text, is_global


def _nodes(node: ast.AST, is_global: bool) -> Iterator[tuple[ast.AST, bool]]:
    """The nodes that may be changed: not annotations, decorators, string literals, and blocks for type checkers."""
    yield node, is_global
    for name, value in ast.iter_fields(node):
        inside = is_global and not (isinstance(node, ast.FunctionDef | ast.Lambda) and name == "body")
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert | ast.Raise):
                continue
            if isinstance(child, ast.keyword) and child.arg in ("strict", "hint"):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.AST):
                yield from _nodes(child, inside)


def _replacements(node: ast.AST) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    """The changes at one node: their kind, the replaced text, and the new text."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            yield "operator", node, ast.unparse(ast.BinOp(left, OPERATORS[type(op)](), right))
        case ast.Compare(left=left, ops=[op], comparators=others):
            yield "comparison", node, ast.unparse(ast.Compare(left, [COMPARISONS[type(op)]()], others))
        case ast.BoolOp(op=op, values=values):
            other = ast.And() if isinstance(op, ast.Or) else ast.Or()
            yield "condition", node, f"({ast.unparse(ast.BoolOp(other, values))})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "condition", node, ast.unparse(operand)
        case ast.Constant(value=bool(value)):
            yield "constant", node, str(not value)
        case ast.Constant(value=int(value)):
            yield "constant", node, str(value + 1)
        case ast.Constant(value=float(value)):
            yield "constant", node, str(1.5 * value or 1.0)
        case ast.Slice(lower=ast.expr() as lower):
            yield "slice", lower, ""
        case ast.Slice(upper=ast.expr() as upper):
            yield "slice", upper, ""
        case ast.Expr(value=ast.Call()):
            yield "dropped call", node, "pass"
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield "condition", test, f"(not ({ast.unparse(test)}))"
        case ast.comprehension(ifs=[test, *_]):
            yield "condition", test, f"(not ({ast.unparse(test)}))"


def _yaml_spans(source: str) -> Iterator[Span]:
    def values(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value not in UNTOUCHED_KEYS:
                    yield from values(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                yield from values(value)
        elif isinstance(node, yaml.ScalarNode):
            yield node

    for node in values(yaml.compose(source)):
        start, end = node.start_mark.index, node.end_mark.index
        text = source[start:end]
        yield "preset", start, end, _other_value(text), True


def _other_value(text: str) -> str:
    """A different value of the same kind."""
    if text in ("true", "false"):
        return {"true": "false", "false": "true"}[text]
    if text in WORDS:
        return WORDS[text]
    number = re.search(r"\d+(\.\d+)?", text)
    if number is None:
        return f"{text.rstrip()} x\n" if text.endswith("\n") else f'"{text.strip(chr(34))}x"'
    value = number.group()
    other = str(int(value) + 1) if value.isdigit() else str(float(value) + 0.5)
    return text[: number.start()] + other + text[number.end() :]


def _is_python(source: str) -> bool:
    try:
        compile(source, "changed", "exec")
    except SyntaxError:
        return False
    return True
