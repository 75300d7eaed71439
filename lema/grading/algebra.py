r"""Whether two single values are equal, worked out by SymPy from LaTeX that latex2sympy2_extended reads.

Call it only in a process that can be killed: a power tower never ends. No text is evaluated as Python: the LaTeX
grammar builds SymPy objects, and only known commands reach the grammar.
"""

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from sympy import Abs, Basic, Expr, I, Pow, Rational, Symbol, log
from sympy.core.function import AppliedUndef

from lema.grading.notation import GREEK

# Letters keep their case: in geometry `a` and `A` are two things.
_READING = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
_COMMANDS = """frac sqrt pi cdot infty sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp binom
    lfloor rfloor lceil rceil""".split()
_READABLE = re.compile(rf"(?:[-0-9A-Za-z+/^_{{}}()|!. ]|\\sqrt\[\d+\]|\\(?:{GREEK}|{'|'.join(_COMMANDS)})(?![a-z]))+")
_ARGUMENT = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_INDEXED = rf"\\(?:(?:arc)?(?:sin|cos|tan)|(?:sin|cos|tan)h|cot|sec|csc|log|ln)(?:[_^]{_ARGUMENT}){{1,2}}"
_CALL = re.compile(rf"{_INDEXED} ?\(")
_OF_FRACTION = re.compile(rf"({_INDEXED}) ?(\\frac(?:{_ARGUMENT}){{2}})(?![\w\\({{^!])")
_RELATION = re.compile(r"(=|<|>|\\[lg]e(?![a-z])) ?")
# Two different short answers never agree in so many digits; values are worked out to `_DIGITS` digits for that.
_AGREEMENT, _DIGITS, _MAX_DIGITS = 25, 30, 400
# Points at which formulas are compared: the value of the first letter, and the step to the next letter's value.
_POINTS = (
    (Fraction(137, 100), Fraction(61, 97)),
    (Fraction(-83, 71), Fraction(53, 31)),
    (Fraction(29, 13), Fraction(-31, 19)),
    (Fraction(-7, 19), Fraction(-3, 43)),
)


def same_value(found: str, gold: str) -> bool:
    r"""Whether two cleaned values are the same number, formula, equation or inequality.

    >>> same_value(r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), same_value("1.41", r"\sqrt{2}")
    (True, False)
    >>> same_value("2x-y=0", "y=2x"), same_value("a<b", "2b>2a")
    (True, True)
    """
    one, two = _RELATION.split(found), _RELATION.split(gold)
    try:
        if len(one) == len(two) == 3:
            return _same_relation(one, two)
        if len(two) > 1 or set(one[1::2]) - {"="}:
            return False
        # `4x - x = 3x` works its answer out, where `2x = 10` is an equation and not the answer 10.
        *steps, value = map(_read, one[::2])
        return all(_zero(step, value) for step in (*steps, _read(gold)))
    except Exception:  # the parser raises bare Exceptions for what it cannot read, SymPy many kinds
        return False


def _same_relation(one: list[str], two: list[str]) -> bool:
    """Whether two equations, or two inequalities, say the same: their differences are a multiple of each other."""
    flipped = {">": "<", "\\ge": "\\le"}
    (left, sign, right), (gold_left, gold_sign, gold_right) = (
        (sides[2], flipped[sides[1]], sides[0]) if sides[1] in flipped else sides for sides in (one, two)
    )
    if sign != gold_sign:
        return False
    difference, gold_difference = _read(left) - _read(right), _read(gold_left) - _read(gold_right)
    symbols = sorted(difference.free_symbols | gold_difference.free_symbols, key=str)
    ratios = [_at(difference, symbols, point) / _at(gold_difference, symbols, point) for point in _POINTS]
    ratio = ratios[0]
    if not ratio.is_finite or abs(ratio) < Rational(1, 10**_AGREEMENT) or (sign != "=" and not ratio.is_positive):
        return False
    return all(abs(other - ratio) < abs(ratio) / 10**_AGREEMENT for other in ratios)


