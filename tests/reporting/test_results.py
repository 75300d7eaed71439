"""do=export_results, do=import_results: a report is rebuilt from the one file, which has no texts and no paths."""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import TEXT, TINY, answers, changing, record, run
from small import SMALL, texts

from lema.artifacts import IMPORTED, status
from lema.artifacts.cleaning import clean
from lema.artifacts.records import sealed
from lema.config import CompareConfig
from lema.reporting import compare, report
from lema.reporting.packed import packed, unpacked
from lema.reporting.results import read_results, write_results
from lema.reporting.runs import read_runs
from lema.reporting.standing import standing
from lema.types import UserError


def study(root: Path, seeds: int = 2, problems: int = 60, arms: str = "lema cot own_right", **how: Any) -> Path:
    """Runs of several arms over seeds that share their data; returns the folder of the last."""
    draw, first, folder = np.random.default_rng(0), None, root
    for mix in arms.split():
        for seed in range(1, seeds + 1):
            samples = draw.random((problems, 12)) < 0.6
            folder = run(root, mix, seed, draw.random(problems) < 0.7, samples=samples, like=first, **how)
            first = first or folder
    return folder


def exported(root: Path, name: str = "file") -> Path:
    write_results(root, "all", None, root / f"{name}.jsonl")
    return root / f"{name}.jsonl"


def brought(root: Path, file: Path) -> Path:
    read_results(root, file)
    return root


def reported(root: Path) -> dict[str, bytes]:
    folder, *_ = report.write_report(root)
    return {path.name: path.read_bytes().replace(str(root).encode(), b"RUNS") for path in sorted(folder.glob("[!.]*"))}


def test_a_report_is_rebuilt_from_the_file_alone(tmp_path: Path) -> None:
    home = f"task.dataset.path={tmp_path}/gsm8k"
    levels = ["Level 1", "Level 2"]
    last = study(tmp_path / "a", levels=levels, overrides=[home, f"runs_dir={tmp_path / 'a'}"], curve=450)
    with changing(last / "run.json") as facts:
        facts["state"] = f"OSError: {tmp_path}/a/x: no room"
    file, again = exported(tmp_path / "a"), exported(tmp_path / "a", "again")
    assert file.read_bytes() == again.read_bytes()
    for private in (TEXT[:20], "How many", str(tmp_path)):
        assert private not in file.read_text()
    root = brought(tmp_path / "b", file)
    assert exported(root).read_bytes() == file.read_bytes()
    mine, theirs = reported(tmp_path / "a"), reported(root)
    assert mine.keys() == theirs.keys() >= {"levels-gsm8k.png", "sampled_differences.csv"}
    differ = {name for name in mine if mine[name] != theirs[name]}
    assert differ == {"curves-gsm8k.png", "report.md"}  # 150 points stand for 450, and folders of this machine are gone
    told = mine["report.md"].decode().replace("RUNS/x", "…/x").replace(home, "task.dataset.path=FOLDER")
    assert theirs["report.md"].decode() == told


def test_a_sweep_of_45_cells_takes_a_few_hundred_kilobytes(tmp_path: Path) -> None:
    arms = "cot cot_random cot_matched mistakes lema own_right explanation inline corrections"
    study(tmp_path, seeds=5, problems=600, arms=arms, curve=150)
    assert exported(tmp_path).stat().st_size < 300_000


