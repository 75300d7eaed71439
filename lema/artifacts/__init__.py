"""Where outputs live and when they are current.

An artifact is a folder `RUNS/STAGE/LABEL-KEY`. Its key is a hash of its recipe: the stage and its version, the part of
the config that matters, the digests of its inputs' contents. So a current artifact is found by name, and another config
or input leads to another folder. Each attempt builds it in a folder of its own, `LABEL-KEY.ATTEMPT.partial`, under
`LABEL-KEY.lock`, and renames that when it is whole, with `record.json`: its recipe, the SHA-256 of each file, a
summary, how it was made (seconds, when, on what, with what), and a hash of all that. No symbolic link is written
through or emptied: what it points to is somebody else's.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from lema.artifacts.links import (
    IMPORTED as IMPORTED,
    STOPPED as STOPPED,
    duplicate as duplicate,
    follow as follow,
    own_folder as own_folder,
    point as point,
    put,
    put_back,
    read as read,
    refuse_links as refuse_links,
    replacing,
)
from lema.artifacts.locks import TakenOver as TakenOver, check as check, lock as lock
from lema.artifacts.machine import made_on
from lema.artifacts.records import (
    Shown,
    contents as contents,
    foreseen as foreseen,
    is_whole as is_whole,
    numbers,
    sealed as sealed,
    used as used,
)
from lema.console.progress import Progress
from lema.identity import digest, identity, portable
from lema.types import UserError

log = logging.getLogger(__name__)
Record = TypeVar("Record")

RESUME = "resume"  # the folder in a partial artifact from which a later attempt can go on
CLEANED = "cleaned.json"  # in an artifact: the files that `do=clean` deleted, as nothing needed them any more
_ATTEMPT = "attempt.json"  # in it: when the attempt began
FORMAT = 2  # of record.json; 1 did not say what is shown, and its recipes had other keys
# What may be raised by reading JSON that is not as we wrote it.
DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_VERIFIED_BYTES = 64 << 20  # larger files are not hashed again each time an artifact is read


@dataclass(frozen=True)
class Given:
    """A text or a file that an artifact is made from and that no step makes. A recipe holds its digest alone."""

    digest: Any
    value: Any

    @classmethod
    def text(cls, text: str) -> "Given":
        """A text, such as demonstrations."""
        return cls(digest(text), text)


@dataclass(frozen=True)
class Recipe:
    """What an artifact is made from; all but the label and `shown` is its identity.

    `settings` and `inputs` are all that a stage's `build` may read. The identity leaves out settings that are marked
    with `NO_EFFECT`, and it has each input's `digest`, never a path or a time.
    """

    stage: str
    label: str  # readable part of the folder's name
    version: int  # of the stage's code: raise it when the same recipe would give other bytes
    settings: Any  # a dataclass of the stage: `Settings`
    inputs: Any  # likewise, `Inputs`: artifacts, weights and what is `Given`, or lists and dictionaries of them
    shown: Shown

    def identity(self) -> dict[str, Any]:
        """Plain values, as they stand in record.json."""
        config, inputs = portable(identity(self.settings)), _digests(self.inputs)
        return {"stage": self.stage, "version": self.version, "config": config, "inputs": inputs}


def _digests(value: Any) -> Any:
    """What stands for inputs in a recipe."""
    if hasattr(value, "digest"):
        return value.digest
    parts = vars(value) if is_dataclass(value) else value
    return {name: _digests(part) for name, part in parts.items() if part} if isinstance(parts, dict) else parts


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `digest` stands for its contents."""

    path: Path
    digest: str
    summary: dict[str, Any]
    shown: Shown
    cleaned: frozenset[str] = frozenset()  # the files that it no longer has
    at: str = ""  # when it was made, as `moment` writes it

    @classmethod
    def recorded(cls, path: Path, record: dict[str, Any]) -> "Artifact":
        """The artifact in a folder by its `record.json`."""
        cleaned = frozenset(kept(path / CLEANED) or ())
        at = str(record.get("made", {}).get("at", ""))
        return cls(path, contents(record), dict(record["summary"]), Shown.recorded(record), cleaned, at)

    @property
    def facts(self) -> str:
        """The numbers of its summary, in words."""
        return numbers(self.summary)

    @property
    def is_there(self) -> bool:
        """Whether it is still as it was found, and not cleaned since."""
        return (self.path / "record.json").is_file() and frozenset(kept(self.path / CLEANED) or ()) == self.cleaned

    def read(self, record: type[Record]) -> Record:
        """The fields of its summary that a dataclass names."""
        return record(**{each.name: self.summary[each.name] for each in fields(record)})  # pyright: ignore

    def rows(self, name: str, record: type[Record]) -> list[Record]:
        """The records of one of its JSON lines files."""
        return list(self.stream(name, record))

    def stream(self, name: str, record: type[Record]) -> Iterator[Record]:
        """The same, one at a time."""
        return read_jsonl(self.path / name, record)


