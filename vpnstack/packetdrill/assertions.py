"""What stands between %{ and }%: `assert` and `print` on TCP_INFO, evaluated node by node.

Nothing of Python is reachable but arithmetic, comparisons and the names that are passed in: the
source is parsed, never compiled or run.
"""

from __future__ import annotations

import ast
import operator
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from .errors import Mismatch, ScriptError

SOURCE_MAX = 4096
DEPTH_MAX = 32
BITS_MAX = 256  # of an integer in between

Value = Any

_BINARY: dict[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor,
    ast.RShift: operator.rshift,
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[Value], Value]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
    ast.Invert: operator.invert,
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Callable[[Value, Value], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Value]] = {"abs": abs, "min": min, "max": max, "int": int}


def check(source: str) -> ast.Module:
    """Parse a snippet and make sure that it is nothing but `assert` and `print`."""
    if len(source) > SOURCE_MAX:
        raise ScriptError(f"expected at most {SOURCE_MAX} characters of code, found {len(source)}")
    try:
        tree = ast.parse(textwrap.dedent(source).strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise ScriptError(f"expected assertions between %{{ and }}%, found {e}") from e
    for node in tree.body:
        if not isinstance(node, ast.Assert) and not _is_print(node):
            raise ScriptError(
                f"expected assert or print in %{{ }}%, found {type(node).__name__.lower()}"
            )
    return tree


def _is_print(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "print"
        and not node.value.keywords
    )


def run(source: str, names: Mapping[str, Value]) -> list[str]:
    """Do what a snippet says; return what it printed.  Raises `Mismatch` where an assert fails."""
    printed = []
    for node in check(source).body:
        if isinstance(node, ast.Assert):
            if not evaluate(node.test, names):
                said = f": {evaluate(node.msg, names)}" if node.msg is not None else ""
                shown = _shown(node.test, names)
                raise Mismatch(f"assertion failed{said}", ast.unparse(node.test), shown or "false")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            printed.append(" ".join(str(evaluate(arg, names)) for arg in node.value.args))
    return printed


def _shown(test: ast.expr, names: Mapping[str, Value]) -> str:
    """Write the names of an assertion with their values."""
    used = {n.id for n in ast.walk(test) if isinstance(n, ast.Name) and n.id in names}
    return ", ".join(f"{name} = {names[name]}" for name in sorted(used))


def evaluate(node: ast.expr, names: Mapping[str, Value], depth: int = 0) -> Value:
    """Return the value of an expression of the few kinds that are allowed."""
    if depth > DEPTH_MAX:
        raise ScriptError(f"expected at most {DEPTH_MAX} levels of an expression")
    rule = _RULES.get(type(node))
    if rule is None:
        raise ScriptError(f"expected simple arithmetic in %{{ }}%, found {type(node).__name__}")
    try:
        value = rule(node, lambda inner: evaluate(inner, names, depth + 1), names)
    except (ArithmeticError, TypeError, ValueError) as e:
        raise ScriptError(f"expected an expression with a value, found {e}") from e
    if isinstance(value, int) and value.bit_length() > BITS_MAX:
        raise ScriptError(f"expected numbers of at most {BITS_MAX} bits")
    return value


Evaluate = Callable[[ast.expr], Value]


def _name(node: Any, _: Evaluate, names: Mapping[str, Value]) -> Value:
    if node.id not in names:
        raise ScriptError(f"expected a name of TCP_INFO, found {node.id}")
    return names[node.id]


def _boolean(node: Any, inner: Evaluate, _: Mapping[str, Value]) -> Value:
    stop = isinstance(node.op, ast.Or)
    value: Value = not stop
    for part in node.values:
        value = inner(part)
        if bool(value) is stop:
            break
    return value


def _compare(node: Any, inner: Evaluate, _: Mapping[str, Value]) -> bool:
    left = inner(node.left)
    for op, part in zip(node.ops, node.comparators, strict=True):
        right = inner(part)
        if type(op) not in _COMPARE:
            raise ScriptError(f"expected a comparison, found {type(op).__name__}")
        if not _COMPARE[type(op)](left, right):
            return False
        left = right
    return True


def _operator(node: Any, inner: Evaluate, _: Mapping[str, Value]) -> Value:
    if type(node.op) not in _BINARY:
        raise ScriptError(f"expected a simple operator, found {type(node.op).__name__}")
    left, right = inner(node.left), inner(node.right)
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        raise ScriptError("expected numbers on both sides of an operator")
    return _BINARY[type(node.op)](left, right)


def _function(node: Any, inner: Evaluate, _: Mapping[str, Value]) -> Value:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in _FUNCTIONS or node.keywords:
        raise ScriptError(f"expected a function of {', '.join(_FUNCTIONS)}, found {name!r}")
    return _FUNCTIONS[name](*[inner(arg) for arg in node.args])


_RULES: dict[type[ast.expr], Callable[[Any, Evaluate, Mapping[str, Value]], Value]] = {
    ast.Constant: lambda node, _, __: node.value,
    ast.Name: _name,
    ast.BoolOp: _boolean,
    ast.Compare: _compare,
    ast.BinOp: _operator,
    ast.UnaryOp: lambda node, inner, _: _UNARY[type(node.op)](inner(node.operand)),
    ast.IfExp: lambda node, inner, _: inner(node.body if inner(node.test) else node.orelse),
    ast.Tuple: lambda node, inner, _: tuple(inner(part) for part in node.elts),
    ast.Call: _function,
}
