"""Below the runs folder nothing is written into, or deleted from, a folder that a symbolic link points to."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small import SMALL, load, record, texts

from lema import pipeline
from lema.api import journal
from lema.config import Config
from lema.types import UserError


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of the user's, with files of the names that a run writes."""
    folder = tmp_path / "theirs"
    (folder / "adapter").mkdir(parents=True)
    for (
        name
    ) in "run.json metrics.jsonl README.md report.md figure.png multirun.yaml compare.md adapter/README.md".split():
        (folder / name).write_text("precious")
    return folder


@pytest.fixture
def run(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., None]:
    """`run("until=mix")`: a cell whose mistakes come from a file; it is made in seconds."""
    problem = load(make_config(*SMALL).task)["train"][0]
    file = record(tmp_path / "recorded.jsonl", {"question": problem.question, "text": "The answer is 999."})

    def run_cell(*overrides: str) -> None:
        recorded = ("sampler=recorded", f"sampler.file={file}", "until=sample")
        arguments = [*SMALL, *recorded, f"runs_dir={tmp_path / 'runs'}", *overrides]
        pipeline.run(make_config(*arguments), arguments)

    return run_cell


def link(path: Path, target: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def test_a_run_does_not_write_through_a_link_in_the_place_of_its_folder(run, tmp_path: Path, theirs: Path) -> None:
    run()
    [cell], before = (tmp_path / "runs" / "cells").iterdir(), texts(theirs)
    cell.rename(tmp_path / "moved")
    link(cell, theirs)
    with pytest.raises(UserError, match=f"^{cell}: a symbolic link, which is not followed"):
        run()
    assert texts(theirs) == before


def test_a_report_does_not_empty_what_a_link_points_to(run, tmp_path: Path, theirs: Path) -> None:
    run()
    before, folder = texts(theirs), link(tmp_path / "runs" / "reports" / "all", theirs)
    with pytest.raises(UserError, match=f"^{folder}: a symbolic link"):
        run("do=report", "until=null")
    assert texts(theirs) == before


def test_an_export_does_not_write_through_a_link(run, tmp_path: Path, theirs: Path) -> None:
    before, runs = texts(theirs), tmp_path / "runs"
    with journal.open_journal(runs / "journal.sqlite", ()):
        pass
    folder = link(runs / "export", theirs)
    with pytest.raises(UserError, match=f"^{folder}: a symbolic link"):
        run("do=export", "until=null")
    folder.unlink()
    for name in ("requests.jsonl", "responses.jsonl"):
        link(folder / name, theirs / "report.md")
    run("do=export", "until=null")
    assert not [path for path in folder.iterdir() if path.is_symlink()]
    assert texts(theirs) == before


def test_a_sweep_does_not_write_its_config_through_a_link(run_cli, tmp_path: Path, theirs: Path) -> None:
    before, runs = texts(theirs), tmp_path / "runs"
    for place, target in {"hydra": theirs, "hydra/multirun.yaml": theirs / "multirun.yaml"}.items():
        found = link(runs / place, target)
        done = run_cli("-m", *SMALL, "seed=1,2", "until=data", f"runs_dir={runs}")
        assert done.returncode == 1
        assert done.stderr.startswith(f"{found}: a symbolic link, which is not followed")
        assert done.stderr.count("\n") == 1
        found.unlink()
    assert texts(theirs) == before


@pytest.mark.slow
def test_a_model_card_does_not_write_through_a_link(make_config, tmp_path: Path, theirs: Path) -> None:
    arguments = [*SMALL, f"runs_dir={tmp_path / 'runs'}", "until=select"]
    pipeline.run(make_config(*arguments), arguments)
    [cell], before = (tmp_path / "runs" / "cells").iterdir(), texts(theirs)
    (cell / "hub").rename(tmp_path / "moved")
    hub = link(cell / "hub", theirs)
    for place in (hub, hub / "model"):
        with pytest.raises(UserError, match=f"^{place}: a symbolic link"):
            pipeline.run(make_config(*arguments), arguments)
        assert texts(theirs) == before
        place.unlink()
        if place == hub:
            link(hub / "model", theirs)
