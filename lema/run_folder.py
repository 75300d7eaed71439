"""A run's folder: its state and config, links to its artifacts, and its metrics in one file.

`run.json` is written when each step begins, so the report knows of a run that dies, and `do=clean` of what it needs.
`status.json` is written all the time: it says how far a running one is.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lema.artifacts import DAMAGED, TakenOver, follow, own_folder, point, read, refuse_links, write_json, write_jsonl
from lema.artifacts.faults import explained
from lema.artifacts.status import STOPPED, State, Teller
from lema.cell import Cell
from lema.identity import portable
from lema.privacy import shown
from lema.stopping import Stopped
from lema.types import UserError

CURVE = "metrics.jsonl"  # of the train step, and of the run


@contextmanager
def recorded(cell: Cell, overrides: list[str], last: str, in_sweep: bool) -> Iterator[Callable[..., None]]:
    """Keep the folder while the steps up to `last` are made: its state is "running", then how the run ended.

    Yields a function to call when the steps begin, and when each one does, with the place of its artifact, its name,
    its number and how many there are. An error before is recorded only in a sweep, or when an earlier attempt left a
    run.json. A run that was taken over writes nothing: the folder is the other process's.
    """
    making, teller = "", Teller(cell.folder)

    def begin(place: str, *step: Any) -> None:
        nonlocal making
        making = place
        _write(cell, overrides, "running", making)
        teller.begin(*step)

    try:
        yield begin
    except TakenOver:
        teller.leave()
        raise
    except BaseException as error:
        if in_sweep or (cell.folder / "run.json").exists():
            error = explained(error, cell.store.root) or error
            known = isinstance(error, UserError | Stopped)
            words = shown(" ".join((str(error) if known else f"{type(error).__name__}: {error}").split()))
            with suppress(OSError, UserError):  # of a full disk, for instance: the user must see the first error
                _write(cell, overrides, words or type(error).__name__, making)
                teller.end(State.stopped if isinstance(error, Stopped) else State.failed, words or type(error).__name__)
        teller.leave()
        raise
    _write(cell, overrides, "finished" if last in ("evaluate", "report") else f"{STOPPED} {last}", making)
    teller.end(State.done if making else State.current)


def output(cell: Cell) -> Path:
    """The file for what a run prints that is a process of its own. Its folder is made."""
    file = own_folder(cell.folder) / "run.log"
    refuse_links(file)
    return file


def died(cell: Cell, overrides: list[str], how: str) -> None:
    """Record that the process of a run died without a word, and raise `UserError`."""
    with recorded(cell, overrides, "", in_sweep=True):
        raise UserError(how)


def _write(cell: Cell, overrides: list[str], state: str, making: str) -> None:
    """`making` is the place of the artifact that is being made, "" for none.

    All that attempts were making is noted until the run has finished: a later command may make something else first.
    """
    own_folder(cell.folder)
    for name, artifact in cell.artifacts.items():
        point(cell.folder / name, artifact.path)
    setting, wandb, tests = None, {}, {}  # an earlier attempt's: its setting holds until the data are read again
    before: list[str] | None = []
    with suppress(OSError, *DAMAGED):
        earlier = json.loads(read(cell.folder / "run.json"))
        setting, wandb = earlier.get("setting"), dict(earlier.get("wandb") or {})
        tests = dict(earlier.get("tests") or {})
        before = earlier.get("making", [] if earlier["state"].startswith(("finished", STOPPED)) else None)
    facts = {"name": cell.name, "key": cell.key, "state": state, "overrides": overrides}
    if before is not None:  # None: an earlier lema took no note, and its run has not ended
        facts["making"] = [] if state == "finished" else sorted({*before, making} - {""})
    facts |= {"config": portable(cell.identity), "setting": cell.setting or setting, "wandb": wandb | cell.tracker.ids}
    for of, test in cell.tests.items():
        known = test.setting or tests.get(of, {}).get("setting")
        tests[of] = {"task": test.identity["task"], "setting": known}
    facts |= {"tests": portable(tests)} if tests else {}
    write_json(cell.folder / "run.json", facts)
    write_jsonl(cell.folder / CURVE, _metrics(cell))


def _metrics(cell: Cell) -> Iterator[dict[str, Any]]:
    """The training curve, then the summary of each step, also of later steps that an earlier command made."""
    train = follow(cell.folder / "train") / CURVE
    if train.is_file():
        with train.open(encoding="utf-8") as file:
            yield from ({"stage": "train", **json.loads(line)} for line in file)
    for name, artifact in cell.artifacts.items():
        yield {"stage": name, "summary": artifact.summary}
    for step in sorted(cell.folder.iterdir()):
        if step.name not in cell.artifacts:
            with suppress(OSError, *DAMAGED):  # the report names a damaged record
                facts = json.loads(read(follow(step) / "record.json"))
                yield {"stage": step.name, "summary": facts["summary"]}
