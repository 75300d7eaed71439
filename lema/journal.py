"""The journal of paid requests: what was asked, what it cost, what was answered; nothing is paid for twice.

One SQLite file on a local disk. A request is the JSON text of a chat completion's body. Before it is sent, the most it
can cost is written down, and settled to the bill, if one arrives: the dollars are never less than what was paid, also
after kill -9, and an answer is on disk before anyone sees it.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lema.types import UserError

# The texts come last: sums over the columns before them need not read through them.
_SCHEMA = """
pragma journal_mode=wal; pragma synchronous=full;
create table if not exists requests (
    key text primary key, prompt_tokens integer not null default 0, completion_tokens integer not null default 0,
    usd real not null, request text not null, answer text);
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
    """An open journal: answers and spending are those of `requests`, whoever paid for them and when."""

    def __init__(self, db: sqlite3.Connection, requests: Iterable[str]) -> None:
        self.requests = {text: hashlib.sha256(text.encode()).hexdigest() for text in requests}  # with their keys
        self._db = db
        db.executescript(_SCHEMA)
        db.executemany("insert into scope values (?)", ((key,) for key in self.requests.values()))

    def answers(self) -> dict[str, Answer]:
        """The answers that are there, by their requests."""
        rows = self._db.execute("select request, answer from requests natural join scope where answer is not null")
        return {request: Answer(**json.loads(answer)) for request, answer in rows}

    def spending(self) -> Spending:
        """What the requests have cost so far, over all attempts of all runs and processes."""
        sums = "count(*), ifnull(sum(prompt_tokens), 0), ifnull(sum(completion_tokens), 0), total(usd)"
        return Spending(*self._db.execute(f"select {sums} from requests natural join scope").fetchone())

    def reserve(self, request: str, worst_usd: float) -> None:
        """An attempt is about to be sent that costs `worst_usd` at most, which counts until it is settled."""
        self._db.execute(
            "insert into requests (key, usd, request) values (?, ?, ?) "
            "on conflict (key) do update set usd=usd+excluded.usd",
            (self.requests[request], worst_usd, request),
        )

    def settle(self, request: str, worst_usd: float, bill: Spending, answer: Answer | None) -> None:
        """The attempt landed, with `bill` for what was reserved and, if it has one, its answer."""
        text, rest = answer and json.dumps(vars(answer), ensure_ascii=False), bill.usd - worst_usd
        self._db.execute(
            "update requests set prompt_tokens=prompt_tokens+?, completion_tokens=completion_tokens+?, usd=usd+?, "
            "answer=ifnull(answer, ?) where key=?",
            (bill.prompt_tokens, bill.completion_tokens, rest, text, self.requests[request]),
        )


@contextmanager
def open_journal(path: Path, requests: Iterable[str]) -> Iterator[Journal]:
    """The journal at `path`, about `requests`; what goes wrong with the file is a `UserError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=60.0, isolation_level=None)) as db:  # seconds, for other readers
            yield Journal(db, requests)
    except sqlite3.Error as error:
        raise UserError(f"{path}: {error}: paid answers need a writable local disk with free space") from error
