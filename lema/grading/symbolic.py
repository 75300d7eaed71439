r"""Whether a found answer is the gold one to a careful reader: by spelling and numbers first, by SymPy where needed.

Both answers are split alike, and their parts are compared. `quick` compares strings and numbers and runs anywhere.
`equivalent` asks SymPy about the rest; SymPy may never end, so call it in a process that can be killed.
The conventions, each with an instance (`\` of LaTeX left out where it does not matter):

- `50%` equals 50 and also 0.5; 0.5 never equals 50.
- Degrees, units, currency, thousands separators and `x =` are dropped: `x = \$1,200` is 1200.
- Decimals are exact: 0.5 is 1/2, but 0.3333 is not 1/3.
- A base is part of the number: `1011_2` is neither 1011 nor `1011_3`.
- A bare list and a set are unordered: `1, 2` is `\{2, 1\}`. Tuples, intervals and matrices are ordered.
- Brackets matter: `(1,2)` is neither `[1,2]` nor `1,2`, and `(-\infty,3]` is not `(-\infty,3)`.
- `x = 1, y = 2` is the point `(1,2)`.
- `6:10` is the ratio `3:5` and `\frac35`, but `12:30` is a time.
- A list with `\ldots` is ordered. `0.75 or 3/4` is one value in two spellings, and `1 or 2` is two.
- Roots and logarithms are compared where both sides are real: `\sqrt{1/n}` is `1/\sqrt n`, but `\sqrt{x^2}` is no `x`.
- An inequality in one variable is an interval, `\pm` two values, `y = 2x` the same line as `2x - y = 0`.
- Words are compared without case and punctuation. An empty answer is never right.
"""

import math
import re
from collections.abc import Callable
from itertools import accumulate

from lema.grading.extraction import extract, stated
from lema.grading.notation import GREEK, MAX_LENGTH, approximate, clean
from lema.grading.numerals import number

__all__ = ["equivalent", "extract", "quick"]

_Verdict = bool | None  # None: strings and numbers cannot tell
_Same = Callable[[str, str], _Verdict]
_RANK = (
    False,
    None,
    True,
).index  # the least of several verdicts says whether all are true, the greatest whether one is

# An answer has no deeper brackets, and they would exhaust the stack.
_MAX_DEPTH = 40
# Floats further apart than this are two numbers; closer ones are left to SymPy.
_CLOSE = 1e-6
_BASE = re.compile(r"-?[0-9A-Z.]+_\{\w+\}")
_RATIO, _TIME = re.compile(r"(\d+):([1-9]\d*)"), re.compile(r"\d{1,2}:\d\d")
_MATRIX = re.compile(
    r"(-?(?:\w+|\\frac\{[^{}]*\}\{[^{}]*\})?) ?(?:\\cdot ?)?"  # a factor
    r"\\begin\{([pbB]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\2\}"
)
_NAME = re.compile(
    r"(?:\\?[A-Za-z]|[A-Z]{2,3}|\\text\{\w+\}|m?\\angle ?(?:[A-Z]{1,3}|\{[A-Z]{1,3}\}|\d)|\\[a-z]+)(?:_\{[\w,]+\})?"
    r"(?:\^\{-1\})?'{0,2}(?:\([-\w,]+\)|\[[^\[\]]*\])?"
    r"|(?:[A-Z]|\\text\{\w+\}|\\Pr ?)\([^()]*\)|\([A-Z]\)|\([a-z]\\circ ?[a-z]\)\(\w+\)"
    r"|\([a-z](?:,[a-z])+\)|\|[A-Z](?:(?:\\c[au]p ?)?[A-Z])?\|"
    r"|\\(?:overline|overrightarrow|vec|hat|bar)\{\w+\}|\[[A-Z]{3,}\]"
    r"|\\(?:sin|cos|tan|cot|sec|csc) ?(?:\(?(?:m?\\angle ?)?(?:[A-Za-z]{1,3}|\{[A-Z]{1,3}\}|\\[a-z]+)\)?)"
    r"|\\frac\{d(?:\^\{2\})?\w?\}\{d\w(?:\^\{2\})?\}|\\(?:lim|int|sum|prod|max|min|det|gcd)(?![a-z]).*"
)
# `\\textbf{(B)}\\ 12`: a choice by its letter and its value, of which the gold answer is one.
_CHOICE = re.compile(
    r"(?:\\(?:text|math)(?:bf|rm)? *\{ *\((?P<dressed>[A-J])\) *\}|\((?P<bare>[A-J])\)(?=\s))"
    r"(?:[\s~]|\\[ ,;:]|\\q?quad(?![a-z]))*(?P<value>(?!.*\([A-J]\)).*[^\s}].*)"
)
_LETTERED = re.compile(r"(?:\\(?:text|math)(?:bf|rm)? *\{ *)?\(?[A-J]\)? *\}?")
_VARIABLE = re.compile(r"[A-Za-z]|\\(?!pi|infty)[a-z]+")
_LETTER = re.compile(rf"(?<![A-Za-z\\])[A-DF-HJ-Za-dfghj-z]|\\(?:{GREEK})(?![a-z])")
_ORDER = re.compile(r"(<|>|\\(?:le|ge|ne)(?![a-z])) ?")


