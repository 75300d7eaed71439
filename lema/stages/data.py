"""data: the task's problems, read once and cut into train, dev and test."""

from pathlib import Path
from typing import Any

from lema import tasks
from lema.artifacts import Recipe, write_jsonl
from lema.cell import Cell

VERSION = 1
SPLITS = ("train", "dev", "test")
# The task's fields that choose or change problems; the others belong to mix and train.
FIELDS = ("name", "seed", "num_dev", "arithmetic")


def recipe(cell: Cell) -> Recipe:
    task = cell.plain(cell.config.task)
    config = {name: task[name] for name in FIELDS} | {"limit": cell.config.limit}
    if task["dataset"]:
        config["dataset"] = {name: value for name, value in task["dataset"].items() if name != "path"}
    return Recipe("data", cell.task_label, VERSION, config, {"source": tasks.source(cell.config.task)})


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    splits = tasks.load(cell.config.task, cell.config.limit)
    for name in SPLITS:
        write_jsonl(folder / f"{name}.jsonl", getattr(splits, name))
    return {name: len(getattr(splits, name)) for name in SPLITS}
