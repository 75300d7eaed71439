"""A file of JSON lines that grows, from which an interrupted attempt goes on: each line is whole, or as if not there.

A line has its own hash, and begins with the end of the line before: so half a line, as a killed process leaves it,
spoils none that comes after it. What waits is written in one piece every few seconds. The file is opened for that by
its path, which an attempt that was taken over no longer has.
"""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lema.artifacts import DAMAGED, read
from lema.identity import digest

log = logging.getLogger(__name__)
SECONDS = 2.0  # what waits for no longer is lost when the process is killed


class Lines:
    """The lines of one file, which may not be there yet. Use it in a `with` block, which ends with all written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[str] = []
        self._written = 0.0

    def __iter__(self) -> Iterator[Any]:
        """The values that `add` was given, those that can be read; a warning tells of others."""
        try:
            lines = read(self.path).split(b"\n")
        except FileNotFoundError:
            return
        damaged = 0
        for line in filter(None, lines):
            value, hashed = None, ""
            with suppress(*DAMAGED):
                value, hashed = json.loads(line)
            if hashed == digest([self.path.name, value]):
                yield value
            else:
                damaged += 1
        if damaged:
            log.warning("%s: %d lines are damaged, and made again", self.path, damaged)

    def add(self, *values: Any) -> None:
        """Keep plain values. They are on the disk with the first call some seconds later, or when the block ends."""
        for value in values:
            self._waiting.append("\n" + json.dumps([value, digest([self.path.name, value])], ensure_ascii=False))
        if self._waiting and time.monotonic() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        """Write what waits."""
        if self._waiting:
            with self.path.open("ab") as file:
                file.write("".join(self._waiting).encode())
                file.flush()
                os.fsync(file.fileno())
        self._waiting.clear()
        self._written = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        self.write()
