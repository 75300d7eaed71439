"""base: the untuned backbone, where the project builds it itself."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lema.artifacts import Artifact, Given, Recipe, Shown
from lema.cell import Cell, Context
from lema.config import Pretraining
from lema.data import tasks
from lema.types import Problem

SHOWN = Shown("model", losses={"texts_too_long": "pretraining texts too long for the base"})


@dataclass(frozen=True)
class Inputs:
    """The text to read: a data set's training problems, or the generator of made ones, which `limit` leaves whole."""

    text: Artifact | Given


def recipe(cell: Cell) -> Recipe:
    backbone, task = cell.config.backbone, cell.config.task
    assert backbone.tiny
    source, made = tasks.trained_on(task), task.dataset is None
    label = f"{cell.backbone_label}-{task.name if made else cell.train_label}-seed{backbone.seed}"
    tiny = replace(backbone.tiny, other_seed=0)  # the other base's
    settings = Pretraining(tiny, backbone.prompt, backbone.seed, made)
    inputs = Inputs(Given(source.digest, source) if made else cell.artifacts["data"])
    return Recipe("base", label, version=1, settings=settings, inputs=inputs, shown=SHOWN)


def build(settings: Pretraining, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes a model in Hugging Face format."""
    from lema.models import tiny

    if isinstance(inputs.text, Given):
        train, test = tasks.published(inputs.text.value)
        return tiny.build(folder, train + test, settings)
    problems = [each for split in ("train", "dev") for each in inputs.text.rows(f"{split}.jsonl", Problem)]
    return tiny.build(folder, problems, settings)
