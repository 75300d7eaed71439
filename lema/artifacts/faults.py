"""Errors of a disk or its files as one line: the file, the cause, the remedy. Errors of our own code stay unchanged.

An error is a file's when the system says so (`OSError` with one of the numbers below), or a library that writes files
says it in its own way: safetensors and tokenizers quote the number, torch's zip writer does not even know it.

>>> str(explained(OSError(errno.EROFS, "Read-only file system", "runs/mix/a.jsonl"), Path("runs")))
'runs/mix/a.jsonl: its disk is read-only; mount it writable, or choose another folder with runs_dir=, and the same \
command goes on from here'
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lema.stopping import Stopped
from lema.types import UserError

_ELSE = "or choose another folder with runs_dir="
_RIGHTS = "give this user the right to read and write there (ls -l, chown, chmod, chattr)"
_UNKNOWN = -1  # torch's zip writer tells no number
# By the system's number: the cause, and the remedy. First what every other file there would meet too.
_DISK = {
    errno.ENOSPC: ("no space is left on its disk", f"free some, {_ELSE}"),
    errno.EDQUOT: ("the quota of its disk is used up", f"free some, {_ELSE}"),
    errno.EROFS: ("its disk is read-only", f"mount it writable, {_ELSE}"),
    errno.EIO: ("its disk fails (input/output error)", f"look at what the system says (dmesg), {_ELSE}"),
    errno.ESTALE: ("its network folder is gone (stale file handle)", f"mount it again, {_ELSE}"),
    errno.ENOTCONN: ("its network folder is gone (not connected)", f"mount it again, {_ELSE}"),
    errno.EMFILE: ("this process has too many open files", "raise the limit (ulimit -n 65536)"),
    errno.ENFILE: ("this machine has too many open files", "end other processes"),
}
_FILE = {
    _UNKNOWN: ("it could not be written whole", "look for a limit or a quota (ulimit -f, quota, dmesg)"),
    errno.EFBIG: ("it would be larger than a file may be here", f"raise the limit (ulimit -f), {_ELSE}"),
}
_DENIED = {  # only of a file that is named: a socket may be denied too
    errno.EACCES: ("permission denied", _RIGHTS),
    errno.EPERM: ("the system does not permit this", _RIGHTS),
}
# Only of a file below the runs folder: elsewhere it may be our own mistake.
_PLACE = {
    errno.ENOENT: ("it was removed meanwhile", "leave the runs folder to its runs"),
    errno.EEXIST: ("something else is in its place", "move that away"),
    errno.EISDIR: ("a folder is in the place of this file", "move it away"),
    errno.ENXIO: ("a pipe, a socket or a device is in the place of this file", "move it away"),
    errno.ENOTDIR: ("a file is in the place of a folder", "move it away"),
}
_QUOTED = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
_OF_TORCH = re.compile(
    r"unexpected pos \d|iostream error|PytorchStreamWriter failed|file write failed|cannot be opened"
)
_ON = ", and the same command goes on from here"
_TEMPORARY = re.compile(r"(?<=/)\.([^/]+)\.[0-9a-f]{32}$")  # of `artifacts.replacing`


@contextmanager
def explaining(root: Path, in_sweep: bool = False) -> Iterator[None]:
    """Raise the error of a file below `root` as a `UserError`.

    In a sweep raise `Stopped` where every further cell would meet the same error.
    """
    try:
        yield
    except Exception as error:
        if not (found := cause(error, root)):
            raise
        if in_sweep and _number(error, root) in _DISK:
            raise Stopped(found) from error
        raise UserError(f"{found}{_ON}") from error


def explained(error: BaseException, root: Path) -> UserError | None:
    """The line for an error of a file; None for any other error, whose traceback should be shown."""
    found = cause(error, root)
    return UserError(f"{found}{_ON}") if found else None


def cause(error: BaseException, root: Path) -> str:
    """`FILE: what happened; the remedy` for an error of a file, else ""."""
    if isinstance(error, UserError):  # whoever raised it has said it
        return ""
    number, named = _number(error, root), _named(error)
    known = _DISK | _FILE | (_DENIED if named or not isinstance(error, OSError) else {})
    ours = number and _below(named, root)
    if number not in known and not ours:
        return cause(error.__cause__, root) if error.__cause__ else ""
    if number == errno.ENOENT and os.path.islink(named):
        return f"{named}: it is a symbolic link that leads nowhere; mend where it leads, or remove it"
    what, remedy = (known | _PLACE).get(number) or (os.strerror(number), f"mend that, {_ELSE}")
    return f"{named or _in_hand(error, root) or root}: {what}; {remedy}"


def _number(error: BaseException, root: Path) -> int:
    """The system's number for an error, whichever library raised it; 0 for an error of no file."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if quoted := _QUOTED.search(str(error)):
        return int(quoted[1] or quoted[2])
    if isinstance(error, RuntimeError) and _OF_TORCH.search(str(error)):
        return errno.ENOSPC if is_full(root) else _UNKNOWN
    return 0


def is_full(folder: Path) -> bool:
    """Whether the disk of a folder has less than a MiB of free space: then it is full, whatever an error says."""
    try:
        return shutil.disk_usage(folder).free < 1 << 20
    except OSError:
        return False


def _named(error: BaseException) -> str:
    """The file that an error names; of two, the one that was to be made, unless the other is not there."""
    told = [getattr(error, "filename2", None), getattr(error, "filename", None)]
    if getattr(error, "errno", None) == errno.ENOENT:
        told.reverse()
    found = next((os.fsdecode(name) for name in told if isinstance(name, str | bytes | os.PathLike)), "")
    return _TEMPORARY.sub(r"\1", found)


def _in_hand(error: BaseException, root: Path) -> str:
    """The file below `root` in the local variables of the innermost caller; "" for none."""
    found, frames = "", error.__traceback__
    while frames:
        values = [str(each) for each in frames.tb_frame.f_locals.values() if isinstance(each, str | Path)]
        found = next((each for each in values if _below(each, root)), found)
        frames = frames.tb_next
    return _TEMPORARY.sub(r"\1", found)


def _below(name: str, root: Path) -> bool:
    return "\n" not in name and os.path.abspath(name).startswith(f"{os.path.abspath(root)}{os.sep}")
