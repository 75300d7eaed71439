"""Tasks: from the rows of a data set, or the word problems made here, to train, dev and test problems.

A data set is a local folder of JSON lines or a repository on the Hub; conf/task says which fields of a row are what.
"""

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from lema.arithmetic import make_problems
from lema.config import AnswerForm, DatasetConfig, TaskConfig
from lema.grading.official import last_box
from lema.types import Problem, UserError

_NO_ANSWER = {"plain": "no answer", "hashes": "no answer after ####", "boxed": r"no answer in a closed \boxed{}"}


def load(task: TaskConfig, limit: int | None) -> dict[str, list[Problem]]:
    """The train, dev and test problems of a task, in order; `limit` keeps the first of each, after dev was cut."""
    if task.dataset is None:
        train, test = make_problems(task.seed, task.num_train or 0, task.num_test or 0)
    else:
        train, test = (_problems(task.name, task.dataset, split) for split in ("train", "test"))
    # A question that occurs twice stays in train.
    once = [question for question, count in Counter(p.question for p in train).items() if count == 1]
    if task.num_dev and task.num_dev >= len(once):
        raise UserError(f"task.num_dev={task.num_dev}: must be below the {len(once)} distinct training questions")
    cut = set(Random(task.seed).sample(once, task.num_dev))
    train, dev = [p for p in train if p.question not in cut], [p for p in train if p.question in cut]
    return {"train": train[:limit], "dev": dev[:limit], "test": test[:limit]}


def source(task: TaskConfig) -> dict[str, object]:
    """What the problems of `task` are made from: the generator's arguments, a repository, a folder's contents."""
    dataset = task.dataset
    if dataset is None:
        return {"generator": "arithmetic", "seed": task.seed, "num_train": task.num_train, "num_test": task.num_test}
    if dataset.path is None:
        return {"hub_id": dataset.hub_id, "revision": dataset.revision, "subsets": list(dataset.subsets)}
    files = [_read(dataset.path, split) for split in dataset.splits.values()]
    return {"sha256": {file.name: hashlib.sha256(content).hexdigest() for file, content in files}}


def _problems(name: str, dataset: DatasetConfig, split: str) -> list[Problem]:
    """The problems of one of our splits; none where the data set does not have it."""
    if split not in dataset.splits:
        return []
    theirs = dataset.splits[split]
    rows = _hub_rows(dataset, theirs) if dataset.path is None else _local_rows(dataset.path, theirs)
    return [_problem(f"{name}-{split}-{number}", row, dataset, where) for number, (where, row) in enumerate(rows)]


def _read(folder: str, split: str) -> tuple[Path, bytes]:
    file = Path(folder).expanduser() / f"{split}.jsonl"
    try:
        return file, file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; task.dataset.path={folder} must be a folder with it") from error


def _local_rows(folder: str, split: str) -> Iterator[tuple[str, object]]:
    """Each row with the place it stands in. Blank lines are allowed at the end alone, where editors leave them."""
    file, content = _read(folder, split)
    for number, line in enumerate(content.rstrip().split(b"\n"), 1):
        where = f"{file} line {number}"
        try:
            yield where, json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            reason = str(error).partition(": line 1")[0] if line.strip() else "it is empty"
            raise UserError(f"{where}: not valid JSON ({reason}); mend the line or copy the file again") from error


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
            what = f"task.dataset.hub_id={dataset.hub_id}: {subset}/{split} cannot be loaded ({reason})"
            raise UserError(f"{what}; check the network and HF_HUB_OFFLINE, or set task.dataset.path") from error
        for number, row in enumerate(rows):
            yield f"{dataset.hub_id} {subset}/{split} row {number}", row


def _problem(identifier: str, row: object, dataset: DatasetConfig, where: str) -> Problem:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be a JSON object with named fields, not {type(row).__name__}")
    question = " ".join(_text(row, field, where) for field in dataset.question)
    if not question.strip():
        raise UserError(f"{where}, field {', '.join(dataset.question)}: the question is empty; mend or remove the row")
    answer = _answer(_text(row, dataset.answer, where), dataset.answer_form)
    if answer is None:
        raise UserError(f"{where}, field '{dataset.answer}': {_NO_ANSWER[dataset.answer_form]}; mend or remove the row")
    optional = (dataset.solution, dataset.level, dataset.subject)
    solution, level, subject = (_text(row, field, where) if field else None for field in optional)
    if solution and dataset.answer_form is AnswerForm.hashes:
        solution = solution.rsplit("####", 1)[0].rstrip()
    return Problem(identifier, question, solution or "", answer, level, subject)


def _text(row: dict[str, object], field: str, where: str) -> str:
    if field not in row:
        raise UserError(f"{where}: no field '{field}' among {', '.join(row)}; mend the row or name it in task.dataset")
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}, field '{field}': must be text or a number, not {value!r:.40}; mend the row")
    # SVAMP writes 145.0 for 145.
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _answer(text: str, form: AnswerForm) -> str | None:
    """The gold answer; "" only where MATH itself has an empty box, as two of its training rows do."""
    if form is AnswerForm.boxed:
        # Two other rows of MATH box a number without braces.
        box = last_box(re.sub(r"\\boxed +(\w+)", r"\\boxed{\1}", text.replace("\\fbox{", "\\boxed{")))
        return box and box.strip()
    if form is AnswerForm.hashes:
        text = text.rpartition("####")[2].strip() if "####" in text else ""
    return text or None
