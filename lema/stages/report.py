"""report: what all runs of a runs folder, or those of one sweep, show together: tables, words and plots on disk."""

from collections.abc import Iterable
from pathlib import Path

from lema.artifacts import write_text
from lema.reporting import export, markdown, plots
from lema.reporting.comparing import Comparison, compare
from lema.reporting.results import read_runs


def publish(root: Path, label: str = "all", folders: Iterable[Path] | None = None) -> tuple[Path, Comparison, bool]:
    """Write `reports/LABEL/` and print its Markdown; returns the folder, the numbers, and whether anything is new.

    `folders` are those of a sweep's runs, there or not; None takes every run.
    """
    comparison = compare(read_runs(root, folders))
    folder = root / "reports" / label
    folder.mkdir(parents=True, exist_ok=True)
    new = _write(comparison, folder)
    text = (folder / "report.md").read_text(encoding="utf-8")
    print(f"\n{_without_pictures(text)}\nwritten to {folder}", flush=True)
    return folder, comparison, new


def _write(comparison: Comparison, folder: Path) -> bool:
    """Nothing is drawn again when nothing changed: a run that finds all its artifacts answers at once."""
    numbers = export.as_json(comparison)
    new = not (folder / "report.json").is_file() or (folder / "report.json").read_text(encoding="utf-8") != numbers
    if new:
        for old in folder.glob("*.png"):
            old.unlink()
        plots.draw(comparison, folder)
        write_text(folder / "report.csv", export.arms_csv(comparison))
        write_text(folder / "differences.csv", export.differences_csv(comparison))
    pictures = {task: [name for name in plots.names(task) if (folder / name).is_file()] for task in comparison.tasks}
    write_text(folder / "report.md", markdown.render(comparison, pictures))
    write_text(folder / "report.json", numbers)  # last: it says that the pictures are those of these numbers
    return new


def _without_pictures(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if not line.startswith("!["))
