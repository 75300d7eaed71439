"""Disks that refuse: not ours to write, or full."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root asks for rights as everybody does: Linux' capabilities are put aside."""
    if sys.platform != "linux" or os.geteuid():
        yield
        return
    header, before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    assert libc.capget(header, before) == 0
    aside = (ctypes.c_uint32 * 6)(0, before[1], 0, 0, before[4], 0)  # effective, permitted, inheritable; twice
    assert libc.capset(header, aside) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
