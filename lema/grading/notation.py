"""One spelling for the many ways to write the same short answer, and an approximate value of formulas.

Bounded regular expressions rewrite an answer of at most `MAX_LENGTH` characters.
"""

import math
import re
from itertools import pairwise
from zlib import crc32

from lema.grading.expressions import evaluate
from lema.grading.numerals import MULTIPLES, WORDS, legible, number, spelled

# The longest gold answer of MATH has 159 characters; a much longer text is no final answer.
MAX_LENGTH = 1000

_FUNCTIONS = "sqrt|pi|infty|infinity|inf|theta|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"
# Commands that stand for variables.
GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|varphi|omega"
# A model that escapes its LaTeX once more writes `\\frac`; a row of a matrix ends in the same two characters.
_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dt]?frac|sqrt|pi|text|left|right|begin|end|cdot|times|infty|cup|pm|theta|circ|%)(?![a-z]))"
)
_THOUSANDS = re.compile(r"(?<![\d,. ])\d{1,3}(?:([, ])\d{3})(?:\1\d{3})*(?!\d|[, /]\d)")
_SPACE = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|(?<=\d)(\s)\s*(?=\d)|\s+")
_UNIT_NAMES = """cm mm km kg mg ml mL ft in yd mi lb lbs oz hr hrs min sec mph kph kmh gm sq rad deg units unit
    dollars cents degrees radians inches feet meters""".split()

