"""Tasks: train, dev and test problems, from the rows of a data set or from the generator of word problems.

A data set is a local folder of JSON lines or XML, or a repository on the Hub; conf/task names the fields of its rows.
`key` is the section of the config that describes the data set; error messages name it.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from io import BytesIO
from math import isfinite
from pathlib import Path
from random import Random
from shlex import quote
from typing import Any
from xml.etree import ElementTree

from lema.config import NO_EFFECT, AnswerForm, DatasetConfig, Grader, TaskConfig, TrainDatasetConfig
from lema.config.files import read
from lema.data import json_lines
from lema.data.arithmetic import make_problems
from lema.grading.generated import without_end
from lema.grading.official import gold_number, last_box
from lema.types import Problem, UserError

log = logging.getLogger(__name__)

_NO_ANSWER = {
    "plain": "no answer",
    "hashes": "no answer after ####",
    "boxed": r"no answer in a closed \boxed{}",
    "label": "not the label of a candidate",
}
# The official rules read a gold answer without a number as 0, and would accept a text without an answer.
_NUMBERS = (Grader.arithmetic, Grader.gsm8k, Grader.svamp, Grader.asdiv)
_NUMBER = re.compile(
    r"(?!.*\b(?:hundred|thousand|million|billion|trillion|dozen|half|third|quarter|and|or|to|k|mn|bn|am|pm)\b)"
    r"(?:[-+]? ?[$€£]?|[$€£][-+])(?:[0-9]{1,3}(?:[, ][0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?(?<=[0-9])(?:/[0-9]+)?"
    r"(?: ?%| [a-z]+)*\.?",
    re.IGNORECASE,
)
# What adds nothing to a number and some rules do not read, as in `- 5`, `-05`, `1,008/2` and `5 kg`.
_IDLE = re.compile(
    r"(?<=\A[-+]) |(?<![0-9.,])(?<![0-9] )0+(?=[0-9])|(?<=[0-9])[, ](?=[0-9]{3}[^/]*/)|(?<=[0-9]) [A-Za-z]{1,2}\.?\Z"
)
_BY_ZERO = re.compile(r"(?<=\d)/0+(?![\d.])|\\[dt]?frac *\{[^{}]*\} *\{0+\}")
NO_VALUE = "has no value"  # what is said of it
_MISSING = ("", "none", "null", "nan", "n/a")  # how tables write that a value is not there
_MINUS = re.compile(r"\A[‐‑‒–—―﹣－](?= ?[$€£]?[\d.\\])")
# One number and what it counts, `9 (apples)`; not `3 (red); 4 (blue)`, not `3:5`.
_QUANTITY = re.compile(r"([-+]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+))\s*(?:\([^()]*\))?")


@dataclass(frozen=True)
class ProblemSource:
    """Where problems come from, how they are cut into splits, and whose rules compare their answers."""

    name: str
    grader: str
    dataset: DatasetConfig | None  # None: word problems made here, in the numbers below
    seed: int
    num_dev: int
    num_train: int | None
    num_test: int | None
    path: str | None = field(metadata=NO_EFFECT)  # the data set's; `digest` stands for what is in the folder
    key: str = field(metadata=NO_EFFECT)  # the section of the config, for messages

    @property
    def digest(self) -> dict[str, Any]:
        """What the problems are made from: a generator's arguments, a repository, the hashes of files."""
        if self.dataset is None:
            sizes = {name: getattr(self, name) for name in ("seed", "num_train", "num_test")}
            return {"generator": "arithmetic", **sizes}
        if self.path is None:
            return {name: getattr(self.dataset, name) for name in ("hub_id", "revision", "subsets")}
        files = [_read(self.path, split, self.key) for split in self.dataset.splits.values()]
        return {"sha256": {file.name: hashlib.sha256(content).hexdigest() for file, content in files}}


def trained_on(task: TaskConfig) -> ProblemSource:
    """Where the problems come from that a task is trained on: its own, or another task's."""
    return _source(task, task.trained, task.trained_dataset, "train_dataset" if task.train_dataset else "dataset")


def tested_on(task: TaskConfig) -> ProblemSource:
    """Where the test problems of a task come from."""
    return _source(task, task, task.dataset, "dataset")


