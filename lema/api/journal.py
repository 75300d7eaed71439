"""The journal of paid requests: what was asked, what it cost, what was answered; nothing is paid for twice.

One SQLite file on a local disk. A request is the JSON text of its body. Before it is sent, the most it can cost is
written down (unless that is nothing), and settled to the bill, if one arrives: the dollars are never less than what was
paid, also after kill -9, and an answer is on disk before anyone sees it. What waits to be written is committed
together, in a thread: a disk that takes ten milliseconds to be sure holds up nobody else.
"""

import asyncio
import json
import os
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lema.artifacts.faults import is_full
from lema.artifacts.links import replacing
from lema.types import Completion, UserError

# Of the format, in the file's user_version; 0 had no attempts and no cached_tokens, 1 did not keep what a server said,
# 2 had no checksums.
VERSION = 3
# What has every version's table; a database whose tables have not is another program's.
_COLUMNS = {"key", "prompt_tokens", "completion_tokens", "usd", "request", "answer"}
SECONDS = 30.0  # to wait for another process that writes
_SPARE_BYTES = 8 << 20  # given up when the disk is full, so that what is in flight and paid for is written all the same
# What is wrong with the file, by SQLite's primary code, and the remedy.
_RIGHTS = "give this user the right to write it, its -wal, -shm and folder (ls -l, chown, chmod), on a writable disk"
_COPY = "put a copy of the journal in its place"
_FAULTS = {
    sqlite3.SQLITE_FULL: ("no space is left on its disk", "free some"),
    sqlite3.SQLITE_BUSY: (
        "another process has locked it, or its file system has no locks",
        "end that process, or wait for it (fuser {0} names it); if there is none, take a runs_dir on a local disk",
    ),
    sqlite3.SQLITE_READONLY: ("it cannot be written", _RIGHTS),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", _RIGHTS),
    sqlite3.SQLITE_IOERR: ("its disk fails", "look for a quota (ulimit -f, quota, dmesg); it needs a local disk"),
    sqlite3.SQLITE_NOTADB: ("it is no journal", f"{_COPY} (move it away only if nothing was paid yet)"),
    sqlite3.SQLITE_ERROR: ("it is no journal, or damaged", _COPY),
    sqlite3.SQLITE_CORRUPT: (
        "it is damaged",
        "save what can be read, sqlite3 {0} .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 {0}.new, and put that in "
        "its place, with no -wal or -shm beside it",
    ),
}
# The texts come last: sums over the columns before them need not read through them.
_SCHEMA = """create table if not exists requests (
    key text primary key, attempts integer not null default 0, prompt_tokens integer not null default 0,
    cached_tokens integer not null default 0, completion_tokens integer not null default 0, usd real not null,
    request text not null, answer text)"""
_RESERVE = (
    "insert into requests (key, attempts, usd, request) values (?, 1, ?, ?) "
    "on conflict (key) do update set attempts=attempts+1, usd=usd+excluded.usd"
)
# An attempt that costs nothing was not written down before.
_ADDED = ("attempts", "prompt_tokens", "cached_tokens", "completion_tokens", "usd")
_SETTLE = (
    f"insert into requests ({', '.join(_ADDED)}, answer, key, request) values (?, ?, ?, ?, ?, ?, ?, ?) "
    f"on conflict (key) do update set {', '.join(f'{name}={name}+excluded.{name}' for name in _ADDED)}, "
    "answer=case when usable(answer) then answer else ifnull(excluded.answer, answer) end"
)
_Write = tuple[str, Sequence[Any]]  # a statement and its values
_FIELDS = ("text", "ended", "model", "said")  # of a completion, in the journal


def _to_json(completion: Completion) -> str:
    """A completion as it is written, with a checksum. The names of the fields are the journal's own."""
    facts = [completion.text, completion.finish_reason, completion.model, completion.error]
    row = dict(zip(_FIELDS, facts, strict=True)) | {"crc": _crc(facts)}
    return json.dumps(row, ensure_ascii=False)


def _from_json(text: str | None, num_tokens: int | None = None) -> Completion | None:
    """What `_to_json` wrote, or an older version without words or checksum; None for anything else."""
    try:
        row = {"said": ""} | dict(json.loads(text or ""))
        crc, (content, ended, model, said) = row.pop("crc", None), (row.pop(name) for name in _FIELDS)
        whole = not row and isinstance(ended, str) and crc in (None, _crc([content, ended, model, said]))
        return Completion(content, ended, model, num_tokens, said) if whole else None
    except (ValueError, TypeError, LookupError):
        return None


def _crc(facts: list[Any]) -> int:
    return zlib.crc32(json.dumps(facts).encode())


@dataclass(frozen=True)
class Spending:
    """What requests cost; an attempt without a bill counts in `usd` at its worst case, and not in the tokens."""

    requests: int
    prompt_tokens: int
    completion_tokens: int  # reasoning included
    usd: float
    cached_tokens: int = 0  # of the prompt tokens