# Words that change what a number means.
_BOUND = re.compile(
    r"\b(?:at (?:least|most)|(?:more|less|fewer|greater|smaller) than|not|between|over|under|above|below|up to"
    r"|or (?:more|less|fewer|above|below))\b(?=.*\d)"
    r"|\d[ a-z{\\]*\b(?:squared|cubed|factorial|mod|thirds|(?:ten|hundred|thousand|four|fif|six|seven|eigh|nin)ths)\b"
    r"|\d[^a-z]*\\text\{ ?(?:or (?:more|less|fewer|above|below)|at (?:least|most))\b"
)
_FONTS = "text(?:bf|it|rm|normal|sf|tt|up)?|math(?:rm|sf|cal|tt)|mbox|operatorname|emph"
_UNIT = r"(?:\\mu\s*)?\\text\{(?!\s*,?\s*(?:and|or)\b)[^{}]*\}(?:\s*\^\s*(?:\{-?\d\}|-?\d))?"
# `{a \over b}` and `{n \choose k}`: a group with one level of braces inside it, or all there is.
_INFIX = re.compile(
    r"\{((?:[^{}]|\{[^{}]*\})*?)\\(over|choose)(?![a-z])((?:[^{}]|\{[^{}]*\})*)\}"
    r"|^((?:[^{}]|\{[^{}]*\})*?)\\(over|choose)(?![a-z])((?:[^{}]|\{[^{}]*\})*)$"
)
_SIGNS = {"lt": "<", "gt": ">", "vert": "|", "lvert": "|", "rvert": "|", "mid": "|", "div": "/", "equiv": "="}
# Applied in this order; later rules rely on the spelling that earlier ones leave.
_REWRITES = [
    # 4:30 p.m. is not 4:30 a.m.: these letters are more than a unit.
    (r"\\text\s*\{([^{}]*\d[^{}]*[AaPp]\.?[Mm]\b[^{}]*)\}", r"\1"),
    (r"(\d)\s*(?:\\text\{\s*)?[Aa]\.?\s?[Mm]\b\.?(?:\s*\})?", r"\1am"),
    (r"(\d)\s*(?:\\text\{\s*)?[Pp]\.?\s?[Mm]\b\.?(?:\s*\})?", r"\1pm"),
    # Thousands separators that can be nothing else: `10,\!000`, `10{,}000`, `10\,000`.
    (r"(?<=\d)\s*(?:,\s*\\!|\{,\}|\\,)\s*(?=\d{3}(?!\d))", ""),
    # Layout that only a printed page needs: colours, sizes, fonts that hold to the end of the group.
    (r"\\(?:text)?color\s*\{[^{}]*\}|\\(?:[hv]space\*?|tag\*?|label|phantom)\s*\{[^{}]*\}", ""),
    (r"\\(?:bf|rm|it|sf|tt|bfseries|large|Large|scriptstyle|strut|hfill|blacksquare)(?![A-Za-z])", " "),
    # Layout, quotes, Markdown and currency; `$` is both currency and the sign around formulas.
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|!)(?![A-Za-z])|\\?[$£€¥₹]|\*\*$|^\*\*|[`\"]", ""),
    (r"(?<!\\)\\[()\[\]](?=\s|$)|^\\[(\[]", " "),
    (r"^\s*(?:about|approximately|roughly|exactly)\b", ""),
    (r"(?:(?<!\\)\\[,;:\s]|~|\\q?quad(?![a-z])|\s)+", " "),
    (r"\\mathbb\s*\{R\}(?!\s*\^)|\\mathbb R(?![a-zA-Z^])", r"\\mathbb{R}"),
    (r"\\(?:bm|boldsymbol|math(?:bf|it)|underline)\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1"),
    (rf"\\(?:{_FONTS})\s*\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}", r"\\text{\1}"),
    (rf"\\(?:{_FONTS}|mathb[bf])\s+([A-Za-z](?![A-Za-z])|\d+)", r"\1"),
    (r"\\mathbb\s*\{([A-QS-Z])\}|\\text\{\s*([ie])\s*\}", r"\1\2"),
    (rf"\\text\{{\s*({_FUNCTIONS})\s*\}}", r"\\\1 "),
    (r"\\text\{\s*,?\s*and\s*\}", ","),
    (r"\\text\{\s*,?\s*or\s*\}", ";"),
    # Units of several parts: `\text{ m}/\text{s}^2`, `\frac{\text{mi}}{\text{hr}}`, `\text{m s^{-1}}`.
    *[(r"(?<=[\d}) ])(\\text\{[^{}]*)\^\s*(?:\{-?\d+\}|-?\d)", r"\1")] * 2,
    (rf"(?<=[\d}})])\s*\\frac\s*\{{\s*{_UNIT}\s*\}}\s*\{{\s*{_UNIT}\s*\}}", r"\\text{ unit}"),
    (rf"(?<=[\d}})])\s*{_UNIT}(?:\s*(?:/|\\cdot(?![a-z])|\s)\s*{_UNIT})+", r"\\text{ unit}"),
    (r"(?<=[\d})])\s*(?:\\mu\s*(?=\\text)|(?:\\text\{ ?[kM] ?\}\s*)?\\Omega(?![a-z]))", ""),
    (r"\^\s*\{?\s*\\circ\s*\}?\s*(?:\\text\{\s*[CF]\s*\}|[CF](?![A-Za-z]))", ""),
    (r"(?<=\d)\s*\^?\s*\{?\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\}?|(?<=\d)\s*\^\s*\{(?:st|nd|rd|th)\}", ""),
    # `\text{A}`, `\text{13}`, `\text{(B)}` and `\text{A,C,F}` are the same without their font.
    (r"(?<![\d})])(?<![\d})] )\\text\{(\s*\(?(?:[A-Za-z]|-?\d+(?:\.\d+)?)\)?(?:\s*,\s*(?:[A-Za-z]|\d+))*\s*)\}", r"\1"),
    # `\text{15 cm}` is a number and its unit.
    (r"^\\text\{\s*(-?\d[\d,.]*) ([a-z][a-z. ]*)\}$", r"\1\\text{ \2}"),
    # Open ends as in `]0,1[`.
    (r"^\](?=[^\[\]]+[,;][^\[\]]+[\[\])]$)", "("),
    (r"(?<=^[(\[])([^\[\]]+[,;][^\[\]]+)\[$", r"\1)"),
    # Matrices in all their brackets; a determinant keeps its own.
    (r"\\begin\{(?:[pbB]|small)?matrix\}|\\begin\{array\}(?:\[\w\])?\s*\{[clr|@ ]*\}", r"\\begin{pmatrix}"),
    (r"\\end\{(?:(?:[pbB]|small)?matrix|array)\}", r"\\end{pmatrix}"),
    (r"\\\\\s*\[-?\d+(?:\.\d+)?\s*[a-z]{2}\]|\\cr(?![a-z])", r"\\\\"),
    (r"^[(\[]\s*(\\begin\{pmatrix\}(?:(?!\\begin).)*\\end\{pmatrix\})\s*[)\]]$", r"\1"),
    (r"^\|\s*\\begin\{pmatrix\}((?:(?!\\begin).)*)\\end\{pmatrix\}\s*\|$", r"\\begin{vmatrix}\1\\end{vmatrix}"),
    # Two spellings of one thing.
    (r"\\(?:dotsc|dotsb|cdots|dots|ldots)(?![a-z])|\.{3}(?=\s*[,+)\]}\\-])|(?<=[,+])\s*\.{3}", r"\\ldots "),
    (r"(\.\d+)\.{3}$", r"\1\\ldots "),
    (r"\s*(?:\\colon(?![a-z])|\{:\}|\\math(?:rel|bin)\{:\}|(?<=\d)\s*\\text\{ ?to ?\}|(?<=\d) to (?=\d))\s*", ":"),
    (r"\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?", r"\\overline{\1\2\3}"),
    (r"\\(?:overline|bar)\s*(\d)|(?<=\d\.)\((\d+)\)", r"\\overline{\1\2}"),
    (r"\\(?:backslash|setminus|smallsetminus)(?![a-z])|(?<=\})\s*-\s*(?=\\\{)", r"\\setminus "),
    (r"\\(?:[dtcs]|nice)(frac|binom)(?![a-z])", r"\\\1"),
    (r"<=|\\(?:le|leq|leqslant)(?![a-z])", r"\\le "),
    (r">=|\\(?:ge|geq|geqslant)(?![a-z])", r"\\ge "),
    (r"!=|\\neq?(?![a-z])", r"\\ne "),
    (r"\\lg(?![a-z])", r"\\log "),
    (r"\\([lg]t|[lr]?vert|mid|div|equiv)(?![a-z])", lambda match: _SIGNS[match[1]]),
    (r"\\varnothing|\\\{\s*\\\}", r"\\emptyset"),
    (r"\*\*", "^"),
    (r"\\(?:times|ast)(?![a-z])|\*", r"\\cdot "),
    (r"(?:\\text\{\s*)?\b[Pp]er ?cent\b(?:\s*\})?|\\%", "%"),
    (r"(?<![A-Za-z])and(?![A-Za-z])", ","),
    (r"(?<![A-Za-z])or(?![A-Za-z]| (?:more|less|fewer)\b)", ";"),
    (rf"(?<![\\A-Za-z])({_FUNCTIONS})(?![A-Za-z])", r"\\\1 "),
    (r"\\inf(?:inity)?(?![a-z])", r"\\infty"),
    # Arguments without braces: `\frac12`, `\frac1{72}`, `\frac\pi4`, `\sqrt3`, `x^10`, `x^-1`, `1011_2`.
    (r"\\(frac|binom)\s*(\d|[a-zA-Z]|\\pi(?![a-z]))", r"\\\1{\2}"),
    (r"(\\(?:frac|binom)\s*\{(?:[^{}]|\{[^{}]*\})*\})\s*(\d|[a-zA-Z]|\\pi(?![a-z]))", r"\1{\2}"),
    (r"\\sqrt\s*(\d+|[a-zA-Z]|\\pi(?![a-z]))", r"\\sqrt{\1}"),
    (r"\^\s*([-+]?\d+(?:\.\d+)?|[A-Za-z]|\\[a-z]+)", r"^{\1}"),
    (r"_\s*(\d+|[A-Za-z]|\\text\{[a-z]+\})", r"_{\1}"),
]
_COMPILED = [(re.compile(pattern), replacement) for pattern, replacement in _REWRITES]


def clean(text: str) -> str:
    r"""`text` in the spelling in which answers are compared; "" when nothing is left of it.

    Thousands separators, units, currency, degrees and font go, fractions and roots get their braces.

    >>> clean(r"\$10,\!000"), clean(r"\dfrac12\text{ cm}^2"), clean("45°"), clean("18 dollars per day.")
    ('10000', '\\frac{1}{2}', '45', '18')
    >>> clean(r"\text{4:30 p.m.}"), clean(r"\text{Evelyn}"), clean("2 and 3"), clean("sqrt(2)/2")
    ('\\text{4:30pm}', '\\text{evelyn}', '2,3', '\\sqrt{2}/2')
    """
    text = legible(text[: MAX_LENGTH + 1]).strip()
    words = WORDS.fullmatch(re.sub(r"^\\text\w*\s*\{\s*|\s*\}$|\.$", "", text))
    if words and (value := spelled(words[0])) is not None:
        return str(value)
    if _DOUBLED.search(text):
        text = text.replace("\\\\", "\\")
    for _ in range(4):  # they may be nested
        text = _INFIX.sub(_prefixed, text)
    if not re.search(r"[(\[]|\\\{", text):  # in `(1,000)` or `[0,100]` the comma separates two numbers
        text = _THOUSANDS.sub(lambda match: re.sub("[, ]", "", match[0]), text)
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    text = _braced(text)
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)\b", text):  # degrees go, but `\sin 30^\circ` is a half
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\{\s*\\circ\s*\}", r"(\\frac{\1\\pi}{180})", text)
    text = _without_units(re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|\\circ(?![a-z])", "", text).strip())
    # A space is kept where two numbers (`3 1/2`), or a command and a letter (`\pi r`), would run together.
    text = _SPACE.sub(lambda space: (space[1] or "") + " " * bool(space.lastindex), text)
    text = re.sub(r"[,;]{2,}", ",", text).rstrip(",;.:").lstrip("=,;:")
    # `\{x | x > 3\}` and `x \in [1, 2]` name the set; `(B)` is the choice B; `+5` is 5; `{5}` is a box in a box.
    text = re.sub(r"^\\\{[a-z](?:\\in[^|:]*)?[|:](.*)\\\}$", r"\1", text)
    text = re.sub(r"^[A-Za-z]\\in(?![a-z])\s*", "", text)
    text = re.sub(r"^\(?([A-Z])\)$|^\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}$", r"\1\2", text)
    text = re.sub(r"(?<![^(\[,{=])\+", "", text)
    text = re.sub(r"_\{\\text\{([a-z]+)\}\}", lambda match: f"_{{{spelled(match[1]) or match[1]}}}", text)
    text = re.sub(r"\\mathbb\{R\}|\\text\{allrealnumbers\}", r"(-\\infty,\\infty)", text)
    return re.sub(r"^\(-\\infty,\\infty\)\\setminus ?\\\{([^{}]*)\\\}$", _punctured, text)


def _prefixed(match: re.Match[str]) -> str:
    """`{a \\over b}` as `\\frac{a}{b}`."""
    top, sign, bottom = (part.strip() for part in match.groups() if part is not None)
    return f"\\{'frac' if sign == 'over' else 'binom'}{{{top}}}{{{bottom}}}"


def _punctured(match: re.Match[str]) -> str:
    """All real numbers but some, as intervals: `(-\\infty,2)\\cup(2,\\infty)`."""
    ends = [(value, point) for point in match[1].split(",") if (value := number(point)) is not None]
    if len(ends) != match[1].count(",") + 1:
        return match[0]
    points = ["-\\infty", *(point for _, point in sorted(ends)), "\\infty"]
    return "\\cup".join(f"({low},{high})" for low, high in pairwise(points))


def _braced(text: str) -> str:
    """`sqrt(2)` and `x^(1/2)` as `\\sqrt{2}` and `x^{1/2}`; brackets that are never closed stay."""
    position = 0
    while opening := re.compile(r"(?:\\sqrt|\^)\s*\(").search(text, position):
        position, depth = opening.end(), 1
        for bracket in re.compile(r"[()]").finditer(text, position):
            depth += 1 if bracket[0] == "(" else -1
            if depth == 0:
                head = opening[0].rstrip("( \t\n")
                inside = text[position : bracket.start()]
                text = f"{text[: opening.start()]}{head}{{{inside}}}{text[bracket.end() :]}"
                break
    return text


def _without_units(text: str) -> str:
    """Drop the words after a value: its unit. Words alone are the answer, in lower case without punctuation."""
    text = re.sub(rf"(?i)(\d+ \d+/\d+|\d)\s*(?:\\text\{{\s*)?({'|'.join(MULTIPLES)})\b(?:\s*\}})?", _multiplied, text)
    # A base may be spelled out: `1011_{\text{two}}`.
    if _BOUND.search(text):
        return text
    rest = re.sub(r"(?<!_\{)(?:(?<=[\d})])\s*/\s*)?\\text\s*\{[^{}]*\}(?:\s*\^\s*\{-?\d\})?", "", text)
    if rest != text and re.search(r"[A-Za-z0-9]", rest):
        text = rest.strip()
    tail = re.search(r"(?:(?<=[\d})%])|(?<=\\pi))(\s*)([A-Za-z]+)[A-Za-z /.,'()-]*(?:\^\{-?\d\})?$", text)
    if (
        tail
        and not WORDS.search(tail[0])
        and (tail[2] in _UNIT_NAMES or (len(tail[2]) > 2 and tail[1]) or re.match(r"\s*m/|\s+m\^", tail[0]))
    ):
        return text[: tail.start()]
    time = re.fullmatch(r"(\d{1,2})(:\d\d)?([ap]m)", text)
    if time:
        return f"\\text{{{time[1]}{time[2] or ':00'}{time[3]}}}"
    if re.fullmatch(
        r"(?=.*[AEIOUYaeiouy])[A-Za-z]{3,}|(?=.*[A-Za-z]{3})[A-Za-z]+[ '-][A-Za-z .,'-]*|[A-Z][a-z]{2,} \d+", text
    ):
        text = f"\\text{{{text}}}"
    return re.sub(
        r"(?i)\\text\s*\{(?: *(?:an?|the) (?=[a-z]{3}))?([^{}]*)\}",
        lambda match: f"\\text{{{re.sub(r'[^a-z0-9:]', '', match[1].lower())}}}",
        text,
    )


def _multiplied(match: re.Match[str]) -> str:
    """`3 million` as `3\\cdot10^{6}`."""
    value = f"({match[1].replace(' ', '+')})" if " " in match[1] else match[1]
    return f"{value}\\cdot10^{{{MULTIPLES[match[2].lower()]}}}"


_LETTER = re.compile(rf"(?P<command>\\(?!(?:{GREEK}|pi)(?![a-z]))[a-z]+)|(?:\\[a-z]+ ?|[A-Za-z])(?:_\{{\w+\}})?")


def approximate(text: str) -> float | None:
    r"""The approximate value of a cleaned formula with a number for each letter: enough to tell two formulas apart.

    None when it is no arithmetic of numbers, letters, fractions, roots and powers, or could be read in two ways.

    >>> approximate(r"\frac{2\sqrt{9}}{3}"), approximate("(5)(6)"), approximate(r"\sin{x}"), approximate("x/2y")
    (2.0, 30.0, None, None)
    """
    if re.search(r"\d\\frac\{\d+\}\{\d+\}|/[\d.]*[A-Za-z(\\]", text):
        return None
    text = _LETTER.sub(_sample, re.sub(r"\\cdot ?", "*", text))
    for _ in range(min(text.count("{"), 8)):
        text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", text)
        text = re.sub(r"\\sqrt\{([^{}]*)\}", r"((\1)**0.5)", text)
        text = re.sub(r"\^\{([^{}]*)\}", r"**(\1)", text)
    value = evaluate(re.sub(r"(?<=[\d)]) ?(?=\()|(?<=\))(?=[\d.])", "*", text))
    try:
        return None if value is None else float(value)
    except OverflowError:
        return None


def _sample(match: re.Match[str]) -> str:
    """The number that stands for a letter; no number for commands and for `i`, which is not real."""
    if match["command"] or match[0] == "i":
        return match["command"] or "\\i"
    constant = {"\\pi": math.pi, "e": math.e}.get(match[0].rstrip())
    return f"({constant or 1 + crc32(match[0].encode()) % 997 / 997})"
