"""The final answer that a solution states, in any usual form; the last statement wins."""

import re
from collections.abc import Iterator, Sequence

from lema.grading.choices import named
from lema.grading.generated import first_answer, without_thinking
from lema.grading.numerals import legible
from lema.grading.quantities import quantity

_MARK = re.compile(
    r"(?im)(?P<box>\\(?:boxed|fbox|framebox) *)"
    r"|(?P<hashes>####(?! *(?:step|part|case|answer|final|solution|conclusion|explanation|problem|question)\b))"
    r"|(?P<tag><(?:final_?)?answer>)"
    r"|(?P<field>[\"'](?:final|correct)?[_ ]?(?:answer|ans|result)[\"'] *: *)"
    r"|^[\W_]{0,9}(?:(?:the|final|correct|my) ){0,2}(?:answer|result)\W{0,9}\n"
    r"|\b(?:answers?|(?:correct|right|best|likely|suitable|appropriate) (?:choice|option))\b[^.:\n$\\]{0,60}?"
    r"(?:\b(?:is|are|be|equals|becomes)(?:n't)?\b|\b(?:comes|turns) (?:out )?to\b(?! be)|=>?)[:\s]*"
    r"|\b(?:answers?|ans)\b\W{0,3}[:=]"
    # "Wait, it should be 6" replaces the answer before it.
    r"|(?P<back>\b(?:wait|actually|sorry|oops|correction|hold on|(?<=[.?!]\s)no,)[^\n$\\\d]{0,60}?"
    r"(?:\b(?:should|must) be\b|(?:\b(?:it|that)(?:'s| is)\b(?: actually)?|(?<=correction):)"
    r"(?= \W{0,4}(?:\d|\\|(?-i:[A-E])\b))))"
)
# Bounds against hostile texts: the characters read from the end, the marks tried, and the characters read behind a
# mark. 2,048 new tokens are some 8,000 characters.
_MAX_TEXT, _MAX_MARKS, _REACH = 100_000, 20, 2000
_SENTENCE = re.compile(r"(?:\\\$|\$[^$]{1,500}\$|\\\[.{1,500}?\\\]|\\\(.{1,500}?\\\)|\.(?!\s|$)|[^.\n])*+", re.DOTALL)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_ALIGNED = r"\\(?:begin|end)\{(?:align(?:ed|at)?|equation|gather(?:ed)?|multline|eqnarray|split)\*?\}"
_CLOSING = re.compile(
    rf"(?:\\\[|\$\$|{_ALIGNED})((?:\\\\|(?!\\[\[\]\\]|\$\$).)+?)(?:\\\]|\$\$|{_ALIGNED})[\sA-Za-z.,]{{0,40}}$",
    re.DOTALL,
)
_AND = re.compile(r"\s*(?:[,;]|,?\s*(?:and|or)\b)\s*")
_BOTH = re.compile(r"[\s$]*(?:,|,?\s*\b(?:and|or)\b)[\s$]*")
_FILLER = re.compile(
    r"(?i)(?:\s*(?:that|there (?:is|are)|equal to|approximately|about|exactly|simply|just|given by|option)\b:?)+ *"
)
# "If the answer is 4", "my previous answer is 4" and "I do not think the answer is 4" are about another answer.
_OTHER = re.compile(
    r"(?i)(?:\b(?:if|whether|suppose|supposing|assume|assuming|unless|previous|earlier|initial|original|first|old|wrong"
    r"|incorrect|false|other|alternative|your|(?:incorrect|wrong) to \w+"
    r"|(?:might|may|could|would) (?:think|guess|expect|believe))(?: that)?(?: the| an?| my)?"
    r"|\b(?:not|never|\w+n't)\b[^.,:;\n$\\]{0,30}) $"
)
_NOT = re.compile(r"(?i)\b(?:not|no longer|never|cannot)\b|n't\b")
_WRONG = re.compile(r"[}$ ]*(?:is|was) (?:wrong|incorrect|not (?:the|correct|right))\b")
_UNBOXED = re.compile(r"(?:\bnot|n't) (?:equal to )?\$?$")
# A remark about the answer, which is not the answer.
_REMARK = re.compile(
    r"(?i)\W*(?:\w+ly |thus |then |also |now |indeed )*(?:correct|right|reasonable|verified|consistent|confirmed|valid"
    r"|unique|simplified|sensible|plausible|final|clear|obvious|complete|bigger|larger|greater|smaller|less"
    r"|more|between|above|below|at least|at most|in (?:its )?(?:simplest|lowest|reduced"
    r"|the (?:required|correct|form|same))|the (?:one|same|second|first|only)\b|as (?:required|expected|desired))\b"
)
_COURTESY = re.compile(
    r"\W*(?:(?:so |thus |therefore |and )?(?:the|this|our|my|which)(?: final)? answer (?:is|was|seems|looks|makes"
    r"|checks|matches|agrees)|I hope|hope|let me know|feel free|thank|this (?:is|matches|checks|makes|agrees|confirms"
    r"|completes)|done|great|verified|check(?:ed)?|q\.?e\.?d)\b",
    re.IGNORECASE,
)
# A sentence that may follow the result: a courtesy without a number, or a check.
_ADDED = re.compile(rf"(?i)(?!.*[\d$\\]){_COURTESY.pattern}|\W*(?:(?:double-?)?check|verif(?:y|ication)|proof)\b\W*:")
# After a box a sentence is another answer only when it begins with a value.
_VALUE = re.compile(r"(?i)\W*(?:\$|\\[(\[a-z]|[-+]?\\?[$£€]?\.?\d|(?-i:[A-Z])\W*$)")
_ANNOUNCED = re.compile(
    r"(?i)(?:\\text\w* *\{)?\s*(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my) )?(?:(?:final|correct|right|best) )?"
    r"(?:answer|choice|option|result)(?: is|:| =| (?=\(?[A-Z]\b)):?\s*\}?\s*"
)
# "not $5$" is no answer, but "not possible" may be one.
_DENIED = re.compile(
    r"(?:\b(?:not|no longer|cannot be|rather than|instead of)\b|n't\b) (?:equal to )?(?=[-\\$\d]).*?(?=,|;|\bbut\b|$)"
)
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
    text = legible(without_thinking(text[-_MAX_TEXT:]))
    if task in _NUMBER_TASKS:
        text = re.sub(r"(?<=\d)!+(?=\s*$|\s+[A-Z])", ".", text)  # 5! is 120, but "She has 5!" is glad
    text = re.sub(r"\\(?:blacksquare|square|qed)\b", "", first_answer(text) or text).rstrip("✓✔✅☑■□∎ \t\r\n")
    return next((reading for reading in _readings(text, task, candidates) if reading), None)