def test_the_tests_that_a_model_was_asked_beside_its_own_come_along(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", "lema", 1, answers(50, 30), **TINY)
    other = run(tmp_path / "other", "lema", 1, answers(50, 20), task={"name": "svamp", "grader": "svamp", "real": True})
    for step in ("evaluate", "evaluate_untuned", "data"):
        (other / step).rename(folder / f"svamp_{step.replace('data', 'test_data')}")
    with changing(folder / "run.json") as facts, changing(folder / "svamp_evaluate" / "record.json") as kept:
        facts["tests"] = {"svamp_": {"task": {"name": "svamp", "grader": "svamp", "real": True}, "setting": "s"}}
        kept["recipe"]["inputs"] = {}
    root = brought(tmp_path / "b", exported(tmp_path / "a"))
    assert {each.key: each.score.accuracy for each in read_runs(root)} == {
        folder.name: 0.6,
        f"{folder.name} svamp": 0.4,
    }
    assert reported(root)["report.json"] == reported(tmp_path / "a")["report.json"]


def test_what_was_run_here_goes_before_what_was_imported_and_twice_is_once(tmp_path: Path) -> None:
    last = study(tmp_path / "a")
    file, root = exported(tmp_path / "a"), tmp_path / "b"
    own = run(root, "lema", 1, read_runs(tmp_path / "a")[2].tuned.verdicts.correct)  # pyright: ignore
    dead = root / "cells" / last.name
    dead.mkdir()
    (dead / "run.json").write_text(json.dumps(facts := json.loads((last / "run.json").read_text()) | {"state": "x"}))
    before = {name: text for name, text in texts(brought(root, file)).items() if name.startswith("cells/")}
    times = {path: path.stat().st_mtime_ns for path in root.glob(f"cells/*/{IMPORTED}")}
    assert len(times) == 5
    assert own / IMPORTED not in times
    assert {each.folder for each in read_runs(root) if each.imported is None} == {own}
    assert not [each for each in read_runs(root) if each.trouble], facts["state"]
    brought(root, file)
    assert {name: text for name, text in texts(root).items() if name.startswith("cells/")} == before
    assert times == {path: path.stat().st_mtime_ns for path in times}
    damaged = dead / IMPORTED
    damaged.write_text(damaged.read_text().replace('"correct": 1', '"correct": 0', 1))
    assert [each for each in read_runs(root) if each.trouble]
    assert not [each for each in read_runs(brought(root, file)) if each.trouble]


def test_status_clean_and_compare_know_an_imported_run(tmp_path: Path) -> None:
    last = study(tmp_path / "a")
    root = brought(tmp_path / "b", exported(tmp_path / "a"))
    folder = root / "cells" / last.name
    assert standing(folder, 0.0) == ("imported", "")
    status.write(folder, status.Status(status.State.done))
    assert standing(folder, status.clock(folder))[0] == "done"
    (unneeded := root / "mix" / "x-0123456789ab").mkdir(parents=True)
    (unneeded / "record.json").write_text('{"recipe": {"config": {}, "inputs": {}}, "files": {}, "summary": {}}')
    clean(root, ["mix"], True, "")
    assert not unneeded.exists(), "an imported run needs nothing"
    pair = [each.name for each in sorted((root / "cells").iterdir())][:2]
    compare.write_comparison(root, CompareConfig(a=pair[0], b=pair[1], examples=3))
    [text] = (path.read_text() for path in root.glob("reports/*/compare.md"))
    assert "imported results have none" in text
    assert "Right only in a: " in text


def test_runs_that_do_not_stand_on_the_same_mistakes_are_told(tmp_path: Path) -> None:
    run(tmp_path / "a", "cot", 1, answers(50, 20), untuned=answers(50, 2))
    run(root := tmp_path / "b", "lema", 1, answers(50, 30), untuned=answers(50, 3))
    told = b"Not all of these runs stand on the same evaluate untuned (imported, or changed between runs): numbers"
    assert told not in reported(root)["report.md"]
    assert told in reported(brought(root, exported(tmp_path / "a")))["report.md"]


def test_models_that_were_tuned_to_make_mistakes_differ_by_seed(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = run(tmp_path / "a", "lema", seed, answers(50, 30), untuned=answers(50, 3))
        inputs = {"base": f"of seed {seed}"}
        for step, stage in (("tuned_train", "train"), ("sample_tuned", "sample")):
            (folder / step).mkdir()
            inputs = {stage: record(folder / step, stage, {}, inputs)}
    text = reported(brought(tmp_path / "b", exported(tmp_path / "a")))["report.md"]
    assert b"2 evaluated runs." in text
    assert b"not all stand on the same" not in text


def grown(times: int) -> str:
    """A whole file of so many lines, each of which is twice the one before."""
    again = [{"$": str(number), "is": [{"$": str(number + 1)}] * 2} for number in range(times)]
    lines = [{"kind": "lema results", "format": 1, "values": 1}, *again, {"$": str(times), "is": []}, {"$": "0"}]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text}{{"sha256":"{digest}"}}\n'


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: "", "no results of lema; name a file"),
        (lambda text: '{"a": 1}\n', "no results of lema"),
        (lambda text: "\xff", "no results of lema"),
        (lambda text: text[: len(text) // 2], "cut off or changed since it was exported"),
        (lambda text: text.replace('"seed":1', '"seed":2', 1), "cut off or changed since it was exported"),
        (lambda text: text.replace('"format":1', '"format":2', 1), "its format is 2, of a newer lema; update lema"),
        (
            lambda text: packed([{"cell": "../../x", "run": {}, "records": {}, "rows": {}}]),
            "its runs are not as lema writes them",
        ),
        (lambda text: packed([{"cell": "x"}]), "its runs are not as lema writes them"),
        (lambda text: grown(60), "no results of lema"),
        (lambda text: text.replace('"format":1', '"format":Infinity', 1), "no results of lema"),
        (lambda text: "[" * 100_000, "no results of lema"),
        (None, "cannot be read (No such file"),
    ],
)
def test_a_file_that_holds_no_results_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[str], str] | None, why: str
) -> None:
    run(tmp_path, "lema", 1, answers(20, 9))
    file = exported(tmp_path)
    if change:
        file.write_text(change(file.read_text()), encoding="latin-1")
    else:
        file.unlink()
    with pytest.raises(UserError, match=re.escape(f"{file}: {why}")):
        read_results(tmp_path / "b", file)
    assert not [*tmp_path.glob("b/cells/*")]


