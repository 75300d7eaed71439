"""Read a corrector's reply: a correction in the paper's form, clean enough to train on, or the reason why not.

A reply follows the last words of the prompt, `Incorrect Step:` or `Mistakes:`. Models wrap the form in Markdown, prose,
code fences and invented questions, which are removed. A reply with two possible readings is refused.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lema.grading.generated import NEXT_QUESTION, without_thinking
from lema.prompts import wording
from lema.prompts.formats import SENTENCE_END
from lema.prompts.markup import FENCE, RULE, plain, undressed

UNPARSABLE = "unparsable"
NO_SUCH_STEP = "step does not exist"
NOT_KEPT = "earlier steps not kept"
IDENTICAL = "identical to the wrong path"


class ParsedCorrection(NamedTuple):
    """A correction: `incorrect_step` is 1-based, `correct_steps` go from that step to the answer line."""

    incorrect_step: int
    explanation: str
    correct_steps: list[str]
    kind: str | None = None  # of the mistake, where the corrector names one


def read_correction(
    text: str, wrong_steps: list[str], candidates: Sequence[str] = ()
) -> tuple[ParsedCorrection | None, str | None]:
    """The correction and None; or as much as was read, and the reason why it is no correction.

    The reason is one of `UNPARSABLE`, `NO_SUCH_STEP`, `NOT_KEPT` and `IDENTICAL`; never raises.

    >>> reply = " Step 1.\\nExplanation: Why.\\nCorrect Solution:\\n{\\nStep 1: The answer is 8.\\n}"
    >>> read_correction(reply, ["The answer is 9."])
    (ParsedCorrection(incorrect_step=1, explanation='Why.', correct_steps=['The answer is 8.'], kind=None), None)
    >>> read_correction("The solution is right.", ["The answer is 8."])
    (None, 'unparsable')
    """
    first, wanted = ("explanation", {"solution"}) if candidates else ("step", {"explanation", "solution"})
    text = undressed(without_thinking(text))
    sections = _sections(text, first, wording.HEADERS[first])
    if sections is not None and not wanted <= set(sections):
        sections = _sections(text, first, wording.ANY_HEADERS[first])
    if not sections or "solution" not in sections:
        return None, UNPARSABLE
    lines, closed = _inside(sections["solution"])
    before = sections.get("", [])
    if candidates:
        number, steps, reason = 1, _choice_lines(lines, candidates), None
    else:
        number = _named_step("\n".join([*before, *sections.get("step", [])]), wrong_steps)
        if number is None:
            return None, UNPARSABLE
        steps, reason = _corrected_steps(lines, number, wrong_steps)
    explanation = plain("\n".join(map(str.rstrip, sections.get("explanation", before if candidates else []))))
    if list(sections)[-1] == "explanation":  # behind the solution a further paragraph may be a farewell
        explanation = explanation.partition("\n\n")[0]
    ended = closed or any(concludes(line) for step in steps[-1:] for line in step.split("\n"))
    said = [explanation, *steps]
    blank = wording.PLACEHOLDER.fullmatch(explanation)
    if not ended or not steps or not all(said) or blank or wording.UNCLEAN.search("".join(said)):
        return None, UNPARSABLE
    if reason is None and _said(*wrong_steps[: number - 1], *steps) == _said(*wrong_steps):
        reason = IDENTICAL
    return None if reason == UNPARSABLE else ParsedCorrection(number, explanation, steps), reason


def finds_no_error(text: str) -> bool:
    """Whether a reply to a prompt that allows it names none in the place of the step, and no step beside it.

    >>> finds_no_error(" None."), finds_no_error("Incorrect Step: none of them"), finds_no_error("None but the last.")
    (True, True, False)
    """
    lines = (plain(line) for line in undressed(without_thinking(text)).split("\n"))
    opening = next(filter(None, lines), "")
    none = wording.NO_STEP.match(opening)
    return none is not None and not wording.NAMED.search(opening) and not wording.RESTRICTS.search(opening, none.end())


def _sections(text: str, first: str, header: re.Pattern[str]) -> dict[str, list[str]] | None:
    """The lines under each header, in the reply's order, those before the first under ""; None when one comes twice.

    Prose before the `first` part is left out, and so is the text behind the solution from an invented question on. A
    header in other words than the prompt's counts only once.
    """
    sections: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.split("\n"):
        over = "solution" in sections and (wording.NEXT_PATH.match(line) or NEXT_QUESTION.search(line))
        if over:
            sections[name].append(line[: over.start()])
            break
        if FENCE.fullmatch(line) or RULE.fullmatch(line):
            continue
        end = 0
        while found := header.match(line, end):
            part = (found.lastgroup or "").rstrip("_")
            if part != found.lastgroup and part in sections:
                break
            name, end = part, found.end()
            if any(content.strip() for content in sections.pop(name, [])):
                return None
            if name == first and (list(sections) == [""] or part != found.lastgroup):
                sections = {"": []}
            sections[name] = []
        sections[name].append(line[end:])
    return sections


def _named_step(text: str, wrong_steps: list[str]) -> int | None:
    """The step that is named as incorrect; None when no step is named, or several are."""
    opening = text.strip()
    if number := wording.BARE_NUMBER.fullmatch(opening.partition("\n")[0].strip()):
        return None if wording.NAMED.search(opening) else int(number[1])
    first = wording.NAMED.search(text)
    if not first:
        return None
    number = _count(first[1] or first[2])
    lead, rest = text[: first.start()].rpartition("\n")[2], text[first.end() :]
    not_it = wording.DENIES.search(lead) or wording.RANGE.match(rest) or wording.IS_RIGHT.match(rest)
    if not_it or not wording.LEADS.fullmatch(lead):
        return None
    if 1 <= number <= len(wrong_steps):  # the step itself may be quoted behind its name
        rest = rest.lstrip(" \t\n.:*_-–—\"“'").removeprefix(wrong_steps[number - 1])
    return number if {_count(other[1] or other[2]) for other in wording.NAMED.finditer(rest)} <= {number} else None


def _count(word: str) -> int:
    return wording.COUNTS.get(word.lower()) or int(word.lower().rstrip("stndrh"))


def _inside(lines: list[str]) -> tuple[list[str], bool]:
    """The lines between the braces of a solution, or all when it has none, and whether its end was marked."""
    bare = [line.strip(" \t*_`").removeprefix("\\") for line in lines]
    start = next((row for row, line in enumerate(lines) if bare[row] == "{" or wording.LABEL.match(line)), len(lines))
    if start == len(lines) or bare[start] != "{":
        start = next((row for row, line in enumerate(bare) if line), len(lines))
    closings = [row for row, line in enumerate(bare) if line == "}"]
    if start == len(lines) or not bare[start].startswith("{"):
        return [*lines[: closings[0]], *_answer_behind(lines, closings[0] + 1)] if closings else lines, bool(closings)
    content = [bare[start][1:], *lines[start + 1 :]]
    if len(closings) != 1:
        depth = 1
        for row, line in enumerate(content):
            for brace in wording.BRACES.finditer(line):
                depth += {"{": 1, "}": -1}.get(brace[0], 0)
                if depth == 0 and not line[brace.end() :].strip(" \t*_`"):
                    return [*content[:row], line[: brace.start()], *_answer_behind(content, row + 1)], True
    if not closings:
        return content, False
    return [*content[: closings[-1] - start], *_answer_behind(lines, closings[-1] + 1)], True


def _answer_behind(lines: list[str], row: int) -> list[str]:
    """The answer line behind the closing brace, if there is none before the brace."""
    behind = [line for line in map(str.strip, lines[row:]) if line][:2]
    if not behind or not concludes(behind[0]) or any(map(concludes, lines[:row])):
        return []
    return behind if behind[0].endswith(":") else behind[:1]


def concludes(line: str) -> bool:
    """Whether a line states the answer, or concludes with a number."""
    begins = wording.ANY_ANSWER_LINE.match(line) or wording.CONCLUSION.fullmatch(line)
    return bool(begins) or any(answer.search(line) for answer in wording.ANSWERS)


def _choice_lines(lines: list[str], candidates: Sequence[str]) -> list[str]:
    """The lines of a corrected answer to the answer line; [] when something is left out."""
    kept: list[str] = []
    forms = (wording.ANSWER_LINE, wording.ANY_ANSWER_LINE)
    ending = next((form for form in forms if any(map(form.match, map(plain, lines)))), None)
    for line in lines:
        line = line.strip()
        bullet = wording.BULLET.match(line)
        line = plain(line[bullet.end() :] if bullet else line)
        if wording.DOTS.fullmatch(line):
            return []
        if line:
            kept.append(line)
        if ending and ending.match(line):
            if not any(SENTENCE_END.search(candidate) for candidate in candidates):
                kept[-1] = _first_sentence(line)
            break
    return kept


def _labelled(lines: list[str], first: int) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The lines before the first label, and the lines of each step with its number."""
    before: list[str] = []
    labelled: list[tuple[int, list[str]]] = []
    form = wording.LABEL if any(map(wording.LABEL.match, lines)) else wording.NUMBER_LABEL
    for line in lines:
        if label := form.match(line):
            body = line[label.end() :].strip()
            labelled.append((_count(label["number"]), [wording.REMARK_BEFORE.sub("", body)]))
        elif labelled and wording.REMARK_LINE.fullmatch(line):
            continue
        elif labelled and not (wording.DOTS.fullmatch(line) and labelled[-1][0] < first):
            labelled[-1][1].append(line)
        else:
            before.append(line)
    if labelled:  # the answer, or a conclusion, may stand without a label
        number, body = labelled[-1]
        row = next((row for row, line in enumerate(body) if wording.ANY_ANSWER_LINE.match(line)), 0)
        if not row and wording.CONCLUSION.fullmatch(body[-1]) and not any(map(concludes, body[:-1])):
            row = len(body) - 1
        if wording.TITLE.fullmatch(plain("".join(body[:row]))):
            labelled[-1] = (number, body[row:])
        elif any(body[:row]):
            labelled[-1:] = [(number, body[:row]), (number + 1, body[row:])]
    return before, labelled