def _readings(text: str, task: str, candidates: Sequence[str]) -> Iterator[str | None]:
    """Yield what each mark announces, the last mark first, and then what the end of the text states."""
    for phrase, exact in _phrases(text, remarks=task == "csqa"):
        if task == "csqa":
            yield (choice := named(phrase, candidates))
            if choice == "":
                return  # several are named, and one was asked for
        elif task in _NUMBER_TASKS:
            yield quantity(phrase)
        else:
            yield phrase if exact else _value(phrase)
    closing = _CLOSING.search(text[-_REACH:])
    if closing and task != "csqa" and text.count(closing[1]) < 3:
        formula = closing[1]
        if "&" in formula and "matrix}" not in formula and "{array}" not in formula:  # of a derivation the last line
            rows = re.split(r"\\\\(?:\[[^\]]*\])?", re.sub(_ALIGNED, "", formula))
            formula = next((row for row in reversed(rows) if row.strip()), "").replace("&", "")
        formula = formula.strip()
        yield quantity(formula, last=True) if task in _NUMBER_TASKS else formula
        return
    sentences = re.split(r"(?<=[.!?])\s+|\n+", text[-_REACH:])
    if task == "csqa" and len(sentences) > 1:
        first = re.match(r"\W*(?:option |choice )?\(?[A-Z]\)?(?:[).:]|\W*$)[^\n]{0,60}$", text.partition("\n")[0])
        yield named(first[0], candidates) if first else None
    while len(sentences) > 1 and _ADDED.match(sentences[-1]):
        sentences.pop()
    sentence = sentences[-1]
    # A text that breaks off or repeats itself states nothing; a text that is one value is the answer.
    finished = re.search(r"[.!?)*$\]]$|= *\S+$", sentence) and text.count(sentence) < 3
    finished = (finished or (len(text) <= 40 and "\n" not in text)) and (task == "csqa" or sentence[-1:] != "?")
    if task == "csqa":
        yield named(sentence, candidates)
    elif finished and task not in _NUMBER_TASKS:
        sentence = _DENIED.sub("", sentence)
        yield _formulas(sentence, last=True)
        words = re.search(r"\n|(?<![\\a-zA-Z])[a-zA-Z]{3}", text)
        if len(text) <= 60 and text.count("{") == text.count("}") and not words:
            yield text
    if finished and task != "csqa" and (task in _NUMBER_TASKS or not re.search(r"\\(?![$%])|[\^_&]", sentence)):
        yield quantity(sentence, last=True)