def quick(found: str, gold: str, task: str) -> bool | None:
    r"""The verdict where strings and numbers decide it, else None. Bounded work on any input.

    >>> quick("1,080", "1080", "math"), quick("50%", "0.5", "math"), quick("(1, 2)", "[1,2]", "math")
    (True, True, False)
    >>> quick(r"\sqrt{8}", r"2\sqrt{2}", "math") is None
    True
    """
    if task == "csqa":
        return bool(found.strip()) and found.strip().casefold() == gold.strip().casefold()
    return _compare(found, gold, _by_number)


def equivalent(found: str, gold: str) -> bool:
    r"""The verdict with SymPy's help. May hang or fail on hostile input: run it where it can be killed.

    >>> equivalent(r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), equivalent("(x+1)^2", "x^2+2x+1")
    (True, True)
    >>> equivalent("0.3333", "1/3"), equivalent(r"x \le 3", r"(-\infty,3]"), equivalent("1011_2", "1011")
    (False, True, False)
    """
    from lema.grading.algebra import same_value

    def same(one: str, two: str) -> bool:
        verdict = _by_number(one, two)
        return same_value(one, two) if verdict is None else verdict

    return bool(_compare(found, gold, same))


def _compare(found: str, gold: str, same: _Same) -> _Verdict:
    found, gold = found.strip(), stated(gold).strip()
    if max(len(found), len(gold)) > MAX_LENGTH or max(_depths(found)) > _MAX_DEPTH:
        return found == gold
    if choice := _CHOICE.fullmatch(found):
        found = choice["dressed"] or choice["bare"] if _LETTERED.fullmatch(gold) else choice["value"].strip()
    one, two = clean(found), clean(gold)
    if not one or not two:
        return False
    verdict = _same(one, two, same)
    if verdict is False and "," in found and "," in gold and re.search(r"\d,\d{3}(?!\d)", f"{found} {gold}"):
        # `70,110` is one number or two; with `70, 110` beside it, it is two.
        one, two = (clean(text.replace(",", ", ")) for text in (found, gold))
        verdict = _same(one, two, same)
    return verdict


