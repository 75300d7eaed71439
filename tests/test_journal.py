"""The journal of paid requests, on its own: claims, budgets, durability."""

import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lema.journal import Answer, Journal, Spending, open_journal
from lema.types import UserError

HELLO, OTHER = '{"messages": "hello"}', '{"messages": "other"}'
YES = Answer("yes ä😀", "stop", "m")
SECONDS = 600.0


def bill(usd: float) -> Spending:
    return Spending(1, 3, 4, usd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "requests.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with open_journal(path, [HELLO, OTHER, HELLO]) as opened:
        yield opened


class Elsewhere:
    """Another process with the journal open; it claims and settles as it is told, until it is killed."""

    def __init__(self, path: Path) -> None:
        setup = (
            "import json, sys\nfrom pathlib import Path\nfrom lema.journal import Answer, Spending, open_journal\n"
            f"with open_journal(Path({str(path)!r}), [{HELLO!r}, {OTHER!r}]) as journal:\n"
            "    for line in sys.stdin:\n"
            "        request, usd, text = json.loads(line)\n"
            "        if text is None:\n            print(journal.claim(request, usd, 9.0, 600.0), flush=True)\n"
            "        else:\n            answer = Answer(text, 'stop', 'm')\n"
            "            print(journal.settle(request, 1.0, Spending(1, 3, 4, usd), answer), flush=True)\n"
        )
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-c", setup], stdin=pipe, stdout=pipe, text=True)

    def claim(self, request: str) -> str:
        return self._tell(request, 1.0, None)

    def settle(self, request: str, usd: float, text: str) -> None:
        self._tell(request, usd, text)

    def _tell(self, request: str, usd: float, text: str | None) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([request, usd, text]) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def elsewhere(path: Path) -> Iterator[Elsewhere]:
    process = Elsewhere(path)
    yield process
    process.kill()


def test_answer_and_its_cost_outlive_the_process(journal: Journal, elsewhere: Elsewhere) -> None:
    assert elsewhere.claim(HELLO) == "claimed"
    elsewhere.settle(HELLO, 0.5, "yes ä😀")
    elsewhere.kill()
    assert journal.answers() == {HELLO: YES}
    assert journal.spending() == Spending(1, 3, 4, 0.5)
    assert journal.claim(HELLO, 1.0, 9.0, SECONDS) == "answered"


def test_claim_of_a_living_process_is_respected_and_that_of_a_dead_one_taken_over(
    journal: Journal, elsewhere: Elsewhere
) -> None:
    assert elsewhere.claim(HELLO) == "claimed"
    assert journal.claim(HELLO, 1.0, 9.0, SECONDS) == "busy"
    elsewhere.kill()
    assert journal.claim(HELLO, 1.0, 1.5, SECONDS) == "budget", "what the dead one may have paid counts"
    assert journal.claim(HELLO, 1.0, 2.0, SECONDS) == "claimed"
    journal.settle(HELLO, 1.0, bill(0.25), YES)
    assert journal.spending().usd == 1.25


@pytest.mark.parametrize(("until", "expected"), [(0.0, "claimed"), (1e12, "busy")])
def test_claim_of_another_host_lasts_until_it_is_overdue(
    until: float, expected: str, path: Path, journal: Journal
) -> None:
    assert journal.claim(HELLO, 1.0, 9.0, SECONDS) == "claimed"
    with sqlite3.connect(path) as db:
        db.execute("update requests set owner='elsewhere:1', until=?", (until,))
    assert journal.claim(HELLO, 1.0, 9.0, SECONDS) == expected


def test_overdue_claim_whose_process_number_lives_again_is_taken_over(path: Path, journal: Journal) -> None:
    journal.claim(HELLO, 1.0, 9.0, SECONDS)
    with sqlite3.connect(path) as db:
        db.execute("update requests set owner=?, until=0", (f"{socket.gethostname()}:1",))
    assert journal.claim(HELLO, 1.0, 9.0, SECONDS) == "claimed"


def test_claims_of_an_interrupted_run_are_free_for_the_next_in_the_same_process(path: Path, journal: Journal) -> None:
    journal.claim(HELLO, 1.0, 9.0, SECONDS)
    with open_journal(path, [HELLO]) as again:
        assert again.claim(HELLO, 1.0, 9.0, SECONDS) == "claimed"
        assert again.spending().usd == 2.0


def test_first_answer_stands_and_both_bills_are_counted(path: Path, journal: Journal, elsewhere: Elsewhere) -> None:
    journal.claim(HELLO, 1.0, 9.0, SECONDS)
    with sqlite3.connect(path) as db:
        db.execute("update requests set until=0")
    assert elsewhere.claim(HELLO) == "claimed"
    journal.settle(HELLO, 1.0, bill(0.5), YES)
    assert journal.claim(HELLO, 1.0, 9.0, SECONDS) == "answered"
    elsewhere.settle(HELLO, 0.5, "no")
    assert journal.answers() == {HELLO: YES}
    assert journal.spending().usd == 1.0


def test_budget_is_for_the_own_requests_alone(path: Path, journal: Journal) -> None:
    journal.claim(HELLO, 1.0, 1.0, SECONDS)
    journal.settle(HELLO, 1.0, bill(1.0), None)
    assert journal.claim(OTHER, 1.0, 1.5, SECONDS) == "budget"
    with open_journal(path, [OTHER]) as other:
        assert other.claim(OTHER, 1.0, 1.5, SECONDS) == "claimed"


def test_reservation_is_waited_for_and_given_back_when_the_bill_is_smaller(journal: Journal) -> None:
    journal.claim(HELLO, 1.0, 1.5, SECONDS)
    assert journal.claim(OTHER, 1.0, 1.5, SECONDS) == "busy"
    journal.settle(HELLO, 1.0, bill(0.5), YES)
    assert journal.claim(OTHER, 1.0, 1.5, SECONDS) == "claimed"


def test_budget_that_is_no_number_allows_nothing(journal: Journal) -> None:
    assert journal.claim(HELLO, 0.0, float("nan"), SECONDS) == "budget"


def test_processes_may_open_a_new_journal_together(path: Path) -> None:
    processes = [Elsewhere(path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda process: process.claim(HELLO), processes))
    for process in processes:
        process.kill()
    assert sorted(said) == ["busy", "busy", "busy", "claimed"]


def test_unusable_file_is_a_user_error(tmp_path: Path) -> None:
    file = tmp_path / "text.sqlite"
    file.write_text("this is no database, and long enough to be seen as none" * 20)
    with pytest.raises(UserError, match=r"text\.sqlite: file is not a database"), open_journal(file, []):
        pass


def test_full_disk_is_a_user_error_and_loses_nothing(path: Path) -> None:
    def fill() -> None:
        with open_journal(path, [HELLO]) as journal:
            journal.claim(HELLO, 1.0, 9.0, SECONDS)
            pages = journal._db.execute("pragma page_count").fetchone()[0]
            journal._db.execute(f"pragma max_page_count={pages}")
            journal.settle(HELLO, 1.0, bill(0.1), Answer("long" * 10_000, "stop", "m"))

    with pytest.raises(UserError, match=r"database or disk is full.*free space"):
        fill()
    with open_journal(path, [HELLO]) as journal:
        assert journal.spending().usd == 1.0
        assert journal.claim(HELLO, 1.0, 9.0, SECONDS) == "claimed"
