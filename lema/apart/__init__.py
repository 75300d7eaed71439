"""Runs a cell of a sweep in a process of its own: a crash, the system's want of memory or leaked memory ends one cell.

What the process prints stands in the log of its run. It gets the stop signals of this process, and dies with it. On a
machine without a GPU, Python's fork server imports torch and the like once for all cells. A process that has looked for
a GPU must not be forked, so elsewhere each cell imports them itself.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.utils import configure_log
from omegaconf import DictConfig
from tqdm import tqdm

from lema import stopping
from lema.console import libraries, progress
from lema.privacy import guard
from lema.tracking import service
from lema.types import UserError

log = logging.getLogger(__name__)

_LONGEST = 16_000  # characters of an error: what a pipe takes at once
_GPUS = "/dev/nvidiactl", "/dev/kfd", "/dev/dxg"
_LOOK = 1.0  # seconds between two looks of a worker at its launcher
_launcher: list[int] = []  # the process that this one is a worker of
_preloaded: list[dict[str, str]] = []  # the variables that the fork server was started with


def run(make: Callable[[], object], output: Path, logs: tuple[Any, Any], variables: dict[str, str]) -> str:
    """Call `make` in a process of its own; how the process died, in words, or "".

    What it prints is added to the file `output`. `logs` are Hydra's settings of logging, `job_logging` as plain values
    and `verbose`. `variables` are added to the environment.
    Raises `UserError` for what ended the run, and `Stopped` for what ends the whole sweep.
    """
    forks = sys.platform == "linux" and not any(map(os.path.exists, _GPUS)) and _preloaded in ([], [variables])
    if forks:
        multiprocessing.set_forkserver_preload(["lema.apart.preloaded"])
        _preloaded[:] = [variables]
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    reader, writer = context.Pipe(duplex=False)
    about = (writer, make, output, logs, os.environ | variables, os.getcwd())
    process = context.Process(target=_serve, args=about)
    try:
        with _environment(variables):
            process.start()
        writer.close()
        waiting = progress.Progress(output.parent.name, facts=partial(_last, output))
        with stopping.landing(partial(_send, process.pid)), waiting:
            while not wait([process.sentinel], _LOOK):
                if _launcher and os.getppid() != _launcher[0]:
                    os._exit(1)  # and so does the cell
        process.join()
        told = reader.recv() if reader.poll() else None
    except EOFError:
        told = None
    finally:
        if process.pid:
            process.kill()
            process.join()
        reader.close()
    return _ended(told, process.exitcode)


def cards() -> list[str]:
    """The GPUs that a process may use here, as CUDA_VISIBLE_DEVICES names them. Nothing is asked of their driver."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = range(len(list(Path("/proc/driver/nvidia/gpus").glob("*")))) if given is None else given.split(",")
    return [each.strip() for each in map(str, found) if each.strip()]


def workers(arguments: list[str]) -> AbstractContextManager[None]:
    """While a launcher has workers here, they get the stop signals, and the launcher waits for their cells to end.

    A machine with GPUs has a worker for each, unless the command says how many: `arguments` are added to.
    """
    if (gpus := len(cards())) and not any(each.startswith("hydra.launcher.n_jobs=") for each in arguments):
        arguments.append(f"hydra.launcher.n_jobs={gpus}")
    return stopping.landing(lambda number: [_send(each.pid or 0, number) for each in multiprocessing.active_children()])


def enter_worker() -> None:
    """Obey the signals that a launcher passes on to this process, which is one of its workers, and end with it."""
    if not _launcher:
        stopping.listen(twice=False)
        multiprocessing.set_start_method("spawn", force=True)  # loky's is unknown to a cell
        _launcher.append(os.getppid())


@contextmanager
def card() -> Iterator[dict[str, str]]:
    """The variable that leaves a cell one GPU, which no other worker of this machine has.

    Locks are in the machine's own temporary folder: a runs folder may lie on a file system without locks.
    """
    free, waits = cards() if _launcher else [], False
    while len(free) > 1:
        for each in free:
            name = f"lema-gpu-{os.getuid()}-{each.replace('/', '-')}.lock"
            with suppress(Timeout), FileLock(Path(gettempdir()) / name, timeout=0):
                yield {"CUDA_VISIBLE_DEVICES": each}
                return
        if not waits:
            log.info("waits for one of the %d GPUs, which other cells use", len(free))
        waits = True
        time.sleep(_LOOK)
    yield {}


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """The environment in which the process and Python's own helpers start. They find this package by it, too."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    held = dict(os.environ)
    os.environ.update(variables, PYTHONPATH=path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(held)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _last(output: Path) -> list[str]:
    """The last line of a log."""
    with output.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1024))
        return [" ".join(each.split()) for each in file.read().decode(errors="replace").splitlines()[-1:]]


def _ended(told: tuple[str, str] | None, code: int) -> str:
    kind, text = told or ("died", "")
    if kind == "disk":  # no other cell could write either
        raise stopping.Stopped(text) from OSError(text)
    if stopping.received():
        if kind == "stopped":
            raise stopping.Stopped(text)
        stopping.begin(stopping.work()[0])  # which raises it
    if kind == "died":
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"left with exit status {code}"
        memory = ", as the system does for want of memory" if -code == signal.SIGKILL else ""
        return f"its process was {how}{memory}{stopping.GOES_ON}"
    if kind:
        raise UserError(text + (stopping.GOES_ON if kind == "stopped" else ""))
    return ""


def _serve(
    writer: Connection, make: Callable[[], object], output: Path, logs: tuple[Any, Any], given: dict[str, str], at: str
) -> None:
    """Be the process of a cell: call `make`, and tell how it ended."""
    os.setsid()  # a terminal's Ctrl-C reaches the sweep, which passes it on
    stopping.die_with(os.getppid())
    parent = multiprocessing.parent_process()
    if parent and not parent.is_alive():
        os._exit(1)
    os.chdir(at)
    os.environ.clear()
    os.environ.update(given)
    with output.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    stopping.listen(twice=False)
    guard()
    job_logging, verbose = logs
    if not verbose:
        libraries.quiet()
    configure_log(DictConfig(job_logging), verbose)
    progress.watch()
    tqdm.set_lock(threading.RLock())  # its own is one for several processes, and outlives a killed one
    told = ("", "")
    try:
        make()
    except stopping.Stopped as stop:
        told = ("disk" if stop.__cause__ else "stopped", str(stop.code).removesuffix(stopping.GOES_ON))
    except UserError as error:
        told = ("failed", str(error))
    except BaseException as error:  # a mistake of ours
        traceback.print_exc()
        told = ("failed", f"{type(error).__name__}: {error}; {output} ends with its traceback")
    if told[0]:
        log.error("%-16s %s", told[0], told[1])
    stopping.end()
    service.end()
    sys.stdout.flush()
    sys.stderr.flush()
    writer.send((told[0], told[1][:_LONGEST]))
