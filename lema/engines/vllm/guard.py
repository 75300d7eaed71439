"""guard: a small process that runs a server and ends all of the server's processes when its own parent is gone.

`python -I guard.py COMMAND ...` needs a pipe as its stdin, which the parent holds open and never writes to. The end of
the pipe, the end of the parent (also by kill -9) and the end of the server each end everything. Linux gives the guard
whatever processes the server leaves behind, so none of them lives on. This file stands alone: it imports no other.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_GRACE = 10.0  # seconds for processes to end by themselves after SIGTERM
_LOOK = 0.2  # seconds
_DIE_WITH_PARENT, _ADOPT_ORPHANS = 1, 36  # of Linux's prctl


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another system
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _children() -> list[int]:
    """The processes whose parent is this one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in the second field may hold spaces and brackets.
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])
            found += [int(stat.parent.name)] if parent == os.getpid() else []
    return found


def _reaped() -> dict[int, int]:
    """The children that have ended since the last call, with their exit codes."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def _end_all() -> None:
    """End every child, and its children once they are ours."""
    told, deadline = set[int](), time.monotonic() + _GRACE
    while left := _children():
        late = time.monotonic() > deadline
        for pid in left if late else set(left) - told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        told.update(left)
        time.sleep(_LOOK / 4)
        _reaped()


def main(command: list[str]) -> int:
    """The server's exit code."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # the pipe says when to end; what is started has the defaults again
    _prctl(_ADOPT_ORPHANS, 1)
    parent, code = os.getppid(), None
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, preexec_fn=lambda: _prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    ).pid
    while code is None and os.getppid() == parent and not select.select([sys.stdin], [], [], _LOOK)[0]:
        code = _reaped().get(server)
    _end_all()
    return 0 if code is None else min(abs(code), 125) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
