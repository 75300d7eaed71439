"""Arithmetic in model output, evaluated without running it as code.

Python's parser reads the text and a walk over its tree does the sums, so nothing but numbers and operators can be
reached. Length and size are bounded, so no text can hang it.
"""

import ast
import operator
import re
from fractions import Fraction
from itertools import pairwise
from numbers import Real
from typing import Any

_MAX_LENGTH = 400  # an answer is a few terms long; this also bounds how deep the tree can get
_MAX_BITS = 8192  # a float ends at 1,024 bits: no longer integer is an answer, but on the way to one there may be some
_ARITHMETIC = re.compile(r"[0-9_.+\-*/%()&|^~<> \t\n\r\f]*")
_OPERATORS: dict[type[ast.AST], Any] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
_OPERATORS |= {ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow}
# "10^2" is 8 to Python, and so to the official verdicts.
_OPERATORS |= {ast.BitXor: operator.xor, ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.Invert: operator.inv}
_OPERATORS |= {ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Lt: operator.lt, ast.Gt: operator.gt}


def evaluate(text: str) -> int | float | None:
    """The value Python gives to `text`; None when it is not arithmetic, has no value, or passes the bounds.

    >>> evaluate("(3+4.5)*2"), evaluate("9**9**9"), evaluate("1/0"), evaluate("2 apples")
    (15.0, None, None, None)
    """
    text = re.sub(r"#[^\r\n]*", "", text)
    if len(text) > _MAX_LENGTH or not _ARITHMETIC.fullmatch(text):
        return None
    try:
        return value_of(ast.parse(text.lstrip(" \t"), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError):
        return None


def value_of(node: ast.expr) -> Any:
    """The value of a parsed expression; exact where its numbers are strings: `'1/2'`."""
    value: Any = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, str):
        value = Fraction(value)
    elif isinstance(node, ast.UnaryOp):
        value = _OPERATORS[type(node.op)](value_of(node.operand))
    elif isinstance(node, ast.BinOp):
        left, right = value_of(node.left), value_of(node.right)
        whole_power = isinstance(node.op, ast.Pow) and isinstance(right, int)
        if whole_power and isinstance(left, int) and left.bit_length() * right > _MAX_BITS:
            raise OverflowError("too large")
        value = _OPERATORS[type(node.op)](left, right)
    elif isinstance(node, ast.Compare):
        values = [value_of(node.left), *map(value_of, node.comparators)]
        value = all(_OPERATORS[type(sign)](*pair) for sign, pair in zip(node.ops, pairwise(values), strict=True))
    # A power can be complex; `...` is a constant too.
    if not isinstance(value, Real) or (isinstance(value, int) and value.bit_length() > _MAX_BITS):
        raise ValueError("not a real number within the bounds")
    return value
