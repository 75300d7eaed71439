"""The journal of paid requests: durable, shared by all processes of a machine, never paying twice.

One SQLite file on a local disk. A request is the JSON text of a chat completion's body. Before it is sent, it is
claimed and the most it can cost is written down; that is settled to the bill, if one arrives. So the dollars are never
less than what was paid, also after kill -9, and an answer is on disk before anyone sees it.
"""

import hashlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lema.types import UserError

Claim = Literal["claimed", "answered", "busy", "budget"]
_LOCK_TIMEOUT = 60.0  # seconds; a transaction takes milliseconds, so longer means a stuck process

# The texts come last: sums over the columns before them need not read through them.
_SCHEMA = """
pragma journal_mode=wal; pragma synchronous=full;
create table if not exists requests (
    key text primary key, owner text, until real, prompt_tokens integer not null default 0,
    completion_tokens integer not null default 0, usd real not null, request text not null, answer text);
create index if not exists in_flight on requests (owner) where owner is not null;
create temp table scope (key text primary key) without rowid;
"""


@dataclass(frozen=True)
class Answer:
    """What the server answered; `ended` is its finish reason, or "refusal" of the model or of the server."""

    text: str | None
    ended: str
    model: str  # that really answered


@dataclass(frozen=True)
class Spending:
    """What requests cost; an attempt without a bill counts in `usd` at its worst case, and not in the tokens."""

    requests: int
    prompt_tokens: int
    completion_tokens: int  # reasoning included
    usd: float


class Journal:
    """An open journal: budget, answers and spending are those of `requests`, whoever paid for them and when."""

    def __init__(self, db: sqlite3.Connection, requests: Iterable[str]) -> None:
        self.requests = list(dict.fromkeys(requests))
        self._db, self._owner = db, f"{socket.gethostname()}:{os.getpid()}"
        db.create_function("alive", 2, _alive)
        db.executescript(_SCHEMA)
        db.executemany("insert into scope values (?)", ((_key(request),) for request in self.requests))
        # Left by an interrupted run in this process, or by a dead one that had its number.
        db.execute("update requests set owner=null where owner=?", (self._owner,))

    def answers(self) -> dict[str, Answer]:
        """The answers that are there, by their requests."""
        rows = self._db.execute("select request, answer from requests natural join scope where answer is not null")
        return {request: Answer(**json.loads(answer)) for request, answer in rows}

    def spending(self) -> Spending:
        """What the requests have cost so far, over all attempts of all runs and processes."""
        sums = "count(*), total(prompt_tokens), total(completion_tokens), total(usd)"
        row = self._db.execute(f"select {sums} from requests natural join scope").fetchone()
        return Spending(row[0], int(row[1]), int(row[2]), row[3])

    def claim(self, request: str, worst_usd: float, budget_usd: float, seconds: float) -> Claim:
        """Reserve `worst_usd` for one attempt of at most `seconds`, to be settled when it landed.

        "busy": the request, or money, is in flight elsewhere, so ask again; "budget": the money is spent.
        """
        with self._db as db:
            db.execute("begin immediate")
            # A dead process keeps no claim; what it may have paid stays counted.
            db.execute("update requests set owner=null where owner is not null and not alive(owner, until)")
            row = db.execute("select answer, owner from requests where key=?", (_key(request),)).fetchone() or ("", "")
            if row[0]:
                return "answered"
            spent, in_flight = db.execute("select total(usd), count(owner) from requests natural join scope").fetchone()
            if row[1] or not spent + worst_usd <= budget_usd:  # so written that "not a number" allows nothing
                return "busy" if in_flight else "budget"
            db.execute(
                "insert into requests (key, owner, until, usd, request) values (?, ?, ?, ?, ?) on conflict (key) "
                "do update set owner=excluded.owner, until=excluded.until, usd=usd+excluded.usd",
                (_key(request), self._owner, time.time() + seconds + _LOCK_TIMEOUT, worst_usd, request),
            )
            return "claimed"

    def settle(self, request: str, worst_usd: float, bill: Spending, answer: Answer | None) -> None:
        """The claimed attempt landed, with `bill` for what was reserved and, if it has one, its answer."""
        text = None if answer is None else json.dumps(asdict(answer), ensure_ascii=False)
        self._db.execute(
            "update requests set owner=nullif(owner, ?), prompt_tokens=prompt_tokens+?, "
            "completion_tokens=completion_tokens+?, usd=usd+?, answer=ifnull(answer, ?) where key=?",
            (self._owner, bill.prompt_tokens, bill.completion_tokens, bill.usd - worst_usd, text, _key(request)),
        )


@contextmanager
def open_journal(path: Path, requests: Iterable[str]) -> Iterator[Journal]:
    """The journal at `path`, about `requests`; what goes wrong with the file is a `UserError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT, isolation_level=None)) as db:
            yield Journal(db, requests)
    except sqlite3.Error as error:
        raise UserError(f"{path}: {error}: paid answers need a writable local disk with free space") from error


def _key(request: str) -> str:
    return hashlib.sha256(request.encode()).hexdigest()


def _alive(owner: str, until: float) -> bool:
    """Whether a claim stands: it is not overdue, and its process, where it can be seen from here, lives."""
    host, _, pid = owner.rpartition(":")
    if host == socket.gethostname():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
    return time.time() < until