def _source(
    task: TaskConfig, owner: TaskConfig | TrainDatasetConfig, dataset: DatasetConfig | None, key: str
) -> ProblemSource:
    described: Any = {each.name: getattr(dataset, each.name, None) for each in fields(DatasetConfig)} | {"path": None}
    return ProblemSource(
        name=owner.name,
        grader=owner.grader,
        dataset=DatasetConfig(**described) if dataset else None,
        seed=task.seed,
        num_dev=task.num_dev,
        num_train=task.num_train,
        num_test=task.num_test,
        path=dataset.path if dataset else None,
        key=f"task.{key}",
    )


def load(source: ProblemSource, limit: int | None) -> dict[str, list[Problem]]:
    """The train, dev and test problems, in order; dev is cut out of train before `limit` keeps the first of each."""
    train, test = published(source)
    # A question that occurs twice stays in train.
    once = [question for question, count in Counter(p.question for p in train).items() if count == 1]
    if source.num_dev and source.num_dev >= len(once):
        raise UserError(f"task.num_dev={source.num_dev}: must be below the {len(once)} distinct training questions")
    cut = set(Random(source.seed).sample(once, source.num_dev))
    train, dev = [p for p in train if p.question not in cut], [p for p in train if p.question in cut]
    return {"train": train[:limit], "dev": dev[:limit], "test": test[:limit]}


def published(source: ProblemSource) -> tuple[list[Problem], list[Problem]]:
    """All training and test problems, before dev is cut out."""
    dataset = source.dataset
    if dataset is None:
        return make_problems(source.seed, source.num_train or 0, source.num_test or 0)
    train, test = (_problems(source, split) for split in ("train", "test"))
    own_field = dataset.solution not in (None, dataset.answer)
    if own_field and train and not any(problem.solution for problem in train):
        raise UserError(f"{source.key}.solution={dataset.solution}: no training row has it; name the rationales' field")
    return train, test


def load_test(source: ProblemSource, limit: int | None) -> list[Problem]:
    """The test problems alone."""
    return _problems(source, "test")[:limit]


def known_tests(task: TaskConfig, known: list[TaskConfig]) -> Iterator[Problem]:
    """The test problems of a task, of its training data, and of the other known tasks as far as they can be read.

    The other tasks' are looked for where this task's training data are: in the folder beside it, or on the Hub.
    """
    training, test, unread = trained_on(task), tested_on(task), list[str]()
    yield from published(training)[1]
    if task.train_dataset:
        yield from load_test(test, None)
    for other in map(tested_on, known):
        if other.name in (training.name, test.name) or other.dataset is None or training.dataset is None:
            continue
        beside = training.path and str(Path(training.path).parent / other.name)
        try:
            yield from _problems(replace(other, path=beside, key=f"task={other.name}"), "test")
        except UserError as error:
            log.debug("%s", error)
            unread.append(other.name)
    if unread:
        log.warning("not compared with the test questions of %s, which are not there", ", ".join(unread))


def _problems(source: ProblemSource, split: str) -> list[Problem]:
    """The problems of one of our splits; none where the data set does not have it."""
    dataset, path, key = source.dataset, source.path, source.key
    assert dataset
    splits = dataset.hub_splits if path is None else dataset.splits
    if split not in splits:
        return []
    theirs = splits[split]
    if path is None:
        rows = hub_rows(dataset, theirs, key)
    else:
        file, content = _read(path, theirs, key)
        if file.suffix == ".jsonl" and not content.strip():
            raise UserError(f"{file} is empty; copy the file again")
        rows = _xml_rows(file, content) if file.suffix == ".xml" else json_lines.rows(BytesIO(content), str(file))
    found = {
        f"{source.name}-{split}-{n}": _problem(f"{source.name}-{split}-{n}", row, dataset, where, source.grader)
        for n, (where, row) in enumerate(rows)
    }
    if left_out := [identifier for identifier, problem in found.items() if problem is None]:
        some = ", ".join(left_out[:3]) + (", …" if len(left_out) > 3 else "")
        log.info("left out         %d of %d rows, whose answer is not one number: %s", len(left_out), len(found), some)
    if len(left_out) == len(found):
        raise UserError(f"{key}: no problem in {path or dataset.hub_id}, {theirs}; copy the data set again")
    return [problem for problem in found.values() if problem]


