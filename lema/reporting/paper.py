"""The paper's numbers: every table of results in `paper.yaml`, and what it has beside one of our cells."""

from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FILE = Path(__file__).with_suffix(".yaml")


@cache
def results() -> dict[str, Any]:
    """`{"problems": {task: n}, "tables": [{"what", "source", "rows"}, …]}`, as the file has it."""
    loaded: Any = OmegaConf.to_container(OmegaConf.load(FILE))
    return loaded


def paper_accuracy(backbone: str, size: str | None, task: str, arm: str) -> float | None:
    """In %, of one run; `arm` is a mix, or "untuned". None where the paper has no number, as for Mistral."""
    return _cells().get((backbone, size, arm), {}).get(task)


@cache
def _cells() -> dict[tuple[str, str | None, str], dict[str, float]]:
    cells: dict[tuple[str, str | None, str], dict[str, float]] = {}
    for table in results()["tables"]:
        for row in table["rows"] if table.get("lookup", True) else []:
            accuracies = {task: row[task] for task in results()["problems"] if task in row}
            cells.setdefault((row["backbone"], row["size"], row["arm"]), {}).update(accuracies)
    return cells
