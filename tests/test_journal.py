"""The journal of paid requests, on its own: costs, answers, durability."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lema.journal import Answer, Journal, Spending, open_journal
from lema.types import UserError

HELLO, OTHER = '{"messages": "hello"}', '{"messages": "other"}'
YES = Answer("yes ä😀", "stop", "m")


def bill(usd: float) -> Spending:
    return Spending(1, 3, 4, usd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "requests.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with open_journal(path, [HELLO, OTHER, HELLO]) as opened:
        yield opened


PAID_ELSEWHERE = f"""
from pathlib import Path
from lema.journal import Answer, Spending, open_journal
with open_journal(Path(sys.argv[1]), [{HELLO!r}, {OTHER!r}]) as journal:
    journal.reserve({HELLO!r}, 1.0)
    journal.settle({HELLO!r}, 1.0, Spending(1, 3, 4, 0.5), Answer("yes ä😀", "stop", "m"))
    journal.reserve({OTHER!r}, 1.0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_answer_and_its_cost_outlive_the_process(journal: Journal, path: Path) -> None:
    subprocess.run([sys.executable, "-c", "import os, signal, sys" + PAID_ELSEWHERE, path])
    assert journal.answers() == {HELLO: YES}
    assert journal.spending() == Spending(2, 3, 4, 1.5), "what the dead one may have paid counts"


def test_every_attempt_counts_and_the_first_answer_stands(journal: Journal) -> None:
    for usd, answer in ((1.0, None), (0.5, YES), (0.25, Answer("no", "stop", "m"))):
        journal.reserve(HELLO, 2.0)
        journal.settle(HELLO, 2.0, bill(usd), answer)
    assert journal.answers() == {HELLO: YES}
    assert journal.spending() == Spending(1, 9, 12, 1.75)


def test_reservation_counts_until_it_is_settled(journal: Journal) -> None:
    journal.reserve(HELLO, 1.0)
    assert journal.spending() == Spending(1, 0, 0, 1.0)
    journal.settle(HELLO, 1.0, bill(0.25), YES)
    assert journal.spending() == Spending(1, 3, 4, 0.25)


def test_spending_and_answers_are_those_of_the_own_requests_alone(path: Path, journal: Journal) -> None:
    journal.reserve(HELLO, 1.0)
    journal.settle(HELLO, 1.0, bill(1.0), YES)
    with open_journal(path, [OTHER]) as other:
        assert other.spending() == Spending(0, 0, 0, 0.0)
        assert other.answers() == {}


def test_a_journal_with_other_columns_is_read_and_added_to(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute(
            "create table requests (key text primary key, owner text, until real, prompt_tokens integer not null "
            "default 0, completion_tokens integer not null default 0, usd real not null, request text not null, "
            "answer text)"
        )
    with open_journal(path, [HELLO]) as journal:
        journal.reserve(HELLO, 1.0)
        journal.settle(HELLO, 1.0, bill(0.5), YES)
        assert journal.answers() == {HELLO: YES}


def test_unusable_file_is_a_user_error(tmp_path: Path) -> None:
    file = tmp_path / "text.sqlite"
    file.write_text("this is no database, and long enough to be seen as none" * 20)
    with pytest.raises(UserError, match=r"text\.sqlite: file is not a database"), open_journal(file, []):
        pass


def test_full_disk_is_a_user_error_and_loses_nothing(path: Path) -> None:
    def fill() -> None:
        with open_journal(path, [HELLO]) as journal:
            journal.reserve(HELLO, 1.0)
            pages = journal._db.execute("pragma page_count").fetchone()[0]
            journal._db.execute(f"pragma max_page_count={pages}")
            journal.settle(HELLO, 1.0, bill(0.1), Answer("long" * 10_000, "stop", "m"))

    with pytest.raises(UserError, match=r"database or disk is full.*free space"):
        fill()
    with open_journal(path, [HELLO]) as journal:
        assert journal.spending().usd == 1.0
        assert journal.answers() == {}