@dataclass(frozen=True)
class Store:
    """The artifacts below one runs folder."""

    root: Path

    def find(self, recipe: Recipe) -> Artifact | None:
        """The current artifact of a recipe, or None. `UserError` when its files or record were changed afterwards."""
        folder = self._folder(recipe)
        file, again = folder / "record.json", f"delete {folder} to make it again"
        try:
            record = json.loads(read(file))
            if record.get("format", FORMAT) > FORMAT:
                raise UserError(f"{file}: written by a newer lema; update lema, or {again}")
            artifact = Artifact.recorded(folder, record)
            files = {name: sha256 for name, sha256 in record["files"].items() if name not in artifact.cleaned}
            if not is_whole(record):
                raise UserError(f"{file}: changed after it was made; {again}")
            for file, sha256 in ((folder / name, sha256) for name, sha256 in files.items()):
                if not file.is_file() or (file.stat().st_size <= _VERIFIED_BYTES and _sha256(file) != sha256):
                    raise UserError(f"{file}: changed or removed after it was made; {again}")
            return artifact
        except (FileNotFoundError, NotADirectoryError):
            refuse_links(folder, file)
            if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
                raise UserError(f"{file}: removed after it was made; put it back, or {again}") from None
            return None
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); mend that, or {again}") from None
        except DAMAGED:
            raise UserError(f"{file}: damaged after it was made; {again}") from None

    def make(
        self,
        recipe: Recipe,
        build: Callable[[Path], dict[str, Any]],
        again: Callable[[Artifact], bool] = lambda _: False,
    ) -> tuple[Artifact, bool]:
        """The artifact of a recipe, and whether this call made it; one that `again` asks for is made anew.

        `build(folder)` writes its files and returns the summary: plain values that depend on the recipe alone.
        """
        folder = self._folder(recipe)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock(folder) as held:
            put_back(folder)
            if (found := self.find(recipe)) and not again(found):
                return found, False
            own = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
            try:
                _take_over(folder, own)
                return _made(recipe, build, own, folder, replace=found is not None), True
            except BaseException as error:
                if why := held.lost():
                    if not (own / RESUME / _ATTEMPT).exists():  # taken over, and what is there was written since
                        shutil.rmtree(own, ignore_errors=True)
                    if isinstance(error, Exception):  # what it is about is a folder that has been taken away
                        raise TakenOver(why) from error
                raise

    def seconds_of_older(self, stage: str) -> list[float]:
        """How long each artifact of a stage took that an older version made: no recipe of today finds it."""
        found = []
        for file in self.root.glob(f"{stage}/*/record.json"):
            with contextlib.suppress(OSError, *DAMAGED):
                record = json.loads(read(file))
                found += [float(record["made"]["seconds"])] if record["format"] < FORMAT else []
        return found

    def place(self, recipe: Recipe) -> str:
        """Where below the runs folder its artifact lies, there or not: `STAGE/LABEL-KEY`."""
        return f"{recipe.stage}/{recipe.label}-{digest(recipe.identity())}"

    def _folder(self, recipe: Recipe) -> Path:
        return self.root / self.place(recipe)


