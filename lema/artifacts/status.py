"""The status of a run, for whoever sees its folder: `status.json`, which the run writes every few seconds.

When a run ends, the file says how. A killed run writes nothing more, and is dead once it was silent for too long.
A file is replaced as a whole, so nobody reads half of one. The times are those of the file server, which all share.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path

from lema.artifacts.links import IMPORTED as IMPORTED, STOPPED as STOPPED, read as read_file
from lema.artifacts.locks import has_ended
from lema.console import progress

FILE = "status.json"
BEAT_SECONDS = 5.0  # a run writes this often
SILENT_SECONDS = 60.0  # a run that was silent for longer is dead, or paused
_UNREADABLE = (OSError, ValueError, TypeError, AttributeError)

# Of an attempt: it runs; it made what was left; there was nothing to make; an error ended it; a signal stopped it.
State = StrEnum("State", ["running", "done", "current", "failed", "stopped"])


@dataclass(frozen=True)
class Status:
    """How far the last attempt of a run is, or how it ended."""

    state: State
    step: str = ""  # that is being made, or was being made at the end
    number: int = 0  # of this step, from 1; 0 before the first
    steps: int = 0  # in all
    told: str = ""  # of a running one, what it does; of one that failed or was stopped, why
    left: float | None = None  # seconds of this step, where that is known
    began: float = 0.0  # the attempt, in Unix seconds
    host: str = ""
    pid: int = 0
    job: str = ""  # SLURM_JOB_ID, "" elsewhere
    attempt: str = ""  # tells attempts apart
    beat: float = 0.0  # when it was written, by the file server's clock

    def dead(self, now: float) -> bool:
        """Whether it ended without a word, as far as can be told at `now` (see `clock`)."""
        return self.state is State.running and (now - self.beat > SILENT_SECONDS or has_ended(self.host, self.pid))


def read(folder: Path) -> Status | None:
    """The status in a run's folder; None where there is none, or it cannot be read."""
    try:
        file = folder / FILE
        facts, beat = json.loads(read_file(file)), file.stat().st_mtime
        known = {each.name: facts[each.name] for each in fields(Status) if each.name in facts}
        return Status(**known | {"state": State(facts["state"]), "beat": beat})
    except (*_UNREADABLE, LookupError):
        return None


def write(folder: Path, status: Status) -> None:
    """Write a status, whose words must be safe to show, unless another attempt is alive.

    Raises `OSError`. It does not wait for the disk: a file that a power cut loses belongs to a run that ended with it.
    """
    temporary = folder / f".{FILE}.{uuid.uuid4().hex}"
    facts = asdict(status)
    del facts["beat"]
    try:
        temporary.write_text(json.dumps(facts, ensure_ascii=False) + "\n", encoding="utf-8")
        other = read(folder)
        ours = other is None or other.attempt == status.attempt or other.state is not State.running
        if ours or (other and other.dead(temporary.stat().st_mtime)):
            os.replace(temporary, folder / FILE)
    finally:
        temporary.unlink(missing_ok=True)


def clock(folder: Path) -> float:
    """The time of the file server that holds a folder; this machine's where nothing can be written there."""
    temporary = folder / f".clock.{uuid.uuid4().hex}"
    try:
        temporary.touch()
        return temporary.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class Teller:
    """Writes the status of a run from the beginning of its first step until its end. It never stops the run.

    Two attempts at one run may wait for each other: the one that came later is silent until the other one has ended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._over, self._writing = folder, threading.Event(), threading.Lock()
        self.status = Status(
            State.running,
            began=time.time(),
            host=socket.gethostname(),
            pid=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID", ""),
            attempt=uuid.uuid4().hex,
        )
        self._thread: threading.Thread | None = None

    def begin(self, step: str = "", number: int = 0, steps: int = 0) -> None:
        """Name the step that begins."""
        self.status = replace(self.status, step=step, number=number, steps=steps)
        self._write()
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()

    def end(self, state: State, why: str = "") -> None:
        """Say how the attempt ended, for good."""
        self._over.set()
        self._write(replace(self.status, state=state, told=why, left=None))

    def leave(self) -> None:
        """Say nothing more: the run is another process's."""
        self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._write()

    def _write(self, ended: Status | None = None) -> None:
        with self._writing, contextlib.suppress(OSError):  # a full disk, a folder that is gone: the run itself says so
            if ended is None and self._over.is_set():
                return
            told, left = progress.told()
            write(self.folder, ended or replace(self.status, told=told, left=left))
