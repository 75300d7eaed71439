"""The journal of paid requests: durable, shared by all processes of a machine, never paying twice.

One SQLite file on a local disk (WAL does not work over network file systems). A request is claimed before it is
sent, and its answer is on disk before anyone sees it. Every attempt is written down *before* it is sent, at the
most it can cost, and settled to what it did cost; an attempt whose bill never arrived keeps its worst case. So
the sum over the attempts is never less than what was paid, also after kill -9.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lema.types import UserError

VERSION = 1
LEASE = 60.0  # seconds a claim outlives the last sign of an owner on another host
_LOCK_TIMEOUT = 60.0  # seconds; a transaction takes milliseconds, so longer means a stuck process

_SCHEMA = """
create table if not exists requests (
    key text primary key, request text not null, state text not null check (state in ('claimed', 'done', 'failed')),
    owner text not null, lease real not null, answer text, reason text) without rowid;
create table if not exists attempts (
    id integer primary key, key text not null, owner text not null, sent real not null,
    state text not null check (state in ('sent', 'billed', 'assumed')),
    prompt_tokens integer not null, completion_tokens integer not null, dollars real not null);
create index if not exists dollars_of on attempts (key, dollars);
"""


@dataclass(frozen=True)
class Request:
    """One chat completion. `sample` tells apart several tries of the same question."""

    model: str
    messages: list[dict[str, str]]
    parameters: dict[str, Any]
    sample: int

    @property
    def canonical(self) -> str:
        """The request as canonical JSON; its SHA-256 is the key."""
        return json.dumps(vars(self), sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @property
    def key(self) -> str:
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @property
    def most_prompt_tokens(self) -> int:
        """No fewer than the server will count: a token is at least one byte, JSON's quotes cover the template."""
        return len(json.dumps(self.messages, ensure_ascii=False).encode())


@dataclass(frozen=True)
class Cost:
    """Tokens and dollars of one attempt; completion tokens include reasoning."""

    prompt_tokens: int
    completion_tokens: int
    dollars: float


@dataclass(frozen=True)
class Spending:
    """What a set of requests has cost, over all attempts of all runs and processes.

    `assumed_usd` is the part of `usd` reserved for attempts whose bill is not known: in flight, cut off, or
    answered without usable `usage`. Tokens are those of known bills.
    """

    requests: int
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    assumed_usd: float


class Refusal(Enum):
    """Why a request must not be sent now."""

    answered = "answered"
    busy = "busy"  # another process has it in flight
    budget = "budget"