def _corrected_steps(lines: list[str], first: int, wrong_steps: list[str]) -> tuple[list[str], str | None]:
    """The steps from `first` on, without copies of the earlier steps, and the reason to refuse them, if any."""
    lines = [line for line in map(str.strip, lines) if line]
    before, labelled = _labelled(lines, first)
    steps = [(number, _step("\n".join(filter(None, body)))) for number, body in labelled]
    start = next((row for row, (number, _) in enumerate(steps) if number >= first), 0)
    correct = _to_the_answer([step for _, step in steps[start:]])
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
    inner = wording.INNER_LABEL if any(map(wording.LABEL.match, lines)) else wording.INNER_NUMBER
    old = wording.OLD_STEP
    whole = not any(wording.DOTS.fullmatch(line) or old.match(line) or inner.search(line) for line in parts)
    return correct, None if numbers == list(range(first, first + len(numbers))) and whole else UNPARSABLE


def _step(text: str) -> str:
    """A step without Markdown and the remark that it was corrected."""
    text = wording.STEP_BULLET.sub("", plain(text)).strip(wording.TICKS)
    text = plain(wording.REMARK_AFTER.sub("", text).rstrip(wording.TICKS))
    text = wording.QUOTED.sub(r"\1", wording.SYMBOLS.sub("", text))
    return "\n".join(line for line in text.split("\n") if line.strip())


