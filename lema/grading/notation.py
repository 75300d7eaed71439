"""One spelling for the many ways of writing the same short answer, and the exact value of those that are numbers.

Everything here is plain string work: bounded regular expressions on an answer of at most `MAX_LENGTH` characters.
"""

import math
import re
from fractions import Fraction
from zlib import crc32

from lema.grading.expressions import evaluate

# The longest gold answer of MATH has 159 characters; what is much longer is no final answer.
MAX_LENGTH = 1000

_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "\\div ", "π": "\\pi "}
    | {"√": "\\sqrt ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "±": "\\pm ", "∪": "\\cup "}
    | {"∈": "\\in ", "≈": "\\approx ", "θ": "\\theta ", "∅": "\\emptyset ", "°": "^{\\circ}", "²": "^{2}"}
    | {"³": "^{3}", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "’": "'", "\0": "", "\u200b": "", "\ufeff": ""}
)
_FUNCTIONS = "sqrt|pi|infty|infinity|inf|theta|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"
# Commands that stand for variables.
GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|varphi|omega"
# A model that escapes its LaTeX once more writes `\\frac`; a row of a matrix ends in the same two characters.
_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dt]?frac|sqrt|pi|text|left|right|begin|end|cdot|times|infty|cup|pm|theta|circ|%)(?![a-z]))"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)\b")
_MULTIPLES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_UNIT_NAMES = """cm mm km kg mg ml mL ft in yd mi lb lbs oz hr hrs min sec mph kph kmh gm sq rad deg units unit
    dollars cents degrees radians inches feet meters""".split()