def _read(folder: str, split: str, key: str) -> tuple[Path, bytes]:
    """`SPLIT.jsonl`, or `SPLIT.xml` where that is there instead."""
    file = Path(folder) / f"{split}.jsonl"
    if not file.exists() and file.with_suffix(".xml").exists():
        file = file.with_suffix(".xml")
    try:
        return file, read(file)
    except OSError as error:
        held = sorted(path for level in ("*", "*/*") for path in file.parent.glob(f"{level}.*") if path.stem[:1] != ".")
        instead = f"{key}.path={folder} must be a folder with it"
        if some := ", ".join(path.relative_to(file.parent).as_posix() for path in held[:3]):
            instead += f", and has {some}"
        for table in [path for path in held if path.suffix in (".parquet", ".csv") and split in path.name][:1]:
            made = json_lines.FROM_TABLE.format(table.suffix[1:], file=quote(str(table)), new=quote(str(file)))
            instead += f"; make it: {made}"
        raise UserError(f"{file}: {error.strerror}; {instead}") from error


def _xml_rows(file: Path, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of ASDiv as published: `<Problem ID="nluds-0001"><Body>…</Body><Question>…</Question><Answer>…`.

    A part's text is all that stands in it, markup within (`seven <b>red</b> apples`) aside.
    """
    try:
        problems = list(ElementTree.fromstring(content).iter("Problem"))
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two are of its encoding
        pointer = content.startswith(b"version https://git-lfs")
        remedy = "it is a git-lfs pointer: run git lfs pull" if pointer else "copy the file again"
        raise UserError(f"{file}: not valid XML ({error}); {remedy}") from error
    for number, problem in enumerate(problems, 1):
        where, row = f"{file} Problem {problem.get('ID', number)}", dict[str, Any]()
        for part in problem:
            if part.tag in row or (part.tail or "").strip():
                raise UserError(f"{where}: a second {part.tag}, or text behind it that is in no part; mend the problem")
            row[part.tag] = "".join(part.itertext())
        yield where, row


def hub_rows(dataset: DatasetConfig, split: str, key: str) -> Iterator[tuple[str, Any]]:
    """Each row of one of the Hub's own splits, with its place; `UserError` when it cannot be loaded."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    if Path(dataset.hub_id).is_dir():  # which would be loaded in the place of the Hub's
        raise UserError(f"{key}.hub_id={dataset.hub_id} is a folder here; name it {key}.path={dataset.hub_id}")
    for subset in dataset.subsets:
        try:
            rows = load_dataset(dataset.hub_id, subset, split=split, revision=dataset.revision)
        except Exception as error:  # of every kind: an empty file is a StopIteration, a damaged card is YAML's
            said = error.__cause__ if isinstance(error, DatasetGenerationError) else error
            reason = str(said).strip().partition("\n")[0].rstrip(".") or type(said).__name__
            what = f"{key}.hub_id={dataset.hub_id}: {subset}/{split} cannot be loaded ({reason})"
            raise UserError(f"{what}; check the network and HF_HUB_OFFLINE, or set {key}.path") from error
        for number, row in enumerate(rows):
            yield f"{dataset.hub_id} {subset}/{split} row {number}", row


def _problem(identifier: str, row: dict[str, Any], dataset: DatasetConfig, where: str, grader: str) -> Problem | None:
    """The problem of a row; None where the answer is to be a quantity and is none."""
    row = {name.lower(): value for name, value in row.items()} | row  # of `Answer` and `answer`, the one that is named
    if isinstance(asked := row.get("question"), dict):  # CSQA's own files have stem and choices within
        row |= asked | {"question": asked.get("stem")}
    question = " ".join(_text(row, field, where) for field in dataset.question).strip()
    if question.lower() in _MISSING:
        raise UserError(f"{where}, field {', '.join(dataset.question)}: the question is empty; mend or remove the row")
    choices = _choices(row, dataset.candidates, where) if dataset.candidates else {}
    answer = _answer(_text(row, dataset.answer, where), dataset.answer_form, choices)
    if answer is None and dataset.answer_form is AnswerForm.quantity:
        return None
    if answer is None:
        raise UserError(f"{where}, field '{dataset.answer}': {_NO_ANSWER[dataset.answer_form]}; mend or remove the row")
    answer, why = comparable(answer, grader)
    if why:
        raise UserError(f"{where}, field '{dataset.answer}': {answer!r:.40} {why}; mend or remove the row")
    level, subject = (_text(row, field, where) if field else None for field in (dataset.level, dataset.subject))
    # A row without a rationale can be asked, but not trained on.
    explained = dataset.solution and not is_missing(_value(row, dataset.solution))
    solution = _text(row, dataset.solution or "", where) if explained else ""
    if dataset.answer_form is AnswerForm.hashes:
        solution = solution.rsplit("####", 1)[0].rstrip()
    elif dataset.answer_form is AnswerForm.label:  # rationales are recorded with the line that is added again
        solution = re.sub(r"\s*The answer is [^\n]*\Z", "", solution)
    return Problem(identifier, question, solution, answer, level, subject, list(choices.values()))


def comparable(answer: str, grader: str) -> tuple[str, str | None]:
    """A gold answer, `-5` for `-05`, and why nothing can be compared with it."""
    if grader not in _NUMBERS:
        return answer, NO_VALUE if grader == Grader.math and _BY_ZERO.search(answer) else None
    if not _NUMBER.fullmatch(answer):
        return answer, "is not one number"
    value = gold_number(answer := _IDLE.sub("", answer))
    return answer, NO_VALUE if value is None or not isfinite(value) else None


def _value(row: dict[str, Any], field: str) -> Any:
    return row.get(field, row.get(field.lower()))


def is_missing(value: Any) -> bool:
    """Whether a table has nothing here, in whichever way it says so; NaN is not equal to itself."""
    return value is None or value != value or (isinstance(value, str) and value.strip().lower() in _MISSING)


def _text(row: dict[str, Any], field: str, where: str) -> str:
    if field not in row and field.lower() not in row:
        names = ", ".join(dict.fromkeys(map(str.lower, row)))
        raise UserError(f"{where}: no field '{field}' among {names}; mend the row or name it in task.dataset")
    if (text := plain(value := _value(row, field))) is None:
        said = f"must be text or a number, not {value!r:.40}; mend or remove the row"
        raise UserError(f"{where}, field '{field}': {said}")
    return text


def plain(value: Any) -> str | None:
    """A text without a tokenizer's marks at its end, or a number, 145 for SVAMP's 145.0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float):
        return (str(int(value)) if value.is_integer() else str(value)) if isfinite(value) else None
    return without_end(str(value)).strip()


def _choices(row: dict[str, object], field: str, where: str) -> dict[str, str]:
    """The candidates by their labels, from `[{"label": "A", "text": "bank"}, …]`, or the Hub's two columns."""
    value: Any = _value(row, field)
    said, must = f"{value!r:.40}", "must be choices with label and text"
    try:
        if not isinstance(value, dict):
            value = {name: [choice[name] for choice in value] for name in ("label", "text")}
        pairs = [(plain(label), text.strip()) for label, text in zip(value["label"], value["text"], strict=True)]
    except (TypeError, KeyError, ValueError, AttributeError):
        pairs = []
    choices = {label: text for label, text in pairs if label and text}
    if not pairs or len(choices) < len(pairs):
        once = ", no label twice" if pairs else ""
        raise UserError(f"{where}, field '{field}': {must}{once}, not {said}; mend or remove the row")
    return choices


def _answer(text: str, form: AnswerForm, choices: dict[str, str]) -> str | None:
    """The gold answer; "" only where MATH itself has an empty box, as two of its training rows do."""
    if form is AnswerForm.label:
        return choices.get(text)
    text = text.replace("−", "-")
    if form is AnswerForm.boxed:
        # Two other rows of MATH box a number without braces; a space may stand before them.
        text = re.sub(r"\\(?:boxed|fbox)\s*(?=\{)", r"\\boxed", text)
        box = last_box(re.sub(r"\\boxed(?: +(\w+)|(\d))", r"\\boxed{\1\2}", text))
        return None if box is None else _MINUS.sub("-", box.strip())
    if form is AnswerForm.quantity:
        quantity = _QUANTITY.fullmatch(_MINUS.sub("-", text))
        return quantity and quantity[1]
    if form is AnswerForm.hashes:  # the rest of the line; a note may follow
        text = text.rpartition("####")[2].strip().partition("\n")[0] if "####" in text else ""
    text = _MINUS.sub("-", text.strip())
    return None if text.lower() in _MISSING else text