def _take_over(folder: Path, own: Path) -> None:
    """Make the folder of a new attempt, `own`, and move the files there from which it can go on.

    An earlier owner may only be paused. So its files are moved one by one: when it wakes, it finds none of them by
    path, and none in a folder that it holds open. Files that it had not finished stay behind.
    """
    name = f"{folder.name}."
    earlier = [path for path in folder.parent.iterdir() if path.name.startswith(name) and path.suffix == ".partial"]
    refuse_links(folder, *earlier, *(path / RESUME for path in earlier))
    refuse_links(*(file for path in earlier for file in (path / RESUME).rglob("*")))
    check(at_once=True)  # one of them may belong to a process that took over from this one
    own_folder(own)
    # First an attempt with _ATTEMPT: one without was written to after it was taken over.
    for path in sorted(earlier, key=lambda path: not (path / RESUME / _ATTEMPT).exists()):
        for file in sorted((path / RESUME).rglob("*")):
            moved = own / file.relative_to(path)
            misplaced = "." in str(file.relative_to(path).parent)  # in a folder that is in the place of a file
            if file.is_file() and not misplaced and not file.name.startswith(".") and not moved.exists():
                moved.parent.mkdir(parents=True, exist_ok=True)
                os.rename(file, moved)
        shutil.rmtree(path, ignore_errors=True)


def moment() -> str:
    """Now, to the second: `2026-11-28T22:23:13+0000`."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _made(recipe: Recipe, build: Callable[[Path], dict[str, Any]], own: Path, folder: Path, replace: bool) -> Artifact:
    """Build the artifact in `own`, and rename that to `folder`; `replace` what is there."""
    before, start = _spent(own / RESUME), time.monotonic()
    summary = build(own)
    paths = sorted(path for path in own.rglob("*") if path.is_file() and not path.is_relative_to(own / RESUME))
    with Progress("file written to the disk and read again", len(paths)) as progress:
        files = {path.relative_to(own).as_posix(): _sha256(path, sync=True) for path in progress.over(paths)}
    seconds = before + time.monotonic() - start
    made = {"seconds": round(seconds, 1), "at": moment(), **made_on()}
    record = {"format": FORMAT, "recipe": recipe.identity(), "files": files, "summary": summary, "made": made}
    record["shown"] = asdict(recipe.shown)
    write_json(own / "record.json", record | {"hash": sealed(record)})
    spent = own.with_name(f"{own.stem}_done.partial")
    check(at_once=True)
    os.renames(own / RESUME, spent / RESUME)  # whole until the artifact is there: a later attempt goes on from it
    put(own, folder, replace)
    shutil.rmtree(spent, ignore_errors=True)
    return Artifact.recorded(folder, record)


def _spent(resume: Path) -> float:
    """The seconds of earlier attempts, each up to its last written file; records that another begins now."""
    begun, spent = resume / _ATTEMPT, 0.0
    resume.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError, *DAMAGED):
        attempt = json.loads(read(begun))
        written = [path.stat().st_mtime for path in resume.rglob("*") if path.is_file()]
        spent = attempt["spent"] + max(0.0, max(written) - attempt["begun"])
    write_json(begun, {"begun": time.time(), "spent": spent})
    return spent


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text)


def read_jsonl(path: Path, record: type[Record]) -> Iterator[Record]:
    """The records of a JSON lines file, one at a time; `UserError` names the first line that holds none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = record(**json.loads(line))
            except DAMAGED:
                damaged = f"{path} line {number}: damaged after it was made"
                raise UserError(f"{damaged}; delete {path.parent} to make it again") from None
            yield row


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write dataclass records or plain dicts, one JSON object a line, each as it comes."""
    with replacing(path) as file, Progress("row", math.inf, lambda: [f"for {path.name}"]) as progress:
        for record in progress.over(records):
            check()
            row = record if isinstance(record, dict) else vars(record)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def keep(path: Path, value: Any) -> None:
    """Write plain values for a later attempt, with a hash of them and of the file's name."""
    write_json(path, {"kept": value, "hash": digest([path.name, value])})


def kept(path: Path) -> Any:
    """What `keep` wrote; None where the file is missing or, with a warning, damaged."""
    try:
        found = json.loads(read(path))
        if found["hash"] == digest([path.name, found["kept"]]):
            return found["kept"]
    except FileNotFoundError:
        return None
    except DAMAGED:
        pass
    log.warning("%s is damaged, and made again", path)
    return None


def fingerprint(path: Path, sync: bool = False) -> str:
    """A cheap check that a file is unchanged: its SHA-256, or the size of a large one. `sync` flushes it first."""
    if sync:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    size = path.stat().st_size
    return _sha256(path) if size <= _VERIFIED_BYTES else f"{size} bytes"


def _sha256(path: Path, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
