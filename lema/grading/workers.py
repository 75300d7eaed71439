"""Worker processes for the comparison that may hang or crash: such an answer costs one worker and nothing else.

A worker is a fresh Python that imports only the grading, never the caller's script, so any program and thread may call
`equal`. Messages are JSON over a socket pair. The caller's process gets no signal handlers. The first call starts the
workers; they end when the process ends, even when it is killed.
"""

import atexit
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection

_SERVE = "import sys; from lema.grading.workers import serve; serve(int(sys.argv[1]))"
# A worker is ready in a second; a slow disk may need a minute.
_START_SECONDS = 60
_STARTS = 3
# In bytes; a worker needs a tenth of it.
_MEMORY = 1 << 30

_lock = threading.Lock()
_pools: dict[int, "_Pool"] = {}


def equal(pairs: Sequence[tuple[str, str]], deadline: float) -> list[bool]:
    """Whether found and gold answer of each pair are equal to `symbolic.equivalent`, worked out on all cores.

    A comparison that takes longer than `deadline` seconds, from the moment a ready worker takes it, or that costs its
    worker's life, finds them unequal. Raises RuntimeError when no worker can be started.
    """
    with _lock:
        owner = os.getpid()  # a fork has its parent's memory, but the workers are not its own
        pool = _pools[owner] = _pools.get(owner) or _Pool()
    ask = partial(pool.ask, deadline=deadline)
    if len(pairs) < 2:
        return [ask(pair) for pair in pairs]
    with ThreadPoolExecutor(min(pool.size, len(pairs))) as threads:
        return list(threads.map(ask, pairs))


class _Pool:
    """One worker a core at most, and a spare."""

    def __init__(self) -> None:
        # On a cluster a process may use fewer cores than there are; macOS does not say.
        self.size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.turns = threading.Semaphore(self.size)
        self.idle: deque[_Worker] = deque()  # the last to have served on the right
        atexit.register(self.stop)

    def ask(self, pair: tuple[str, str], deadline: float) -> bool:
        message, failures = json.dumps([*pair, deadline]).encode(), 0
        with self.turns:
            while failures < _STARTS:
                with _lock:
                    worker, fit = self.idle.pop() if self.idle else _Worker(), False
                    if not self.idle:  # a spare starts meanwhile, and replaces a worker that dies
                        self.idle.append(_Worker())
                failures += not worker.ready  # one that died idle is not counted, and the answer is not to blame
                try:
                    if worker.takes(message):
                        verdict, fit = worker.reply(deadline)
                        return verdict
                finally:
                    if fit:
                        self.idle.append(worker)
                    else:
                        worker.stop()
        raise RuntimeError(f"{_STARTS} grading workers did not start; their errors stand above, or they took a minute")

    def stop(self) -> None:
        while self.idle:
            self.idle.pop().stop()


class _Worker:
    """One process, and our end of the line to it."""

    def __init__(self) -> None:
        self.ready = False
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the caller
            )

    def takes(self, message: bytes) -> bool:
        """Send a comparison; False when the worker dies before it takes the comparison, or never gets ready."""
        with contextlib.suppress(EOFError, OSError):
            self.ready = self.ready or (self.connection.poll(_START_SECONDS) and bool(self.connection.recv_bytes()))
            if self.ready:
                self.connection.send_bytes(message)
                return self.connection.poll(_START_SECONDS) and bool(self.connection.recv_bytes())
        return False

    def reply(self, deadline: float) -> tuple[bool, bool]:
        """The verdict, and whether the worker may serve again; both are False when it is late or dead."""
        with contextlib.suppress(EOFError, OSError):
            if self.connection.poll(deadline):
                verdict, fit = json.loads(self.connection.recv_bytes())
                return verdict, fit
        return False, False

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


def serve(handle: int) -> None:
    """A worker's life: compare each pair that comes over the socket `handle`, until the caller is gone."""
    from lema.grading.symbolic import equivalent

    equivalent("\\sqrt{8}", "2\\sqrt{2}")  # loads SymPy and the parser, for which no answer shall pay
    with contextlib.suppress(ValueError, OSError):  # a system without the limit, or with a lower one
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    at_start = _peak_memory()
    with open(os.devnull, "w") as nowhere, Connection(handle) as connection, contextlib.suppress(EOFError, OSError):
        os.dup2(nowhere.fileno(), 2)  # what libraries say about hostile text is no news
        connection.send_bytes(b"ready")
        while True:
            found, gold, deadline = json.loads(connection.recv_bytes())
            connection.send_bytes(b"taken")
            # By the kernel's hand, where the caller was killed and cannot do it.
            signal.setitimer(signal.ITIMER_PROF, deadline + 1)
            try:
                verdict = bool(equivalent(found, gold))
            except Exception:  # SymPy has its own ways to fail on text that is no mathematics: it equals nothing
                verdict = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            fit = _peak_memory() - at_start < _MEMORY / 2  # a swollen one would fail on answers that are not to blame
            connection.send_bytes(json.dumps([verdict, fit]).encode())


def _peak_memory() -> int:
    """The most memory this process ever had, in bytes; Linux counts in what its caller had when it was started."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
