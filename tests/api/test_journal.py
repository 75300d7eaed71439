"""The journal of paid requests, on its own: costs, answers, durability, formats, export."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from asked import HELLO, OTHER, REQUEST, TOKENS, YES, paid, written

from lema.api.journal import VERSION, Journal, Spending, export, open_journal
from lema.types import Completion, UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "requests.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with open_journal(path, [HELLO, OTHER, HELLO]) as opened:
        yield opened


PAID_ELSEWHERE = """
import os, signal, sys
from pathlib import Path
from asked import *
from lema.api.journal import open_journal
with open_journal(Path(sys.argv[1]), [HELLO, OTHER]) as journal:
    paid(journal, HELLO, 0.5, YES)
    written(journal.reserve(OTHER, REQUEST, 1.0))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_answer_and_its_cost_outlive_the_process(journal: Journal, path: Path) -> None:
    subprocess.run([sys.executable, "-c", PAID_ELSEWHERE, path])
    assert journal.answers() == {HELLO: YES}
    assert journal.spending() == Spending(2, 3, 4, 1.5, 2), "what the dead one may have paid counts"


def test_every_attempt_counts_and_the_first_usable_answer_stands(journal: Journal) -> None:
    cut, lost = Completion("ye", "length", "m"), Completion(None, "HTTP 500", "m")
    for usd, answer in ((1.0, None), (0.5, lost), (0.5, cut), (0.5, YES), (0.25, Completion("no", "stop", "m"))):
        paid(journal, HELLO, usd, answer)
        assert answer in (None, *journal.answers().values()) or usd == 0.25
    assert journal.answers() == {HELLO: YES}
    assert journal.spending() == Spending(1, 15, 20, 2.75, 10)
    assert journal.unusable() == {}


@pytest.mark.parametrize(
    ("answer", "usable", "failed"),
    [
        *(
            (YES, True, False),
            (Completion(" \n", "stop", "m"), False, False),
            (Completion("", "stop", "m"), False, False),
        ),
        *((Completion(None, "stop", "m"), False, False), (Completion("yes", "end_turn", "m"), True, False)),
        *((Completion("ye", "length", "m"), False, False), (Completion(None, "refusal", "m"), False, False)),
        *((Completion(None, "prompt too long", "m"), False, True), (Completion(None, "HTTP 502", "m"), False, True)),
        (Completion(None, "time-out", "m"), False, True),
    ],
)
def test_only_a_whole_text_is_usable(answer: Completion, usable: bool, failed: bool, journal: Journal) -> None:
    paid(journal, HELLO, 1.0, answer)
    assert (answer.usable, answer.failed) == (usable, failed)
    assert journal.unusable() == ({} if usable else {HELLO: 1})


def test_reservation_counts_until_it_is_settled(journal: Journal) -> None:
    written(journal.reserve(HELLO, REQUEST, 1.0))
    assert journal.spending() == Spending(1, 0, 0, 1.0)
    written(journal.settle(HELLO, REQUEST, 1.0, TOKENS, 0.25, YES))
    assert journal.spending() == Spending(1, 3, 4, 0.25, 2)


def test_spending_and_answers_are_those_of_the_own_requests_alone(path: Path, journal: Journal) -> None:
    paid(journal, HELLO, 1.0, YES)
    with open_journal(path, [OTHER]) as other:
        assert other.spending() == Spending(0, 0, 0, 0.0)
        assert other.answers() == {}


def test_many_writes_at_once_are_committed_together(path: Path) -> None:
    keys = [str(number) for number in range(2000)]
    with open_journal(path, keys) as journal:
        start = time.monotonic()
        written(*(journal.reserve(key, REQUEST, 1.0) for key in keys))
        assert time.monotonic() - start < 2, "one by one they take as many commits"
        assert journal.spending().usd == 2000


@pytest.mark.parametrize("columns", ["", "owner text, until real,"])
def test_older_journals_are_read_and_added_to(columns: str, path: Path) -> None:
    path.parent.mkdir()
    answer = json.dumps({"text": "old", "ended": "length", "model": "m"})
    with sqlite3.connect(path) as db:
        db.execute(
            f"create table requests (key text primary key, {columns} prompt_tokens integer not null "
            "default 0, completion_tokens integer not null default 0, usd real not null, request text not null, "
            "answer text)"
        )
        names = "key, prompt_tokens, completion_tokens, usd, request, answer"
        db.execute(f"insert into requests ({names}) values (?, 5, 6, 1.5, ?, ?)", (OTHER, REQUEST, answer))
    for _ in range(2):
        with open_journal(path, [HELLO, OTHER]) as journal:
            assert journal.answers()[OTHER] == Completion("old", "length", "m")
            assert OTHER in journal.unusable()
            paid(journal, HELLO, 0.5, YES)
            assert journal.answers()[HELLO] == YES
    with sqlite3.connect(path) as db:
        assert db.execute("pragma user_version").fetchone() == (VERSION,)


