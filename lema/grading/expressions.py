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

# Only a sum that a model repeats until its token limit is longer. The bound also limits how deep the parser goes.
_MAX_LENGTH = 4000
# A float ends at 1,024 bits, so no answer has more; intermediate results may.
_MAX_BITS = 8192
_ARITHMETIC = re.compile(r"(?:[0-9_.+\-*/%()&|^~<>' \t\n\r\f]|#[^\r\n]*)*")
_OPERATORS: dict[type[ast.AST], Any] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
_OPERATORS |= {ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow}
_OPERATORS |= {ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Lt: operator.lt, ast.Gt: operator.gt}
# "10^2" is 8 to Python, and so to the official verdicts.
_OPERATORS |= {ast.BitXor: operator.xor, ast.BitAnd: operator.and_, ast.BitOr: operator.or_}
_OPERATORS |= {ast.Invert: operator.invert, ast.LShift: operator.lshift}


def evaluate(text: str) -> int | float | None:
    """The value Python gives to `text`; None when it is not arithmetic, has no value, or passes the bounds.

    >>> evaluate("(3+4.5)*2"), evaluate("9**9**9"), evaluate("1/0"), evaluate("2 apples")
    (15.0, None, None, None)
    """
    if len(text) > _MAX_LENGTH or not _ARITHMETIC.fullmatch(text):
        return None
    try:
        body = ast.parse(text.lstrip(" \t"), mode="eval").body
        if isinstance(body, ast.Constant) and isinstance(body.value, str):
            return float(body.value)  # '-5' in quotes is -5 to the official code, which makes all it finds a float
        return None if "'" in text else value_of(body)
    except (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError):
        return None


def value_of(node: ast.expr) -> Any:
    """The value of a syntax tree, exact where its numbers are strings: `'1/2'`.

    A sum is a chain of left operands. A loop walks the chain, so a sum may be long.
    """
    chain: list[ast.BinOp] = []
    while isinstance(node, ast.BinOp):
        chain.append(node)
        node = node.left
    value: Any = node.value if isinstance(node, ast.Constant) else None
    value = Fraction(value) if isinstance(value, str) else value
    if isinstance(node, ast.UnaryOp):
        value = _OPERATORS[type(node.op)](value_of(node.operand))
    elif isinstance(node, ast.Compare):
        values = [value_of(node.left), *map(value_of, node.comparators)]
        value = all(_OPERATORS[type(sign)](*pair) for sign, pair in zip(node.ops, pairwise(values), strict=True))
    value = _bounded(value)
    for operation in reversed(chain):
        right = value_of(operation.right)
        if isinstance(value, int) and isinstance(right, int) and isinstance(operation.op, ast.Pow | ast.LShift):
            size = value.bit_length() * right if isinstance(operation.op, ast.Pow) else right
            if size > _MAX_BITS:
                raise OverflowError("too large")
        value = _bounded(_OPERATORS[type(operation.op)](value, right))
    return value


def _bounded(value: Any) -> Any:
    # A power can be complex; `...` is a constant too.
    if not isinstance(value, Real) or (isinstance(value, int) and value.bit_length() > _MAX_BITS):
        raise ValueError("not a real number within the bounds")
    return value