def _left_out(line: str) -> bool:
    """Whether a line stands for unchanged steps: `...`, `(unchanged)`, `[Step 1 is right.]`."""
    return not line or bool(wording.DOTS.fullmatch(line) or wording.UNCHANGED.fullmatch(line))


def _to_the_answer(steps: list[str]) -> list[str]:
    """The steps up to the sentence or line that states the final answer, for the first time if it is repeated."""
    stated = [row for row, step in enumerate(steps) if wording.ANSWERS[0].match(step) or wording.BOX_LINE.match(step)]
    last = next((row for row in stated if steps[row] == steps[stated[-1]]), len(steps) - 1)
    *before, step = steps[: last + 1] or [""]
    for answer in wording.ANSWERS:
        if found := list(answer.finditer(step)):
            mark = found[0 if answer is wording.ANSWERS[0] else -1].end()
            line, _, _ = step[mark:].partition("\n")
            if line.strip(" :*"):  # else the answer stands on the next line
                step = step[:mark] + _first_sentence(line)
                break
    braces = [brace for brace in wording.BRACES.findall(step) if brace in "{}"]
    if step.endswith("}") and braces.count("}") > braces.count("{"):  # the solution's, on the last step's line
        step = step[:-1]
    return [*before, _step(step)] if steps else []


def _first_sentence(line: str) -> str:
    """The first sentence of a line; the factorial in `$3! \\cdot 2$` ends no sentence."""
    return line[: next((end.start() for end in SENTENCE_END.finditer(line) if line[end.end()].isalpha()), None)]


def _said(*steps: str) -> str:
    """Steps as they are compared: without white space, bold, and full stops at the end."""
    return "".join("".join(plain(step).split()).rstrip(".") for step in steps)