def _same(found: str, gold: str, same: _Same) -> _Verdict:
    """Whether two cleaned answers agree, by their parts down to single values, which `same` compares."""
    if found == gold:
        return True
    if "\\approx" in found:
        return max((_same(side, gold, same) for side in found.split("\\approx") if side), key=_RANK, default=False)
    if "\\pmod" in found and "\\pmod" not in gold:
        return _same(found.partition("\\pmod")[0].rstrip(" ("), gold, same)
    (name, value), (gold_name, gold_value) = _named(found), _named(gold)
    # `x = 5` is 5, and `x > 3` is (3, \infty); but `y = 2x` stays an equation beside `2x - y = 0` or `x = 2y`.
    one_named = not (name and gold_name) and "=" not in (value if gold_name else gold_value)
    if (name == gold_name or one_named) and (value, gold_value) != (found, gold):
        return _same(value, gold_value, same)
    (kind, parts), (gold_kind, gold_parts) = _parts(found), _parts(gold)
    if kind == "list" and gold_kind == "value" and len(_split(found, ";")) == len(parts):
        return min((_same(part, gold, same) for part in parts), key=_RANK)  # `0.75 or 3/4`
    names = [_named(part)[0] for part in parts]
    if (kind, gold_kind) == ("list", "()") and all(map(_VARIABLE.fullmatch, names)) and names == sorted(set(names)):
        kind = "()"
    if kind != gold_kind or len(parts) != len(gold_parts):
        return False
    if kind == "value":
        return _same_value(parts[0], gold_parts[0], same)
    if kind in ("list", "union"):
        return _same_members(parts, gold_parts, same)
    return min((_same(*pair, same) for pair in zip(parts, gold_parts, strict=True)), key=_RANK)


def _same_members(found: list[str], gold: list[str], same: _Same) -> _Verdict:
    """Whether two lists of equal length agree in some order; `x = 1, y = 2` is not the list `2, 1`."""
    names = [sorted(_named(part)[0] for part in parts) for parts in (found, gold)]
    # `x_1 = 1, x_2 = 2` numbers the values of one x.
    if {""} in map(set, names):
        names = [[re.sub(r"^([A-Za-z])_\{\d\}$", r"\1", name) for name in side] for side in names]
    if names[0] != names[1] and len({*names[0], *names[1]} - {""}) > 1:
        return False
    left, rest = [], list(gold)
    for part in found:
        verdicts = [_same(part, other, same) for other in rest]
        if True in verdicts:
            rest.pop(verdicts.index(True))
        else:
            left.append(part)
    # SymPy may still find each member without a partner equal to one of the rest.
    if all(any(_same(part, other, same) is None for other in rest) for part in left):
        return None if left else True
    return False


def _same_value(found: str, gold: str, same: _Same) -> _Verdict:
    """Whether two single values agree; a percentage is also its hundredth, but no number is a percentage's."""
    one, two = found.rstrip("%"), gold.rstrip("%")
    verdict = same(one, two)
    if verdict or (one == found) == (two == gold):
        return verdict
    hundredth = (f"\\frac{{{one}}}{{100}}", two) if one != found else (one, f"\\frac{{{two}}}{{100}}")
    return max(verdict, same(*hundredth), key=_RANK)


def _by_number(found: str, gold: str) -> _Verdict:
    """Whether two single values agree, as far as strings and exact numbers can tell."""
    if found == gold:
        return True
    values = number(_fraction(found, gold)), number(_fraction(gold, found))
    if None not in values:
        return values[0] == values[1]
    if _BASE.fullmatch(found) or _BASE.fullmatch(gold):
        return False
    if "\\text" in found or "\\text" in gold:
        letters = (re.sub(r"\\text|[^-+a-z0-9]", "", text.lower()) for text in (found, gold))
        return next(letters) == next(letters)
    about, gold_about = approximate(found), approximate(gold)
    if about is None or gold_about is None or math.isclose(about, gold_about, rel_tol=_CLOSE, abs_tol=_CLOSE):
        return None
    return False


def _fraction(text: str, other: str) -> str:
    """A ratio as a fraction where the other answer is one too: `6:10` is `3:5`, but `12:30` is a time."""
    times = all(_TIME.fullmatch(side) for side in (text, other) if ":" in side)
    return text if times or not re.search(":|/|frac", other) else _RATIO.sub(r"\\frac{\1}{\2}", text)


