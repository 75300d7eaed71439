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
    rows = (row for table in results()["tables"] if table.get("lookup", True) for row in table["rows"])
    own = (row for row in rows if (row["backbone"], row["size"], row["arm"]) == (backbone, size, arm))
    return next((row[task] for row in own if task in row and task in results()["problems"]), None)
