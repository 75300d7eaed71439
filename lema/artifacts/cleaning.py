"""What no run needs any more: found on the disk alone, named with its size, and deleted when asked for.

A run needs what its folder in `cells/` points to, what that was made from, and what it was making when it ended; the
folder itself is a result and stays. Of a training whose runs have all selected, they need the chosen checkpoint alone.

A run may begin at any moment. So we hold the lock of what we delete, mark it as gone first, and take that back when a
run points to it by then: a run points to what it has found, and looks afterwards whether all of it is still there.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from lema.artifacts import (
    CLEANED,
    DAMAGED,
    FORMAT,
    IMPORTED,
    RESUME,
    STOPPED,
    contents,
    follow,
    keep,
    kept,
    locks,
    refuse_links,
    used,
)

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_ENTRY = re.compile(r"(.+-[0-9a-f]{12})((?:\.\w+)?\.partial|\.old|\.lock|)")  # an artifact, or what lies beside it
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}|.+\.break\.\d+\.[0-9a-f]{32}")  # of `replacing`, of `point`, of locks
_CHECKPOINTS, _SELECT = "checkpoints", "select"
_ARTIFACTS = "data", "mix", "train", "select", "merge"  # the inputs that always are artifacts; a base may be a folder
_WHERE_TEMPORARY = "*/.*", f"*/*/.{CLEANED}.*", "*/*.lock.break.*", "cells/*/.*", "cells/*/hub/*/.*", "reports/*/.*"
_KILLED = "left by a process that was killed"
_UNKNOWN = "?"  # what an unfinished run made and was making, where an earlier lema took no note of it
# The last kind is named and never deleted. Artifacts go first: a selection that goes frees its checkpoint.
_KINDS = "unreferenced", "stale", "checkpoint", "partial", "temporary", "left"
_LEFT = _KINDS[-1]


@dataclass(frozen=True)
class _Found:
    """A file or folder, and why it is not needed (or is left); `target` is what its lock is beside."""

    kind: str
    path: Path
    why: str
    target: Path


@dataclass(frozen=True)
class _Made:
    """What an artifact's record says: its digest, its inputs' digests, the steps of the checkpoints it needs."""

    digest: str
    inputs: frozenset[str]
    artifacts: frozenset[str]  # those of the inputs that are artifacts for certain
    steps: frozenset[int]
    old: bool  # of an older lema


@cache
def _made(record: Path, _changed: int) -> _Made | None:
    """None for a record that is missing or damaged."""
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        config, inputs = facts["recipe"]["config"], facts["recipe"]["inputs"]
        artifacts = {name: inputs.get(name) for name in _ARTIFACTS}
        steps = frozenset({facts["summary"].get("step"), config.get("step")} - {None})
        old = facts.get("format", FORMAT) < FORMAT
        return _Made(contents(facts), frozenset(used(inputs)), frozenset(used(artifacts)), steps, old)
    except (FileNotFoundError, *DAMAGED):
        return None


def _making(folder: Path) -> set[str]:
    """The places of what a run was making when it ended, and has not finished since."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        ended = facts["state"].startswith(("finished", STOPPED))
        return set(facts.get("making", [] if ended else [_UNKNOWN]))
    except FileNotFoundError:  # an imported one has made nothing here
        return set() if (folder / IMPORTED).is_file() else {_UNKNOWN}
    except DAMAGED:
        return {_UNKNOWN}


