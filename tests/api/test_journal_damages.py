"""What happens to the file of the journal: each cause has its own line and remedy, and nothing is paid twice."""

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from asked import HELLO, OTHER, YES, api_for, asked, paid
from disks import unprivileged
from openai_server import OpenAIServer

from lema.api import journal
from lema.api.journal import VERSION, open_journal
from lema.artifacts import faults
from lema.types import Completion, UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with two answers that were paid for."""
    file = tmp_path / "runs" / "journal.sqlite"
    with open_journal(file, [HELLO, OTHER]) as opened:
        paid(opened, HELLO, 1.0, YES)
        paid(opened, OTHER, 1.0, Completion("another", "stop", "m"))
    return file


def line(path: Path) -> str:
    """The line of a journal that cannot be used; "" of one that holds both answers."""
    try:
        with faults.explaining(path.parent), unprivileged(), open_journal(path, [HELLO, OTHER]) as opened:
            answers = opened.answers()
            paid(opened, "another-key", 1.0, YES)
    except UserError as error:
        return str(error)
    assert answers == {HELLO: YES, OTHER: Completion("another", "stop", "m")}
    return ""


def of_another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("create table bookmarks (url text)")


def newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"pragma user_version={VERSION + 1}")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def overwritten(path: Path, start: int, text: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(text)


def replaced(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def without_table(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("drop table requests")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "emptied": (lambda path: path.write_bytes(b""), "it is empty, or cut off, and .* is not known; put a copy"),
    "cut to a byte": (lambda path: path.write_bytes(b"S"), "it is empty, or cut off, and .* is not known; put a copy"),
    "of another format": (
        lambda path: overwritten(path, 44, b"\x09" * 4),
        "it is no journal, or damaged .*; put a copy",
    ),
    "its table gone": (without_table, "it is no journal, or damaged .*; put a copy"),
    "an answer no text": (
        lambda path: replaced(path, b"another", b"an\xffther"),
        "the answer to request a-other is dam",
    ),
    "text": (lambda path: path.write_text("not a database at all " * 400), "it is no journal .*; put a copy"),
    "no header": (lambda path: overwritten(path, 0, b"x" * 100), "it is no journal .*; put a copy"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:5000]), r"it is damaged .*; save .* \.dump"),
    "a page overwritten": (lambda path: overwritten(path, 4096, b"\xee" * 4096), r"it is damaged .* \.dump"),
    "of another program": (of_another_program, "a database of another program .it holds bookmarks.; move it away"),
    "newer": (newer, r"written by a newer lema .*: update lema"),
    "a folder": (a_folder, ".*journal.sqlite is a folder .*; move it away"),
    "unreadable": (lambda path: path.chmod(0), "it cannot be opened .*; give this user the right"),
    "write-protected": (lambda path: path.chmod(0o444), "it cannot be written .*; give this user the right"),
    "its folder write-protected": (lambda path: path.parent.chmod(0o555), "it cannot be .*; give this user the right"),
    "its -wal a folder": (lambda path: Path(f"{path}-wal").mkdir(), ".*-wal is a folder .*; move it away"),
    "its -shm a folder": (lambda path: Path(f"{path}-shm").mkdir(), ".*-shm is a folder .*; move it away"),
    "its -wal not its own": (lambda path: Path(f"{path}-wal").write_bytes(b"text" * 99), ""),
    "its -shm not its own": (lambda path: Path(f"{path}-shm").write_bytes(b"text" * 99), ""),
    "a link to nowhere": (a_link_to_nowhere, "it is a symbolic link that leads nowhere; mend where it leads"),
    "a link to it": (lambda path: path.symlink_to(path.rename(path.with_name("moved"))), ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_has_its_own_line_and_ends_with_its_cause(path: Path, tmp_path: Path, damage: str) -> None:
    copy = shutil.copytree(path.parent, tmp_path / "copy")
    change, expected = DAMAGES[damage]
    change(path)
    before = path.read_bytes() if path.is_file() else b""
    found = line(path)
    print(damage, ":", found)
    assert "\n" not in found
    assert re.search(rf"^{path}: {expected}" if expected else "^$", found), found
    assert not expected or not path.is_file() or path.read_bytes() == before, "it is left as it was"
    if expected:
        path.parent.chmod(0o755)
        shutil.rmtree(path.parent)
        shutil.copytree(copy, path.parent)
        assert line(path) == ""


def test_a_file_that_another_process_holds_is_waited_for_and_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SECONDS", 0.2)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("pragma locking_mode=exclusive")
        other.execute("begin exclusive")
        assert re.search(
            rf"^{path}: another process has locked it, or .*; end that process, or wait for it", line(path)
        )
        other.execute("rollback")
    other.close()
    assert line(path) == ""


def test_what_a_damaged_file_still_holds_is_saved_as_the_line_says(path: Path) -> None:
    if not shutil.which("sqlite3"):
        pytest.skip("the sqlite3 command is not installed")
    with open_journal(path, []) as opened:
        for number in range(40):
            paid(opened, f"c{number}", 1.0, Completion("long" * 500, "stop", "m"))
    overwritten(path, path.stat().st_size - 8192, b"\xee" * 4096)
    found = line(path)
    if not found:  # where the page is one that these keys do not need
        with pytest.raises(UserError) as raised, open_journal(path, [f"c{number}" for number in range(40)]) as opened:
            opened.answers()
        found = str(raised.value)
    command = found.partition("save what can be read, ")[2].partition(", and put that")[0]
    assert command == f"sqlite3 {path} .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 {path}.new"
    assert subprocess.run(command, shell=True, capture_output=True).returncode == 0
    Path(f"{path}.new").replace(path)
    for side in ("-wal", "-shm"):
        Path(f"{path}{side}").unlink(missing_ok=True)
    assert line(path) == ""


def test_an_answer_that_was_changed_is_named_and_never_used(path: Path) -> None:
    for old, new in ((b"another", b"anothes"), (b'"crc"', b'"crd"'), (b'{"text": "another', b'{"text": "another"')):
        whole = path.read_bytes()
        assert whole.count(old) == 1 or old == b'"crc"'
        path.write_bytes(whole.replace(old, new, 1)[: len(whole)])
        found = line(path)
        assert re.search(rf"^{path}: (the answer to request .* is damaged|it is damaged)", found), found
        path.write_bytes(whole)
    with sqlite3.connect(path) as db:
        db.execute("update requests set answer=replace(answer, 'another', 'anothes')")
    command = f"update requests set answer=null where key='{OTHER}'"
    assert line(path).endswith(f'or have it asked, and paid, again: sqlite3 {path} "{command}"')
    with pytest.raises(UserError, match="the answer to request a-other is damaged"):
        journal.export(path, path.parent / "export")


def test_what_a_damaged_file_has_lost_is_not_paid_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs" / "journal.sqlite"
    with OpenAIServer() as server:
        answers, _ = asked(3, api_for(server), path)
        with sqlite3.connect(path) as db:
            key = str(db.execute("select key from requests").fetchone()[0]).encode()
        whole = path.read_bytes()
        places = [found.start() for found in re.finditer(key, whole)]
        assert len(places) == 2, "in the table and in its index"
        for wrong in (places[:1], places[1:], places):
            path.write_bytes(whole)
            for place in wrong:
                overwritten(path, place, b"\xff")
            try:
                assert asked(3, api_for(server), path)[0] == answers
            except UserError as error:
                assert re.search(rf"^{path}: it is damaged \(.*index", str(error))  # noqa: PT017
            assert len(server.requests) == 3


def test_a_damaged_request_is_named_when_all_are_exported(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("update requests set request='{' where key=?", (OTHER,))
    with pytest.raises(
        UserError, match=rf"^{path}: request a-other is damaged; put a copy of the journal in its place"
    ):
        journal.export(path, path.parent / "export")


@pytest.fixture
def disk(disk: Callable[[int], Path]) -> Path:
    """A disk of 12 MiB."""
    return disk(12 << 20)


def fill(folder: Path) -> None:
    """Takes what is free now, and little more: not what the journal gives up when it finds the disk full first."""
    most = shutil.disk_usage(folder).free + (1 << 20)
    with (folder / "ballast").open("wb", buffering=0) as file, ExitStack() as stack:
        stack.callback(os.sync)
        while file.tell() < most:
            try:
                file.write(bytes(4096))
            except OSError:
                return


def test_what_is_in_flight_when_the_disk_is_full_is_not_paid_again(disk: Path) -> None:
    path, seen = disk / "runs" / "journal.sqlite", []

    def reply(prompt: str) -> str:
        seen.append(prompt)
        if len(seen) == 20:
            fill(disk)
        return "x" * 5000

    with OpenAIServer(reply=reply, latency=0.2) as server:
        with pytest.raises(UserError) as raised:
            asked(60, api_for(server, max_concurrent_requests=16), path)
        print(raised.value)
        assert re.search(rf"^{path}: no space is left on its disk .*; free some, and run", str(raised.value))
        assert "lost" not in str(raised.value)
        assert "could not be written" not in str(raised.value)
        assert len(server.requests) < 60
        (disk / "ballast").unlink()
        answers, _ = asked(60, api_for(server, max_concurrent_requests=16), path)
        assert [answer.text for answer in answers] == ["x" * 5000] * 60
        assert len(server.requests) == 60, "none was asked twice"


def test_nothing_is_sent_where_an_answer_could_not_be_written(disk: Path) -> None:
    path = disk / "runs" / "journal.sqlite"
    path.parent.mkdir()
    with (disk / "ballast").open("wb") as file:
        file.write(bytes(8 << 20))
    with OpenAIServer() as server:
        full = rf"^{path}: no space is left on its disk.*; free some"
        with pytest.raises(UserError, match=full), faults.explaining(disk):
            asked(3, api_for(server), path)
        assert server.requests == []
        (disk / "ballast").unlink()
        assert len(asked(3, api_for(server), path)[0]) == 3