class Journal:
    """An open journal: answers and spending are those of `keys`, whoever paid for them and when."""

    def __init__(self, db: sqlite3.Connection, path: Path, keys: Iterable[str]) -> None:
        self._db, self._path = db, path
        self._spare: IO[bytes] | None = None
        self.lost = 0  # bills and answers that could not be written
        self._waiting: list[tuple[_Write, asyncio.Future[None]]] = []
        self._failed: list[_Write] = []  # bills and answers, for one more try
        self._committing: asyncio.Task[None] | None = None
        db.execute("create temp table scope (key text primary key) without rowid")
        db.execute("begin")
        db.executemany("insert or ignore into scope values (?)", ((key,) for key in keys))
        db.execute("commit")

    def check(self) -> None:
        """`sqlite3.Error` when anything in the file is damaged: what can no longer be found would be paid for again."""
        (found,) = self._db.execute("pragma integrity_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(found.split()))

    def answers(self) -> dict[str, Completion]:
        """The answers that are there, by their keys; among them the reasons why there is none."""
        columns = "key, answer, completion_tokens"
        rows = self._db.execute(f"select {columns} from requests natural join scope where answer is not null")
        return {key: self._read(key, answer, tokens) for key, answer, tokens in rows}

    def _read(self, key: str, text: str, num_tokens: int) -> Completion:
        if answer := _from_json(text, num_tokens):
            return answer
        ask = f"""sqlite3 {self._path} "update requests set answer=null where key='{key}'\""""
        again = f"{_COPY}, or have it asked, and paid, again: {ask}"
        raise UserError(f"{self._path}: the answer to request {key} is damaged; {again}")

    def unusable(self) -> dict[str, int]:
        """How often each was asked that has an answer, but none to use."""
        query = "select key, attempts from requests natural join scope where answer is not null and not usable(answer)"
        return dict(self._db.execute(query))

    def spending(self) -> Spending:
        """What the requests have cost so far, over all attempts of all runs and processes."""
        tokens = ", ".join(f"ifnull(sum({kind}_tokens), 0)" for kind in ("prompt", "completion", "cached"))
        (row,) = self._db.execute(f"select count(*), total(usd), {tokens} from requests natural join scope")
        count, usd, prompt, completion, cached = row
        return Spending(count, prompt, completion, usd, cached)

    async def reserve(self, key: str, request: str, worst_usd: float) -> None:
        """An attempt is about to be sent that costs `worst_usd` at most, which counts until it is settled."""
        if not worst_usd:
            return
        if self._spare is None:
            self._spare = tempfile.TemporaryFile(dir=self._path.parent, buffering=0)  # noqa: SIM115 # ends with us
            while self._spare.tell() < _SPARE_BYTES:
                self._spare.write(bytes(_SPARE_BYTES - self._spare.tell()))
        await self._durably((_RESERVE, (key, worst_usd, request)))

    async def settle(
        self, key: str, request: str, worst_usd: float, tokens: Sequence[int], usd: float, answer: Completion | None
    ) -> None:
        """The attempt landed, with an answer or none: it cost `usd`, in the place of what was reserved.

        `tokens` are those of the prompt, those of them that were cached, and those of the completion.
        """
        text, attempts = answer and _to_json(answer), not worst_usd
        await self._durably((_SETTLE, (attempts, *tokens, usd - worst_usd, text, key, request)))

    def close(self) -> None:
        """Commit what landed and is not yet on the disk; a reservation that was not waited for was never sent."""
        left = self._failed + [write for write, _ in self._waiting if write[0] is _SETTLE]
        self._waiting, self.lost = [], len(left)
        if self._spare:
            self._spare.close()
        if left:
            self._commit(left)
            self.lost = 0

    async def _durably(self, write: _Write) -> None:
        """Returns when it is on the disk; `sqlite3.Error` when it cannot be."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((write, done))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all())
        await done

    async def _commit_all(self) -> None:
        while batch := self._waiting:
            self._waiting = []
            try:
                await asyncio.to_thread(self._commit, [write for write, _ in batch])
                error = None
            except sqlite3.Error as raised:
                error = raised
                if self._spare:
                    self._spare.close()
            for write, done in batch:
                if error and write[0] is _SETTLE:
                    self._failed.append(write)
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)

    def _commit(self, writes: list[_Write]) -> None:
        try:
            self._db.execute("begin immediate")
            for statement, values in writes:
                self._db.execute(statement, values)
            self._db.execute("commit")
        finally:
            if self._db.in_transaction:
                self._db.execute("rollback")


@contextmanager
def open_journal(path: Path, keys: Iterable[str]) -> Iterator[Journal]:
    """The journal at `path`, about the requests of `keys`; what goes wrong with the file is a `UserError`."""
    journal = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(path)
        # One thread at a time uses it, but not always the same.
        with closing(sqlite3.connect(path, timeout=SECONDS, isolation_level=None, check_same_thread=False)) as db:
            db.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")  # damaged bytes are no JSON then
            db.create_function("usable", 1, lambda text: bool((read := _from_json(text)) and read.usable))
            _prepare(db, path)
            with closing(Journal(db, path, keys)) as journal:
                yield journal
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_IOERR and is_full(path.parent):
            code = sqlite3.SQLITE_FULL
        cause, remedy = _FAULTS.get(code, ("it cannot be used", "a journal needs a writable local disk"))
        if folder := next((each for each in (path, f"{path}-wal", f"{path}-shm") if os.path.isdir(each)), None):
            cause, remedy = f"{folder} is a folder", "move it away"
        lost = journal.lost if journal else 0
        kept = f"; {lost} paid answers could not be written, and are paid again" if lost else ""
        line = f"{path}: {cause} ({error}); {remedy.format(path)}, and run the same command again{kept}"
        raise UserError(line) from error


def _create(path: Path) -> None:
    """Make a file where there is none. `UserError` for an empty one: SQLite takes it for new, and all is paid again."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
    except FileExistsError:
        for _ in range(40):  # another process may be making it
            if path.stat().st_size >= 512 or not path.is_file():  # SQLite takes less, no whole page, for nothing
                return
            time.sleep(0.05)
        remedy = f"{_COPY}, or delete it if nothing was paid yet"
        raise UserError(f"{path}: it is empty, or cut off, and what was paid before is not known; {remedy}") from None
    try:
        with closing(sqlite3.connect(path, timeout=SECONDS, isolation_level=None)) as db:
            _prepare(db, path)
    except BaseException:
        if not path.stat().st_size:
            path.unlink()
        raise


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Bring a new or an older file into the present format."""

    def columns() -> set[str]:
        return {row[1] for row in db.execute("pragma table_info(requests)")}

    tables = [name for (name,) in db.execute("select name from sqlite_master where type='table'")]
    if tables and _COLUMNS - columns():
        remedy = "move it away, or choose another folder with runs_dir="
        raise UserError(f"{path}: a database of another program (it holds {', '.join(tables)[:80]}); {remedy}")
    (version,) = db.execute("pragma user_version").fetchone()
    if version > VERSION:
        raise UserError(f"{path}: written by a newer lema (format {version}; this one knows {VERSION}): update lema")
    db.execute("pragma synchronous=full")
    db.execute("pragma journal_mode=wal")
    if version < VERSION:
        db.execute("begin immediate")  # of several processes one is first
        db.execute(_SCHEMA)
        for column in {"attempts", "cached_tokens"} - columns():
            db.execute(f"alter table requests add column {column} integer not null default 0")
        db.execute(f"pragma user_version={VERSION}")
        db.execute("commit")


def export(journal_path: Path, folder: Path) -> int:
    """Write all that was asked and answered, as in OpenAI's batches and by custom_id; returns the number of requests.

    `requests.jsonl`: {"custom_id", "method", "url", "body"}; `responses.jsonl`, of what has an answer:
    {"custom_id", "response": {"status_code", "body"}, "error"}. The usage is that of all attempts.
    """
    if not journal_path.is_file():
        raise UserError(f"{journal_path}: not there: no request was sent from this runs folder yet")
    count, columns = 0, "key, request, answer, prompt_tokens, cached_tokens, completion_tokens"
    with open_journal(journal_path, ()) as journal:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "requests.jsonl") as requests, replacing(folder / "responses.jsonl") as responses:
            for key, request, answer, *tokens in journal._db.execute(f"select {columns} from requests order by key"):
                try:
                    body = json.loads(request)
                except ValueError:
                    raise UserError(f"{journal_path}: request {key} is damaged; {_COPY}") from None
                chat = "messages" in body
                url = f"/v1/{'chat/' if chat else ''}completions"
                row = {"custom_id": key, "method": "POST", "url": url, "body": body}
                requests.write(json.dumps(row, ensure_ascii=False) + "\n")
                if answer:
                    row = {"custom_id": key, **_response(journal._read(key, answer, tokens[-1]), chat, *tokens)}
                    responses.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
    return count


def _response(
    answer: Completion, chat: bool, prompt_tokens: int, cached_tokens: int, completion_tokens: int
) -> dict[str, Any]:
    if answer.failed:
        message = answer.error or "no answer within the retries"  # an older journal did not keep the words
        return {"response": None, "error": {"code": answer.finish_reason, "message": message}}
    message = {"role": "assistant", "content": answer.text} | ({"refusal": answer.error} if answer.error else {})
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    usage |= {"total_tokens": prompt_tokens + completion_tokens}
    said = {"message": message} if chat else {"text": answer.text}
    body = {
        "object": "chat.completion" if chat else "text_completion",
        "model": answer.model,
        "choices": [{"index": 0, **said, "finish_reason": answer.finish_reason}],
        "usage": usage | {"prompt_tokens_details": {"cached_tokens": cached_tokens}},
    }
    return {"response": {"status_code": 200, "body": body}, "error": None}