class _Seen:
    """The runs and artifacts below a runs folder as they are now. The place of an artifact is `STAGE/LABEL-KEY`."""

    def __init__(self, root: Path, stages: list[str]) -> None:
        self.root, self.stages = root, [root / stage for stage in stages]
        folders = sorted(folder for folder in root.glob("cells/*") if folder.is_dir())
        refuse_links(root / "cells", *folders, *self.stages)  # what is beyond them may point to an artifact too
        making = {folder.name: _making(folder) for folder in folders}
        self.making = set[str]().union(*making.values())
        self.runs = {folder.name: self._pointed(folder) | making[folder.name] for folder in folders}
        self.pointed = set[str]().union(*self.runs.values())
        self.entries = sorted(path for stage in self.stages if stage.is_dir() for path in stage.iterdir())
        self.made: dict[str, _Made | None] = {}
        for path in self.entries:
            if (entry := _ENTRY.fullmatch(path.name)) and not entry[2] and path.is_dir() and not path.is_symlink():
                record = path / "record.json"
                self.made[self.place(path)] = _made(record, record.stat().st_mtime_ns if record.is_file() else 0)
        self.digests = {made.digest for made in self.made.values() if made}
        self.needed = self._needs(self.pointed)

    def place(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _pointed(self, folder: Path) -> set[str]:
        """Where a run's folder leads, by paths below the runs folder."""
        real = f"{os.path.realpath(self.root)}{os.sep}"
        targets = [os.path.realpath(follow(path)) for path in (*folder.iterdir(), *folder.glob("hub/*/*"))]
        return {target.removeprefix(real) for target in targets}

    def _needs(self, pointed: set[str]) -> set[str]:
        """The artifacts that are pointed to, and those that they were made from."""
        needed, todo = set[str](), pointed & self.made.keys()
        while todo := todo - needed:
            needed |= todo
            inputs = set[str]().union(*(made.inputs for place in todo if (made := self.made[place])))
            todo = {place for place, made in self.made.items() if made and made.digest in inputs}
        return needed

    def look(self) -> Iterator[_Found]:
        """All that no run needs, and what is left although it looks so."""
        found = [each for path in self.entries if (each := self.judge(path))]
        for place in self.needed:
            for path, why in self.superfluous(place, self.needed).items():
                found.append(_Found("checkpoint", path, why, self.root / place))
        for each in found:
            user = not each.path.is_symlink() and locks.in_use(each.target)
            if not user:
                yield each
            elif each.path.suffix != ".lock":
                yield _Found(_LEFT, each.path, f"in use by {user}", each.target)
        real = os.path.realpath(self.root)
        for path in (path for among in _WHERE_TEMPORARY for path in self.root.glob(among)):
            old = time.time() - path.lstat().st_mtime > locks.STALE_SECONDS
            linked = os.path.realpath(path.parent) != os.path.join(real, path.parent.relative_to(self.root))
            if _TEMPORARY.fullmatch(path.name) and old and not linked and (path.is_symlink() or path.is_file()):
                yield _Found("temporary", path, _KILLED, path)
        for name, pointed in self.runs.items():
            if any(made.old for place in self._needs(pointed) if (made := self.made[place])):
                others = (each for other, each in self.runs.items() if other != name)
                alone = self._needs(pointed) - self._needs(set[str]().union(*others))
                size = _human(sum(_size(self.root / place) for place in alone))
                folder = self.root / "cells" / name
                yield _Found(
                    _LEFT, folder, f"of an older lema: without this folder, {size} more could be deleted", folder
                )

    def judge(self, path: Path) -> _Found | None:
        """What an entry of a stage's folder is; None if it is needed, or not ours."""
        if not (entry := _ENTRY.fullmatch(path.name)):
            return None
        target = path.with_name(entry[1])
        place = self.place(target)
        if path.is_symlink():
            return _Found(_LEFT, path, "a symbolic link, which is not followed", target)
        if entry[2] == ".old" and place in self.pointed and place not in self.made:
            why = "a process was killed as it replaced this; the next command of its run puts it back"
            return _Found(_LEFT, path, why, target)
        if entry[2] in (".old", ".lock"):
            return _Found("temporary", path, _KILLED, target)
        if entry[2]:
            written = [file for file in (path / RESUME).rglob("*") if file.is_file()]
            age = _age(max((file.lstat().st_mtime for file in (path, *written)), default=0.0))
            whose = [name for name, pointed in self.runs.items() if pointed & {place, _UNKNOWN}]
            again = place in self.making  # it is there, and a run makes it anew
            if len(written) < 2 or (place in self.made and not again):  # one file says when the attempt began
                return _Found("partial", path, f"{age} old; nothing to go on from", target)
            if not whose:
                return _Found("partial", path, f"{age} old; no run goes on from it", target)
            return _Found(_LEFT, path, f"{age} old; without it, {whose[0]} would start this step over", target)
        made = self.made.get(place)
        if place in self.needed:
            why = "its record cannot be read; the command of a run that needs it names the remedy"
            return None if made else _Found(_LEFT, path, why, target)
        if made is None:
            return _Found("stale", path, "its record cannot be read", target)
        if made.old:
            return _Found("stale", path, "made by an older lema", target)
        if made.artifacts - self.digests:
            return _Found("stale", path, "what it was made from is gone", target)
        if unsure := [name for name, pointed in self.runs.items() if _UNKNOWN in pointed]:
            why = f"{unsure[0]}, unfinished, may need it; run its command again, or delete its folder"
            return _Found(_LEFT, path, why, target)
        return _Found("unreferenced", path, "no run needs it", target)

    def superfluous(self, place: str, choosers: Iterable[str]) -> dict[Path, str]:
        """The checkpoints of a training that no chooser needs, and why; none until all its runs have selected."""
        folder, made = self.root / place / _CHECKPOINTS, self.made.get(place)
        if made is None or folder.is_symlink() or not folder.is_dir():
            return {}
        chose = {each: other for each in choosers if (other := self.made[each]) and made.digest in other.inputs}
        selections = {each for each in chose if each.startswith(f"{_SELECT}/")}
        runs = [pointed for pointed in self.runs.values() if place in pointed]
        if not runs or not all(pointed & selections for pointed in runs):
            return {}
        if any(each.startswith(f"{_SELECT}/") and each not in self.made for pointed in runs for each in pointed):
            return {}  # a run selects anew
        steps = sorted({step for other in chose.values() for step in other.steps})
        beginning = f"{place}/{_CHECKPOINTS}/"
        uploaded = {
            each.removeprefix(beginning).partition("/")[0] for each in self.pointed if each.startswith(beginning)
        }
        chosen, why = {f"step-{step}" for step in steps} | uploaded, f"selected: step {', '.join(map(str, steps))}"
        paths = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
        return {path: why for path in paths if path.name not in chosen}


def _steady(look: Callable[[], _T]) -> _T:
    """What `look` finds, also where other processes make and delete meanwhile what it looks at."""
    for _ in range(20):
        with contextlib.suppress(FileNotFoundError):
            return look()
    return look()


def clean(root: Path, stages: list[str], delete: bool, deleting: str) -> None:
    """Name what no run needs, and with `delete` delete it; `deleting` is the command that does."""
    found = _steady(lambda: {each: _size(each.path) for each in _Seen(root, stages).look()})
    sizes = {each: found[each] for each in sorted(found, key=lambda each: (_KINDS.index(each.kind), each.path))}
    if (wandb := root / "wandb").is_dir() and not wandb.is_symlink():
        why = "W&B's: `wandb sync` uploads, `wandb clean` deletes what is uploaded"
        sizes[_Found(_LEFT, wandb, why, wandb)] = _steady(lambda: _size(wandb))
    for each, size in sizes.items():
        log.info("%-16s %9s  %s  %s", each.kind, _human(size), each.path, each.why)
    unneeded = [each for each in sizes if each.kind != _LEFT]
    told = f"{len(unneeded)} files and folders, {_human(sum(sizes[each] for each in unneeded))}"
    if not unneeded:
        log.info("%-16s nothing below %s that no run needs", "clean", root)
    elif not delete:
        log.info("%-16s %s; nothing was deleted: %s", "clean", told, deleting)
    else:
        freed = sum(sizes[each] for each in unneeded if _deleted(root, stages, each))
        log.info("%-16s %s; %s were freed", "clean", told, _human(freed))


def _deleted(root: Path, stages: list[str], found: _Found) -> bool:
    """Delete what was found, unless it is in use or a run needs it by now; whether it is gone."""
    if found.path == found.target and found.kind == "temporary":
        found.path.unlink(missing_ok=True)
        return True
    delete = _delete_checkpoint if found.kind == "checkpoint" else _delete_entry
    try:
        with locks.lock(found.target, at_most=locks.STALE_SECONDS + 2 * locks.LOOK_SECONDS):
            # A lock goes when it is released; another cleaner may have deleted the rest.
            if found.path.suffix == ".lock" or not os.path.lexists(found.path) or delete(root, stages, found):
                return True
        why = "a run needs it by now"
    except locks.InUse:
        why = "in use by now"
    log.info("%-16s %9s  %s  %s", _LEFT, "", found.path, why)
    return False


def _delete_entry(root: Path, stages: list[str], found: _Found) -> bool:
    """Delete an artifact, or a folder beside its place. As `.partial` it is never taken for a whole one."""
    path, trash = found.path, found.target.with_name(f"{found.target.name}.deleted.partial")
    now = _steady(lambda: _Seen(root, stages).judge(path))
    if now is None or now.kind == _LEFT:
        return False
    if path != trash:
        shutil.rmtree(trash, ignore_errors=True)  # of a clean that was killed
        os.rename(path, trash)
        seen = _steady(lambda: _Seen(root, stages))
        again = seen.judge(trash)
        if seen.place(path) in seen.pointed or (again and again.kind == _LEFT):
            os.rename(trash, path)
            return False
    shutil.rmtree(trash)
    return True


def _delete_checkpoint(root: Path, stages: list[str], found: _Found) -> bool:
    """Delete a checkpoint; its artifact notes what it lacks first, and is current without it."""
    note, place = found.target / CLEANED, found.target.relative_to(root).as_posix()
    before = kept(note) or []
    files = json.loads((found.target / "record.json").read_text(encoding="utf-8"))["files"]
    own = f"{found.path.relative_to(found.target).as_posix()}/"
    keep(note, sorted({*before, *(name for name in files if name.startswith(own))}))
    seen = _steady(lambda: _Seen(root, stages))
    if found.path not in seen.superfluous(place, seen.made):  # of whoever has chosen, needed or not
        keep(note, before)
        return False
    shutil.rmtree(found.path)
    return True


def _size(path: Path) -> int:
    """The bytes that deleting a file or folder frees: a file that has another name elsewhere frees none."""
    found: dict[tuple[int, int], list[os.stat_result]] = {}
    files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    for file in files if path.is_dir() and not path.is_symlink() else [path]:
        facts = file.lstat()
        found.setdefault((facts.st_dev, facts.st_ino), []).append(facts)
    return sum(names[0].st_size for names in found.values() if len(names) >= names[0].st_nlink)


def _human(size: float) -> str:
    """`1.2 GB`, of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _age(written: float) -> str:
    """`3 days`, since a time."""
    seconds = max(0.0, time.time() - written)
    name, length = next(
        each
        for each in (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))
        if seconds >= 2 * each[1] or each[1] == 1
    )
    return f"{seconds / length:.0f} {name}"
