"""The report on all runs of a runs folder, or on those of one sweep: tables, words and plots on disk."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lema.artifacts import Artifact, check, fingerprint, keep, kept, lock, own_folder, write_text
from lema.identity import without_paths
from lema.privacy import shown
from lema.reporting import commands, export, markdown, plots
from lema.reporting.comparing import Comparison, compare
from lema.reporting.runs import DAMAGE, Run, read_runs
from lema.tracking.reports import Content, Task, publish_report
from lema.tracking.runs import SHARED, run_id


def compared(
    root: Path,
    folders: Iterable[Path] | None = None,
    margin: float | None = None,
    contrasts: Sequence[tuple[str, str]] | None = None,
) -> Comparison:
    """The numbers of the runs of these folders, there or not; None takes every run below `root`.

    What was stated beforehand is as in `compare`.
    """
    return compare([checked(run) for run in read_runs(root, folders)], margin, contrasts)


def write_report(
    root: Path,
    label: str = "all",
    folders: Iterable[Path] | None = None,
    margin: float | None = None,
    contrasts: Sequence[tuple[str, str]] | None = None,
) -> tuple[Path, Comparison, bool]:
    """Write `reports/LABEL/` and print its Markdown; returns the folder, the numbers, and whether anything is new.

    What it is about is as in `compared`: `folders` are those of a sweep's runs.
    """
    folder = own_folder(root / "reports" / label)
    with lock(folder):  # runs that end together write the same report
        comparison = compared(root, folders, margin, contrasts)
        new = _write(comparison, folder)
        text = (folder / "report.md").read_text(encoding="utf-8")
    words = re.sub(r"\n(!\[.*\]\(.*\)\n)+", "", text)  # all but the pictures
    print(f"\n{words}\nwritten to {folder}", flush=True)
    return folder, comparison, new


def checked(run: Run) -> Run:
    """The run, tried alone; with a `trouble` where its records would break the report."""
    if run.trouble:
        return run
    try:
        alone = compare([run])
        markdown.render(alone, {})
        export.as_json(alone)
    except DAMAGE as error:
        why = f"{type(error).__name__}: {without_paths(str(error))}"
        return replace(run, trouble=f"its records are damaged ({why}); delete its folders and run its command again")
    return run


def _write(comparison: Comparison, folder: Path) -> bool:
    """Write the files and return whether the numbers are new; pictures are drawn only then."""
    numbers, written, drawn = export.as_json(comparison), folder / "report.json", folder / ".drawn.json"
    check()  # reading all runs takes a while
    new = not written.is_file() or written.read_bytes() != numbers.encode() or kept(drawn) != _drawn(folder)
    if new:
        for old in folder.glob("*.png"):
            old.unlink()
        plots.draw(comparison, folder)
        check()
        tables = export.tables(comparison)
        for old in (each for each in folder.glob("*.csv") if each.name not in tables):
            old.unlink()
        for name, text in tables.items():
            write_text(folder / name, text)
        keep(drawn, _drawn(folder))
    pictures = {task: [name for name in plots.names(task) if (folder / name).is_file()] for task in comparison.tasks}
    text = markdown.render(comparison, pictures)
    write_text(folder / "report.md", shown(text))
    write_text(folder / SHARED, shown(_shared(comparison, text)))
    write_text(folder / "report.json", numbers)  # last: it vouches for the pictures
    return new


def _shared(comparison: Comparison, text: str) -> str:
    """A text of the report as W&B may have it."""
    overrides, roots = [each for run in comparison.runs for each in run.overrides], comparison.runs[:1]
    return commands.shared(text, overrides, roots[0].folder.parents[1]) if roots else text


def _drawn(folder: Path) -> dict[str, str]:
    """File name -> fingerprint, of the pictures and tables."""
    return {file.name: fingerprint(file) for kind in ("*.png", "*.csv") for file in sorted(folder.glob(kind))}


def evaluations(comparison: Comparison) -> list[Artifact]:
    """The evaluations that a report is made from."""
    runs = [run for arm in comparison.arms for run in arm.runs if run.imported is None]
    steps = [(run, step) for run in runs for step in ("evaluate_untuned", "evaluate") if step in run.records]
    found = {run.at(step).resolve(): run.records[step] for run, step in steps}  # each once, whoever shares it
    return [Artifact.recorded(path, record) for path, record in found.items()]


def publish(root: Path, label: str, project: str, folder: Path, comparison: Comparison) -> str:
    """Make the same report at W&B; its address."""
    return publish_report(at_wandb(comparison, root, f"lema: {label}"), project, folder / "wandb_report.json")


def at_wandb(comparison: Comparison, root: Path, title: str) -> Content:
    """The report's tables and words for W&B, with the ids of their runs."""

    def ids(runs: Iterable[Run], step: str) -> list[str]:
        made = [run for run in runs if step in run.records and (step in run.wandb or run.imported is None)]
        keys = [run.at(step).resolve().name.rpartition("-")[2] for run in made]
        return [run.wandb.get(step) or run_id(root, step, key) for run, key in zip(made, keys, strict=True)]

    tasks = []
    for task in comparison.tasks:
        runs = [run for arm in comparison.of(task).arms if arm.tuned for run in arm.runs]
        found = markdown.sections(comparison, task)
        sections = [(heading, _shared(comparison, text)) for heading, text in found]
        metrics = sorted({f"{run.links.get('evaluate', 'evaluate')}/accuracy" for run in runs})
        tasks.append(Task(task, sections, ids(runs, "train"), ids(runs, "evaluate"), metrics))
    others = _shared(comparison, markdown.not_compared(comparison))
    return Content(title, tasks, f"{markdown.LEGEND}\n\n{others}")
