"""Recorded solutions: rows with the answers of models, each traced to the training question it answers.

`row_shapes` finds the fields of a row, `prompted` the question in a prompt. A text that is the reference solution
itself is not a model's, whatever its field is called.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lema.data import json_lines, prompted, row_shapes
from lema.data.json_lines import sha256 as sha256
from lema.data.leakage import GRAM, Match, TestQuestions, words
from lema.data.row_shapes import quoted
from lema.grading.generated import answer_part, without_end
from lema.types import Problem, UserError

_NOTES = re.compile(r"<<[^<>]*>>")
_SIGNS = str.maketrans("", "", "$*`")
# What may stand around a reference solution in a text that is nothing else, both as `_bare` writes them.
_LEAD = re.compile(r"(?:let'?sthinkstepbystep\.?|(?:answer|solution|step1):)?")
_ANSWER_LINE = re.compile(
    r"\.?(?:####\S{0,40}|(?:so|thus|therefore|hence)?,?(?:the)?(?:final)?answer(?:is|:)\S{0,80}|\\boxed\S{0,40})?"
)
# Why a row is left out.
OTHER, SEVERAL, EMPTY = "question of no problem", "question of several problems", "empty solution"
GOLD = "the reference solution itself"


def read(
    file: str, problems: Sequence[Problem], tests: TestQuestions, key: str, counts: Counter[str]
) -> Iterator[tuple[Problem, str, str | None]]:
    """(training problem, solution text, model name if the row names one) of each usable row, in order.

    `problems` are all of the official training problems, also those that a run leaves out: a row with one of their
    questions is used even if that resembles a test question. `counts` gets the number of rows left out, by reason.

    Raises `UserError` when a row is about a test question or cannot be traced to any, when it is not certain which of
    its fields a model wrote, when the file is damaged, and when no row is left. The error can come after the last row,
    so a caller must not use the rows before the iteration has ended.
    """
    training, used = _Training(problems), 0
    for where, row in json_lines.read(Path(file), key):
        remedy = f"nothing of a test set is sampled or corrected; remove such rows from {key}={file}"
        asked = row_shapes.asked(row, where)
        found = _traced(row, asked, where, training, tests, remedy)
        if len(found) != 1:
            counts[SEVERAL if found else OTHER] += 1
            continue
        [problem] = found
        texts, turn = row_shapes.answers(row, where)
        _check_asked(problem, asked, turn, where, training)
        model = row_shapes.model(row)
        for text in texts or [""]:
            text = without_end(prompted.without_prompt(text, asked, problem.question))
            if why := EMPTY if not text.strip() else GOLD if _is_reference(text, problem) else None:
                counts[why] += 1
                continue
            used += 1
            yield problem, text, model
    if not used:
        left_out = ", ".join(f"{why}: {count:,}" for why, count in counts.items()) or "it has no row"
        raise UserError(f"{key}={file}: no solution of the {len(problems):,} training questions ({left_out})")


class _Training:
    """The training problems, found by id, question or words."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.by_id = {problem.id: problem for problem in problems}
        self.by_question: dict[str, list[Problem]] = {}
        self.by_words: dict[str, list[Problem]] = {}  # `sin 60` is `sin(-60)` here
        # What stands around the question in the last row's prompt: mostly the same in all rows of a file.
        self.around: tuple[str, str] = ("", "")
        for problem in problems:
            self.by_question.setdefault(problem.question.strip(), []).append(problem)
            self.by_words.setdefault(" ".join(words(problem.question)), []).append(problem)

    def asking(self, question: str, identifiers: list[str]) -> list[Problem]:
        """The problems with this question; of several, only those that an id names."""
        found = self.by_question.get(question) or self.by_words.get(" ".join(words(question)), [])
        named = [problem for problem in found if problem.id in identifiers] if len(found) > 1 else []
        return named or found


def _is_reference(text: str, problem: Problem) -> bool:
    """Whether a text is a problem's reference solution, with whatever spacing, calculator notes and answer line."""
    own = _bare(problem.solution)
    if not own or own not in _bare(text):
        return False
    before, found, after = _bare(answer_part(text)).partition(own)
    return bool(found and _LEAD.fullmatch(before) and _ANSWER_LINE.fullmatch(after))


def _bare(text: str) -> str:
    """A text without white space, calculator notes, Markdown and case."""
    return "".join((_NOTES.sub("", text) if "<<" in text else text).casefold().translate(_SIGNS).split())


def _traced(
    row: dict[str, Any], asked: list[str], where: str, training: _Training, tests: TestQuestions, remedy: str
) -> list[Problem]:
    """The training problems that a row may answer: one, several, or none where it asks something else."""
    identifiers = row_shapes.identifiers(row)
    for identifier in identifiers:
        if problem := tests.by_id.get(identifier):
            said = quoted(prompted.questions(asked[0])[-1]) if asked else "it"
            test = f"the test question {problem.id} {quoted(problem.question)}"
            raise UserError(f"{where}: {said} has the id of {test}: {remedy}")
    if not asked:
        if found := [training.by_id[each] for each in dict.fromkeys(identifiers) if each in training.by_id]:
            return found
        instead = f"its id {quoted(identifiers[0])} is no training problem's" if identifiers else "no id"
        raise UserError(
            f"{where}: no question among its fields {quoted(', '.join(row))} and {instead}: it cannot be traced to a "
            f"training question; name the field that holds it question, for {remedy}"
        )
    prompt = without_end(asked[0]).strip()
    for before, after in (("", ""), training.around):
        question = prompt[len(before) : len(prompt) - len(after)]
        if question in training.by_question and prompt == before + question + after:
            return training.asking(question, identifiers)
    repeated: tuple[str, Match] | None = None
    for number, question in enumerate(prompted.questions(prompt)):
        found = training.asking(question, identifiers)
        # With the words of a training question and every sign of a test question, it is the latter.
        if question in training.by_question or (found and question not in tests.by_question):
            before, _, after = prompt.rpartition(question)
            training.around = (before, after)
            return found
        match = tests.match(question)
        if match and (match.equal or number == 0 or len(words(question)) >= GRAM):
            repeated = (question, match) if match.equal or not repeated else repeated
        if match and match.equal:
            break
    if repeated:
        question, match = repeated
        test = f"the test question {match.problem.id} {quoted(match.problem.question)}"
        raise UserError(f"{where}: {quoted(question)} is {test} ({match.why}): {remedy}")
    return []


def _check_asked(problem: Problem, asked: list[str], turn: str | None, where: str, training: _Training) -> None:
    """Raise `UserError` for a row whose prompt asks something else: to judge or to correct an answer, say."""
    wrong, last = None, [] if turn is None else prompted.questions(turn)
    if any(prompted.asks_otherwise(prompt, problem.question.strip()) for prompt in asked[1:]):
        wrong = "its prompt asks for something else than a solution, or holds an answer to the question already"
    elif last and not any(problem in training.asking(each, [problem.id]) for each in last):
        wrong = "the conversation does not end in an answer to the row's question"
    if wrong:
        raise UserError(f"{where}: {wrong}; leave such rows out")