def _parts(text: str) -> tuple[str, list[str]]:
    """What kind of answer this is, and the parts to compare one by one: members, coordinates, end points, cells."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in matrix[3].removesuffix("\\\\").split("\\\\")]
        cells = [f"{matrix[1]}({cell})" if matrix[1] else cell for row in rows for cell in row]
        return f"matrix of {[len(row) for row in rows]}", cells
    if len(pieces := _split(text, "\\cup")) > 1:
        return "union", pieces
    in_set = text.startswith("\\{") and text.endswith("\\}") and min(_depths(text[2:-2])) >= 0
    members = _split(text[2:-2] if in_set else text, ",", ";")
    if len(members) > 1 and len(_split(text, ";")) > 1 and all(_ORDER.search(member) for member in members):
        return "union", [_named(member)[1] for member in members]
    members = [signed for member in members for signed in _signs(member)]
    if len(members) > 1:
        return "sequence" if "\\ldots" in text else "list", members
    if in_set:
        return _parts(members[0])
    vector = re.fullmatch(r"\\langle ?(.*)\\rangle", text)
    # Not `(1,2)` and `(3,4)` side by side.
    if vector or (text[0] in "([" and text[-1] in ")]" and min(_depths(text[1:-1])) >= 0):
        inside = vector[1] if vector else text[1:-1]
        coordinates = _split(inside, ",", ";")
        if len(coordinates) > 1 or text[0] == "[":
            return "vector" if vector else text[0] + text[-1], coordinates
        # Brackets around one value group it.
        return _parts(inside) if inside else ("value", [text])
    return "value", [text]


def _signs(text: str) -> list[str]:
    """`1 \\pm \\sqrt{2}` as its two values; several signs in one value go together."""
    if "\\pm" not in text:
        return [text]
    return [clean(text.replace("\\pm", one).replace("\\mp", other)) for one, other in ("+-", "-+")]


def _named(text: str) -> tuple[str, str]:
    """The name that a value is given, "" for none, and the value: `x` and `5` of `x = 2 + 3 = 5`."""
    if len(_split(text, ",", ";")) > 1:
        return "", text
    sides = _split(text, "=")
    if len(sides) > 1:
        if _NAME.fullmatch(sides[0]):
            return sides[0], sides[-1]
        if len(sides) == 2 and _NAME.fullmatch(sides[1]):
            return sides[1], sides[0]
        return "", text if _LETTER.search(text) else sides[-1]
    return _interval(text)


def _interval(text: str) -> tuple[str, str]:
    """The variable and the interval of an inequality: `x`, `(3,5]` of `3 < x \\le 5`; "" and the text if it is none."""
    pieces = _ORDER.split(text)
    if len(pieces) > 1 and pieces[1] in (">", "\\ge"):
        pieces = [{">": "<", "\\ge": "\\le"}.get(piece, piece) for piece in reversed(pieces)]
    if len(pieces) == 3:
        left, sign, right = pieces
        if bool(_VARIABLE.fullmatch(left)) == bool(_VARIABLE.fullmatch(right)):
            return "", text
        if sign == "\\ne":
            variable, end = (left, right) if _VARIABLE.fullmatch(left) else (right, left)
            return variable, f"(-\\infty,{end})\\cup({end},\\infty)"
        pieces = ["-\\infty", "<", *pieces] if _VARIABLE.fullmatch(left) else [*pieces, "<", "\\infty"]
    if len(pieces) == 5 and {pieces[1], pieces[3]} <= {"<", "\\le"} and _VARIABLE.fullmatch(pieces[2]):
        low, opening, variable, closing, high = pieces
        return variable, {"<": "("}.get(opening, "[") + f"{low},{high}" + {"<": ")"}.get(closing, "]")
    return "", text


def _split(text: str, *separators: str) -> list[str]:
    """`text` at the separators outside all brackets, which need not match: `[` and `)` bound one interval."""
    pieces, depth = [""], 0
    for token in re.split(r"([()\[\]{},;=]|\\cup(?![a-z]) ?)", text):
        depth += (token in "([{" if token else 0) - (token in ")]}" if token else 0)
        if depth == 0 and token.rstrip() in separators:
            pieces.append("")
        else:
            pieces[-1] += token
    return [piece for piece in pieces if piece] or [text]


def _depths(text: str) -> list[int]:
    """How many brackets are open before `text` and behind each of its characters."""
    return [*accumulate(((character in "([{") - (character in ")]}") for character in text), initial=0)]
