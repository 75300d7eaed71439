"""The final answer a solution states, in whichever usual form it does; the last one wins."""

import re
from collections.abc import Iterator, Sequence

from lema.generated import first_answer, without_thinking
from lema.grading.notation import clean, number

_MARK = re.compile(
    r"(?P<box>\\(?:boxed|fbox) *)"
    r"|(?P<hashes>####)"
    r"|\b(?:answers?|(?:correct|right|best|likely|suitable|appropriate) (?:choice|option))\b[^.:\n$\\]{0,60}?"
    r"\b(?:is|are|be|equals)\b(?! not\b)[:\s]*"
    r"|\banswers?\b\W{0,3}:",
    re.IGNORECASE,
)
# Bounds for what is hostile: how much of a text is read from its end, how many marks are tried there, and how far
# behind one an answer reaches. 2,048 new tokens are some 8,000 characters.
_MAX_TEXT, _MAX_MARKS, _REACH = 100_000, 20, 2000
_SENTENCE = re.compile(r"(?:\\\$|\$[^$]{1,500}\$|\\\[.{1,500}?\\\]|\\\(.{1,500}?\\\)|\.(?!\s|$)|[^.\n])*+", re.DOTALL)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_AND = re.compile(r"\s*(?:[,;]|,?\s*(?:and|or)\b)\s*")
_FILLER = re.compile(
    r"(?:\s*(?:that|there (?:is|are)|equal to|approximately|about|exactly|simply|just|given by|option)\b:?)+ *",
    re.IGNORECASE,
)
_DIGITS = r"-? ?(?:\\?[$£€] ?)?-?(?:\d{1,3}(?: \d{3})+(?![\d/])|\d[\d,]*(?:\.\d+)?|\.\d+)"
_NUMERAL = re.compile(
    rf"(?:-?(?:\d+ ?)?\\[dt]?frac *\{{-?[\d.]+\}} *\{{[\d.]+\}}|{_DIGITS}(?: ?/ ?\d[\d,]*| \d+/\d+)?)"
    r"(?: ?\\?%| percent\b)?"
)
_ARITHMETIC = re.compile(r"[-+(]*[\d.,]+(?: *[-+*/×] *\(*[\d.,]+\)*)+")
_NUMBER_TASKS = ("gsm8k", "svamp", "asdiv", "arithmetic")


def extract(text: str, task: str, candidates: Sequence[str] = ()) -> str | None:
    r"""The final answer that `text` gives to a problem of `task`, None when it gives none.

    >>> [extract(text, "gsm8k") for text in ("The answer is $18 per day.", "so \\boxed{3}.", "Answer: 4", "#### 1,080")]
    ['18', '3', '4', '1,080']
    >>> [extract(text, "gsm8k") for text in ("So she has 5 + 3 = 8 eggs.", "No idea.")]
    ['8', None]
    >>> extract("The final answer is $(3,\\frac{\\pi}{2}).$ I hope it is correct.", "math")
    '(3,\\frac{\\pi}{2}).'
    >>> [extract(text, "csqa", ["bank", "city"]) for text in ("The answer is (B).", "\\boxed{\\text{city}}", "A city?")]
    ['city', 'city', 'city']
    """
    text = without_thinking(text[-_MAX_TEXT:])
    text = first_answer(text) or text
    return next((reading for reading in _readings(text, task, candidates) if reading), None)


def _readings(text: str, task: str, candidates: Sequence[str]) -> Iterator[str | None]:
    """What each mark announces, from the last one back, and then what the final sentence says."""
    for phrase, exact in _phrases(text):
        if task == "csqa":
            yield _candidate(phrase, candidates)
        elif task in _NUMBER_TASKS:
            yield _number(phrase)
        else:
            yield phrase if exact else _value(phrase)
    sentence = re.split(r"(?<=[.!?])\s+|\n+", text[-_REACH:])[-1]
    # A text that breaks off, or goes round in circles, states nothing.
    finished = re.search(r"[.!?)*$\]]$|= *\S+$", sentence) and text.count(sentence) < 3
    if task == "csqa":
        yield _candidate(sentence, candidates)
    elif finished and task not in _NUMBER_TASKS:
        yield _formulas(sentence, last=True)
    if finished and task != "csqa" and not re.search(r"\\(?![$%])|[\^_&]", sentence):
        yield _number(sentence, last=True)


def stated(gold: str) -> str:
    r"""The gold answer itself, also where it comes inside a solution that boxes or announces it.

    >>> stated("1,080"), stated("2 + 3 = 5. The answer is 5."), stated(r"Hence $x = \boxed{\frac12}$.")
    ('1,080', '5', '\\frac12')
    """
    return next((phrase if exact else _value(phrase) or gold for phrase, exact in _phrases(gold)), gold)


