"""data: the task's problems, read once and cut into train, dev and test."""

from pathlib import Path
from typing import Any

from lema import tasks
from lema.artifacts import Recipe, write_jsonl
from lema.cell import Cell


def recipe(cell: Cell) -> Recipe:
    task = cell.plain(cell.config.task)
    fields = ("name", "seed", "num_dev", "num_train", "num_test")  # the others belong to mix and train
    config = {name: task[name] for name in fields} | {"limit": cell.config.limit}
    if task["dataset"]:
        config["dataset"] = {name: value for name, value in task["dataset"].items() if name != "path"}
    return Recipe("data", cell.task_label, version=1, config=config, inputs={"source": tasks.source(cell.config.task)})


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    splits = tasks.load(cell.config.task, cell.config.limit)
    for name, problems in splits.items():
        write_jsonl(folder / f"{name}.jsonl", problems)
    return {name: len(problems) for name, problems in splits.items()}
