"""A lock that cannot be a living owner's is taken over, whatever it says; who waits says for whom, and until when."""

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small import ROOT
from tables import some

from lema.artifacts import locks
from lema.console import progress
from lema.types import UserError

FUTURE = 4_000_000_000  # the year 2096
MARKER = "filelock/2\npid={pid}\nhost={host}\nmode={mode}\ntoken=abc\nduration={duration}\n"
ELSEWHERE = MARKER.format(pid=os.getpid(), host="elsewhere", mode="lease", duration=1.0)
NOBODYS = {
    "empty": b"",
    "garbage": b"\xff\xfe\x00 garbage",
    "a line": b"\n",
    "cut": ELSEWHERE[:40].encode(),
    "large": b"x" * 100_000,
    "of an old filelock, elsewhere": b"123\nelsewhere\n",
    "elsewhere, with this pid": ELSEWHERE.encode(),
    "of a newer filelock": MARKER.format(pid=1, host="elsewhere", mode="newer", duration=1.0).encode(),
    "exclusive, elsewhere": MARKER.format(pid=1, host="elsewhere", mode="exclusive", duration=1.0).encode(),
    "for another time": MARKER.format(pid=1, host="elsewhere", mode="lease", duration=1.5).encode(),
    "here, of a process that is gone": MARKER.format(
        pid=2**30, host=socket.gethostname(), mode="lease", duration=1.0
    ).encode(),
    "strict": b"1\nfilelock-strict-v1\x00\n0\n",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(locks, "UNSIGNED_SECONDS", 0.5)
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.2)


def test_the_lock_of_a_killed_owner_is_taken_over(tmp_path: Path) -> None:
    program = "import sys, time; from pathlib import Path; from lema.artifacts.locks import lock\n"
    program += "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", program, str(tmp_path / "x")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "held\n"
        assert (tmp_path / "x.lock").exists()
        owner.kill()
    start = time.monotonic()
    with locks.lock(tmp_path / "x") as held:
        assert not held.lost()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("touched", [0, FUTURE], ids=["long ago", "in the future"])
@pytest.mark.parametrize("content", some(NOBODYS.values(), 4), ids=list(NOBODYS))
def test_a_lock_of_no_living_owner_is_taken_over(
    tmp_path: Path, content: bytes, touched: int, caplog: pytest.LogCaptureFixture
) -> None:
    path, start = tmp_path / "x.lock", time.monotonic()
    path.write_bytes(content)
    os.utime(path, (touched, touched))
    with caplog.at_level(logging.INFO, "lema"), locks.lock(tmp_path / "x") as held:
        assert not held.lost()
        locks.check(at_once=True)
    assert time.monotonic() - start < 8
    assert [each.name for each in tmp_path.iterdir()] == []
    for record in caplog.records:
        assert f"for {path}: held by " in record.getMessage()


def test_where_names_cannot_be_exchanged_a_dead_owner_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is on exFAT, and on what is mounted by FUSE."""
    monkeypatch.setattr("filelock._soft._exclusive._recovery.exchange_names", lambda *_: False)
    (tmp_path / "x.lock").write_bytes(NOBODYS["here, of a process that is gone"])
    start = time.monotonic()
    with locks.lock(tmp_path / "x") as held:
        assert not held.lost()
    assert time.monotonic() - start < 8


def test_who_waits_for_a_living_owner_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def wait() -> None:
        with locks.lock(tmp_path / "x"):
            pass

    waiter = threading.Thread(target=wait)
    with caplog.at_level(logging.INFO, "lema"), locks.lock(tmp_path / "x") as held:
        waiter.start()
        time.sleep(3.5)
        assert not held.lost()
        assert waiter.is_alive()
        told, later = [record.getMessage() for record in caplog.records], progress.line()
    waiter.join(10)
    assert len(told) == 1
    assert f"waiting for {tmp_path}/x.lock for " in later, "the watch over the progress repeats it"
    assert f", held by process {os.getpid()} on " in later
    pattern = rf"waiting +for {tmp_path}/x\.lock: held by process {os.getpid()} on \S+, last touched at 20\d\d-.*; "
    assert all(
        re.match(pattern + "goes on when it is released, or untouched for 1 s; .* delete it", each) for each in told
    )


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "broken link"])
def test_what_is_no_file_in_the_place_of_a_lock_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.lock"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "file").touch()
        path.symlink_to(tmp_path / ("file" if kind == "link" else "nowhere"))
    with pytest.raises(UserError, match=rf"^{path}: ") as raised, locks.lock(tmp_path / "x"):
        pass
    assert "\n" not in str(raised.value)
    assert os.path.lexists(path)


def test_check_names_who_took_over_and_what_it_makes(tmp_path: Path) -> None:
    locks.check()
    with locks.lock(tmp_path / "x") as held:
        locks.check(at_once=True)
        held.path.unlink()
        with pytest.raises(locks.TakenOver, match="has ended, or removed the lock"):
            locks.check(at_once=True)
        held.path.write_text(ELSEWHERE)
        with pytest.raises(
            locks.TakenOver, match=rf"process {os.getpid()} on elsewhere.*; what it makes is {tmp_path}/x"
        ):
            locks.check(at_once=True)
    locks.check(at_once=True)
    assert held.path.read_text() == ELSEWHERE


def test_a_lock_that_cannot_be_read_for_a_moment_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locks.lock(tmp_path / "x") as held:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            assert not held.lost()
        assert not held.lost()
