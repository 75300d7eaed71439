"""The paper's numbers: whole, by names that exist, and with the standard errors that their counts give."""

from typing import Any

import pytest
from omegaconf import OmegaConf
from tables import table

from lema.config.task import CONF
from lema.reporting.paper import paper_accuracy, results
from lema.reporting.statistics import standard_error

ROWS: list[dict[str, Any]] = [row for table in results()["tables"] for row in table["rows"]]
ASKED = [row for table in results()["tables"] if table.get("lookup", True) for row in table["rows"]]
TASKS = list(results()["problems"])


def test_every_table_has_its_source_and_every_row_a_number() -> None:
    assert len(results()["tables"]) == 8
    assert all(table["what"] and table["source"] and table["rows"] for table in results()["tables"])
    assert all(any(0 < row.get(task, 0) < 100 for task in TASKS) for row in ROWS)


def test_tables_do_not_contradict_each_other() -> None:
    seen: dict[tuple[Any, ...], float] = {}
    for row in ASKED:
        for task in (task for task in TASKS if task in row):
            key = (row["backbone"], row["size"], row["arm"], task)
            assert seen.setdefault(key, row[task]) == row[task], key


@pytest.mark.parametrize("row", ASKED, ids=lambda row: f"{row['backbone']}-{row['size']}-{row['arm']}")
def test_rows_have_the_names_of_our_configuration(row: dict[str, Any]) -> None:
    backbone: Any = OmegaConf.load(CONF / "backbone" / f"{row['backbone']}.yaml")
    assert row["size"] in backbone.backbone.sizes
    assert row["arm"] == "untuned" or (CONF / "mix" / f"{row['arm']}.yaml").is_file()


def test_the_main_table_has_both_arms_of_five_backbones_on_five_tasks() -> None:
    rows = results()["tables"][0]["rows"]
    assert len(rows) == 10
    assert all(set(TASKS) <= row.keys() for row in rows)
    gains = [lema[task] - cot[task] for cot, lema in zip(rows[::2], rows[1::2], strict=True) for task in TASKS]
    assert min(gains) > 0


@pytest.mark.parametrize(
    ("backbone", "size", "task", "arm", "accuracy"), table(__file__, "a cell finds its number or none")
)
def test_a_cell_finds_its_number_or_none(
    backbone: str, size: str | None, task: str, arm: str, accuracy: float | None
) -> None:
    assert paper_accuracy(backbone, size, task, arm) == accuracy


@pytest.mark.parametrize(("task", "least", "most"), [("gsm8k", 1.0, 1.4), ("math", 0.4, 0.6)])
def test_its_counts_give_its_standard_errors(task: str, least: float, most: float) -> None:
    problems = results()["problems"][task]
    errors = [
        100 * standard_error(round(row[task] / 100 * problems), problems) for row in results()["tables"][0]["rows"]
    ]
    assert round(min(errors), 1) == least
    assert round(max(errors), 1) == most
