"""labelled: solutions whose first wrong step people have named, to audit a corrector. Nothing trains on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema.artifacts import Given, Recipe, Shown, write_jsonl
from lema.cell import Cell, Context
from lema.data import labelled

SHOWN = Shown("dataset")


@dataclass(frozen=True)
class Settings:
    """How many of them."""

    name: str
    limit: int | None  # at most, from all parts of the file


@dataclass(frozen=True)
class Inputs:
    """Where they lie."""

    source: Given


def recipe(cell: Cell) -> Recipe:
    config = cell.config
    source = labelled.source(config.audit.data or "", cell.test_rows, config.limit)
    settings, inputs = Settings(source.name, source.limit), Inputs(Given(source.digest, source))
    label = source.name + (f"-limit{source.limit}" if source.limit else "")
    return Recipe("labelled", label, version=2, settings=settings, inputs=inputs, shown=SHOWN)


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `problems.jsonl` and `labels.jsonl`, a row each for a solution."""
    problems, solutions, counts = labelled.load(inputs.source.value)
    write_jsonl(folder / "problems.jsonl", problems)
    write_jsonl(folder / "labels.jsonl", solutions)
    wrong = sum(each.label is not None for each in solutions)
    unknown = sum(not each.gradable for each in solutions)
    return {
        "items": len(solutions),
        "wrong": wrong,
        "right": len(solutions) - wrong,
        "without_answer": unknown,
    } | counts
