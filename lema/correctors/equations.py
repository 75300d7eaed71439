"""Reading the arithmetic of a solution: equations with their operands, operations, value and stated result.

    "He has $5 + 3 apples = 9 apples."  ->  5 + 3, which is 8, stated as 9

Any text can be read: what is no arithmetic yields nothing, and numbers and expressions have bounds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_DIGITS = 15  # of a number; a longer one is read as a word
MAX_OPERANDS = 40  # of an expression; the longest in GSM8K has 14

_LATEX = [
    (re.compile(r"\\d?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:text|mathrm|boxed)\{([^{}]{0,80})\}"), r"\1"),
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
]
_TOKEN = re.compile(
    r"(?P<n>[0-9]+[ ][0-9]+/[0-9]+(?![0-9.])|(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?%?|\.[0-9]+%?)"
    r"|(?P<w>[^\W\d_]+)|(?P<skip>[\s$£€\\])|(?P<o>//|\*\*|[-+*/×÷−–])|(?P<other>.)",
    re.DOTALL,
)
_OPERATORS = {"x": "*", "X": "*", "×": "*", "÷": "/", "//": "/", "−": "-", "–": "-", "of": "*"}
# One letter a token: number, operator, division, word, variable, ( ) =, and . for whatever else ends an expression.
_UNIT = re.compile(r"(?<=[n)])(?:(?:w{1,8}(?:dw{1,2})?|dw{1,2})(?:\(w{1,5}\))?|\(w{1,5}\))(?=[od=)])")
_BEFORE_A_SIGN = re.compile(r"(?:^|[=(od.]|(?:^|[^n)w])w)o$")
_OPERAND = r"\(*n\)*"
_EXPRESSION = re.compile(rf"{_OPERAND}(?:[od]{_OPERAND}){{0,{MAX_OPERANDS - 1}}}")
_LEFT_SIDE = re.compile(rf"(?<![od^(]){_OPERAND}(?:[od]{_OPERAND}){{1,{MAX_OPERANDS - 1}}}(?==)")
_NUMBER_WORDS = {
    word: number
    for number, words in (
        *enumerate(["zero", "one", "two twice double half couple", "three thrice third triple", "four fourth quarter"]),
        *enumerate(("five fifth", "six sixth", "seven", "eight eighth", "nine", "ten tenth", "eleven"), 5),
        *((12, "twelve dozen"), (15, "fifteen"), (20, "twenty"), (30, "thirty"), (40, "forty"), (50, "fifty")),
        *((60, "sixty"), (100, "hundred"), (1000, "thousand")),
    )
    for word in words.split()
}


@dataclass(frozen=True)
class Equation:
    """`5 + 3 = 9` in step `step` (0-based): what it says and what its left side is."""

    step: int
    left: str  # as written: "5 + 3"
    operands: tuple[Fraction, ...]
    operators: str  # "+"
    value: Fraction  # of the left side: 8
    result: Fraction  # as stated: 9
    result_text: str
    right: bool

    @property
    def formula(self) -> tuple[object, ...]:
        """What makes two sums the same: the numbers and operations, in any order that leaves the value alone."""
        return (*sorted(self.operands), *sorted(self.operators), self.value)


def _tokens(text: str) -> tuple[str, list[str]]:
    """One code letter a token, and the tokens: `"5 apples + $3"` -> `("nwon", ["5", "apples", "+", "3"])`."""
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    codes = ""
    tokens: list[str] = []
    matches = [match for match in _TOKEN.finditer(text) if match.lastgroup != "skip"]
    for match, following in zip(matches, [*matches[1:], None], strict=False):
        kind, token, before = match.lastgroup, match[0], codes[-1] if codes else "."
        number_next = following is not None and (following.lastgroup == "n" or following[0] == "(")
        if kind == "n" and len(token) > MAX_DIGITS:
            kind = "."
        elif kind == "w":
            share = token == "of" and before == "n" and (tokens[-1].endswith("%") or codes[-2:-1] == "d")
            if (token in "xX" and before in "nw)" and number_next) or (share and number_next):
                kind = "o"
            elif token == "equals":
                kind, token = "=", "="
            elif len(token) == 1 and token not in "ghms":
                kind = "v"
        elif kind == "other":
            kind = token if token in "()=^" else "."
        elif kind == "o" and token == "**":
            kind = "^"
        elif kind == "o" and _OPERATORS.get(token, token) == "/":
            kind = "d"
        if kind == "n" and before == "o" and tokens[-1] in "-+−–" and _BEFORE_A_SIGN.search(codes[-4:]):
            codes = codes[:-1]  # a sign
            token = ("-" if tokens.pop() != "+" else "") + token
        codes += str(kind)
        tokens.append(token)
    return codes, tokens


def equations_of(text: str, step: int) -> list[Equation]:
    """The sums of a text with a stated result, chains (`a = b = c`) and units included."""
    codes, tokens = _tokens(text)
    units = [position for unit in _UNIT.finditer(codes) for position in range(*unit.span())]
    if units:
        dropped = set(units)
        tokens = [token for position, token in enumerate(tokens) if position not in dropped]
        codes = _UNIT.sub("", codes)
    found: list[Equation] = []
    for match in _LEFT_SIDE.finditer(codes):
        stated = _EXPRESSION.match(codes, match.end() + 1)
        left = _trim(tokens[match.start() : match.end()])
        value = _evaluate(left)
        if stated is None or value is None:
            continue
        # `8 * 2 = 16 - 3 = 13` states 16; `48 / 2 = 72 / 3` states 24.
        whole = _evaluate(_trim(tokens[stated.start() : stated.end()]))
        first = next(position for position in range(*stated.span()) if codes[position] == "n")
        result = _number(tokens[first])
        if result is not None and whole is not None and not _agrees(value, result, tokens[first]) and whole == value:
            result = whole
        if result is None:
            continue
        numbers = [number for token in left if (number := _number(token)) is not None]
        operators = [_OPERATORS.get(token, token) for token in left if token not in "()" and _number(token) is None]
        found.append(
            Equation(
                step=step,
                left=" ".join(left).replace("( ", "(").replace(" )", ")"),
                operands=tuple(numbers),
                operators="".join(operators),
                value=value,
                result=result,
                result_text=tokens[first],
                right=result == value or _agrees(value, result, tokens[first]),
            )
        )
    return found


@lru_cache(maxsize=4096)
def _number(token: str) -> Fraction | None:
    """`"1,200"`, `".5"`, `"-3"`, `"2 1/2"`, `"50%"` (a half); None for anything else."""
    text = token.replace(",", "").removesuffix("%")
    try:
        value = sum((Fraction(part) for part in text.split()), Fraction(0)) if text else None
    except (ValueError, ZeroDivisionError):
        return None
    return value / 100 if value is not None and token.endswith("%") else value


def _agrees(value: Fraction, result: Fraction, shown: str) -> bool:
    """Whether a stated result is the value, rounded or cut to its decimals; a percentage may be stated either way."""
    digits = shown.rstrip("%").partition(".")[2]
    scale = Fraction(10) ** (len(digits) + 2 * shown.endswith("%")) if digits else Fraction(1)
    if scale > 1 and int(value * scale) == int(result * scale) and int(result * scale) == result * scale:
        return True
    if scale > 1 and round(value * scale + Fraction(1, 10**9)) == result * scale:
        return True
    return result == value or (shown.endswith("%") and result * 100 == value)


def _trim(tokens: list[str]) -> list[str]:
    """Without the parentheses that open or close outside the expression: `(16 x 2` -> `16 x 2`."""
    excess = tokens.count("(") - tokens.count(")")
    while excess > 0 and tokens[0] == "(":
        tokens, excess = tokens[1:], excess - 1
    while excess < 0 and tokens[-1] == ")":
        tokens, excess = tokens[:-1], excess + 1
    return tokens


def _evaluate(tokens: Sequence[str]) -> Fraction | None:
    """The value of a sum, exactly; None when it is none (a division by zero, parentheses out of order)."""
    values: list[Fraction] = []
    waiting: list[str] = []
    rank = {"+": 1, "-": 1, "*": 2, "/": 2}

    def settle(least: int) -> None:
        while waiting and waiting[-1] != "(" and rank[waiting[-1]] >= least:
            operator, right, left = waiting.pop(), values.pop(), values.pop()
            results = {"+": left + right, "-": left - right, "*": left * right}
            values.append(left / right if operator == "/" else results[operator])

    try:
        for token in tokens:
            operator = _OPERATORS.get(token, token)
            if token == "(":
                waiting.append(token)
            elif token == ")":
                settle(1)
                waiting.pop()
            elif operator in rank:
                settle(rank[operator])
                waiting.append(operator)
            else:
                values.append(_number(token) or Fraction(0))
        settle(1)
    except (IndexError, ZeroDivisionError):
        return None
    return values[0] if len(values) == 1 and not waiting else None


def numbers_in(text: str) -> set[Fraction]:
    """All numbers of a text, in digits or words, percentages in every use: 25% -> 25, 1/4, 3/4 and 5/4."""
    codes, tokens = _tokens(text)
    known: set[Fraction] = set()
    for code, token in zip(codes, tokens, strict=True):
        if code == "w" and token.lower() in _NUMBER_WORDS:
            known.add(Fraction(_NUMBER_WORDS[token.lower()]))
        elif code == "n" and (number := _number(token)) is not None:
            known.add(abs(number))
            if token.endswith("%"):
                known |= {number * 100, 1 - number, 1 + number, 100 - number * 100, 100 + number * 100}
    return known
