"""Imported cells of a sweep: whose they are where files lie elsewhere, and which count as done."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from simulated import answers, changing, run
from small import SMALL

from lema import pipeline
from lema.artifacts import IMPORTED, Store
from lema.artifacts.records import sealed
from lema.cell import Cell
from lema.config import Config
from lema.identity import portable
from lema.preflight import imported
from lema.reporting.results import write_results
from lema.reporting.runs import read_runs


def test_a_cell_is_known_again_where_its_weights_lie_elsewhere_and_counts_by_its_versions(
    tmp_path: Path, make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    there, here = (
        Cell(make_config(*SMALL, "mix=cot", f"backbone.path={tmp_path / name}/weights"), Store(tmp_path / name))
        for name in ("there", "here")
    )
    other = Cell(make_config(*SMALL, "mix=cot", "seed=2", "backbone.path=w"), Store(tmp_path / "here"))
    assert there.folder.name != here.folder.name
    made = run(tmp_path / "there", "cot", 1, answers(20, 9))
    with changing(made / "run.json") as facts:
        facts["config"] = portable(there.identity)
    selected = {"step": 50, "selection": "dev", "split": "dev", "accuracies": {"50": 0.4}}
    for step, summary in (("train", {"checkpoints": [50]}), ("select", selected)):
        with changing(made / step / "record.json") as record:
            record["summary"] |= summary
    made.rename(there.folder)
    write_results(there.store.root, "all", None, file := tmp_path / "file.jsonl")
    imported.move(False, here.store.root, str(file), "sweep", None, {"seed=1": here, "seed=2": other})
    [found] = read_runs(here.store.root)
    assert found.folder == here.folder
    assert found.setting not in (None, "a"), "it pairs with the cells that are run here"
    assert found.config == portable(here.identity)
    steps, kept = pipeline.wanted(here), here.folder / IMPORTED
    told: list[str] = []
    while not imported.is_done(here, steps):  # of as many steps as have had another version since
        step, now = re.findall(
            r"its (\w+) is of version \d+, now (\d+); it counts as not run", capsys.readouterr().out
        )[0]
        with changing(kept) as facts:
            facts["records"][step]["recipe"]["version"] = int(now)
            facts["records"][step]["hash"] = sealed(facts["records"][step])
            facts["hash"] = sealed(facts)
        told.append(step)
    assert told[0] == "data"
    assert len(told) == len(set(told))
    assert pipeline.is_imported(here)
    with changing(kept) as facts:
        del facts["records"]["train"]["summary"]["checkpoints"]
        facts["records"]["train"]["hash"] = sealed(facts["records"]["train"])
        facts["hash"] = sealed(facts)
    assert not pipeline.is_imported(here)
    assert "its records are not as lema writes them; it counts as not run" in capsys.readouterr().out
    assert not pipeline.is_imported(other)