def stated(gold: str) -> str:
    r"""The gold answer itself, also where it comes inside a solution that boxes or announces it.

    >>> stated("1,080"), stated("2 + 3 = 5. The answer is 5."), stated(r"Hence $x = \boxed{\frac12}$.")
    ('1,080', '5', '\\frac12')
    """
    return next((phrase if exact else _value(phrase) or gold for phrase, exact in _phrases(gold)), gold)


def _phrases(text: str, remarks: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the text behind each mark, the last mark first, and whether that text is exactly the answer, as in a box.

    Remarks about an answer are left out unless `remarks` is set: `more happiness` and `complete` may be choices.
    """
    found: list[tuple[str, bool]] = []
    box = inside = 0  # where the last box ends, and the last exact answer: what a box says of the answer is part of it
    for mark in list(_MARK.finditer(text))[-_MAX_MARKS:]:
        behind = text[mark.end() : mark.end() + _REACH]
        exact = _exact(mark, behind)
        if exact is not None:
            if mark["box"] and (_WRONG.match(behind[len(exact) + 1 :]) or _UNBOXED.search(text[: mark.start()])):
                continue
            phrase = _ANNOUNCED.sub("", exact, count=1) if _ANNOUNCED.match(exact) else exact
            phrase = phrase[:-1] if phrase.count("}") > phrase.count("{") else phrase
            if mark["box"] and found and _BOTH.fullmatch(text, box, mark.start()):
                phrase = f"{found.pop()[0]}, {phrase}"
            found += [(phrase.strip(), True)] if phrase.strip() else []
            inside = max(inside, mark.end() + len(exact))
            box = mark.end() + len(exact) + 2 if mark["box"] else 0
        elif (found if mark["back"] else mark.lastgroup is None) and mark.start() >= inside:
            line = text[max(0, mark.start() - 60) : mark.start()]
            sentence = _SENTENCE.match(behind.lstrip(" :*\n\t"))
            phrase = sentence[0].partition("I hope")[0].strip() if sentence else ""
            remark = _REMARK.match(phrase) or (any(exact for _, exact in found) and not _VALUE.match(phrase))
            if not _OTHER.search(line) and (remarks or not remark):
                found.append((f"not {phrase}" if _NOT.search(mark[0]) and not mark["back"] else phrase, False))
    yield from reversed(found)


def _exact(mark: re.Match[str], behind: str) -> str | None:
    """The content of a box, four hashes, a tag or a JSON field; None for a mark in words and for an unclosed box."""
    if mark["box"] and behind.startswith("{"):
        depth = 0
        for brace in re.finditer(r"(?<!\\)[{}]", behind):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                return behind[1 : brace.start()]
    elif mark["box"]:  # without braces it holds one word
        word = re.match(r"\w+", behind)
        return word and word[0]
    if mark["hashes"]:
        return behind.partition("\n")[0]
    if mark["tag"]:
        return behind.partition("</")[0]
    if mark["field"]:
        value = re.match(r"\"((?:[^\"\\]|\\.)*)\"|'([^'\n]*)'|\[([^\]\n]*)\]|([^,}\n]*)", behind)
        return next((part for part in value.groups() if part is not None), "").replace("\\\\", "\\") if value else ""
    return None


def _value(phrase: str) -> str | None:
    """The answer in a sentence: its formulas, else the sentence itself if it has few words, else its number."""
    phrase = re.split(r"\s(?:because|since)\b", _DENIED.sub("", phrase), maxsplit=1)[0]
    formulas = _formulas(phrase)
    if formulas:
        return formulas
    phrase = _FILLER.sub("", phrase, count=1) if _FILLER.match(phrase) else phrase
    phrase = phrase.rstrip(" .,:;*").lstrip(" ,:;*")
    return phrase if len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{3,}", phrase)) <= 3 else quantity(phrase)


def _formulas(phrase: str, last: bool = False) -> str | None:
    """The first formulas that follow one another as a list, `$1$, $2$ and $3$`, or the last one alone."""
    found = list(_FORMULA.finditer(phrase))
    if not found or re.search(r"\d", phrase[: found[0].start()]):
        return None
    if last:
        name = re.fullmatch(r"\W*[A-Za-z]\W*", found[-1][0])  # "Thus $x$ is 5."
        named_only = name and re.match(r" (?:is|equals|must)\b", phrase[found[-1].end() :])
        return None if named_only else found[-1][found[-1].lastindex or 0].strip()
    values, end = [], found[0].start()
    for formula in found:
        if values and not _AND.fullmatch(phrase, end, formula.start()):
            break
        values.append(formula[formula.lastindex or 0].strip())
        end = formula.end()
    behind = re.match(r" ?(?:\\?%|percent\b|thousand\b|million\b|billion\b)", phrase[end:])
    return ", ".join(values) + (behind[0] if behind else "")
