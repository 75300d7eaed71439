"""Solutions whose first wrong step people have named, in the layouts of ProcessBench and MR-GSM8K.

    ProcessBench   problem, steps, label: 0-based, -1 where every step is right; generator
    MR-GSM8K       question, model_output_steps, model_output_solution_first_error_step: 1-based, N/A where every step
                   is right; ground_truth_solution and ground_truth_answer; question_type

A row's problem is the task's, found by its question, or its own where the row has the answer.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lema.data import json_lines, tasks
from lema.types import Labelled, Problem, UserError

PROCESSBENCH, NAMES = "processbench", ("processbench", "mr_gsm8k")
KEY = "audit.data"
# On the Hub: the last commit whose hash is known in full; later ones mended labels of MATH alone.
_HUB = {"hub_id": "Qwen/ProcessBench", "revision": "84129ea839d654553ba3065b823af01d9e36be46", "subsets": ["default"]}
_STEP = re.compile(r"\s*Step \d+:\s*")
_QUESTION, _STEPS, _GENERATOR = ("problem", "question"), ("steps", "model_output_steps"), ("generator", "model")
_FROM_0, _FROM_1 = "label", "model_output_solution_first_error_step"
_NUMBERS = ("arithmetic", "gsm8k", "svamp", "asdiv")  # whose answers are numbers
_NONE = {_FROM_0: ("-1",), _FROM_1: ("n/a", "none", "null", "-1", "0", "")}
# Why a row is left out.
_WITHOUT, _REPEATED, _OUTSIDE, _OTHER = "without steps", "repeated", "label of no step", "question of no problem"
_REASONS = (_WITHOUT, _REPEATED, _OUTSIDE, _OTHER)


@dataclass(frozen=True)
class LabelSource:
    """Where labelled solutions come from, and where the problems are that they answer."""

    name: str
    problems: tasks.ProblemSource
    limit: int | None  # rows at most, from all parts of the file: many have all wrong solutions first
    path: str | None  # a file; None: ProcessBench on the Hub

    @property
    def digest(self) -> dict[str, Any]:
        """What they are made from: a file's hash or a repository, and the problems."""
        own = {"sha256": json_lines.sha256(self.path, KEY)} if self.path else _HUB
        return {"labels": own, "problems": self.problems.digest}


def source(data: str, problems: tasks.ProblemSource, limit: int | None) -> LabelSource:
    """Where `audit.data` lies: a file, or what has the name, beside the problems' data set or on the Hub."""
    if data not in NAMES:
        return LabelSource(re.sub(r"[^\w-]", "_", Path(data).stem, flags=re.ASCII)[:40], problems, limit, data)
    name = f"{data}_{problems.name}" if data == PROCESSBENCH else data
    if problems.path:
        return LabelSource(name, problems, limit, str(Path(problems.path).parent / "first_error" / f"{name}.jsonl"))
    if data == PROCESSBENCH and problems.name == "gsm8k":
        return LabelSource(name, problems, limit, None)
    where = f"{KEY}={data}: not on the Hub for task={problems.name}"
    raise UserError(f"{where}; name its file of JSON lines, {KEY}=FILE (ProcessBench and MR-GSM8K are of task=gsm8k)")


