"""data: the task's problems, read once and cut into train, dev and test.

A task that is trained on another's data has these from there, as the other has, and its own test problems beside them.
"""

from pathlib import Path
from typing import Any

from lema import tasks
from lema.artifacts import Recipe, write_jsonl
from lema.cell import Cell


def recipe(cell: Cell, own_test: bool = False) -> Recipe:
    task = cell.config.task
    dataset = task.dataset if own_test else task.trained_dataset
    config: dict[str, Any] = {"name": task.name if own_test else task.trained.name, "limit": cell.config.limit}
    if not own_test:  # the other fields belong to mix and train
        config |= {name: getattr(task, name) for name in ("seed", "num_dev", "num_train", "num_test")}
    if dataset:
        config["dataset"] = {
            key: value for key, value in cell.plain(dataset).items() if key not in ("path", "name", "grader")
        }
    inputs: dict[str, Any] = {"source": tasks.source(task, own_test)}
    if own_test:
        inputs["training"] = cell.artifacts["data"].digest
    return Recipe("data", cell.task_label if own_test else cell.train_label, version=2, config=config, inputs=inputs)


def build(cell: Cell, folder: Path, own_test: bool = False) -> dict[str, Any]:
    task, limit = cell.config.task, cell.config.limit
    splits = {"test": tasks.load_test(task, limit)} if own_test else tasks.load(task, limit)
    for name, problems in splits.items():
        write_jsonl(folder / f"{name}.jsonl", problems)
    counts = {name: len(problems) for name, problems in splits.items()}
    if own_test:
        trained = {problem.question for problem in cell.problems("train", "dev")}
        counts["questions_in_training"] = sum(problem.question in trained for problem in splits["test"])
    return counts