# Applied in this order; later rules rely on the spelling that earlier ones leave.
_REWRITES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Thousands separators that can be nothing else: `10,\!000`, `10{,}000`, `10\,000`.
        (r"(?<=\d)\s*(?:,\s*\\!|\{,\}|\\,)\s*(?=\d{3}(?!\d))", ""),
        # Layout, quotes, Markdown and currency; `$` is both currency and the sign around formulas.
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|!)(?![A-Za-z])|\\?[$£€¥]|\*\*$|^\*\*|[`\"]", ""),
        (r"(?<!\\)\\[()\[\]](?=\s|$)|^\\[(\[]", " "),
        (r"^\s*(?:about|approximately|roughly|exactly)\b", ""),
        (r"(?:(?<!\\)\\[,;:\s]|~|\\q?quad(?![a-z])|\s)+", " "),
        (
            r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|mbox|bm|boldsymbol|operatorname|emph)\s*\{([^{}]*)\}",
            r"\\text{\1}",
        ),
        # `\text{A}`, `\text{13}`, `\text{(B)}` and `\text{A,C,F}` are the same without their font.
        (r"(?<![\d})])(?<![\d})] )\\text\{(\s*\(?(?:[A-Za-z]|\d+)\)?(?:\s*,\s*(?:[A-Za-z]|\d+))*\s*)\}", r"\1"),
        # Two spellings of one sign.
        (r"\\[dtc]frac(?![a-z])", r"\\frac"),
        (r"<=|\\(?:le|leq|leqslant)(?![a-z])", r"\\le "),
        (r">=|\\(?:ge|geq|geqslant)(?![a-z])", r"\\ge "),
        (r"!=|\\neq?(?![a-z])", r"\\ne "),
        (r"\\lt(?![a-z])", "<"),
        (r"\\gt(?![a-z])", ">"),
        (r"\\(?:[lr]?vert|mid)(?![a-z])", "|"),
        (r"\\varnothing|\\\{\s*\\\}", r"\\emptyset"),
        (r"\\div(?![a-z])", "/"),
        (r"\*\*", "^"),
        (r"\\(?:times|ast)(?![a-z])|\*", r"\\cdot "),
        (r"(?:\\text\{\s*)?\b[Pp]er ?cent\b(?:\s*\})?|\\%", "%"),
        (r"\\text\{\s*,?\s*and\s*\}|(?<![A-Za-z])and(?![A-Za-z])", ","),
        (r"\\text\{\s*,?\s*or\s*\}|(?<![A-Za-z])or(?![A-Za-z])", ";"),
        (rf"(?<![\\A-Za-z])({_FUNCTIONS})(?![A-Za-z])", r"\\\1 "),
        (r"\\inf(?:inity)?(?![a-z])", r"\\infty"),
        # Arguments without braces: `\frac12`, `\frac1{72}`, `\frac\pi4`, `\sqrt3`, `x^10`, `x^-1`, `1011_2`.
        (r"\\frac\s*(\d|[a-zA-Z]|\\pi(?![a-z]))", r"\\frac{\1}"),
        (r"(\\frac\s*\{(?:[^{}]|\{[^{}]*\})*\})\s*(\d|[a-zA-Z]|\\pi(?![a-z]))", r"\1{\2}"),
        (r"\\sqrt\s*(\d+|[a-zA-Z]|\\pi(?![a-z]))", r"\\sqrt{\1}"),
        (r"\^\s*([-+]?\d+(?:\.\d+)?|[A-Za-z]|\\[a-z]+)", r"^{\1}"),
        (r"_\s*(\d+|[A-Za-z]|\\text\{[a-z]+\})", r"_{\1}"),
    )
]


def clean(text: str) -> str:
    r"""`text` in the one spelling that answers are compared in; "" when nothing is left of it.

    Thousands separators, units, currency, degrees and font go, fractions and roots get their braces.

    >>> clean(r"\$10,\!000"), clean(r"\dfrac12\text{ cm}^2"), clean("45°"), clean("18 dollars per day.")
    ('10000', '\\frac{1}{2}', '45', '18')
    >>> clean(r"\text{4:30 p.m.}"), clean(r"\text{Evelyn}"), clean("2 and 3"), clean("sqrt(2)/2")
    ('\\text{4:30pm}', '\\text{evelyn}', '2,3', '\\sqrt{2}/2')
    """
    text = text[: MAX_LENGTH + 1].translate(_CHARACTERS).strip()
    if _DOUBLED.search(text):
        text = text.replace("\\\\", "\\")
    text = _without_separators(text)
    # 4:30 p.m. is no 4:30 a.m.: here the letters are more than a unit.
    text = re.sub(r"\\text\s*\{([^{}]*\d[^{}]*[AaPp]\.?[Mm]\b[^{}]*)\}", r"\1", text)
    text = re.sub(
        r"(\d)\s*(?:\\text\{\s*)?([AaPp])\.?\s?[Mm]\b\.?(?:\s*\})?",
        lambda match: match[1] + match[2].lower() + "m",
        text,
    )
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _braced(text)
    text = _without_degrees(text)
    text = _without_units(text.strip())
    text = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|(?<=\d)(\s)\s*(?=\d)|\s+", _space, text)
    text = re.sub(r"[,;]{2,}", ",", text).rstrip(",;.:").lstrip("=,;:")
    # `\{x | x > 3\}` and `x \in [1, 2]` name the set; `(B)` is the choice B; `+5` is 5; `{5}` is a box in a box.
    text = re.sub(r"^\\\{[a-z](?:\\in[^|:]*)?[|:](.*)\\\}$", r"\1", text)
    text = re.sub(r"^[A-Za-z]\\in(?![a-z])\s*", "", text)
    text = re.sub(r"^\(?([A-Z])\)$|^\{([^{}]*)\}$", r"\1\2", text)
    text = re.sub(r"(?<![^(\[,{=])\+", "", text)
    text = re.sub(r"_\{\\text\{([a-z]+)\}\}", lambda match: f"_{{{_WORDS.get(match[1], match[1])}}}", text)
    return re.sub(r"\\mathbb\{R\}|\\text\{allrealnumbers\}", r"(-\\infty,\\infty)", text)


def _without_separators(text: str) -> str:
    """`1,000` is a thousand outside brackets; in `(1,000)` or `[0,100]` the comma separates two numbers."""
    if re.search(r"[(\[]|\\\{", text):
        return text
    return re.sub(
        r"(?<![\d,. ])\d{1,3}(?:([, ])\d{3})(?:\1\d{3})*(?!\d|[, /]\d)",
        lambda match: re.sub("[, ]", "", match[0]),
        text,
    )


def _space(match: re.Match[str]) -> str:
    """A space is kept where two numbers (`3 1/2`), or a command and a letter (`\\pi r`), would run together."""
    return f"{match[1]} " if match[1] else " " if match[2] else ""


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


def _without_degrees(text: str) -> str:
    """Degrees are dropped, but inside a sine they say which number is meant: `\\sin 30^\\circ` is a half."""
    if _TRIGONOMETRIC.search(text):
        text = re.sub(r"(\d+)\s*\^\s*\{\s*\\circ\s*\}", r"(\\frac{\1\\pi}{180})", text)
    return re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|\\circ(?![a-z])", "", text)


def _without_units(text: str) -> str:
    """Words after a value are its unit; words alone are the answer, compared without case and punctuation."""
    text = re.sub(
        rf"(\d)\s*(?:\\text\{{\s*)?({'|'.join(_MULTIPLES)})\b(?:\s*\}})?",
        lambda match: f"{match[1]}\\cdot10^{{{_MULTIPLES[match[2]]}}}",
        text,
    )
    # A base may be spelled out: `1011_{\text{two}}`.
    rest = re.sub(r"(?<!_\{)\\text\s*\{[^{}]*\}(?:\s*\^\s*\{\d\})?", "", text)
    if rest != text and re.search(r"[A-Za-z0-9]", rest):
        text = rest.strip()
    tail = re.search(r"(?<=[\d})%])(\s*)([A-Za-z]+)[A-Za-z /.,'()-]*(?:\^\{\d\})?$", text)
    if tail and (tail[2] in _UNIT_NAMES or (len(tail[2]) > 2 and tail[1]) or tail[0].lstrip().startswith("m/")):
        return text[: tail.start()]
    time = re.fullmatch(r"(\d{1,2})(:\d\d)?([ap]m)", text)
    if time:
        return f"\\text{{{time[1]}{time[2] or ':00'}{time[3]}}}"
    if re.fullmatch(r"(?=.*[AEIOUYaeiouy])[A-Za-z]{3,}|[A-Za-z][A-Za-z]*[ '-][A-Za-z .,'-]*|[A-Z][a-z]{2,} \d+", text):
        text = f"\\text{{{text}}}"
    return re.sub(
        r"\\text\s*\{([^{}]*)\}", lambda match: f"\\text{{{re.sub(r'[^a-z0-9:]', '', match[1].lower())}}}", text
    )


_DECIMAL = r"\d+(?:\.\d*)?|\.\d+"
_FRACTION = rf"\\frac\{{(?P<top>-?(?:{_DECIMAL}))\}}\{{(?P<bottom>-?(?:{_DECIMAL}))\}}"
_NUMBER = re.compile(
    rf"(?P<sign>-?)(?:(?:(?P<whole>\d+) ?)?(?:{_FRACTION}|(?<![\d.])(?P<over>\d+)/(?P<under>\d+))"
    rf"|(?P<decimal>{_DECIMAL})(?:(?:\\cdot ?10\^\{{|[eE])(?P<exponent>[-+]?\d{{1,3}})\}}?)?"
    r"|(?P<start>\d*\.\d*)\\(?:overline|bar)\{(?P<period>\d+)\})"
)
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_UNITS += ["seventeen", "eighteen", "nineteen"]
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORDS = {word: value for value, word in enumerate(_UNITS)} | {
    tens + unit: value * 10 + extra
    for value, tens in enumerate(_TENS, 2)
    for extra, unit in enumerate(["", *_UNITS[1:10]])
}


def number(text: str) -> Fraction | None:
    r"""The exact value of a cleaned answer that is one number, else None. A mixed number is a sum, not a product.

    >>> number("-.50"), number(r"2\frac{1}{2}"), number("3 1/2"), number(r"1.5\cdot 10^{3}"), number(r"\sqrt{4}")
    (Fraction(-1, 2), Fraction(5, 2), Fraction(7, 2), Fraction(1500, 1), None)
    >>> number(r"0.\overline{3}"), number(r"\text{twentyfive}")
    (Fraction(1, 3), Fraction(25, 1))
    """
    if text.startswith("\\text{"):
        word = _WORDS.get(text[6:-1])
        return None if word is None else Fraction(word)
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign = -1 if match["sign"] else 1
    if match["decimal"]:
        return sign * Fraction(match["decimal"]) * Fraction(10) ** int(match["exponent"] or 0)
    if match["period"]:
        digits = match["start"].partition(".")[2]
        repeating = Fraction(int(match["period"]), (10 ** len(match["period"]) - 1) * 10 ** len(digits))
        return sign * (Fraction(match["start"].rstrip(".") or 0) + repeating)
    top, bottom = Fraction(match["top"] or match["over"]), Fraction(match["bottom"] or match["under"])
    if bottom == 0 or (match["whole"] and not 0 < top < bottom):
        return None
    return sign * (int(match["whole"] or 0) + top / bottom)


_CONSTANTS = {"\\pi": math.pi, "e": math.e}
_LETTER = re.compile(rf"(?P<command>\\(?!(?:{GREEK}|pi)(?![a-z]))[a-z]+)|(?:\\[a-z]+ ?|[A-Za-z])(?:_\{{\w+\}})?")


def approximate(text: str) -> float | None:
    r"""About the value of a cleaned formula, each letter at a number of its own: enough to tell two formulas apart.

    None for what is no arithmetic of numbers, letters, fractions, roots and powers, or could be read in two ways.

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
    """A number for a letter, the same one each time; no number for `i`, which is no real one, and for commands."""
    if match["command"] or match[0] == "i":
        return match["command"] or "\\i"
    return f"({_CONSTANTS.get(match[0].rstrip()) or 1 + crc32(match[0].encode()) % 997 / 997})"