def _phrases(text: str) -> Iterator[tuple[str, bool]]:
    """What stands behind each mark, the last first, and whether it is the answer and nothing else, as in a box."""
    for mark in list(_MARK.finditer(text))[: -_MAX_MARKS - 1 : -1]:
        behind = text[mark.end() : mark.end() + _REACH]
        if mark["box"]:
            box = _box(behind)
            if box:
                yield box.strip(), True
        elif mark["hashes"]:
            yield behind.partition("\n")[0].strip(), True
        else:
            sentence = _SENTENCE.match(behind.lstrip(" :*\n\t"))
            yield (sentence[0].partition("I hope")[0].strip() if sentence else ""), False


def _box(behind: str) -> str | None:
    """The content of a box from its brace on; a box without braces holds one word. None when it is not closed."""
    if not behind.startswith("{"):
        word = re.match(r"\w+", behind)
        return word and word[0]
    depth = 0
    for brace in re.finditer(r"(?<!\\)[{}]", behind):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return behind[1 : brace.start()]
    return None


def _value(phrase: str) -> str | None:
    """The answer in a sentence: its formulas, else what it says in few words, else its number."""
    formulas = _formulas(phrase)
    if formulas:
        return formulas
    phrase = _FILLER.sub("", phrase, count=1).strip(" .,:;*") if _FILLER.match(phrase) else phrase.strip(" .,:;*")
    return phrase if len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{3,}", phrase)) <= 3 else _number(phrase)


def _formulas(phrase: str, last: bool = False) -> str | None:
    """The first formulas that follow one another as a list, `$1$, $2$ and $3$`, or the last one alone."""
    found = list(_FORMULA.finditer(phrase))
    if not found or re.search(r"\d", phrase[: found[0].start()]):
        return None
    if last:
        return found[-1][found[-1].lastindex or 0].strip()
    values, end = [], found[0].start()
    for formula in found:
        if values and not _AND.fullmatch(phrase, end, formula.start()):
            break
        values.append(formula[formula.lastindex or 0].strip())
        end = formula.end()
    behind = re.match(r" ?(?:\\?%|percent\b|thousand\b|million\b|billion\b)", phrase[end:])
    return ", ".join(values) + (behind[0] if behind else "")


def _number(phrase: str, last: bool = False) -> str | None:
    """The number in a phrase: right of the last `=`, else the first one, or with `last` the last one."""
    right = phrase.rpartition("=")[2]
    if re.search(r"\d", right):
        last = last and right == phrase
        phrase = right
    phrase = phrase.strip(" .:*\n")
    # "21 - some" is not 21, and 2 * 9 is worked out later.
    if _ARITHMETIC.fullmatch(phrase) or re.search(r"\d [-+*/×] \(?[A-Za-z]|\b[a-z] [-+*/×] \$?\d", phrase):
        return phrase
    numerals = list(_NUMERAL.finditer(phrase))
    if not numerals:
        words = re.match(r"\W*([A-Za-z]+)(?:[- ]([A-Za-z]+))?", phrase)
        spelled = [f"{words[1]} {words[2]}", words[1]] if words else []
        return next((word for word in spelled if number(clean(f"\\text{{{word}}}")) is not None), None)
    if not last and len(numerals) > 1:
        first, second = numerals[:2]
        if re.search(r"\b(?:and|or)\b|^\s*,\s*$", phrase[first.end() : second.start()]):
            return phrase[first.start() : second.end()].strip()
    # "He earned $42 in 6 hours" gives the money.
    money = [numeral for numeral in numerals if last and re.search("[$£€]", numeral[0])]
    numeral = (money or numerals)[-1 if last else 0][0]
    return re.sub(r"\\?[$£€] ?", "", numeral).strip().rstrip(",").replace("- ", "-")


def _candidate(phrase: str, candidates: Sequence[str]) -> str | None:
    """The candidate that a phrase names, by its text or else by its letter; None when it names none or several."""
    words = " ".join(re.sub(r"\\[a-z]+|[{}$*\\\"`]", " ", phrase).casefold().split())
    named = [
        candidate
        for candidate in candidates
        if re.search(rf"(?<!\w){re.escape(candidate.strip().casefold())}(?!\w)", words)
    ]
    # `bank` is not named where `river bank` is.
    named = [name for name in named if not any(name != other and name in other for other in named)]
    letters = set(re.findall(r"\(([A-Za-z])\)", phrase) or re.findall(r"^\W*([A-Z])(?=\W*$|[).:])", phrase))
    if len(named) != 1 and len(letters) == 1:
        index = ord(letters.pop().upper()) - ord("A")
        named = list(candidates[index : index + 1])
    return named[0] if len(named) == 1 else None
