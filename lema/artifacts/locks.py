"""Lock files: each artifact in the making has one owner, which touches its lock; a dead or silent owner loses it.

A paused owner (SIGSTOP, a suspended laptop) is silent too, and may wake after another process has taken over. So the
owner of locks calls `check` at each step of its work: `check` raises when another process holds one of them.
"""

import contextlib
import logging
import math
import os
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from lema.artifacts.links import refuse_links
from lema.console.progress import Progress
from lema.types import UserError

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0  # a lock's owner touches it this often
STALE_SECONDS = 60.0  # an owner silent for longer is dead, or paused (twelve missed beats)
UNSIGNED_SECONDS = 10.0  # a lock without a readable owner for longer is nobody's: owners sign as they make the file
LOOK_SECONDS = 1.0  # `check` looks at a lock this often


class TakenOver(UserError):
    """Another process has taken over the work of this one, and only that process records how the run ends."""


class InUse(UserError):
    """Another process has held the lock for longer than this one would wait."""


class Held:
    """A lock that this process holds."""

    def __init__(self, target: Path) -> None:
        self.target, self.path = target, Path(f"{target}.lock")
        self.looked_at = 0.0
        self.lease = SoftFileLease(
            self.path, lease_duration=STALE_SECONDS, heartbeat_interval=min(HEARTBEAT_SECONDS, STALE_SECONDS / 2)
        )

    def lost(self) -> str:
        """Why this process no longer holds the lock; "" while it does. Ask before results are made visible."""
        self.looked_at, lost, own = time.monotonic(), self.lease.compromise, f"token={self.lease.token}\n".encode()
        try:
            signed = self.path.read_bytes()
        except FileNotFoundError:
            signed = b""
        except OSError:  # a network drive that is away for a moment: the heartbeat says when it is for too long
            signed = own
        if own in signed:
            again = "run the same command again"
            return f"{self.path}: could not be touched for {STALE_SECONDS:g} s ({lost.error}); {again}" if lost else ""
        owner = self.lease.owner
        who = f"process {owner.pid} on {owner.hostname}" if owner else "which has ended, or removed the lock"
        taken = f"another process has taken over ({who}), as this one was silent for too long"
        return f"{self.path}: {taken}; what it makes is {self.target}: run the same command again to go on from there"

    def acquire(self, at_most: float) -> None:
        """Wait for a living owner; take over the lock of a dead or silent owner, or a lock without an owner.

        Raises `InUse` after `at_most` seconds.
        """
        said, start = "", time.monotonic()
        with Progress(f"waiting for {self.path}", facts=lambda: [said] if said else []):
            for holder in self._tries():
                if time.monotonic() - start > at_most:
                    raise InUse(f"{self.path}: another process holds it")
                if not said:
                    log.info("%-16s for %s: %s", "waiting", self.path, holder)
                said = holder

    def _tries(self) -> Iterator[str]:
        """Try until the lock is held; after each try in vain, who holds it and when it is free."""
        seen, since, patience = None, 0.0, 0.0
        while True:
            self.refuse_other()
            try:
                self.lease.acquire(timeout=patience)
                return
            except Timeout:
                patience = LOOK_SECONDS
            except LeaseSettingsMismatch:  # another version of lema holds it, or held it
                time.sleep(LOOK_SECONDS)
            now, owner, found = time.monotonic(), self.lease.owner, _state(self.path)
            if found != seen:
                seen, since = found, now
            # filelock takes over from a dead or silent owner, but not on every file system, nor whatever the file says.
            lasts = UNSIGNED_SECONDS if owner is None else max(STALE_SECONDS, owner.lease_duration or 0.0)
            if found and now - since > lasts + LOOK_SECONDS:
                self._break(found)
            elif found:
                at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found[0] / 1e9))
                who = f"process {owner.pid} on {owner.hostname}" if owner else "nobody that can be read"
                then = f"goes on when it is released, or untouched for {lasts:.0f} s; if nothing runs there, delete it"
                yield f"held by {who}, last touched at {at}; {then}"

    def refuse_other(self) -> None:
        """`UserError` when something else is in the place of the lock."""
        refuse_links(self.path)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(self.path).st_mode):
                raise UserError(f"{self.path}: no file, where the lock of {self.target.name} belongs; remove it")

    def _break(self, found: tuple[int, bytes]) -> None:
        """Remove the lock, unless it is another process's by now: then put it back."""
        aside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, aside)
            if _state(aside) != found and not self.path.exists():
                os.rename(aside, self.path)
            aside.unlink(missing_ok=True)


def _state(path: Path) -> tuple[int, bytes] | None:
    """When a lock was touched, in ns, and by whom; None when there is none."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns, file.read(1024)
    except FileNotFoundError:
        return None


def has_ended(host: str, pid: int) -> bool:
    """Whether a process ran on this machine, and is gone."""
    if host != socket.gethostname() or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's process
        pass
    return False


def in_use(target: Path) -> str:
    """By whom `target`.lock is held, in words; "" when by nobody who lives. It changes nothing."""
    held = Held(target)
    held.refuse_other()
    if not (found := _state(held.path)) or abs(time.time() - found[0] / 1e9) > STALE_SECONDS:
        return ""
    owner = held.lease.owner
    if owner and has_ended(owner.hostname, owner.pid):
        return ""
    return f"process {owner.pid} on {owner.hostname}" if owner else "a process that has not signed its lock"


_held: list[Held] = []  # by this process


@contextlib.contextmanager
def lock(target: Path, at_most: float = math.inf) -> Iterator[Held]:
    """Hold `target`.lock: wait for a living process that holds it, take a dead or silent one's over.

    Raises `InUse` when a living process holds it for longer than `at_most` seconds.
    """
    held = Held(target)
    held.acquire(at_most)
    _held.append(held)
    try:
        yield held
    finally:
        _held.remove(held)
        held.lease.release()


def check(at_once: bool = False) -> None:
    """`TakenOver` when another process has taken over what this one is making; cheap enough for each row."""
    for held in _held:
        if (at_once or time.monotonic() - held.looked_at >= LOOK_SECONDS) and (why := held.lost()):
            raise TakenOver(why)
