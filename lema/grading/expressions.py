"""Arithmetic in model output, evaluated without running it as code.

Python's own parser reads the text, a walk over its tree does the sums: the value is what Python would give, and
nothing but numbers and operators can be reached. Length, depth and size have bounds, so no text can hang it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from itertools import pairwise

# An answer is a few terms long; the length also bounds how deep the tree can get.
_MAX_LENGTH = 400
# A float ends at 1,024 bits, so the value of a longer integer is no answer; this leaves room on the way to one.
_MAX_BITS = 8192
_ARITHMETIC = re.compile(r"[0-9_.+\-*/%()&|^~<> \t\n\r\f]*")
_COMMENT = re.compile(r"#[^\r\n]*")
_BINARY: dict[type[ast.operator], Callable[..., object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    # "10^2" is an exclusive or to Python, and so to the official verdicts: 8.
    ast.BitXor: operator.xor,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_UNARY: dict[type[ast.unaryop], Callable[..., object]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}
# True is 1: "5 < 2 + 4" has a value too.
_COMPARISONS: dict[type[ast.cmpop], Callable[..., bool]] = {ast.Lt: operator.lt, ast.Gt: operator.gt}


def evaluate(text: str) -> int | float | None:
    """The value Python gives to `text`; None when it is not arithmetic, has no value, or passes the bounds.

    >>> evaluate("(3+4.5)*2"), evaluate("9**9**9"), evaluate("1/0"), evaluate("2 apples")
    (15.0, None, None, None)
    """
    text = _COMMENT.sub("", text)
    if len(text) > _MAX_LENGTH or not _ARITHMETIC.fullmatch(text):
        return None
    try:
        return _value(ast.parse(text.lstrip(" \t"), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant):
        return _number(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _number(_UNARY[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and isinstance(left, int) and isinstance(right, int):
            _bounded(left.bit_length() * right)
        return _number(_BINARY[type(node.op)](left, right))
    if isinstance(node, ast.Compare) and all(type(sign) in _COMPARISONS for sign in node.ops):
        values = [_value(node.left), *map(_value, node.comparators)]
        return all(_COMPARISONS[type(sign)](*pair) for sign, pair in zip(node.ops, pairwise(values), strict=True))
    raise ValueError("not arithmetic")


def _number(value: object) -> int | float:
    # A power can be complex; `...` is a constant too.
    if not isinstance(value, int | float):
        raise ValueError("not a real number")
    if isinstance(value, int):
        _bounded(value.bit_length())
    return value


def _bounded(bits: int) -> None:
    if bits > _MAX_BITS:
        raise OverflowError("too large")
