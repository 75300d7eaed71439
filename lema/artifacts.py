"""Where outputs live and when they are current.

An artifact is a folder `RUNS/STAGE/LABEL-KEY`. Its key is a hash of its recipe: the stage and its version, the part of
the config that matters, the digests of its inputs' contents. So a current artifact is found by name, and another config
or input leads to another folder. It is built in `LABEL-KEY.partial` under `LABEL-KEY.lock` and renamed when whole, with
`record.json`: its recipe, the SHA-256 of each file, a summary, and how it was made (seconds, when, on what, with what),
and a hash of all that. No symbolic link is written through or emptied: what it points to is somebody else's.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from filelock import SoftFileLease, Timeout

from lema.identity import digest
from lema.machine import made_on
from lema.types import UserError

log = logging.getLogger(__name__)
Record = TypeVar("Record")

RESUME = "resume"  # the folder in a partial artifact from which a later attempt can go on
HEARTBEAT_SECONDS = 5.0  # a lock's owner touches it this often
STALE_SECONDS = 60.0  # an owner silent for longer is dead (twelve missed beats)
VERIFIED_BYTES = 64 << 20  # larger files are not hashed again each time an artifact is read


@dataclass(frozen=True)
class Recipe:
    """What an artifact is made from; all but the label is its identity."""

    stage: str
    label: str  # readable part of the folder's name
    version: int  # of the stage's code: raise it when the same recipe would give other bytes
    config: dict[str, Any]
    inputs: dict[str, Any]  # digests of contents, never paths or times

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "label"}


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `digest` stands for its contents."""

    path: Path
    digest: str
    summary: dict[str, Any]

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
            record = json.loads(file.read_text(encoding="utf-8"))
            files = dict(record["files"])
            artifact = Artifact(folder, digest([record["recipe"], files]), dict(record["summary"]))
            whole = is_whole(record)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, LookupError, TypeError):
            raise UserError(f"{file}: damaged after it was made; {again}") from None
        if not whole:
            raise UserError(f"{file}: changed after it was made; {again}")
        for file, sha256 in ((folder / name, sha256) for name, sha256 in files.items()):
            if not file.is_file() or (file.stat().st_size <= VERIFIED_BYTES and _sha256(file) != sha256):
                raise UserError(f"{file}: changed or removed after it was made; {again}")
        return artifact

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
        with lock(folder) as still_mine:
            if (found := self.find(recipe)) and not again(found):
                return found, False
            partial, start = own_folder(folder.with_name(folder.name + ".partial")), time.monotonic()
            old = folder.with_name(folder.name + ".old")
            refuse_links(folder, old, partial / RESUME)
            refuse_links(*(partial / RESUME).rglob("*"))
            for leftover in [path for path in partial.glob("*") if path.name != RESUME]:
                leftover.unlink() if leftover.is_symlink() or leftover.is_file() else shutil.rmtree(leftover)
            before = _spent(partial / RESUME)
            summary = build(partial)
            shutil.rmtree(partial / RESUME, ignore_errors=True)
            paths = sorted(path for path in partial.rglob("*") if path.is_file())
            files = {path.relative_to(partial).as_posix(): _sha256(path, sync=True) for path in paths}
            seconds = before + time.monotonic() - start
            made = {"seconds": round(seconds, 1), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **made_on()}
            record = {"recipe": recipe.identity(), "files": files, "summary": summary, "made": made}
            write_json(partial / "record.json", record | {"hash": _seal(record)})
            if not still_mine():
                raise UserError(f"{folder}.lock: another process took this lock over; run the same command again")
            if found:
                shutil.rmtree(old, ignore_errors=True)  # a killed process may have left one
                os.replace(folder, old)
                shutil.rmtree(old)
            os.replace(partial, folder)
        return Artifact(folder, digest([record["recipe"], files]), summary), True

    def _folder(self, recipe: Recipe) -> Path:
        return self.root / recipe.stage / f"{recipe.label}-{digest(recipe.identity())}"


def is_whole(record: dict[str, Any]) -> bool:
    """Whether a record is as it was written. One from before there was a hash in it is taken as it is."""
    return "hash" not in record or record["hash"] == _seal(record)


def _seal(record: dict[str, Any]) -> str:
    """The hash of all of a record but the hash itself, as JSON has it: a number is no name there."""
    return digest(json.loads(json.dumps({name: value for name, value in record.items() if name != "hash"})))


def own_folder(path: Path) -> Path:
    """A folder to write in, made where it is missing; `UserError` where a symbolic link has its place."""
    refuse_links(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_links(*paths: Path) -> None:
    """`UserError` names the first of the paths that is a symbolic link, which would be written through or replaced."""
    for path in paths:
        if path.is_symlink():
            why = "a symbolic link, which is not followed"
            raise UserError(f"{path}: {why}; put what it points to in its place, or remove the link")


def _spent(resume: Path) -> float:
    """Seconds that earlier attempts took, each up to the last file that it wrote; notes that one begins now."""
    begun, spent = resume / "attempt.json", 0.0
    resume.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError, ValueError, LookupError, TypeError):
        attempt = json.loads(begun.read_text(encoding="utf-8"))
        written = [path.stat().st_mtime for path in resume.rglob("*") if path.is_file()]
        spent = attempt["spent"] + max(0.0, max(written) - attempt["begun"])
    write_json(begun, {"begun": time.time(), "spent": spent})
    return spent


@contextlib.contextmanager
def lock(target: Path) -> Iterator[Callable[[], bool]]:
    """Hold `target`.lock: wait for a living process that holds it, take a dead or silent one's over.

    Yields a function that tells whether this process holds it still: to be asked before results show.
    """
    refuse_links(Path(f"{target}.lock"))
    lease = SoftFileLease(f"{target}.lock", lease_duration=STALE_SECONDS, heartbeat_interval=HEARTBEAT_SECONDS)

    def still_mine() -> bool:
        return lease.compromise is None and lease.owner is not None and lease.owner.token == lease.token

    try:
        lease.acquire(blocking=False)
    except Timeout:
        log.info("waiting      for process %s, which is making %s", lease.pid, target)
        lease.acquire()
    try:
        yield still_mine
    finally:
        lease.release()


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
            except (ValueError, TypeError):
                damaged = f"{path} line {number}: damaged after it was made"
                raise UserError(f"{damaged}; delete {path.parent} to make it again") from None
            yield row


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write dataclass records or plain dicts, one JSON object a line, each as it comes."""
    with replacing(path) as file:
        for record in records:
            row = record if isinstance(record, dict) else vars(record)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def keep(path: Path, value: Any) -> None:
    """Write plain values for a later attempt, with a hash of them and of the file's name."""
    write_json(path, {"kept": value, "hash": digest([path.name, value])})


def kept(path: Path) -> Any:
    """What `keep` wrote; None where there is nothing, or nothing whole, which is told: it is made again then."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["hash"] == digest([path.name, found["kept"]]):
            return found["kept"]
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):
        pass
    log.warning("%s is damaged, and made again", path)
    return None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file to write, in one step: a reader sees the old file or the whole new one; after an error, the old."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def fingerprint(path: Path, sync: bool = False) -> str:
    """What tells a file from what it was: its hash, of a large one its size. `sync` has it on the disk first."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
    size = path.stat().st_size
    return _sha256(path) if size <= VERIFIED_BYTES else f"{size} bytes"


def _sha256(path: Path, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
