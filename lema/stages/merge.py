"""merge: the selected adapter and its base as one model, and how far the two agree where one device holds it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema.artifacts import Artifact, Recipe, Shown, write_json
from lema.cell import Cell, Context
from lema.config import Computation, Merge, Method
from lema.models.weights import MERGED, Weights, checkpoint
from lema.prompts.formats import cot_prompt
from lema.types import Problem, Selected

_CHECKED_PROMPTS = 100  # at most: dev questions, or training questions when none are held out

SHOWN = Shown("model", files=("agreement.json",))


@dataclass(frozen=True)
class Settings:
    """Which checkpoint is merged, and into what."""

    step: int
    prompt: str
    computation: Computation
    four_bit: bool  # the base that the adapter was trained on
    dequantise: bool  # that base is what the adapter is merged into, not the published weights


@dataclass(frozen=True)
class Inputs:
    """The checkpoints, their base, and the questions on which the two models are compared."""

    train: Artifact
    data: Artifact
    base: Weights


def recipe(cell: Cell) -> Recipe:
    """An adapter trained on a 16-bit base (`lora`) is merged into just that, whatever `train.merge` says."""
    config, step = cell.config, cell.artifacts["select"].read(Selected).step
    assert step is not None
    four_bit = config.train.method is Method.qlora
    dequantise = four_bit and config.train.merge is Merge.dequantised
    settings = Settings(step, config.backbone.prompt, config.backbone.computation, four_bit, dequantise)
    inputs = Inputs(cell.artifacts["train"], cell.artifacts["data"], cell.base)
    label = f"{cell.train_label}-{cell.arm}-step{step}"
    return Recipe("merge", label, version=2, settings=settings, inputs=inputs, shown=SHOWN)


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `merged/`, a model in Hugging Face format, and `agreement.json`."""
    from lema.models.merge import agreement, merge

    adapter, merged, how = checkpoint(inputs.train.path, settings.step), folder / MERGED, settings.computation
    merge(inputs.base, adapter, merged, how.precision, dequantise=settings.dequantise)
    dev, train = (inputs.data.stream(f"{split}.jsonl", Problem) for split in ("dev", "train"))
    problems = (list(dev) or list(train))[:_CHECKED_PROMPTS]
    prompts = [cot_prompt(settings.prompt, each.question, each.candidates) for each in problems]
    measured = agreement(inputs.base, adapter, merged, how, prompts, four_bit=settings.four_bit)
    write_json(folder / "agreement.json", measured)
    return measured
