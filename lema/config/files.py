"""Reading a file that must be a regular one: nobody may ever write into a pipe that stands in its place."""

import errno
import os
import stat
from pathlib import Path


def read(file: Path) -> bytes:
    """The content of a file. Raises `OSError` also where a folder, a pipe, a socket or a device is."""
    with open(file, "rb", opener=regular) as content:
        return content.read()


def regular(file: str, flags: int) -> int:
    """An opener for `open`: it waits for nobody, and takes no pipe and no device."""
    descriptor = os.open(file, flags | os.O_NONBLOCK)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # `open` itself refuses a folder
        return descriptor
    os.close(descriptor)
    raise OSError(errno.ENXIO, "not a regular file", str(file))
