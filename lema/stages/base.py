"""base: the untuned backbone, where the project builds it itself."""

from pathlib import Path
from typing import Any

from lema import tasks
from lema.artifacts import Recipe
from lema.cell import Cell

VERSION = 1


def recipe(cell: Cell) -> Recipe:
    backbone = cell.plain(cell.config.backbone)
    config = {"tiny": backbone["tiny"], "seed": backbone["seed"]}
    task = cell.config.task
    # A made task's corpus comes from its generator, so `limit` leaves the base as it is.
    text = tasks.source(task) if task.arithmetic else cell.artifacts["data"].digest
    label = f"{cell.backbone_label}-{task.name if task.arithmetic else cell.task_label}-seed{backbone['seed']}"
    return Recipe("base", label, VERSION, config, {"text": text})


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    from lema.models import tiny

    return tiny.build(folder, cell.problems("train", "dev"), cell.config)