def _read(text: str) -> Any:
    """The SymPy expression of a cleaned value. Raises ValueError when the value is no formula."""
    if not _READABLE.fullmatch(text) or re.search(r"\d \d", text):
        raise ValueError("no formula")
    text = _called(text)
    # Decimals are exact here; the parser would round them.
    text = re.sub(r"(\d*)\.(\d+)", lambda match: f"\\frac{{{match[1]}{match[2]}}}{{1{'0' * len(match[2])}}}", text)
    # `2\frac{1}{2}` is a sum, `1/2x` half of x, and a product of numbers is written out: the parser adds them.
    text = re.sub(r"(?<![\d}])(\d+)\\frac\{(\d+)\}\{(\d+)\}", _mixed, text)
    text = re.sub(r"(?<![\d}/^])(\d+)/(\d+)(?=[A-Za-z(\\])", r"\\frac{\1}{\2}", text)
    text = re.sub(
        r"(?<=[\d)}!])(?=\()|(?<=\))(?=\d)|(?<=[\d)}])(?=\\frac)|(?<=\\pi)(?=\()|(?<![A-Za-z\\])(?<=[ie])(?=\()",
        r"\\cdot ",
        text,
    )
    value = latex2sympy(
        text, is_real=None, convert_degrees=False, normalization_config=None, conversion_config=_READING
    )
    if not isinstance(value, Expr):
        raise ValueError("no formula")
    letters = {part: Symbol(str(part)) for part in value.atoms(AppliedUndef)}
    return value.xreplace({**letters, Symbol("i"): I})


def _called(text: str) -> str:
    """Put the argument of `\\sin^{2}(x)` in braces: the parser would read it as a factor."""
    text, position = _OF_FRACTION.sub(r"\1(\2)", text), 0
    while call := _CALL.search(text, position):
        position, depth = call.start() + 2, 0
        for bracket in re.finditer(r"[()]", text[call.end() - 1 :]):
            depth += 1 if bracket[0] == "(" else -1
            if depth == 0:
                end = call.end() + bracket.start()
                inside = text[call.end() - 1 : end]
                text = f"{text[: call.start()]}({call[0][:-1]}{{{inside}}}){text[end:]}"
                break
    return text


def _mixed(match: re.Match[str]) -> str:
    whole, top, bottom = match.groups()
    sign = "+" if int(top) < int(bottom) else "\\cdot "
    return f"({whole}{sign}\\frac{{{top}}}{{{bottom}}})"


def _zero(one: Expr, two: Expr) -> bool:
    """Whether two expressions are equal: as numbers, or as functions at every point, or where both are real."""
    difference = one - two
    symbols = sorted(difference.free_symbols, key=str)
    if not symbols and (exact := difference.doit()).is_Rational:
        return exact == 0
    points = _POINTS if symbols else _POINTS[:1]
    if _all_small(_at(difference, symbols, point) for point in points):
        return True
    # `|x|` is no other function on half of the line.
    if not symbols or one.has(Abs) != two.has(Abs):
        return False
    real = [point for point in points if _real(one, symbols, point) and _real(two, symbols, point)]
    return len(real) < len(points) and _all_small(_at(difference, symbols, point) for point in real)


def _all_small(values: Iterable[Expr]) -> bool:
    finite = [value for value in values if value.is_finite]
    return bool(finite) and all(abs(value) < Rational(1, 10**_AGREEMENT) for value in finite)


def _real(expression: Expr, symbols: Sequence[Basic], point: tuple[Fraction, Fraction]) -> bool:
    """Whether every root and logarithm in `expression` is a real one at a point."""
    inside = [part.args[0] for part in expression.atoms(Pow) if not part.args[1].is_Integer and not _odd_root(part)]
    inside += [part.args[0] for part in expression.atoms(log)]
    return all(_at(part, symbols, point).is_nonnegative for part in inside)


def _odd_root(part: Basic) -> bool:
    exponent = part.args[1] if isinstance(part, Pow) else None
    return isinstance(exponent, Rational) and exponent.q > 1 and bool(exponent.q % 2)


def _at(expression: Expr, symbols: Sequence[Basic], point: tuple[Fraction, Fraction]) -> Expr:
    """The value of `expression` at a point, to `_DIGITS` digits; an odd root of a negative number is the real one."""
    start, step = point
    value: Any = expression.subs([(symbol, Rational(start + index * step)) for index, symbol in enumerate(symbols)])
    if value.has(Pow):
        value = value.replace(
            lambda part: _odd_root(part) and part.base.is_negative,
            lambda part: (-1) ** part.exp.p * (-part.base) ** part.exp,
        )
    return value.evalf(_DIGITS, maxn=_MAX_DIGITS)
