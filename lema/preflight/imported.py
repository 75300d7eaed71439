"""The cells of a sweep that were made elsewhere, and brought here: which count as done, and whose they are."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lema.artifacts import DAMAGED, Artifact
from lema.cell import Cell, Step
from lema.reporting import results
from lema.types import UserError


def move(
    write: bool,
    root: Path,
    file: str | None,
    label: str = "all",
    folders: list[Path] | None = None,
    cells: Mapping[str, Cell] | None = None,
) -> None:
    """Write the results of all runs, or of a sweep's `cells`, as one file; or bring those of a file here."""
    named = Path(file) if file else None
    if write:
        results.write_results(root, label, folders, named)
    else:
        results.read_results(root, named, _of_sweep(cells.values()) if cells else None)


def is_done(cell: Cell, steps: Sequence[Step]) -> bool:
    """Whether a cell's results were imported, and each step is of today's version; else a line says which is not."""
    if (found := results.brought(cell.folder)) is None:
        return False
    if why := found.trouble or next(_amiss(cell, steps, found.records), None):
        _tell(cell.folder, why)
    return not why


def _amiss(cell: Cell, steps: Sequence[Step], records: dict[str, Any]) -> Iterator[str]:
    """Why the records of an imported run are not what its steps would make today."""
    stand = replace(cell, artifacts={})
    for step in steps:
        if step.name not in records:
            yield f"it has no {step.name}"
            return
        try:
            now, then = step.recipe(stand).version, records[step.name]["recipe"]["version"]
            if now != then:
                yield f"its {step.name} is of version {then}, now {now}"
        except UserError:  # what it is made from is not here, and need not be
            pass
        except DAMAGED:
            yield "its records are not as lema writes them"
        stand.artifacts[step.name] = Artifact.recorded(cell.folder / step.name, records[step.name])


@cache
def _tell(folder: Path, why: str) -> None:
    """Once a process."""
    print(f"{'imported':<16} {folder}: {why}; it counts as not run", flush=True)


def _of_sweep(cells: Iterable[Cell]) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """Says for an imported run which cell of a sweep it is: the run as that cell's, or None.

    It is the cell of the same command. Where data and weights lie may differ, as it does from machine to machine, and
    then the run gets this machine's places, and the setting of the cells that are run here.
    """
    named = {cell.folder.name: cell for cell in cells}
    placed: dict[str, list[Cell]] = {}
    for cell in named.values():
        placed.setdefault(results.portable_key(cell.identity), []).append(cell)

    def as_cells(kept: dict[str, Any]) -> dict[str, Any] | None:
        if kept["cell"] in named:
            return kept
        if not (alike := placed.get(results.portable_key(kept["run"]["config"]))):
            return None
        if len(alike) > 1:
            names = ", ".join(each.folder.name for each in alike)
            raise UserError(
                f"{kept['cell']}: may be any of {names}, which differ in paths alone; name one of the paths"
            )
        [cell] = alike
        made = {step: Artifact.recorded(cell.folder / step, record) for step, record in kept["records"].items()}
        whole = replace(cell, artifacts=made)
        tests = {of: {"task": test.identity["task"], "setting": test.setting} for of, test in whole.tests.items()}
        facts = {"config": cell.identity, "setting": whole.setting} | ({"tests": tests} if tests else {})
        return kept | {"cell": cell.folder.name, "run": kept["run"] | facts}

    return as_cells
