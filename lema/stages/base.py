"""base: the untuned backbone, where the project builds it itself."""

from pathlib import Path
from typing import Any

from lema.artifacts import Recipe, Shown
from lema.cell import Cell
from lema.data import tasks

SHOWN = Shown("model", losses={"texts_too_long": "pretraining texts too long for the base"})


def recipe(cell: Cell) -> Recipe:
    backbone, task = cell.plain(cell.config.backbone), cell.config.task
    # A made task's corpus comes from its generator, so `limit` leaves the base as it is.
    text = cell.artifacts["data"].digest if task.dataset else tasks.source(task)
    label = f"{cell.backbone_label}-{cell.train_label if task.dataset else task.name}-seed{backbone['seed']}"
    config = {name: backbone[name] for name in ("tiny", "seed")}
    del config["tiny"]["other_seed"]  # another base's
    return Recipe("base", label, version=1, config=config, inputs={"text": text}, shown=SHOWN)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    from lema.models import tiny

    return tiny.build(folder, cell.problems("train", "dev"), cell.config)
