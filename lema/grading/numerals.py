r"""The ways to write a number: Unicode's signs and fractions as ASCII, words, and the exact value of one numeral.

>>> legible("−2½ × 10⁻³"), number(r"2\cdot10^{-3}"), spelled("minus one hundred and twenty")
('-2 1/2 \\times  10^{-3}', Fraction(1, 500), Fraction(-120, 1))
"""

import re
import unicodedata
from fractions import Fraction

# Signs that NFKC leaves unchanged, or changes to something else than mathematics means.
_SIGNS = {"×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ", "÷": "\\div ", "π": "\\pi ", "√": "\\sqrt "}
_SIGNS |= {"∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "±": "\\pm ", "∓": "\\mp ", "∪": "\\cup "}
_SIGNS |= {"∈": "\\in ", "≈": "\\approx ", "θ": "\\theta ", "∅": "\\emptyset ", "°": "^{\\circ}", "ℝ": "\\mathbb{R}"}
_SIGNS |= {"⁄": "/", "∕": "/", "’": "'", "‘": "'", "“": '"', "”": '"', "−": "-", "。": ". ", "٫": ".", "٬": ","}
_SIGNS |= {"∖": "\\setminus ", "µ": "\\mu ", "μ": "\\mu ", "…": "...", "⟨": "\\langle ", "⟩": "\\rangle ", "\0": ""}
_RAISED = re.compile("([⁰¹²³⁴-⁹⁺⁻]+)|([₀-₉]+)")
_PLAIN_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻₀₁₂₃₄₅₆₇₈₉", "0123456789+-0123456789")
_PART = re.compile(r"(\d?)([¼-¾⅐-⅞↉])")

MULTIPLES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SMALL = {word: value for value, word in enumerate(_UNITS)} | {"a": 1, "an": 1}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS, 2)}
_SCALES = {word: 10**power for word, power in MULTIPLES.items()} | {"dozen": 12}
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
for _value, _word in enumerate("third fourth fifth sixth seventh eighth ninth tenth".split(), 3):
    _PARTS |= {_word: _value, f"{_word}s": _value}
_COUNTS = sorted((set(_SMALL) - {"a", "an"}) | set(_SCALES), key=len, reverse=True)
_TAIL = sorted([*_COUNTS, *_PARTS], key=len, reverse=True)
# A number in words; "a" only before a scale or a part.
WORDS = re.compile(
    rf"\b(?:(?:minus|negative) )?(?:{'|'.join(_COUNTS)}|an? (?:{'|'.join([*_SCALES, *_PARTS])})|half(?= an?\b|\W*$))"
    rf"(?:(?:[- ]|, |[- ]and[- ](?:an?[- ])?| point )(?:{'|'.join(_TAIL)})){{0,12}}\b",
    re.IGNORECASE,
)

_DECIMAL = r"\d+(?:\.\d*)?|\.\d+"
_FRACTION = rf"\\frac\{{(?P<top>-?(?:{_DECIMAL}))\}}\{{(?P<bottom>-?(?:{_DECIMAL}))\}}"
_NUMBER = re.compile(
    rf"(?P<sign>-?)(?:(?:(?P<whole>\d+) ?)?(?:{_FRACTION}|(?<![\d.])(?P<over>\d+)/(?P<under>\d+))"
    rf"|(?P<decimal>{_DECIMAL})(?:(?:\\cdot ?10\^\{{|[eE])(?P<exponent>[-+]?\d{{1,3}})\}}?)?"
    r"|(?P<start>\d*\.\d*)\\(?:overline|bar)\{(?P<period>\d+)\})"
)


def legible(text: str) -> str:
    r"""`text` with Unicode's digits, dashes, fractions, powers and mathematical signs as ASCII and LaTeX write them.

    >>> legible("－３"), legible("2½"), legible("x² ≤ ٣"), legible("5 café"), legible("3⁄4")
    ('-3', '2 1/2', 'x^{2} \\le  3', '5 café', '3/4')
    """
    if text.isascii() and "\0" not in text:
        return text
    text = _RAISED.sub(lambda match: f"{'^' if match[1] else '_'}{{{match[0].translate(_PLAIN_DIGITS)}}}", text)
    text = _PART.sub(lambda match: match[1] + " " * bool(match[1]) + unicodedata.normalize("NFKC", match[2]), text)
    return re.sub(r"[^\x01-\x7f]", _ascii, text)


def _ascii(match: re.Match[str]) -> str:
    character = match[0]
    kind = unicodedata.category(character)
    if character in _SIGNS or kind in ("Pd", "Cf", "Zs"):
        return _SIGNS.get(character, {"Pd": "-", "Zs": " "}.get(kind, ""))
    if kind == "Nd":
        return str(unicodedata.digit(character))
    plain = unicodedata.normalize("NFKC", character)
    return plain if plain.isascii() else character


def spelled(text: str) -> Fraction | None:
    """The value of a number in words, None when the words are no number.

    >>> spelled("Twenty-five"), spelled("two thirds"), spelled("three and a half"), spelled("minus two point five")
    (Fraction(25, 1), Fraction(2, 3), Fraction(7, 2), Fraction(-5, 2))
    >>> spelled("one two"), spelled("and")
    (None, None)
    """
    words = re.split(r"[-\s,]+", text.lower().strip())
    sign = -1 if words[0] in ("minus", "negative") else 1
    words = words[sign < 0 :]
    if words[-1:] and words[-1] in _PARTS:
        cut = len(words) - words[::-1].index("and") if "and" in words else 0
        whole, count = _integer(words[: max(cut - 1, 0)] or ["zero"]), _integer(words[cut:-1] or ["one"])
        return None if whole is None or count is None else sign * (whole + Fraction(count, _PARTS[words[-1]]))
    whole, _, decimals = " ".join(words).partition(" point ")
    digits = [_SMALL.get(word, 10) for word in decimals.split()]
    value = _integer(whole.split())
    if value is None or max(digits, default=0) > 9:
        return None
    return sign * (value + Fraction(int("0" + "".join(map(str, digits))), 10 ** len(digits)))


def _integer(words: list[str]) -> int | None:
    """The value of a whole number in words, None for `one two`: each word must fit below the word before."""
    total, group, room = 0, 0, 1000
    for word in words:
        if word in _SCALES and word != "hundred":
            total, group, room = total + (group or 1) * _SCALES[word], 0, 1000
        elif word == "hundred":
            group, room = (group or 1) * 100, 100
        elif word in _SMALL and _SMALL[word] < room:
            group, room = group + _SMALL[word], 10 if _SMALL[word] >= 20 else 1
        elif word != "and":
            return None
    return total + group if words and words != ["and"] else None


def number(text: str) -> Fraction | None:
    r"""The exact value of a cleaned answer that is one number, else None. A mixed number is a sum, not a product.

    >>> number("-.50"), number(r"2\frac{1}{2}"), number("3 1/2"), number(r"1.5\cdot 10^{3}"), number(r"\sqrt{4}")
    (Fraction(-1, 2), Fraction(5, 2), Fraction(7, 2), Fraction(1500, 1), None)
    >>> number(r"0.\overline{3}"), number("five")
    (Fraction(1, 3), None)
    """
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
