"""Reading a corrector's reply: a correction in the paper's form, clean enough to train on, or why it is none.

A reply follows the prompt's last words, `Incorrect Step:` or `Mistakes:`. Models wrap the form in Markdown, prose, code
fences and further questions of their own: that is taken off. Where two readings are possible, there is none.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lema.generated import NEXT_QUESTION
from lema.prompts.formats import SENTENCE_END

UNPARSABLE = "unparsable"
NO_SUCH_STEP = "step does not exist"
NOT_KEPT = "earlier steps not kept"
IDENTICAL = "identical to the wrong path"

# Every pattern is tried at a line's start, bounded or possessive, so no reply takes long. Nine digits name a step at
# most: Python reads no number of thousands.
_MARKS = r"[ \t#*_+•-]{0,40}(?:[0-9]{1,2}[.)][ \t]{1,4}[*_]{0,3})?"  # Markdown before a name: "## ", "- **", "2. "
_TAIL = r"(?: ?\([^()\n]{1,60}\))?[*_ \t]{0,8}(?:[:：][*_]{0,3}[ \t]*+|$)"  # ":", ":**" or the end of a heading
_STEP_HEADER = r"(?P<step>(?:first )?(?:incorrect|wrong|erroneous) step(?: number)?)"
_EXPLANATION_HEADER = r"(?P<explanation>explanation(?: of [a-z' ]{1,40})?)"
_SOLUTION_HEADER = (
    r"(?P<solution>correct(?:ed)? solution(?:,? (?:starting )?from (?:(?:that|this) step|step [0-9]{1,9}))?)"
)
_HEADER = re.compile(f"(?i:{_MARKS}(?:{_STEP_HEADER}|{_EXPLANATION_HEADER}|{_SOLUTION_HEADER}){_TAIL})")
_CHOICE_HEADER = re.compile(
    rf"(?i:{_MARKS}(?:(?P<explanation>mistakes?)|(?P<solution>correct(?:ed)? (?:answer|solution))){_TAIL})"
)
_NEXT_PATH = re.compile(rf"(?i:{_MARKS}(?:question|original (?:solution|answer)){_TAIL})")
_EMPTY_LINES = re.compile(r"\n\s*\n")
_FENCE = re.compile(r"\s*(?:```|~~~)[\w-]{0,20}\s*")
_RULE = re.compile(r"\s*(?:-\s*){3,}|\s*(?:[*_]\s*){3,}|\s*(?:=\s*){3,}")
_BOLD = re.compile(r"(?<![\w)*])\*\*(?=[^\s*])([^*\n]++)(?<=\S)\*\*(?![\w(*])")  # not the powers of 2**3 + 4**5
_ENDS_BOLD = re.compile(r"(?<!\s)\*\*(?!\w)")
_BRACES = re.compile(r"\\.|[{}]")
_LABEL = re.compile(
    rf"(?i:{_MARKS}step ?#?([0-9]{{1,9}})[*_]{{0,3}}[ \t]{{0,4}}(?:[:：)]|[.–—-](?![0-9])|$)[*_]{{0,3}})"
)
_INNER_LABEL = re.compile(r"\bStep [0-9]{1,9}:")
_BULLET = re.compile(r"(?:[-*+•] +|#{1,6} +){1,8}")
_DOTS = re.compile(r"[*_\[(]{0,4}(?:\.(?: ?\.){2,9}|…)[\])*_]{0,4}(?: ?\([^()]{0,80}\))?")
_UNCHANGED = re.compile(
    r"(?i:[\[(][^()\[\]]{0,80}\b(?:steps?|unchanged|same|before|above|previous)\b[^()\[\]]{0,80}[\])]\.?"
    r"|(?:unchanged|same as (?:before|above)|no changes?)\.?)"
)
_ANSWER_LINE = re.compile(rf"(?i:{_MARKS}(?:(?:so|thus|hence|therefore),? )?the (?:final |correct )?answer is\b)")
_ANSWERS = (  # what ends a solution, the surest first
    re.compile(r"\bThe (?:final |correct )?answer is\b"),
    re.compile(r"\bthe (?:final |correct )?answer is\b"),
    re.compile(r"\\(?:boxed|fbox)\b"),
)
_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
_COUNTS = {word: number for words in (_WORDS, _ORDINALS) for number, word in enumerate(words, 1)}
_NAMED = re.compile(
    rf"(?i:\bstep(?: ?#| no\.?| number)?[ *_]{{0,4}}([0-9]{{1,9}}|{'|'.join(_WORDS)})\b(?!\.?[0-9])"
    rf"|\b({'|'.join(_ORDINALS)}|[0-9]{{1,9}}(?:st|nd|rd|th)) step\b)"
)
_RANGE = re.compile(r"(?i:\s{0,4}(?:[-–—,/&+]|and\b|or\b|to\b|through\b)\s{0,4}(?:step\s{0,4})?#?[0-9])")
_IS_RIGHT = re.compile(r"(?i:\W{0,8}(?:(?:is|was|looks|seems)\W{1,4})?(?:correct|right|fine|accurate|valid)\b)")
# What may stand before the name on its line.
_LEADS = re.compile(
    r"(?i:\W{0,40}(?:(?:the|in|at)\s)?(?:(?:first\s)?(?:incorrect|wrong)\s)?"
    r"|.{0,80}\b(?:incorrect|wrong|errors?|mistakes?)\b.{0,40}\b(?:is|in|at|with)[:\s]{1,4}(?:the\s)?)[*_#]{0,4}"
)
_DENIES = re.compile(r"(?i:\b(?:no|not|none|until|up to|before|after)\b|n't\b)")
_BARE_NUMBER = re.compile(r"[*_#]{0,4}([0-9]{1,9})[*_]{0,3}[.:]?[*_]{0,3}")
_UNCLEAN = re.compile("```|[\ud800-\udfff]")  # half a surrogate pair: no file can hold it


class ParsedCorrection(NamedTuple):
    """What a corrector says: `incorrect_step` is 1-based, `correct_steps` stand from it on to the answer line."""

    incorrect_step: int
    explanation: str
    correct_steps: list[str]
    kind: str | None = None  # of the mistake, where the corrector names one


def read_correction(
    text: str, wrong_steps: list[str], candidates: Sequence[str] = ()
) -> tuple[ParsedCorrection | None, str | None]:
    """The correction, or (as far as it was read) with the reason why it is none.

    The reason is one of `UNPARSABLE`, `NO_SUCH_STEP`, `NOT_KEPT` and `IDENTICAL`; never raises.

    >>> reply = " Step 1.\\nExplanation: Why.\\nCorrect Solution:\\n{\\nStep 1: The answer is 8.\\n}"
    >>> read_correction(reply, ["The answer is 9."])
    (ParsedCorrection(incorrect_step=1, explanation='Why.', correct_steps=['The answer is 8.'], kind=None), None)
    >>> read_correction("The solution is right.", ["The answer is 8."])
    (None, 'unparsable')
    """
    sections = _sections(text, _CHOICE_HEADER if candidates else _HEADER)
    if not sections or "solution" not in sections:
        return None, UNPARSABLE
    lines, closed = _inside(sections["solution"])
    before = sections.get("", [])
    if candidates:
        explanation = _explanation(sections, sections.get("explanation", before))
        parsed, reason = ParsedCorrection(1, explanation, _choice_lines(lines, candidates)), None
        ended = closed or any(_ANSWER_LINE.match(line) for line in parsed.correct_steps)
    else:
        number = _named_step("\n".join([*before, *sections.get("step", [])]), wrong_steps)
        if number is None:
            return None, UNPARSABLE
        steps, reason = _corrected_steps(lines, number, wrong_steps)
        parsed = ParsedCorrection(number, _explanation(sections, sections.get("explanation", [])), steps)
        ended = closed or any(answer.search(steps[-1]) for answer in _ANSWERS if steps)
    said = [parsed.explanation, *parsed.correct_steps]
    if not ended or len(said) < 2 or not all(said) or _UNCLEAN.search("".join(said)):
        return None, UNPARSABLE
    kept = wrong_steps[: parsed.incorrect_step - 1]
    if reason is None and _said(*kept, *parsed.correct_steps) == _said(*wrong_steps):
        reason = IDENTICAL
    return (None, reason) if reason == UNPARSABLE else (parsed, reason)


def _sections(text: str, header: re.Pattern[str]) -> dict[str, list[str]] | None:
    """The lines under each header, in the reply's order, those before the first under ""; None when one comes twice.

    Prose before the first part is left out, and so is what follows the solution from a question of the model's own on.
    """
    first = "explanation" if header is _CHOICE_HEADER else "step"
    sections: dict[str, list[str]] = {"": []}
    name = ""
    text = text.rpartition("</think>")[2].replace("\r\n", "\n").replace("\r", "\n")
    for line in _EMPTY_LINES.sub("\n\n", text).split("\n"):
        if "solution" in sections and (NEXT_QUESTION.match(line) or _NEXT_PATH.match(line)):
            break
        if _FENCE.fullmatch(line) or _RULE.fullmatch(line):
            continue
        end = 0
        while found := header.match(line, end):
            name, end = found.lastgroup or "", found.end()
            if any(content.strip() for content in sections.pop(name, [])):
                return None
            if name == first and list(sections) == [""]:
                sections[""] = []
            sections[name] = []
        sections[name].append(line[end:])
    return sections


def _explanation(sections: dict[str, list[str]], lines: list[str]) -> str:
    """An explanation after the solution ends with its paragraph: what follows it may be a farewell."""
    text = _plain("\n".join(line.rstrip() for line in lines))
    return text.partition("\n\n")[0] if list(sections)[-1] == "explanation" else text


def _named_step(text: str, wrong_steps: list[str]) -> int | None:
    """The one step that is named as incorrect; None when there is none, or several."""
    opening = text.strip()
    if number := _BARE_NUMBER.fullmatch(opening.partition("\n")[0].strip()):
        return None if _NAMED.search(opening) else int(number[1])
    first = _NAMED.search(text)
    if not first:
        return None
    number = _count(first)
    lead, rest = text[: first.start()].rpartition("\n")[2], text[first.end() :]
    if not _LEADS.fullmatch(lead) or _DENIES.search(lead) or _RANGE.match(rest) or _IS_RIGHT.match(rest):
        return None
    if 1 <= number <= len(wrong_steps):  # the step itself may be quoted behind its name
        rest = rest.lstrip(" \t\n.:*_-–—\"“'").removeprefix(wrong_steps[number - 1])
    return number if {_count(other) for other in _NAMED.finditer(rest)} <= {number} else None


def _count(named: re.Match[str]) -> int:
    word = (named[1] or named[2]).lower()
    return _COUNTS.get(word) or int(word.rstrip("stndrh"))


def _inside(lines: list[str]) -> tuple[list[str], bool]:
    """The lines between the braces of a solution, or all when it has none, and whether its end was marked."""
    bare = [line.strip(" \t*_`").removeprefix("\\") for line in lines]
    start = next((row for row, line in enumerate(lines) if bare[row] == "{" or _LABEL.match(line)), len(lines))
    if start == len(lines) or bare[start] != "{":
        start = next((row for row, line in enumerate(bare) if line), len(lines))
    closings = [row for row, line in enumerate(bare) if line == "}"]
    if start == len(lines) or not bare[start].startswith("{"):
        return lines[: closings[0]] if closings else lines, bool(closings)
    content = [bare[start][1:], *lines[start + 1 :]]
    if len(closings) != 1:
        depth = 1
        for row, line in enumerate(content):
            for brace in _BRACES.finditer(line):
                depth += {"{": 1, "}": -1}.get(brace[0], 0)
                if depth == 0 and not line[brace.end() :].strip(" \t*_`"):
                    return [*content[:row], line[: brace.start()]], True
    return (content[: closings[-1] - start], True) if closings else (content, False)


def _choice_lines(lines: list[str], candidates: Sequence[str]) -> list[str]:
    """The lines of a corrected answer to the answer line; [] when something is left out."""
    kept: list[str] = []
    for line in lines:
        line = line.strip()
        bullet = _BULLET.match(line)
        line = _plain(line[bullet.end() :] if bullet else line)
        if _DOTS.fullmatch(line):
            return []
        if line:
            kept.append(line)
        if _ANSWER_LINE.match(line):
            if not any(SENTENCE_END.search(candidate) for candidate in candidates):
                kept[-1] = _first_sentence(line)
            break
    return kept


def _corrected_steps(lines: list[str], first: int, wrong_steps: list[str]) -> tuple[list[str], str | None]:
    """The steps from `first` on, the earlier ones taken off where they were copied, and a reason against them."""
    before: list[str] = []
    labelled: list[tuple[int, list[str]]] = []
    for line in filter(None, map(str.strip, lines)):
        if label := _LABEL.match(line):
            labelled.append((int(label[1]), [line[label.end() :].strip()]))
        elif labelled and not (_DOTS.fullmatch(line) and labelled[-1][0] < first):
            labelled[-1][1].append(line)
        else:
            before.append(line)
    if labelled:  # the answer may stand without a label
        number, body = labelled[-1]
        row = next((row for row, line in enumerate(body) if _ANSWER_LINE.match(line)), 0)
        if any(body[:row]):
            labelled[-1:] = [(number, body[:row]), (number + 1, body[row:])]
    steps = [(number, "\n".join(filter(None, body))) for number, body in labelled]
    start = next((row for row, (number, _) in enumerate(steps) if number >= first), 0)
    correct = _to_the_answer([_plain(step) for _, step in steps[start:]])
    if not 1 <= first <= len(wrong_steps):
        return correct, NO_SUCH_STEP
    known = {_said(step) for step in wrong_steps[: first - 1]}
    if any(not (_left_out(line) or line.endswith(":") or _said(line) in known) for line in before):
        return correct, UNPARSABLE
    for number, step in steps[:start]:
        if not number or not (_left_out(step) or _said(step) == _said(wrong_steps[number - 1])):
            return correct, NOT_KEPT
    numbers = [number for number, _ in steps[start:]]
    if numbers and numbers[0] != first:
        return correct, NOT_KEPT
    parts = [line for step in correct for line in step.split("\n")]
    whole = not any(_DOTS.fullmatch(line) or _INNER_LABEL.search(line) for line in parts)
    return correct, None if numbers == list(range(first, first + len(numbers))) and whole else UNPARSABLE


def _left_out(line: str) -> bool:
    """Whether a line stands for steps that stay: `...`, `(unchanged)`, `[Step 1 is right.]`."""
    return not line or bool(_DOTS.fullmatch(line) or _UNCHANGED.fullmatch(line))


def _to_the_answer(steps: list[str]) -> list[str]:
    """Steps to the end of the sentence, or line, that states the final answer."""
    stated = [row for row, step in enumerate(steps) if _ANSWERS[0].match(step)]
    last = stated[-1] if stated else len(steps) - 1
    *before, step = steps[: last + 1] or [""]
    for answer in _ANSWERS:
        if found := list(answer.finditer(step)):
            mark = found[0 if answer is _ANSWERS[0] else -1].end()
            line, _, _ = step[mark:].partition("\n")
            if line.strip(" :*"):  # else the answer stands on the next line
                step = step[:mark] + _first_sentence(line)
            break
    braces = [brace for brace in _BRACES.findall(step) if brace in "{}"]
    if step.endswith("}") and braces.count("}") > braces.count("{"):  # the solution's, on the last step's line
        step = step[:-1]
    return [*before, _plain(step)] if steps else []


def _first_sentence(line: str) -> str:
    """A line without the prose behind its first sentence; the factorial in `$3! \\cdot 2$` ends none."""
    return line[: next((end.start() for end in SENTENCE_END.finditer(line) if line[end.end()].isalpha()), None)]


def _plain(text: str) -> str:
    """Text without bold, also where one of its ends was taken off with the label before the text."""
    text = _BOLD.sub(r"\1", text.strip())
    return text.replace("**", "", 1).strip() if len(_ENDS_BOLD.findall(text)) == 1 else text


def _said(*steps: str) -> str:
    """What is compared: white space, bold and full stops at an end are no difference."""
    return "".join("".join(_BOLD.sub(r"\1", step).split()).rstrip(".") for step in steps)