def test_what_cannot_be_exported_or_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(tmp_path / "a", "lema", 1, answers(20, 9))
    file = exported(tmp_path / "a")
    with pytest.raises(UserError, match=r"results\.file=null: name a file"):
        read_results(tmp_path / "a", None)
    with pytest.raises(UserError, match="has no run of this sweep; without sweeps= all its 1 runs are imported"):
        read_results(tmp_path / "a", file, lambda _: None)
    with pytest.raises(UserError, match=r"no run of all below .* has a score"):
        write_results(tmp_path / "none", "all", None, None)
    with pytest.raises(UserError, match=r"results\.file=.*: cannot be written"):
        write_results(tmp_path / "a", "all", None, file / "x")
    moved = run(tmp_path / "b", "lema", 1, answers(20, 8))
    assert moved.name == folder.name
    with pytest.raises(UserError, match=r"here with other verdicts \(gsm8k 40\.0%, now 45\.0%\); nothing was imported"):
        read_results(tmp_path / "b", file)
    monkeypatch.setenv("MY_API_KEY", "gsm8k-llama2-7b-lema")
    with pytest.raises(UserError, match="a secret of the environment stands in the settings"):
        exported(tmp_path / "a")


def test_a_newer_file_brings_what_is_new_to_the_cell_that_its_run_was_imported_as(tmp_path: Path) -> None:
    folder, root = run(tmp_path / "a", "lema", 1, answers(50, 30), **TINY), tmp_path / "b"
    of_sweep = {"cell": "mine"}
    read_results(root, exported(tmp_path / "a"), lambda kept: kept | of_sweep | {"run": kept["run"] | {"setting": "s"}})
    (folder / "learnt").mkdir()
    record(folder / "learnt", "evaluate", {"asked": 5}, {})
    read_results(root, exported(tmp_path / "a"))
    assert [path.parent.name for path in root.glob(f"cells/*/{IMPORTED}")] == ["mine"]
    [found] = read_runs(root)
    assert (found.setting, found.records["learnt"]["summary"]) == ("s", {"asked": 5})


def test_samples_that_are_others_contradict(tmp_path: Path) -> None:
    for name, right in (("a", 3), ("b", 2)):
        run(
            tmp_path / name,
            "lema",
            1,
            answers(50, 30),
            samples=np.full((50, 4), False) | (np.arange(4) < right),
            **TINY,
        )
    with pytest.raises(UserError, match="it was run here with other verdicts"):
        read_results(tmp_path / "b", exported(tmp_path / "a"))


def test_values_come_back_as_they_were() -> None:
    same: dict[str, Any] = {"long": ["a" * 70, {"deep": "b" * 70}], "none": None, "é": 1.5}
    values = [{"x": same, "y": [same, same]}, {"y": [same, same], "z": {"deep": "b" * 70}}, []]
    text = packed(values)
    assert unpacked(text.encode()) == values
    assert text == packed(json.loads(json.dumps(values)))
    assert text.count("b" * 70) == 1


@pytest.mark.slow
def test_a_study_goes_on_on_another_machine(
    tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    def told(*arguments: str) -> str:
        done = run_cli(*SMALL, *arguments, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    here, there, file = (tmp_path / name for name in ("here", "there", "file.jsonl"))
    made = ["-m", "mix=cot", "seed=1,2", f"runs_dir={here}"]
    sweep = ["-m", "mix=cot", "seed=1,2,3", f"runs_dir={there}"]
    told(*made)
    [name] = (path.name for path in (here / "reports").iterdir())
    assert "results          2 runs," in told(*made, "do=export_results", f"results.file={file}")
    assert "2 imported, 0 imported before, 0 run here" in told(*sweep, "do=import_results", f"results.file={file}")
    told(*made[:-1], f"runs_dir={there}", "do=report")
    for table in ("report.json", "report.csv"):
        assert (here / "reports" / name / table).read_bytes() == (there / "reports" / name / table).read_bytes()
    assert told(*sweep, "do=status").split("\n")[-2].split() == "status 1 waiting, 2 imported".split()
    planned = told(*sweep, "do=plan")
    rows = [line for line in planned.splitlines() if line.startswith("seed=")]
    assert [line.count(" imported ") >= 6 for line in rows] == [True, True, False]
    output, ended = told(*sweep), r"cell (\d) of 3 +(imported|made|current) "
    assert re.findall(ended, output) == [("1", "imported"), ("2", "imported"), ("3", "made")]
    assert "3 evaluated runs." in output
    imported = next(there.glob(f"cells/*seed2*/{IMPORTED}"))
    with changing(imported) as facts:
        facts["records"]["train"]["recipe"]["version"] = 0
        facts["records"]["train"]["hash"] = sealed(facts["records"]["train"])
        facts["hash"] = sealed(facts)
    assert f"{imported.parent}: its train is of version 0, now 3; it counts as not run" in told(*sweep, "do=plan")
    assert ("2", "made") in re.findall(ended, told(*sweep))
    assert [each.imported is None for each in read_runs(there)] == [False, True, True]
