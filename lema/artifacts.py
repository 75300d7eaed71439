"""Where outputs live and when they are current.

An artifact is a folder `RUNS/STAGE/LABEL-KEY`. Its key is a hash of its recipe: the stage and its version, the
part of the config that matters, the digests of its inputs' contents. So a current artifact is found by name, and
another config or input leads to another folder. `record.json` beside the files is written last:

    {"recipe": {...}, "files": {"wrong.jsonl": "<sha256>"}, "summary": {...}, "made": {"seconds": 12.1, ...}}

It is built in `LABEL-KEY.partial`, which becomes `LABEL-KEY` in one rename, so a half-written artifact is never
read. What a stage keeps below `.partial/resume` survives a kill and is gone from the finished artifact.
A process holds `LABEL-KEY.lock` while it builds; others wait, then read. A dead owner's lock is taken over.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from lema.config import digest
from lema.types import UserError

log = logging.getLogger(__name__)
Record = TypeVar("Record")

RESUME = "resume"  # the folder inside a partial artifact that a stage may resume from
HEARTBEAT_SECONDS = 5.0  # a lock's owner touches it this often
STALE_SECONDS = 60.0  # an owner silent for longer is dead (twelve missed beats)
VERIFIED_BYTES = 64 << 20  # larger files are not hashed again each time an artifact is read


@dataclass(frozen=True)
class Recipe:
    """What an artifact is made from. `inputs` are digests of contents, never paths or times."""

    stage: str
    label: str  # readable part of the folder's name
    version: int  # of the stage's code: raise it when the same recipe would give other bytes
    config: dict[str, Any]
    inputs: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "label"}


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `digest` stands for its contents."""

    path: Path
    digest: str
    summary: dict[str, Any]

    def rows(self, name: str, record: type[Record]) -> list[Record]:
        """The records of one of its JSON lines files."""
        return list(read_jsonl(self.path / name, record))


class Store:
    """The artifacts below one runs folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, recipe: Recipe) -> Artifact | None:
        """The current artifact of a recipe, or None. `UserError` when its files were changed afterwards."""
        folder = self._folder(recipe)
        try:
            record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        for name, sha256 in record["files"].items():
            file = folder / name
            if not file.is_file() or (file.stat().st_size <= VERIFIED_BYTES and _sha256(file) != sha256):
                raise UserError(f"{file}: changed or removed after it was made; delete {folder} to make it again")
        return Artifact(folder, digest([record["recipe"], record["files"]]), record["summary"])

    def make(self, recipe: Recipe, build: Callable[[Path], dict[str, Any]]) -> tuple[Artifact, bool]:
        """The artifact of a recipe, and whether this call made it.

        `build(folder)` writes the files into `folder` and returns the summary: counts and other plain values
        that depend on the recipe alone (no times).
        """
        if found := self.find(recipe):
            return found, False
        folder = self._folder(recipe)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock(folder) as still_mine:
            if found := self.find(recipe):  # made while this process waited
                return found, False
            partial = folder.with_name(folder.name + ".partial")
            for leftover in [path for path in partial.glob("*") if path.name != RESUME]:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            partial.mkdir(exist_ok=True)
            start = time.monotonic()
            summary = build(partial)
            shutil.rmtree(partial / RESUME, ignore_errors=True)
            paths = sorted(path for path in partial.rglob("*") if path.is_file())
            files = {path.relative_to(partial).as_posix(): _sha256(path, sync=True) for path in paths}
            made = {"seconds": round(time.monotonic() - start, 1), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            record = {"recipe": recipe.identity(), "files": files, "summary": summary, "made": made}
            write_json(partial / "record.json", record)
            still_mine()
            os.replace(partial, folder)
        found = self.find(recipe)
        assert found is not None
        return found, True

    def _folder(self, recipe: Recipe) -> Path:
        return self.root / recipe.stage / f"{recipe.label}-{digest(recipe.identity())}"


def resume_folder(partial: Path) -> Path:
    """Where a stage keeps what a later attempt at the same artifact can go on from."""
    folder = partial / RESUME
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def lock(target: Path) -> Iterator[Callable[[], None]]:
    """Hold `target`.lock; wait while a living process holds it.

    Yields a function that raises `UserError` when the lock was lost meanwhile (this process was suspended for so
    long that another took it over): call it before making results visible.
    """
    path = target.with_name(target.name + ".lock")
    me = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
    waiting = False
    while True:
        with _guard(path):  # looking and taking are one step
            owner = _owner(path)
            if not _alive(owner, path):
                write_json(path, me)
                break
        if not waiting:
            log.info("waiting      for process %s on %s, which is making %s", owner["pid"], owner["host"], target)
            waiting = True
        time.sleep(0.2)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    beat.start()

    def still_mine() -> None:
        if _owner(path).get("token") != me["token"]:
            raise UserError(f"{path}: another process took this lock over; run the same command again")

    try:
        yield still_mine
    finally:
        stop.set()
        beat.join()
        with _guard(path):
            if _owner(path).get("token") == me["token"]:
                path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step: a reader sees the old file or the new one."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write dataclass records or plain dicts, one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            row = record if isinstance(record, dict) else asdict(record)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path, record: type[Record]) -> Iterator[Record]:
    """The records of a JSON lines file that `write_jsonl` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield record(**json.loads(line))


@contextlib.contextmanager
def _guard(path: Path) -> Iterator[None]:
    with (path.parent / ".guard").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _owner(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _alive(owner: dict[str, Any], path: Path) -> bool:
    if not owner or time.time() - path.stat().st_mtime > STALE_SECONDS:
        return False
    if owner["host"] == socket.gethostname():
        try:
            os.kill(owner["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's living process
            return True
    return True


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)


def _sha256(path: Path, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
