"""How far the work is: a bar on a terminal, and elsewhere a line whenever nothing was printed for a while.

Each part of the work is a `Progress`, and parts lie in each other: an answer of many, of one of several checkpoints.
One thread writes one line on all of them together, so it also speaks while nothing advances:

    select           checkpoint 2 of 5: 12 of 200 answers, 8,450 tokens (95/s), about 14 minutes left
    train            loading the model for 30 seconds
"""

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

from lema import stopping
from lema.privacy import Terminal, shown

SECONDS = 30.0  # of silence, after which a line is printed
_log = logging.getLogger(__name__)
Item = TypeVar("Item")
_open: list["Progress"] = []  # from the outermost to the innermost
_speaking = threading.Lock()  # held while a part ends, too: so no line comes after the end of its part


class Progress:
    """A part of the work, while its `with` block lasts.

    `what` is the singular of what is counted up to `total` (`math.inf`: nobody knows how many); without a total it says
    what is done (`loading the model`). `facts` are more words for a line, and `partly` says how much of the next
    pieces is done, in pieces. Both are called in another thread.
    """

    def __init__(
        self,
        what: str,
        total: float | None = None,
        facts: Callable[[], Iterable[str]] = tuple,
        partly: Callable[[], float] = float,
    ) -> None:
        self.what, self.total, self.facts, self.partly = what, total, facts, partly
        self.done = self.before = 0  # in all, and of it what an earlier attempt did

    def __enter__(self) -> Self:
        self.since = time.monotonic()
        work, _ = stopping.work()
        length, off = None if self.total == math.inf else self.total, True if self.total is None else None
        self.bar = tqdm(desc=work, total=length, unit=f" {self.what}s", disable=off)
        _open.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with _speaking:
            _open.remove(self)
            self.bar.close()

    def advance(self, pieces: int = 1, before: bool = False) -> None:
        """Count pieces that are done; `before`: by an earlier attempt, in no time of this one."""
        self.done += pieces
        self.before += pieces if before else 0
        self.bar.update(pieces)

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, each counted once it has been used."""
        for item in items:
            yield item
            self.advance()

    def per_second(self, number: float) -> float:
        """How many a second, if this part made so many until now."""
        return number / max(time.monotonic() - self.since, 1e-9)

    def words(self, innermost: bool) -> str:
        """`12 of 200 answers, 8,450 tokens`; around another part `checkpoint 2 of 5: `."""
        of = "" if self.total in (None, math.inf) else f" of {self.total:,}"
        if self.total is None:
            told = [f"{self.what} for {duration(time.monotonic() - self.since)}"]
        elif not innermost:
            return f"{self.what} {self.done + 1:,}{of}: "
        else:
            told = [f"{self.done:,}{of} {self.what}s"]
        return ", ".join([*told, *self.facts()]) + ("" if innermost else ": ")


def line() -> str:
    """What is being done now, as a line of the log."""
    return f"{stopping.work()[0].replace('_', ' '):<16} {told()[0]}"


def told() -> tuple[str, float | None]:
    """What of the present work is being done, in words, and how many seconds of it are left, where that is known."""
    parts, (_, since) = list(_open), stopping.work()
    words = "".join(part.words(part is parts[-1]) for part in parts)
    words, left = words or f"at work for {duration(time.monotonic() - since)}", _left(parts)
    # Before the first piece is done, `partly` knows only how long it may take.
    sure = "about" if any(part.total and part.done > part.before for part in parts) else "at most"
    return shown(words + ("" if left is None else f", {sure} {duration(left)} left")), left


def _left(parts: list[Progress]) -> float | None:
    """The seconds that are left of all parts together: by the share that is done, and by the time that it took."""
    counted = [part for part in parts if part.total]
    share = begun = 0.0
    for part in reversed(counted):
        assert part.total
        share = min(1.0, (part.done + max(share, part.partly())) / part.total)
        begun = (part.before + begun) / part.total
    if share <= begun:
        return None
    return (time.monotonic() - counted[0].since) * (1 - share) / (share - begun)


def duration(seconds: float) -> str:
    """`45 seconds`, `14 minutes`, `2.5 hours`."""
    if seconds < 90:
        return f"{max(2, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def watch() -> None:
    """Break each silence of this process from now on; for the program's start."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    _, told = stopping.work()  # since the process began
    while True:
        time.sleep(max(0.01, SECONDS - (time.monotonic() - max(told, Terminal.written_at))))
        if time.monotonic() - max(told, Terminal.written_at) < SECONDS:
            continue
        told = time.monotonic()
        with _speaking, suppress(Exception):  # what is counted may have just changed, and no line is worth an end
            bar = next((part.bar for part in reversed(_open) if not part.bar.disable), None)
            if bar is not None and sys.stderr.isatty():
                bar.refresh()  # which shows that time goes on
            else:
                _log.info("%s", line())
