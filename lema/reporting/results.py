"""Results that travel: what finished runs left, less texts, weights and this machine's paths, in one file; and back.

A run that was brought here lies in its folder as `imported.json`, and `runs.py` reads it as any other.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lema.artifacts import IMPORTED, contents, is_whole, own_folder, read, refuse_links, sealed, write_json, write_text
from lema.identity import digest, placeless, portable, without_paths
from lema.privacy import shown
from lema.reporting.packed import packed, unpacked
from lema.reporting.runs import DAMAGE, Evaluation, Run, as_runs, read_runs
from lema.types import UserError

_POINTS = 200  # of a training curve, at most
_RECORD = "format", "recipe", "summary", "made", "shown"
_COUNTS = "correct", "symbolic", "samples"  # of a problem's row of verdicts; the last of samples alone
# Of a run: `cell`, the name of its folder; `of`, the same in the file that it came from; `run`, `records`, `rows`.
Kept = dict[str, Any]


def write_results(root: Path, label: str, folders: Iterable[Path] | None, file: Path | None) -> None:
    """Write what the finished runs left, of all or of a sweep's `folders`, to `results/LABEL.jsonl` or to a file."""
    runs = read_runs(root, folders)
    done = [run for run in runs if run.trouble is None and not run.links]
    if not done:
        raise UserError(f"do=export_results: no run of {label} below {root} has a score; run some first")
    further = {run.folder: [each for each in runs if each.folder == run.folder and each.links] for run in done}
    text = packed([_exported(run, further[run.folder]) for run in sorted(done, key=lambda run: run.folder.name)])
    if shown(text) != text:
        raise UserError("do=export_results: a secret of the environment stands in the settings of a run; unset it")
    file = file or own_folder(root / "results") / f"{label}.jsonl"
    refuse_links(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise UserError(f"results.file={file}: cannot be written ({error.strerror}); name another") from None
    for run in (run for run in runs if run.trouble and not run.links):
        print(f"{'left out':<16} {run.name}: {run.trouble}")
    print(f"{'results':<16} {len(done)} runs, {len(text) / 1000:.0f} kB: {file}")


def _exported(run: Run, further: list[Run]) -> Kept:
    """What may leave this machine of a run and of the further tests that it was asked."""
    tests = {
        each.links["evaluate"].removesuffix("evaluate"): {"task": each.config["task"], "setting": each.setting}
        for each in further
    }
    facts = {
        "name": run.name,
        "state": without_paths(run.state),
        "overrides": [placeless(each) for each in run.overrides],
        "config": run.config,
        "setting": run.setting,
        "wandb": run.wandb,
        **({"tests": tests} if tests else {}),
    }
    rows: dict[str, dict[str, Any]] = {}
    for each in (run, *further):
        for step, file, found in _rows(each):
            rows.setdefault(each.links.get(step, step), {})[file] = _columns(found)
    return {
        "cell": run.folder.name,
        "run": portable(facts),
        "records": {step: _record(record) for step, record in _records(run, further).items()},
        "rows": rows,
    }


def _rows(run: Run) -> Iterable[tuple[str, str, list[dict[str, Any]]]]:
    """The rows of its files that a report needs, without texts: of which step, of which file."""
    for step, file in product(("evaluate", "evaluate_untuned"), ("predictions.jsonl", "sampled.jsonl")):
        counts = _COUNTS[: 3 if file == "sampled.jsonl" else 2]
        with suppress(OSError, *DAMAGE):  # they are missing or damaged, or there are none
            rows = run.rows(step, file)
            verdicts = [{"problem_id": row["problem_id"]} | {name: int(row[name]) for name in counts} for row in rows]
            yield step, file, verdicts
    if run.levels:
        yield *run.asked_in, [{"id": problem, "level": level} for problem, level in run.levels.items()]
    if not run.links and (curve := run.curve()):
        width = -(-len(curve) // _POINTS)
        windows = [curve[start : start + width] for start in range(0, len(curve), width)]
        yield (
            "train",
            "metrics.jsonl",
            [{"step": each[-1][0], "loss": float(f"{np.mean([loss for _, loss in each]):.4g}")} for each in windows],
        )


def _record(record: dict[str, Any]) -> dict[str, Any]:
    """A record without its files; it says the digest of their contents in their place."""
    own = portable({name: record[name] for name in _RECORD if name in record}) | {"contents": contents(record)}
    return own | {"hash": sealed(own)}


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows by column; whole numbers as one text, each as wide as the largest: `{"wide": 1, "digits": "0110"}`."""
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    for name, values in columns.items():
        if all(isinstance(each, int) and each >= 0 for each in values):
            wide = len(str(max(values)))
            columns[name] = {"wide": wide, "digits": "".join(f"{each:0{wide}}" for each in values)}
    return columns


def _from_columns(columns: dict[str, Any]) -> list[dict[str, Any]]:
    def numbers(wide: int, digits: str) -> list[int]:
        return [int(digits[start : start + wide]) for start in range(0, len(digits), wide)]

    values = {name: numbers(**each) if isinstance(each, dict) else each for name, each in columns.items()}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def read_results(root: Path, file: Path | None, of_sweep: Callable[[Kept], Kept | None] | None = None) -> None:
    """Bring the runs of a file into a runs folder: all, or those that `of_sweep` has a cell for, as it names them.

    What has a score from here stays as it is. `UserError`, and nothing is written, where that has other verdicts.
    """
    if file is None:
        raise UserError("results.file=null: name a file of do=export_results, results.file=FILE")
    cells = own_folder(root / "cells")
    try:
        found = [_kept(file, values) for values in unpacked(read(file))]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); name a file of do=export_results") from None
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    named = filter(None, map(of_sweep, found)) if of_sweep else found
    wanted: list[Kept] = [kept | {"run": portable(kept["run"])} for kept in named]
    if not wanted:
        raise UserError(f"{file}: has no run of this sweep; without sweeps= all its {len(found)} runs are imported")
    if len({kept["cell"] for kept in wanted}) < len(wanted):
        raise UserError(f"{file}: several of its runs are one cell of this sweep; import them without sweeps=")
    before = {path.parent.name: kept for path in cells.glob(f"*/{IMPORTED}") if (kept := _there(path))}
    places: dict[str, str] = {kept["of"]: cell for cell, kept in before.items()}
    new, own, same = list[Kept](), 0, 0
    for kept in wanted:
        if not of_sweep and kept["of"] in places:
            kept = _as_before(kept, before[places[kept["of"]]])
        cell = str(kept["cell"])
        theirs = as_runs(cells / cell, kept["run"], kept["records"], kept["rows"])
        ours = read_runs(root, [cells / cell])
        if why := _contradicted(ours, theirs):
            remedy = "delete its folder, or import into another runs_dir"
            raise UserError(f"{file}: {cell}: {why}; nothing was imported; {remedy}")
        if ours[0].trouble is None and ours[0].imported is None:
            own += 1
        elif before.get(cell) == kept:
            same += 1
        else:
            new.append(kept)
        if theirs[0].trouble:
            print(f"{'not counted':<16} {cell}: {theirs[0].trouble}")
    for kept in new:
        write_json(own_folder(cells / kept["cell"]) / IMPORTED, kept | {"hash": sealed(kept)})
        old = cells / str(places.get(kept["of"], kept["cell"]))
        if old.name != kept["cell"]:  # imported for no sweep, or for another
            (old / IMPORTED).unlink()
            with suppress(OSError):  # it has more
                old.rmdir()
    others = f", {len(found) - len(wanted)} of no cell of this sweep" if len(found) > len(wanted) else ""
    counts = f"{len(new)} imported, {same} imported before, {own} run here{others}"
    print(f"{'results':<16} {len(found)} runs of {file}: {counts}")


def _as_before(kept: Kept, before: Kept) -> Kept:
    """A run as the cell of a sweep that it was imported as, with that cell's places."""
    run = kept["run"] | {name: before["run"][name] for name in ("config", "setting")}
    if tests := run.get("tests"):
        run["tests"] = tests | before["run"].get("tests", {})
    return kept | {"cell": before["cell"], "run": run}


def _kept(file: Path, values: Any) -> Kept:
    """One run of a file, as `imported.json` has it. `UserError` where its values are not as we write them."""
    try:
        rows = {
            step: {name: _from_columns(columns) for name, columns in files.items()}
            for step, files in values["rows"].items()
        }
        name = str(values["cell"])
        if Path(name).name != name or name.startswith(".") or not name.isprintable() or len(name) > 200:
            raise ValueError(name)
        kept = {"cell": name, "of": name, "run": values["run"], "records": values["records"], "rows": rows}
        as_runs(Path(name), kept["run"], kept["records"], rows)
        return kept
    except DAMAGE:
        raise UserError(f"{file}: its runs are not as lema writes them; fetch it again") from None


def brought(folder: Path) -> Run | None:
    """What was imported of a cell, the records of its further tests by their links; None where nothing was imported.

    None also where the cell has a score from here.
    """
    if not (folder / IMPORTED).is_file():
        return None
    run, *further = read_runs(folder, [folder])
    return None if run.imported is None else replace(run, records=_records(run, further))


def _records(run: Run, further: Iterable[Run]) -> dict[str, dict[str, Any]]:
    return run.records | {link: each.records[step] for each in further for step, link in each.links.items()}


def portable_key(config: dict[str, Any]) -> str:
    """A digest of a run's config without where data and weights lie: the same for one command on two machines."""
    return digest(_without_places(portable(config)))


def _without_places(config: Any) -> Any:
    if isinstance(config, dict):
        return {name: _without_places(part) for name, part in config.items() if name != "path"}
    return [_without_places(part) for part in config] if isinstance(config, list) else config


def _there(path: Path) -> Kept | None:
    """What was imported before; None where that is damaged, as it is then imported again."""
    try:
        kept = json.loads(read(path))
        return {name: kept[name] for name in ("cell", "of", "run", "records", "rows")} if is_whole(kept) else None
    except (OSError, *DAMAGE):
        return None


def _contradicted(ours: Iterable[Run], theirs: Iterable[Run]) -> str | None:
    """Which verdicts are others here than in a file, for the same test of a cell; None where none are."""
    usable = [[run for run in runs if run.trouble is None] for runs in (ours, theirs)]
    for mine, other in product(*usable):
        if mine.score.task == other.score.task and not _agree(mine.tuned, other.tuned):
            whose = "imported" if mine.imported is not None else "run"
            rates = f"{mine.score.task} {mine.score.accuracy:.1%}, now {other.score.accuracy:.1%}"
            return f"it was {whose} here with other verdicts ({rates})"
    return None


def _agree(mine: Evaluation, theirs: Evaluation) -> bool:
    """Whether two evaluations have the same verdicts; where either's are missing, the same accuracy."""
    if mine.verdicts is None or theirs.verdicts is None:
        return mine.score.accuracy == theirs.score.accuracy
    pairs = [(mine.verdicts, theirs.verdicts), (mine.sampled_verdicts, theirs.sampled_verdicts)]
    return all(
        first.ids == second.ids and np.array_equal(getattr(first, rule), getattr(second, rule))
        for first, second in pairs
        if first and second
        for rule in ("correct", "symbolic")
    )