def load(where: LabelSource) -> tuple[list[Problem], list[Labelled], dict[str, Any]]:
    """The problems that are asked, the solutions, and how many rows count their labels from where or are left out."""
    known: dict[str, Problem] = {}
    for problem in (each for split in tasks.published(where.problems) for each in split):
        known.setdefault(_words(problem.question), problem)
    problems, solutions, left_out = [], [], Counter[str](dict.fromkeys(_REASONS, 0))
    bases, behind, seen = Counter[str](), 0, set[tuple[str, ...]]()
    for number, (place, row) in enumerate(_rows(where)):
        base, said = _label(row, place)
        bases["from_0" if base == _FROM_0 else "from_1"] += 1
        question, steps = _text(row, _QUESTION, place), _steps(row)
        label = None if said is None else said + (base == _FROM_0)
        behind += base == _FROM_0 and said == len(steps) > 0
        grader, own = where.problems.grader, known.get(_words(question))
        problem = _problem(row, question, own, f"{where.name}-{number}", grader)
        same = (_words(question), *steps)
        outside = label is not None and not 1 <= label <= len(steps)
        why = _WITHOUT if not steps else _REPEATED if same in seen else _OUTSIDE if outside else None
        if why := why or (_OTHER if problem is None else None):
            left_out[why] += 1
            continue
        assert problem
        seen.add(same)
        problems.append(problem)
        gradable = grader not in _NUMBERS or bool(re.search(r"[0-9]", problem.answer))
        gradable &= tasks.comparable(problem.answer, grader)[1] != tasks.NO_VALUE
        kind, generator = _said(row.get("question_type")), _said(_first(row, _GENERATOR)) or "not named"
        solutions.append(Labelled(problem.id, generator, kind, steps, label, gradable))
    _check(where, solutions, left_out, behind)
    counts = {"labels": dict(bases), "left_out": {reason.replace(" ", "_"): n for reason, n in left_out.items()}}
    few = min(where.limit or len(solutions), len(solutions))
    spread = [number * len(solutions) // few for number in range(few)]
    return [problems[each] for each in spread], [solutions[each] for each in spread], counts


def _rows(where: LabelSource) -> Iterator[tuple[str, dict[str, Any]]]:
    if where.path:
        return json_lines.read(Path(where.path), KEY)
    assert where.problems.dataset
    return tasks.hub_rows(replace(where.problems.dataset, **_HUB), where.problems.name, KEY)


def _check(where: LabelSource, solutions: Sequence[Labelled], left_out: Counter[str], behind: int) -> None:
    """Refuse a file without a usable row, and one whose labels count from 1 where its layout counts from 0."""
    file = f"{KEY}={where.path or where.name}"
    if behind and not any(each.label == 1 for each in solutions):
        why = f"{behind:,} labels are one behind the last step and none is 0, so they count from 1"
        raise UserError(f"{file}: {why}, and the field label counts from 0; subtract 1 where a step is named")
    if not solutions:
        why = ", ".join(f"{reason}: {count:,}" for reason, count in left_out.items() if count) or "it has no row"
        raise UserError(f"{file}: no row can be used with task={where.problems.name} ({why}); name the file's task")


def _label(row: dict[str, Any], place: str) -> tuple[str, int | None]:
    """The field of the label, and the step that it names, as it counts; None where every step is right."""
    base = next((name for name in (_FROM_0, _FROM_1) if name in row), None)
    if base is None:
        raise UserError(f"{place}: no human label among its fields {', '.join(row)[:200]}; an audit needs {_FROM_0}")
    value = row[base]
    said = "" if tasks.is_missing(value) else (tasks.plain(value) or "?").lower()
    verdict = row.get("model_output_solution_correctness") if base == _FROM_1 else None
    if verdict == "correct" or (said in _NONE[base] and verdict != "wrong"):
        return base, None
    if not re.fullmatch(r"-?[0-9]{1,9}", said):
        raise UserError(f"{place}, field '{base}': {value!r:.40} is no number of a step; mend or remove the row")
    return base, int(said)


def _steps(row: dict[str, Any]) -> list[str]:
    """The steps without `Step k: `; none where there is no list of texts."""
    value = _first(row, _STEPS)
    usable = isinstance(value, list) and all(isinstance(step, str) for step in value)
    texts = [tasks.plain(step) or "" for step in value] if usable else []
    return [_STEP.sub("", step, count=1).strip() if _STEP.match(step) else step for step in texts]


def _problem(row: dict[str, Any], question: str, known: Problem | None, identifier: str, grader: str) -> Problem | None:
    """The row's own problem where it has the answer, else the task's with this question, under the row's id."""
    if not (answer := _said(row.get("ground_truth_answer", row.get("answer")))):
        return replace(known, id=identifier) if known else None
    solution = _said(row.get("ground_truth_solution", row.get("solution"))).rpartition("####")
    return Problem(identifier, question, (solution[0] or solution[2]).rstrip(), tasks.comparable(answer, grader)[0])


def _text(row: dict[str, Any], names: Sequence[str], place: str) -> str:
    value = _first(row, names)
    if not isinstance(value, str) or not (text := _said(value)):
        raise UserError(f"{place}: no question among its fields {', '.join(row)[:200]}; name the field question")
    return text


def _said(value: Any) -> str:
    """A text or a number as text; "" where a table has nothing."""
    return "" if tasks.is_missing(value) else tasks.plain(value) or ""


def _first(row: dict[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if name in row), None)


def _words(question: str) -> str:
    """A question without white space and punctuation, in which copies of one differ."""
    return re.sub(r"\W+", "", question).lower()
