r"""The number that a phrase states, as it is written: digits, words, powers or sums, with their sign.

Several numbers stay together (`8 or 9`, `8 hours and 30 minutes`), so they equal no single number.

>>> [quantity(text) for text in ("negative 3 degrees", "4.6 × 10² m", "$5K", "one hundred and twenty", "2½ cups")]
['-3', '4.6 \\times 10^{2}', '5 thousand', 'one hundred and twenty', '2 1/2']
>>> [quantity(text) for text in ("not 8", "less than 8", "8 or 9 eggs", "not 8 but 9", "21 - some")]
[None, None, '8 or 9', '9', '21 - some']
"""

import re

from lema.grading.numerals import MULTIPLES, WORDS, legible, spelled

_DIGITS = r"(?:\d{1,3}(?: \d{3})+(?![\d/])|\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+\b)?"
_RUN = re.compile(
    rf"(?i)(?:{_DIGITS}|\\?[$£€¥₹%]|[-+*/^(){{}} ]"
    rf"|\\(?:[dtc]?frac|sqrt|cdot|times|div|left|right|pi)(?![a-z])|(?:{'|'.join(MULTIPLES)}|percent)\b)+"
)
_MAX_FORMULA = 200
# Words around a numeral, rewritten as signs; applied in this order.
_SPOKEN = [
    (r"\\(?:text)?color *\{[^{}]*\}|\\(?:rm|bf|it|displaystyle)(?![a-z])", ""),
    (r"\\(?:text|math|mbox|bm|bold|operat|emph|under)[a-z]* *\{([^{}]*)\}", r" \1 "),
    (r"(?<=\d)(?:, *\\!|\\,|\{,\})(?=\d{3}(?!\d))", ","),
    (r"\\[()\[\],;:! ]|~|\$\$|(?<![\w}])_+|_+(?![\w{])|</?[a-z]{1,10}>", " "),
    (r" {2,}", " "),
    # Taken back: `5? No, 6`, `5, wait, it's 6`.
    (r"^[^?\n]*\?\s+(?=\S)|^.*\b(?:wait|actually|sorry|i mean)\b(?=.*\d)", ""),
    (
        rf"((?:(?<![\d,.])\d[\d,.]*|{WORDS.pattern})(?: degrees?)?(?: celsius| fahrenheit| [CF])?) below zero",
        r"minus \1",
    ),
    (r"\b(?:negative|minus) (?=[$£€\\({]*[\d.])", "-"),
    (r"\b0[bx][\da-f]+", "hexadecimal"),
    (r"(?<=\d)[_'](?=\d{3}(?!\d))", ","),
    (r"(?<=\d) squared\b", "^2"),
    (r"(?<=\d):00\b", ""),
    (r"(?<=\d) plus (?=\d)", " + "),
    (r"(?<=\d) (?:times|multiplied by|[x×]) (?=[\d(])|(?<=\d)x(?=\d)", " * "),
    (r"(?<=\d) divided by (?=\d)", " / "),
    (r"(?:\$(\d+)|(?<![\d.,])(\d+) dollars?),? (?:and )?(\d\d) cents?\b", r"$\1\2.\3"),
    (r"(?:\$(\d+)|(?<![\d.,])(\d+) dollars?),? (?:and )?(\d) cents?\b", r"$\1\2.0\3"),
    (r"(?<=\d) dozens?\b", " * 12"),
    (rf"\bhalf an? (?={'|'.join(MULTIPLES)})", "0.5 "),
    (r"(?<=\d) ?k\b", " thousand"),
    (r"(?<=\d) ?(?-i:M|mn|mln|mil)\b", " million"),
    (r"(?<=\d) ?(?-i:B|bn)\b", " billion"),
    (r"\b(units|feet|inches|meters|metres|[cmk]?m|ft|in|yd|mi) ?\^ ?\{?[23]\}?", r"\1"),
    (r"(?<=\d) and (?=\d+/\d)", " "),
]
_COMPILED = [(re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in _SPOKEN]
_AND_PART = re.compile(rf"(?i)(?<=\d) and ({WORDS.pattern})")
_DENIED = re.compile(
    r"(?i)(?:\b(?:not(?! (?:only|counting|including)\b)|no longer|never|neither|cannot|rather than|instead of"
    r"|anything (?:but|except)|(?:far|different) from|unlikely|(?:incorrect|wrong) to|other than|no(?= \d))\b|n't\b)"
    r".*?(?=,(?!\d{3})|;|\.(?!\d)|\n|\bbut\b|$)"
)
_WRONG = re.compile(
    r"(?i)\b(?:(?:is|are|be)(?:n't| not) (?:the |a )?(?:\w+ )?(?:answer|correct|right|solution|possible|valid)"
    r"|(?:is|are|was|were) (?:wrong|incorrect|impossible))\b"
)
_COMPARED = re.compile(
    r"(?i)(?:\b(?:than|between(?: [^,;.]{1,20} and)?|at (?:least|most)|up to)(?: (?:about|the))?"
    r"|(?:^|\b(?:is|are) )(?:just |a (?:little|bit) )?(?:over|under|above|below|beyond|nearly|almost))[ $£€\\({]*$"
)
_INEQUALITY = re.compile(
    r"(?<![-<>=])[<>](?![<>])|\\(?:[gl]eq?|neq?|pm)(?![a-z])|\d\+\W*$|\d!|\|-\d|\bor (?:more|less|fewer|above|below)\b"
)
_UNITS = "(?:hour|hr|minute|min|week|day|month|year|pound|lb|dollar|yard|quarter|gallon)s?|h|feet|foot|ft|kg|m"
# These join two numbers into one answer: `8 or 9`, `8 hours 30 minutes`, `8:30`, `8 to nine`.
_COMPOUND = re.compile(
    r"(?i)(?:(?::| : |'|\.{2,})(?=\d)"
    rf"|\s*(?:(?:{_UNITS})(?![a-z]),? *(?:and\b)?|(?:(?:{_UNITS})\b *)?"
    r"\(?(?:(?:or|and|to|(?:with (?:a )?)?remainder(?: of)?|r)(?![a-z])|&)) *)"
    r"[$£€\\]*-?"
    rf"(?=(?P<value>\d[\d,.]*|{WORDS.pattern}))"
)
# Words, letters and functions that change what a number means.
_MODIFIED = re.compile(
    r"(?i)\b(?:root of|half of|twice|thrice|double|triple|square of|cube of|sum of|product of)\b[^,.;]*\d"
    r"|(?:\d ?(?:\\?%|percent)|/\d+) of \$?\d|\d (?:\w+ )?(?:less|more|fewer) than \$?\d"
    r"|\d (?:cubed|factorial|mod|choose|(?:ten|hundred|thousand|four|fif|six|seven|eigh|nin)ths|thirds)\b"
    r"|(?:\\|\b)(?:log|ln|sin|cos|tan|exp|binom|gcd)(?= ?[\d({_\\])"
    r"|\d(?:[abeijnqruvwxyz]|[abnxyz]{2}|[CP]\d+)\b|[a-z] ?= ?[^=]*[a-z] ?="
)
_FORMULA = re.compile(r"\d [-+*/] \(?[A-Za-z]|\b\d*[a-z] [-+*/] \$?\d|\d ?[-+*/] ?\d+[a-z]\b|\d[*+]\(?[A-Za-z]")


def quantity(phrase: str, last: bool = False) -> str | None:
    """The number in a phrase: right of the last `=`, else the first one, or with `last` the last one."""
    phrase = legible(phrase)
    digits = re.search(r"\d", phrase)
    for pattern, replacement in _COMPILED:
        phrase = pattern.sub(replacement, phrase)
    # `3 and a half` is 3 1/2.
    phrase = _AND_PART.sub(lambda part: f" {value}" if 0 < (value := spelled(part[1]) or 0) < 1 else part[0], phrase)
    phrase = "".join(clause for clause in re.split(r"([,;\n]|\.(?!\d))", phrase) if not _WRONG.search(clause))
    phrase = _DENIED.sub(" ", phrase)
    if not last and _MODIFIED.search(phrase) and not re.search(r"\d *= *[^=]*\d", phrase):
        return phrase if len(phrase) <= _MAX_FORMULA else None
    right = phrase.rpartition("=")[2]
    if re.search(r"\d", right):
        last = last and right == phrase
        phrase = right
    phrase = phrase.rstrip(" .:*\n").lstrip(" :*\n")  # not the point of .5
    if last and (bold := re.findall(r"\*\*([^*\n]*\d[^*\n]*)\*\*", phrase)):
        phrase, last = bold[-1], False
    phrase = re.sub(r"(?<!\d)\*\*|\*\*(?! *[\d(])", "", phrase)
    if _FORMULA.search(phrase) or _INEQUALITY.search(phrase):
        return phrase if len(phrase) <= _MAX_FORMULA else None  # "21 - some" is not 21
    found = (None if last and digits else _spoken(phrase, last)) or _written(phrase, last)
    return found and re.sub(r"\\?[$£€¥₹] ?", "", found).strip().rstrip(",")


def _spoken(phrase: str, last: bool) -> str | None:
    """A number in words: what the phrase begins with, or with `last` the last one where there are no digits."""
    if last:
        words = [word for word in WORDS.finditer(phrase) if word[0].lower() != "one"]
        words = [word for word in words if not _COMPARED.search(phrase[: word.start()])]
        word = words[-1] if words else None
    else:
        start = re.match(r"\W*", phrase)
        word = WORDS.match(phrase, start.end() if start else 0)
    if word is None or spelled(word[0]) is None or re.match(" of ", phrase[word.end() :]):
        return None
    return _whole(phrase, word.start(), word.end(), word[0]) if not last else word[0]


def _written(phrase: str, last: bool) -> str | None:
    """A number in digits, with the signs, brackets and powers around it."""
    runs = [run for run in _RUN.finditer(phrase) if re.search(r"\d", run[0])]
    if last:
        runs = [run for run in runs if not _COMPARED.search(phrase[: run.start()])]
        # "He earned $42 in 6 hours" gives the money.
        runs = [run for run in runs if re.search("[$£€]", run[0])] or runs
    if not runs:
        return None
    run = runs[-1 if last else 0]
    before, text = phrase[: run.start()], run[0]
    if not last and _COMPARED.search(before):
        return None
    if before[-1:] in ("_", "^") or (before[-1:].isalpha() and text[0] in "^({") or phrase[run.end() :].startswith("_"):
        return phrase  # an exponent, an index, or an argument
    text = re.split(r"(?<=\d) +(?=\()", text)[0]
    end = run.start() + len(text.rstrip(" *+/^({-"))
    text = text.rstrip(" *+/^({-").lstrip(" *)}/+")
    before = phrase[: end - len(text)]
    if (text.startswith("- ") and re.search(r"(?<!\bis)(?<!\bare)(?<!\bbe)(?<!\bof)[A-Za-z)*] +$", before)) or (
        text.startswith("-") and re.search(r"\w$", before)
    ):
        text = text[1:].lstrip()  # a dash
    if any(text.count(opening) != text.count(closing) for opening, closing in ("()", "{}")):
        numeral = re.search(rf"-?{_DIGITS}", run[0])
        text, end = (numeral[0], run.start() + len(run[0][: numeral.end()].rstrip(","))) if numeral else (text, end)
    text = re.sub(r"^(-?)\s*((?:\\?[$£€¥₹] ?)?)(-?) *", lambda sign: (sign[1] or sign[3]) + sign[2], text)
    if not last:
        return _whole(phrase, run.start(), end, text)
    pair = len(runs) > 1 and _COMPOUND.match(phrase, runs[-2].start() + len(runs[-2][0].rstrip()))
    return phrase[runs[-2].start() : end].strip() if pair and pair.end() >= run.start() else text


def _whole(phrase: str, start: int, end: int, text: str) -> str:
    """The number `text`, or the part of the phrase that joins it with the next number into one answer."""
    rest = phrase[end:]
    if compound := _COMPOUND.match(rest):
        joined = phrase[start : end + compound.start("value")].strip()
        return f"{joined} {spelled(compound['value']) or compound['value']}"
    following = re.search(r"[$£€\\]*-?\d[\d,]*(?:\.\d+)?", rest)
    listed = re.match(r" [a-z]+, \$?\d+ [a-z]+\W*$", rest)  # `8 boys, 10 girls`
    if following and (listed or re.search(r"\b(?:and|or)\b|^\s*[,;]\s*$", rest[: following.start()])):
        return phrase[start : end + following.end()].strip()
    return text
