"""merge: the selected adapter and its base as one model, and how far the two agree."""

from pathlib import Path
from typing import Any

from lema.artifacts import Recipe, Shown, write_json
from lema.cell import Cell
from lema.config import Merge, Method
from lema.prompts.formats import cot_prompt

SHOWN = Shown("model", files=("agreement.json",))
CHECKED_PROMPTS = 100  # at most: dev questions, or training questions when none are held out


def recipe(cell: Cell) -> Recipe:
    backbone, step = cell.plain(cell.config.backbone), cell.artifacts["select"].summary["step"]
    config: dict[str, Any] = {name: backbone[name] for name in ("prompt", "precision", "attention")}
    config |= {"step": step, "method": cell.config.train.method, "dequantise": _dequantise(cell)}
    inputs = {name: cell.artifacts[name].digest for name in ("train", "data")} | {"base": cell.base.digest}
    label = f"{cell.train_label}-{cell.arm}-step{step}"
    return Recipe("merge", label, version=2, config=config, inputs=inputs, shown=SHOWN)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `merged/`, a model in Hugging Face format, and `agreement.json`.

    An adapter trained on a 16-bit base (`lora`) is merged into just that, whatever `train.merge` says.
    """
    from lema.models.merge import agreement, merge

    backbone, base, step = cell.config.backbone, cell.base, cell.artifacts["select"].summary["step"]
    adapter, merged = cell.artifacts["train"].path / "checkpoints" / f"step-{step}", folder / "merged"
    merge(base, adapter, merged, backbone, dequantise=_dequantise(cell))
    problems = (cell.problems("dev") or cell.problems("train"))[:CHECKED_PROMPTS]
    prompts = [cot_prompt(backbone.prompt, problem.question, problem.candidates) for problem in problems]
    four_bit = cell.config.train.method is Method.qlora
    measured = agreement(base, adapter, merged, backbone, prompts, four_bit=four_bit)
    write_json(folder / "agreement.json", measured)
    return measured


def _dequantise(cell: Cell) -> bool:
    return cell.config.train.method is Method.qlora and cell.config.train.merge is Merge.dequantised
