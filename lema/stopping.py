"""How a run stops: after a first signal, once pending requests have landed; after a second signal, at once."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

# A terminal's Ctrl-C and its end, a batch system's ways to take the machine back.
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Signals within so many seconds count as one while requests land: `timeout` signals the process and its group.
ONE = 0.05
GOES_ON = "; the same command goes on from here"


class Stopped(SystemExit):
    """A stop signal was obeyed. It ends the whole sweep, where an error ends a cell; Python prints it as one line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text + GOES_ON


class _Run:
    """The state of stopping, one for the process."""

    received: signal.Signals | None = None
    work, since = "start", time.monotonic()  # what a stop interrupts, and when it began
    landing: Callable[[signal.Signals], object] | None = None
    again = False  # the next signal is the first one, once more
    earlier: dict[signal.Signals, Callable[[int, Any], object]] = {}  # who else wants to know of a signal  # noqa: RUF012


def listen(twice: bool = True) -> None:
    """Obey the stop signals from here on. Call it once, in the main thread. An ignored signal (`nohup`) stays so.

    `twice`: a second signal leaves at once. Not where Python code obeyed signals before, as in a job of submitit: a
    batch system sends several, and that code gets the first one once this run has stopped (`pass_on`).
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    _Run.earlier = {
        number: handler
        for number, handler in handlers.items()
        if callable(handler) and handler not in (signal.default_int_handler, _receive)
    }
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:  # a closed standard stream, which must not become the pipe
        pass
    os.close(free)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python's own handlers wait until a long step on the GPU returns; what is written to this pipe does not.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if twice and not _Run.earlier:
        threading.Thread(target=_leave_at_second, args=(reader,), daemon=True).start()
    sys.unraisablehook = _unraisable
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _receive)


def _receive(number: int, _: object) -> None:
    if _Run.received is None:
        _Run.received = signal.Signals(number)
        if _Run.landing is None:
            begin(_Run.work)
        else:
            _Run.landing(_Run.received)


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """Stop once more where Python dropped a `Stopped`: in what the end of an object calls, an error stops nothing."""
    if not isinstance(lost.exc_value, Stopped) or _Run.received is None:
        sys.__unraisablehook__(lost)
        return
    number, _Run.received, _Run.again = _Run.received, None, True
    threading.Timer(0.01, os.kill, (os.getpid(), number)).start()  # not from here, which the end of the object called


def _leave_at_second(reader: int) -> None:
    first: float | None = None
    while True:
        (number,), now = os.read(reader, 1), time.monotonic()
        if number not in SIGNALS:
            continue
        if _Run.again:
            _Run.again = False
            continue
        if first is None:
            first = now
        elif _Run.landing is None or now - first > ONE:
            line = f"\n{_Run.work}: left at once by a second signal, {signal.Signals(number).name}{GOES_ON}\n"
            with suppress(OSError):  # the terminal may be gone
                os.write(2, line.encode())
            os._exit(128 + number)


def die_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends, by whatever way."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it has ended before
        os._exit(1)


def begin(work: str) -> None:
    """Name the work that begins, for the message of a stop. Raises `Stopped` when a signal has already come."""
    _Run.work, _Run.since = work, time.monotonic()
    if _Run.received:
        raise Stopped(f"{work}: stopped by {_Run.received.name}")


def work() -> tuple[str, float]:
    """What is being done, and since when, in monotonic seconds."""
    return _Run.work, _Run.since


def end() -> None:
    """Restore the earlier handlers after the run, else the system's: nothing is left to save in Python's slow exit."""
    for number in SIGNALS:
        if signal.getsignal(number) is _receive:
            signal.signal(number, _Run.earlier.get(number, signal.SIG_DFL))


def pass_on(number: signal.Signals) -> None:
    """Give the handler that a signal had before `listen` that signal, once everything is saved."""
    if handler := _Run.earlier.get(number):
        handler(number, None)


def received() -> signal.Signals | None:
    """The stop signal that came, if one did."""
    return _Run.received


@contextmanager
def landing(tell: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Inside, a stop signal is passed to `tell` and interrupts nothing: the work soon raises `Stopped` itself."""
    _Run.landing = tell
    try:
        yield
    finally:
        _Run.landing = None
