"""Tasks and questions, what stands around them, and recorded solutions of them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from small import ROOT
from tables import table

from lema.config import TaskConfig
from lema.config.task import read_task
from lema.data.arithmetic import make_problems
from lema.prompts.formats import COT_PROMPTS
from lema.types import Problem

FENCE = (
    "Tom builds a fence of 16 boards around his garden, and each board costs $1,250 while a bag of the nails that he "
    "needs costs a tenth of that. How much do Tom's boards and 3 bags of nails cost?"
)
SUFFIXES = table(__file__, "suffixes")
PREFIXES = table(__file__, "prefixes")
WRAPS = [*table(__file__, "wraps"), *(prompt.replace("{question}", "{q}") for prompt in COT_PROMPTS.values())]


def problems(questions: list[str], name: str = "some-test") -> list[Problem]:
    return [Problem(f"{name}-{number}", question, "", "1") for number, question in enumerate(questions)]


def questions(data: Path, task: str, split: str) -> list[Problem]:
    """The questions of a data set as the tasks read them."""
    with (data / task / f"{split}.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    fields = {"gsm8k": ["question"], "math": ["problem"], "svamp": ["Body", "Question"], "csqa": ["question"]}[task]
    texts = [" ".join(row[field]["stem"] if task == "csqa" else row[field] for field in fields) for row in rows]
    return problems([text.strip() for text in texts], f"{task}-{split}")


def all_tests(data: Path) -> list[Problem]:
    splits = {"gsm8k": "test", "math": "test", "svamp": "test", "csqa": "dev"}
    return [problem for task, split in splits.items() for problem in questions(data, task, split)]


QUESTIONS = 5_000


def solutions(number: int) -> Iterator[dict[str, str]]:
    """Of the training questions in turn, with mistakes of all kinds; a tenth are right, a tenth are said twice."""
    train, _ = make_problems(0, QUESTIONS, 10)
    rng, last = random.Random(0), ""
    for index in range(number):
        problem = train[index % QUESTIONS]
        steps = [line.partition(" = <<")[0] + f" = {rng.randrange(100)}." for line in problem.solution.splitlines()]
        answer = problem.answer if rng.random() < 0.1 else str(rng.randrange(100))
        last = last if rng.random() < 0.1 and index % QUESTIONS else f"{' '.join(steps)} The answer is {answer}."
        yield {"question": problem.question, "generation": last, "model": f"model-{rng.randrange(3)}"}


def task(file: str, /, **changes: Any) -> TaskConfig:
    """`conf/task/FILE.yaml` against the schema; `changes` are its keys, `dataset_path` the folder."""
    dataset = {key.removeprefix("dataset_"): changes.pop(key) for key in list(changes) if key.startswith("dataset_")}
    tree = OmegaConf.merge(read_task(ROOT / f"conf/task/{file}.yaml"), changes)
    config: Any = OmegaConf.to_object(OmegaConf.merge(tree, {"dataset": dataset}) if dataset else tree)
    return config