def test_a_journal_that_kept_no_words_is_read_and_says_so_when_exported(path: Path, tmp_path: Path) -> None:
    with open_journal(path, []):
        pass
    old = [
        ("a", {"text": None, "ended": "refusal", "model": "m"}),
        ("b", {"text": None, "ended": "HTTP 400", "model": "m"}),
    ]
    with sqlite3.connect(path) as db:
        db.execute("pragma user_version=1")
        for key, answer in old:
            db.execute(
                "insert into requests (key, usd, request, answer) values (?, 0, ?, ?)",
                (key, REQUEST, json.dumps(answer)),
            )
    with open_journal(path, ["a", "b", HELLO]) as journal:
        assert [journal.answers()[key].finish_reason for key in "ab"] == ["refusal", "HTTP 400"]
        paid(journal, HELLO, 0.0, Completion(None, "prompt too long", "m", error="HTTP 400: of 9000 tokens"))
        assert journal.answers()[HELLO].error == "HTTP 400: of 9000 tokens"
    export(path, tmp_path / "out")
    rows = map(json.loads, (tmp_path / "out" / "responses.jsonl").read_text().splitlines())
    errors = {row["custom_id"]: row["error"] for row in rows}
    assert errors["a"] is None
    assert errors["b"] == {"code": "HTTP 400", "message": "no answer within the retries"}
    assert errors[HELLO] == {"code": "prompt too long", "message": "HTTP 400: of 9000 tokens"}


OPENED = (
    "import sys; from pathlib import Path; from lema.api.journal import open_journal\n"
    "with open_journal(Path(sys.argv[1]), []): 1"
)


def test_processes_that_open_a_new_journal_at_once_all_can(path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", OPENED, path], stderr=subprocess.PIPE) for _ in range(6)]
    assert [process.communicate()[1] for process in processes] == [b""] * 6


def test_a_journal_of_a_newer_version_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute(f"pragma user_version={VERSION + 1}")
    before = path.read_bytes()
    message = rf"requests\.sqlite: written by a newer lema \(format {VERSION + 1};.*update"
    with pytest.raises(UserError, match=message), open_journal(path, []):
        pass
    assert path.read_bytes() == before


def test_full_disk_is_a_user_error_and_loses_nothing(path: Path) -> None:
    def fill() -> None:
        with open_journal(path, [HELLO, OTHER]) as journal:
            paid(journal, OTHER, 0.5, YES)
            written(journal.reserve(HELLO, REQUEST, 1.0))
            pages = journal._db.execute("pragma page_count").fetchone()[0]
            journal._db.execute(f"pragma max_page_count={pages}")
            written(journal.settle(HELLO, REQUEST, 1.0, TOKENS, 0.1, Completion("long" * 10_000, "stop", "m")))

    with pytest.raises(UserError, match=r"no space is left on its disk .* free some, .*; 1 paid answers could not"):
        fill()
    with open_journal(path, [HELLO, OTHER]) as journal:
        assert journal.spending().usd == 1.5
        assert journal.answers() == {OTHER: YES}


def test_what_a_full_disk_refused_is_written_when_there_is_room_at_the_end(path: Path) -> None:
    with open_journal(path, [HELLO]) as journal:
        written(journal.reserve(HELLO, REQUEST, 1.0))
        pages = journal._db.execute("pragma page_count").fetchone()[0]
        journal._db.execute(f"pragma max_page_count={pages}")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            written(journal.settle(HELLO, REQUEST, 1.0, TOKENS, 0.1, Completion("long" * 10_000, "stop", "m")))
        journal._db.execute("pragma max_page_count=100000")
    with open_journal(path, [HELLO]) as journal:
        assert journal.answers()[HELLO].usable


def test_export_is_in_the_shape_of_batches(journal: Journal, path: Path, tmp_path: Path) -> None:
    paid(journal, HELLO, 1.0, YES)
    paid(journal, OTHER, 1.0, Completion(None, "HTTP 500", "m"))
    with open_journal(path, ["c-open"]) as other:
        written(other.reserve("c-open", REQUEST, 1.0))
    assert export(path, tmp_path / "out") == 3
    names = ["requests.jsonl", "responses.jsonl"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names
    texts = [(tmp_path / "out" / name).read_text(encoding="utf-8") for name in names]
    assert "yes ä😀" in texts[1]
    requests, responses = ([json.loads(line) for line in text.splitlines()] for text in texts)
    assert requests[0] == {
        "custom_id": OTHER,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": json.loads(REQUEST),
    }
    assert [row["custom_id"] for row in requests] == [OTHER, HELLO, "c-open"]
    assert [row["custom_id"] for row in responses] == [OTHER, HELLO]
    assert responses[0]["response"] is None
    assert responses[0]["error"]["code"] == "HTTP 500"
    assert responses[1]["error"] is None
    body = responses[1]["response"]["body"]
    assert responses[1]["response"]["status_code"] == 200
    assert body["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "yes ä😀"}, "finish_reason": "stop"}
    ]
    assert body["usage"]["prompt_tokens"] == 3
    assert body["model"] == "m"


def test_export_of_no_journal_is_a_user_error(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"requests\.sqlite: not there: no request was sent"):
        export(path, tmp_path)
