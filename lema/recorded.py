"""Recorded solutions: JSON lines of what models answered to training questions, in the field names that are in use.

Of each kind the first of these fields counts that a row has and that is not null or blank:

    question   question, problem, query, prompt, input, instruction; inside one of our CoT prompts, what that asks
    solution   generation, completion, response, output, text, model_output, code, samples, solution: a text or a list
               of texts. The last is often the gold solution, so it counts where nothing else is
    model      model, source, generator
    id         problem_id, id, idx: a training problem's (lema's own solutions.jsonl), where there is no question
"""

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lema.leakage import TestQuestions, words
from lema.privacy import shown
from lema.prompts.formats import CHOICE_PROMPT, COT_PROMPTS
from lema.types import Problem, UserError

_QUESTION = ("question", "problem", "query", "prompt", "input", "instruction")
_SOLUTION = ("generation", "completion", "response", "output", "text", "model_output", "code", "samples", "solution")
_MODEL = ("model", "source", "generator")
_ID = ("problem_id", "id", "idx")
# What stands before and after the question.
_AROUND = [[part.strip() for part in prompt.split("{question}")] for prompt in (*COT_PROMPTS.values(), CHOICE_PROMPT)]
_JSON = json.JSONDecoder(parse_int=float)  # which has no longest number
_SHOWN = 60  # characters of a text in a message
# Why a row is left out.
OTHER, SEVERAL, EMPTY = "question of no problem", "question of several problems", "empty solution"


def read(
    file: str, problems: Sequence[Problem], tests: TestQuestions, key: str, counts: Counter[str]
) -> Iterator[tuple[Problem, str, str | None]]:
    """(training problem, solution text, model name if the row names one) of each usable row, in order.

    `problems` are all of the official training problems, also those that a run leaves out: a row with one of their
    questions is used, also where that resembles a test question. `counts` gets how many were left out, and why.

    Raises `UserError` when a row is about a test question or cannot be traced to any, when the file is damaged, and
    when nothing is left. That can be at the last row: then nothing of the file is to be used.
    """
    training, used = _Training(problems), 0
    for where, row in _rows(file, key):
        remedy = f"nothing of a test set is sampled or corrected; remove such rows from {key}={file}"
        found = _traced(row, where, training, tests, remedy)
        if len(found) != 1:
            counts[SEVERAL if found else OTHER] += 1
            continue
        model = next((_clean(name) for field in _MODEL if isinstance(name := row.get(field), str) and name), None)
        texts = _texts(row, _SOLUTION, where)
        if not texts and not any(field in row for field in _SOLUTION):
            raise UserError(f"{where}: no solution among {_shown(', '.join(row))}; name it {' or '.join(_SOLUTION)}")
        for text in texts or [""]:
            if text.strip():
                used += 1
                yield found[0], _clean(text), model
            else:
                counts[EMPTY] += 1
    if not used:
        left_out = ", ".join(f"{why}: {count:,}" for why, count in counts.items()) or "it has no row"
        raise UserError(f"{key}={file}: no solution of the {len(problems):,} training questions ({left_out})")


def sha256(file: str, key: str) -> str:
    """The hash of a file's content."""
    try:
        with Path(file).expanduser().open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{key}={file}: {error.strerror}; name a file of JSON lines, plain or .gz") from error


class _Training:
    """The training problems, by what a row can know of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.by_id = {problem.id: problem for problem in problems}
        self.by_question: dict[str, list[Problem]] = {}
        self.by_words: dict[str, list[Problem]] = {}  # `sin 60` is `sin(-60)` here
        for problem in problems:
            self.by_question.setdefault(problem.question.strip(), []).append(problem)
            self.by_words.setdefault(" ".join(words(problem.question)), []).append(problem)

    def asking(self, question: str, identifiers: list[str]) -> list[Problem]:
        """The problems with this question; of several, the one that an id names."""
        found = self.by_question.get(question) or self.by_words.get(" ".join(words(question)), [])
        named = [problem for problem in found if problem.id in identifiers] if len(found) > 1 else []
        return named or found


def _traced(
    row: dict[str, object], where: str, training: _Training, tests: TestQuestions, remedy: str
) -> list[Problem]:
    """The training problems that a row can be a solution of: one, none where it asks something else, or several."""
    identifiers = list(dict.fromkeys(name for field in _ID if isinstance(name := row.get(field), str)))
    question = _unwrapped(" ".join(_texts(row, _QUESTION, where)))
    for identifier in identifiers:
        if problem := tests.by_id.get(identifier):
            said = _shown(question or " ".join(_texts(row, _SOLUTION, where)))
            test = f"the test question {problem.id} {_shown(problem.question)}"
            raise UserError(f"{where}: {said} has the id of {test}: {remedy}")
    if not question:
        if found := [training.by_id[identifier] for identifier in identifiers if identifier in training.by_id]:
            return found
        instead = f"its id {_shown(identifiers[0])} is no training problem's" if identifiers else "no id"
        raise UserError(
            f"{where}: no question (in {', '.join(_QUESTION)}) and {instead}: it cannot be traced to a training "
            f"question, and {remedy}"
        )
    found = training.asking(question, identifiers)
    # With the words of a training question and every sign of a test question, it is the latter.
    if question in training.by_question or (found and question not in tests.by_question):
        return found
    if match := tests.match(question):
        test = f"the test question {match.problem.id} {_shown(match.problem.question)}"
        raise UserError(f"{where}: {_shown(question)} is {test} ({match.why}): {remedy}")
    return found


def _rows(file: str, key: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Each row with the place it stands in."""
    path, number = Path(file).expanduser(), 0
    try:
        with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as lines:
            for number, line in enumerate(lines, 1):
                if not line.isspace():
                    yield f"{file} line {number}", _row(line, f"{file} line {number}")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{key}={file}: {error.strerror}; name a file of JSON lines, plain or .gz") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} line {number + 1}: cannot be read ({error}); copy the file again") from error


def _row(line: bytes, where: str) -> dict[str, object]:
    try:
        row = _JSON.decode(line.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(": line 1")[0]
        raise UserError(f"{where}: not valid JSON ({reason}); mend the line or copy the file again") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be a JSON object with named fields, not {type(row).__name__}")
    return row


def _texts(row: dict[str, object], fields: Sequence[str], where: str) -> list[str]:
    """The texts in the first of the fields that has any; none where all are blank, null or absent."""
    for field in fields:
        value: Any = row.get(field)
        texts = value if isinstance(value, list) else [] if value is None else [value]
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise UserError(f"{where}, field '{field}': must be text, not {type(wrong[0]).__name__}; mend the row")
        if [text for text in texts if text.strip()]:
            return texts
    return []


def _unwrapped(text: str) -> str:
    """The question that the last of our prompts in `text` asks, without candidates; any other text as it is."""
    for before, after in _AROUND:
        _, found, rest = text.rpartition(before)
        if found and after in rest:
            text = rest.partition(after)[0]
    return text.partition("\nCandidate Answers: ")[0].strip()


def _clean(text: str) -> str:
    """Without half of a surrogate pair, which JSON can carry and no file."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _shown(text: str) -> str:
    """A text in a message: one line, cut."""
    line = shown(" ".join(text[: 4 * _SHOWN].split()))
    return f"'{line}'" if len(line) <= _SHOWN else f"'{line[:_SHOWN]}…'"
