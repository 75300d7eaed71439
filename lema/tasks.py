"""Tasks: from the rows of a data set, or the word problems made here, to train, dev and test problems.

A data set is a local folder of JSON lines or a repository on the Hugging Face Hub; which fields of a row are the
question, the solution and the answer is declared in conf/task. Dev is always cut out of train.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from lema.arithmetic import make_problems
from lema.config import AnswerForm, DatasetConfig, TaskConfig
from lema.types import Problem, UserError

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED_END = re.compile(r"\$|\n|\\[\])]")
_EXPECTED = {
    AnswerForm.plain: "some text",
    AnswerForm.hashes: "text after ####",
    AnswerForm.boxed: r"a closed \boxed{} or \fbox{}",
}


@dataclass(frozen=True)
class Splits:
    """The problems of a task; `dev` shares no question with `train`. `source` is what they were made from."""

    train: list[Problem]
    dev: list[Problem]
    test: list[Problem]
    source: dict[str, object]


def load(task: TaskConfig, limit: int | None) -> Splits:
    """Read or make the problems of `task`; `limit` keeps the first so many of each split, after dev was cut.

    Raises `UserError` for a file, row or field that cannot be read, and for a Hub that cannot be reached.
    """
    made_from = source(task)
    if task.arithmetic:
        train, test = make_problems(task.seed, task.arithmetic.num_train, task.arithmetic.num_test)
    else:
        dataset = _dataset(task)
        train, test = (_problems(task.name, dataset, split) for split in ("train", "test"))
    train, dev = _cut_dev(train, task)
    return Splits(train[:limit], dev[:limit], test[:limit], made_from)


def source(task: TaskConfig) -> dict[str, object]:
    """What the problems of `task` are made from, without reading a row of the Hub or making a problem.

    `{"sha256": {"train.jsonl": "17f3…", …}}` of a local folder, wherever it lies; hub_id, revision and subsets of a
    Hub repository; the arguments of the generator.
    """
    if task.arithmetic:
        sizes = task.arithmetic
        return {"generator": "arithmetic", "seed": task.seed, "num_train": sizes.num_train, "num_test": sizes.num_test}
    dataset = _dataset(task)
    if dataset.path is None:
        return {"hub_id": dataset.hub_id, "revision": dataset.revision, "subsets": list(dataset.subsets)}
    files = [_file(dataset.path, stem) for stem in dataset.splits.values()]
    return {"sha256": {file.name: hashlib.sha256(_read(file)).hexdigest() for file in files}}


def _dataset(task: TaskConfig) -> DatasetConfig:
    if task.dataset is None:
        raise UserError(f"task={task.name}: neither task.dataset nor task.arithmetic is set; set one of them")
    return task.dataset


def _cut_dev(problems: list[Problem], task: TaskConfig) -> tuple[list[Problem], list[Problem]]:
    """Train and dev, both in the order of the rows; a question that occurs twice stays in train."""
    counts = Counter(problem.question for problem in problems)
    once = [problem.question for problem in problems if counts[problem.question] == 1]
    if task.num_dev and task.num_dev >= len(once):
        raise UserError(f"task.num_dev={task.num_dev}: must be below the {len(once)} distinct training questions")
    dev = set(Random(task.seed).sample(once, task.num_dev))
    return [p for p in problems if p.question not in dev], [p for p in problems if p.question in dev]


def _problems(name: str, dataset: DatasetConfig, split: str) -> list[Problem]:
    """The problems of one of our splits; none where the data set does not have it."""
    if split not in dataset.splits:
        return []
    theirs = dataset.splits[split]
    rows = _hub_rows(dataset, theirs) if dataset.path is None else _local_rows(_file(dataset.path, theirs))
    return [_problem(f"{name}-{split}-{number}", row, dataset, where) for number, (where, row) in enumerate(rows)]


def _file(path: str, stem: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"task.dataset.path={path}: there is no such folder; name the folder that holds {stem}.jsonl")
    return folder / f"{stem}.jsonl"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{file}: {error.strerror}; task.dataset.path must name a folder that holds {file.name}"
        ) from error


def _local_rows(file: Path) -> Iterator[tuple[str, object]]:
    """Each row with the place it stands in. Blank lines are allowed at the end alone, where editors leave them."""
    content = _read(file).rstrip()
    if not content:
        raise UserError(f"{file}: the file is empty; copy the data set again")
    for number, line in enumerate(content.split(b"\n"), 1):
        where = f"{file} line {number}"
        if not line.strip():
            raise UserError(f"{where}: blank line between rows; remove it")
        try:
            yield where, json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise UserError(f"{where}: not valid JSON ({reason}); the file is damaged: copy it again") from error


def _hub_rows(dataset: DatasetConfig, split: str) -> Iterator[tuple[str, object]]:
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    if not sys.stderr.isatty():
        disable_progress_bars()
    for subset in dataset.subsets:
        try:
            rows = load_dataset(dataset.hub_id, subset, split=split, revision=dataset.revision)
        except (OSError, ValueError, DatasetsError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise UserError(
                f"task.dataset.hub_id={dataset.hub_id}: {subset}/{split} could not be loaded ({reason}); "
                f"check the network and HF_HUB_OFFLINE, or set task.dataset.path to a folder with {split}.jsonl"
            ) from error
        for number, row in enumerate(rows):
            yield f"{dataset.hub_id} {subset}/{split} row {number}", row


def _problem(identifier: str, row: object, dataset: DatasetConfig, where: str) -> Problem:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be a JSON object with named fields, not {type(row).__name__}")
    solution = _text(row, dataset.solution, where) if dataset.solution else ""
    if dataset.answer_form is AnswerForm.hashes:
        solution = solution.rsplit("####", 1)[0].rstrip()
    question = " ".join(_text(row, field, where) for field in dataset.question)
    if not question.strip():
        raise UserError(f"{where}, field {', '.join(dataset.question)}: the question is empty; mend or remove the row")
    return Problem(
        id=identifier,
        question=question,
        solution=solution,
        answer=_answer(row, dataset, where),
        level=_text(row, dataset.level, where) if dataset.level else None,
        subject=_text(row, dataset.subject, where) if dataset.subject else None,
    )


def _text(row: dict[str, object], field: str, where: str) -> str:
    if field not in row:
        fields = ", ".join(map(str, row))
        raise UserError(f"{where}: no field '{field}' among {fields}; mend the row or name its fields in task.dataset")
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}, field '{field}': must be text or a number, not {value!r:.40}; mend the row")
    # SVAMP writes 145.0 for 145.
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _answer(row: dict[str, object], dataset: DatasetConfig, where: str) -> str:
    """The gold answer; "" only where MATH itself has an empty box, as two of its training rows do."""
    text = _text(row, dataset.answer, where)
    if dataset.answer_form is AnswerForm.boxed:
        answer = last_boxed(text)
    elif dataset.answer_form is AnswerForm.hashes:
        answer = text.rpartition("####")[2].strip() or None if "####" in text else None
    else:
        answer = text or None
    if answer is None:
        expected = _EXPECTED[dataset.answer_form]
        raise UserError(
            f"{where}, field '{dataset.answer}': no answer in it, expected {expected}; mend or remove the row"
        )
    return answer


def last_boxed(text: str) -> str | None:
    """The content of the last box of a LaTeX text, None without a box or when it is not closed.

    >>> last_boxed("It is $\\\\boxed{\\\\frac{1}{2}}$."), last_boxed("It is $\\\\boxed 5$.")
    ('\\\\frac{1}{2}', '5')
    """
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    content = text[starts[-1] :]
    if not content.startswith("{"):
        return _UNBRACED_END.split(content)[0].strip().rstrip(".") or None
    depth = 0
    for brace in _BRACE.finditer(content):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return content[1 : brace.start()].strip()
    return None