class Journal:
    """An open journal; `scope` names the requests that a budget and `spending` are about."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path.parent}: cannot be made ({error.strerror}): choose another runs_dir") from error
        with self._errors():
            self._db = sqlite3.connect(path, timeout=_LOCK_TIMEOUT, isolation_level=None)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")
            self._db.execute("create temp table scope (key text primary key) without rowid")
        with self._transaction() as db:
            version = db.execute("pragma user_version").fetchone()[0]
            if version > VERSION:
                raise UserError(f"{path}: written by a newer lema (version {version}, this one reads {VERSION})")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"pragma user_version={VERSION}")

    def close(self) -> None:
        self._db.close()

    def unanswered(self, requests: Iterable[Request]) -> list[Request]:
        """Those, each once, that have no answer yet."""
        distinct = {request.key: request for request in requests}
        return [request for key, request in distinct.items() if self.answer(key) is None]

    def scope(self, requests: Iterable[Request]) -> None:
        """From now on the budget in `start` is for these requests, whoever paid for them and when."""
        with self._transaction() as db:
            db.execute("delete from scope")
            db.executemany("insert or ignore into scope values (?)", ((request.key,) for request in requests))

    def answer(self, key: str) -> str | None:
        """The stored answer, None when there is none yet."""
        with self._errors():
            row = self._db.execute("select answer from requests where key=? and state='done'", (key,)).fetchone()
        return row[0] if row else None

    def start(self, request: Request, worst: Cost, budget: float) -> int | Refusal:
        """Claim `request` and reserve `worst` for one attempt; the attempt's id, to be settled after it landed."""
        with self._transaction() as db:
            row = db.execute("select state, owner, lease from requests where key=?", (request.key,)).fetchone()
            if row and row[0] == "done":
                return Refusal.answered
            if row and row[0] == "claimed" and row[1] != self._owner and _alive(row[1], row[2]):
                return Refusal.busy
            spent = db.execute("select total(dollars) from attempts join scope using (key)").fetchone()[0]
            if spent + worst.dollars > budget:
                return Refusal.budget
            now = time.time()
            db.execute(
                "insert into requests values (?, ?, 'claimed', ?, ?, null, null) on conflict (key) do update "
                "set state='claimed', owner=excluded.owner, lease=excluded.lease, reason=null",
                (request.key, request.canonical, self._owner, now + LEASE),
            )
            attempt = (request.key, self._owner, now, worst.prompt_tokens, worst.completion_tokens, worst.dollars)
            return db.execute("insert into attempts values (null, ?, ?, ?, 'sent', ?, ?, ?)", attempt).lastrowid or 0

    def settle(self, attempt: int, cost: Cost | None, answer: str | None = None) -> None:
        """The attempt landed: its cost (None: unknown, the worst case stands) and, if it has one, its answer."""
        with self._transaction() as db:
            if cost is None:
                db.execute("update attempts set state='assumed' where id=?", (attempt,))
            else:
                db.execute(
                    "update attempts set state='billed', prompt_tokens=?, completion_tokens=?, dollars=? where id=?",
                    (cost.prompt_tokens, cost.completion_tokens, cost.dollars, attempt),
                )
            if answer is not None:  # the first answer stands: someone may have read it already
                db.execute(
                    "update requests set state='done', answer=?, reason=null where state!='done' "
                    "and key=(select key from attempts where id=?)",
                    (answer, attempt),
                )

    def give_up(self, reason: str, key: str | None = None) -> None:
        """Give up the own claim of `key`, or all own claims; the next run, or another process, tries again."""
        with self._transaction() as db:
            db.execute(
                "update requests set state='failed', reason=? where owner=? and state='claimed' and key=ifnull(?, key)",
                (reason, self._owner, key),
            )

    def renew(self) -> None:
        """Keep all own claims for another `LEASE` seconds; to be called several times within it."""
        with self._transaction() as db:
            mine = (time.time() + LEASE, self._owner)
            db.execute("update requests set lease=? where owner=? and state='claimed'", mine)

    def others_in_flight(self) -> bool:
        """Whether a living process has attempts of the scope in flight: settling them may free money."""
        with self._errors():
            rows = self._db.execute(
                "select distinct r.owner, r.lease from attempts a join scope using (key) join requests r using (key) "
                "where a.state='sent' and a.owner=r.owner and r.state='claimed' and r.owner!=?",
                (self._owner,),
            ).fetchall()
        return any(_alive(owner, lease) for owner, lease in rows)

    def spending(self) -> Spending:
        """What the requests of the scope have cost so far, in this and in earlier runs."""
        with self._errors():
            row = self._db.execute(
                "select count(distinct key), count(*), total(iif(state='billed', prompt_tokens, 0)), "
                "total(iif(state='billed', completion_tokens, 0)), total(dollars), "
                "total(iif(state='billed', 0, dollars)) from attempts join scope using (key)"
            ).fetchone()
        return Spending(row[0], row[1], int(row[2]), int(row[3]), row[4], row[5])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._db.execute("begin immediate")
            try:
                yield self._db
                self._db.commit()
            except BaseException:
                self._db.rollback()
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"{self.path}: {error}: paid answers need a writable local disk with free space") from error


def _alive(owner: str, lease: float) -> bool:
    host, pid, _ = owner.rsplit(":", 2)
    if lease < time.time():
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
