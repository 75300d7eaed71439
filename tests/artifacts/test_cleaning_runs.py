"""do=clean by the front door: the same commands find all that they need, and make again what they ask for anew."""

import json
import logging
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import contents

from lema import pipeline, run_folder
from lema.config import Config
from lema.stages import select
from lema.types import UserError

Run = Callable[..., dict[str, Path]]
COT, OTHER_SEED = ["mix=cot"], ["seed=2"]


@pytest.fixture
def do(
    tmp_path: Path, make_config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> Callable[..., list[str]]:
    """`do("clean", "clean.delete=true")`: what it logs."""
    caplog.set_level(logging.INFO)

    def command(name: str, *overrides: str) -> list[str]:
        caplog.clear()
        arguments = [f"do={name}", f"runs_dir={tmp_path / 'runs'}", "tracker=none", *overrides]
        pipeline.run(make_config(*arguments), arguments)
        return list(caplog.messages)

    return command


def ended(run: Run, monkeypatch: pytest.MonkeyPatch, by: BaseException, *overrides: str) -> None:
    """Run a cell that fails when it selects; or is killed then: nobody writes down how it ended."""

    def end(*_: Any) -> None:
        raise by

    write = run_folder._write
    with monkeypatch.context() as patch:
        patch.setattr(select, "build", end)
        if isinstance(by, KeyboardInterrupt):
            patch.setattr(run_folder, "_write", lambda *given: write(*given) if given[2] == "running" else None)
        with pytest.raises(type(by)):
            run(*overrides)


def report(runs: Path) -> dict[str, bytes]:
    files = ("report.md", "report.csv", "differences.csv", "report.json")
    return {name: (runs / "reports/all" / name).read_bytes() for name in files}


def size(runs: Path) -> int:
    return sum(path.stat().st_size for path in runs.rglob("*") if path.is_file() and path.name != "cleaned.json")


@pytest.mark.slow
def test_after_a_clean_the_same_commands_remake_nothing_and_the_report_is_the_same(
    tmp_path: Path,
    run: Run,
    do: Callable[..., list[str]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = tmp_path / "runs"
    run()
    run(*COT)
    ended(run, monkeypatch, UserError("no"), "seed=3")
    ended(run, monkeypatch, KeyboardInterrupt(), *OTHER_SEED)
    run("limit=30", "until=mix")
    shutil.rmtree(next(runs.glob("cells/*limit30*")))
    older = shutil.copytree(next(runs.glob("mix/*limit30*")), runs / "mix/older-0123456789ab")
    facts = json.loads((older / "record.json").read_text())
    (older / "record.json").write_text(json.dumps(facts | {"format": 1}))
    do("report")
    before, expected = size(runs), report(runs)
    named = do("clean")
    kinds = [line.split()[0] for line in named]
    counts = {"unreferenced": 4, "stale": 1, "checkpoint": 3, "partial": 2, "clean": 1}
    assert {kind: kinds.count(kind) for kind in kinds} == counts
    assert re.search(
        rf"nothing was deleted: \S+ \S*run.py do=clean runs_dir={runs} tracker=none clean.delete=true$", named[-1]
    )
    assert size(runs) == before
    told = do("clean", "clean.delete=true")[-1]
    freed = before - size(runs)
    assert f"{freed / 1e6:.3g} MB were freed" in told
    do("report")
    assert report(runs) == expected
    for overrides in ([], COT):
        caplog.clear()
        run(*overrides)
        steps = [line.split() for line in caplog.messages if f"{runs}/" in line]
        assert {"current"} == {word for words in steps for word in words if word in ("current", "made")}
    caplog.clear()
    run(*OTHER_SEED)
    made = [line.partition(" made ")[0].strip() for line in caplog.messages if " made " in line]
    assert made == ["select", "evaluate"]


@pytest.mark.slow
def test_a_selection_that_asks_what_was_cleaned_says_so_and_trains_to_the_same_bytes(
    tmp_path: Path, run: Run, do: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    runs = tmp_path / "runs"
    train = run()["train"]
    whole = contents(runs / "train")
    do("clean", "clean.delete=true")
    assert len(list((train / "checkpoints").iterdir())) == 1
    with pytest.raises(UserError, match=r"only=select: train, evaluate untuned|only=select: train must be made first"):
        run("selection=paper", "only=select")
    caplog.clear()
    run("selection=paper")
    told = [line for line in caplog.messages if "do=clean deleted checkpoints that this selection asks" in line]
    assert len(told) <= 1  # it is said once a process
    made = [line.partition(" made ")[0].strip() for line in caplog.messages if " made " in line]
    assert made == ["train", "select", "evaluate"]
    assert contents(runs / "train") == whole
    caplog.clear()
    run()
    assert not [line for line in caplog.messages if " made " in line]


def test_a_run_that_begins_while_its_artifacts_are_cleaned_makes_them_again(
    tmp_path: Path, run: Run, do: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    run("until=data", "limit=30")  # a run that needs nothing of what is cleaned
    others = {path.name for path in (runs / "cells").iterdir()}
    run("until=mix")
    expected = contents(runs)
    for cell in (runs / "cells").iterdir():
        if cell.name not in others:
            shutil.rmtree(cell)
    write, cleaned = run_folder._write, []

    def late(*arguments: Any) -> None:
        if not cleaned:  # it has found all, and does not point to anything yet
            cleaned.extend(do("clean", "clean.delete=true"))
        write(*arguments)

    monkeypatch.setattr(run_folder, "_write", late)
    run("until=mix")
    assert len([line for line in cleaned if line.startswith("unreferenced")]) == 5
    assert contents(runs) == expected


def test_it_needs_no_model_takes_no_sweep_and_makes_no_folder(
    tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    missing = run_cli("do=clean")
    assert missing.returncode == 1
    assert "runs_dir=" in missing.stderr
    assert "no such folder" in missing.stderr
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").mkdir()
    done = run_cli("do=clean", "clean.delete=true", python=("-X", "importtime"))
    assert done.returncode == 0, done.stderr
    assert "nothing below" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip() in ("torch", "wandb")]
    refused = run_cli("do=clean", "seed=1,2", "-m")
    assert "do=clean: takes no sweep" in refused.stderr
    (record := tmp_path / "runs/train/one-0123456789ab/record.json").parent.mkdir(parents=True)
    record.write_text("{}")
    refused = run_cli("do=clean", "clean.delete=true")
    assert "cells: no run is there, so nothing says what is needed; put the folder back" in refused.stderr
    assert record.exists()
