"""Writing files and folders below the runs folder, without links.

We never write through a link and never need one: exFAT, network drives and Colab's Drive have none. Where there are no
hard links, files are copied. Where there are no symbolic links, a folder is pointed to by a small text file
(`-> ../../train/LABEL-KEY`), and a file by a hard link or a copy.
"""

import contextlib
import filecmp
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lema.config.files import read as read
from lema.types import UserError

_POINTER = "-> "
STOPPED = "stopped after"  # begins the state, in run.json, of a run that was asked to end before its evaluation
IMPORTED = "imported.json"  # in the folder of a run that was made elsewhere: what it left there, less all texts


def own_folder(path: Path) -> Path:
    """A folder to write in, created if missing; `UserError` if it is a symbolic link."""
    refuse_links(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_links(*paths: Path) -> None:
    """`UserError` names the first of the paths that is a symbolic link, which would be written through or replaced."""
    for path in paths:
        if path.is_symlink():
            why = "a symbolic link, which is not followed"
            raise UserError(f"{path}: {why}; put what it points to in its place, or remove the link")


def duplicate(source: Path, target: Path) -> None:
    """Give a file a second name, `target`, with a hard link; or copy it."""
    try:
        os.link(source, target)
    except OSError:  # whatever the reason is: the copy meets a full or a broken disk too, and says so
        shutil.copyfile(source, target)


def point(path: Path, target: Path) -> None:
    """Make `path` point to a file or folder `target`; replace an older pointer in one step."""
    relative = os.path.relpath(target, path.parent)
    if path.is_symlink() and os.readlink(path) == relative:
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.symlink_to(relative)
    except OSError:
        if target.is_dir():
            temporary.write_text(f"{_POINTER}{relative}\n", encoding="utf-8")
        elif path.is_file() and filecmp.cmp(path, target, shallow=False):
            return
        else:
            duplicate(target, temporary)
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def follow(path: Path) -> Path:
    """The folder that `path` points to, if `point` made it; any other path unchanged."""
    if path.is_symlink() or not path.is_file():
        return path
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.read(4096).partition("\n")[0]
    return path.parent / line.removeprefix(_POINTER) if line.startswith(_POINTER) else path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file to write. It replaces the old file in one step; after an error the old file stays."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put(made: Path, folder: Path, replace: bool) -> None:
    """Rename the folder `made` to `folder`; `replace` an earlier one, which comes back when that fails."""
    old = _aside(folder)
    shutil.rmtree(old, ignore_errors=True)  # a killed process may have left one
    if replace:
        os.replace(folder, old)
    try:
        os.replace(made, folder)
    except OSError:  # it was taken over just now
        if replace:
            os.replace(old, folder)
        raise
    if replace:
        os.replace(old, made)  # half deleted, it must not be put back
        shutil.rmtree(made, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Bring back the folder that `put` was to replace when it was killed; `UserError` if a link is in its place."""
    refuse_links(old := _aside(folder))
    if not os.path.lexists(folder):
        with contextlib.suppress(FileNotFoundError):
            os.rename(old, folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")
