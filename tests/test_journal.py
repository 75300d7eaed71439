"""The journal of paid requests, on its own: claims, budgets, durability."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lema import journal as journal_module
from lema.journal import Cost, Journal, Refusal, Request
from lema.types import UserError

WORST = Cost(100, 50, 1.0)


def request_of(text: str = "hello", **changes: object) -> Request:
    values: dict = {"model": "m", "messages": [{"role": "user", "content": text}], "parameters": {}, "sample": 0}
    return Request(**{**values, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "requests.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def in_other_process(path: Path, code: str) -> str:
    """What a process that ends without a word (as by kill -9) prints; `journal` and `request` are given."""
    setup = (
        "import os, sys, time\nfrom pathlib import Path\nfrom lema.journal import *\n"
        f"journal = Journal(Path({str(path)!r}))\n"
        "request = Request('m', [{'role': 'user', 'content': 'hello'}], {}, 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", setup + code + "\nsys.stdout.flush()\nos._exit(9)"], capture_output=True, text=True
    )
    assert ended.returncode == 9, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"messages": [{"role": "user", "content": "other"}]},
        {"parameters": {"temperature": 0}},
        {"sample": 1},
    ],
)
def test_key_depends_on_everything_that_is_asked(change: dict) -> None:
    assert request_of().key == request_of().key
    assert request_of(**change).key != request_of().key


def test_key_does_not_depend_on_the_order_of_parameters() -> None:
    one, other = {"temperature": 1, "seed": 2}, {"seed": 2, "temperature": 1}
    assert request_of(parameters=one).key == request_of(parameters=other).key


def test_key_never_changes_between_versions() -> None:
    # Another key would have every user pay again.
    assert request_of("ä").key == "f7b13811821b156ac100d7673287d72315ff4017e2e25fd1d6dc81b8aa0e6f34"


@pytest.mark.parametrize("text", ["", "hello", "ä€😀", '"\\\n'])
def test_bound_of_the_prompt_is_above_its_bytes(text: str) -> None:
    assert request_of(text).most_prompt_tokens >= len(text.encode()) + 16


def test_answer_and_its_cost_outlive_the_process(path: Path, journal: Journal) -> None:
    code = "a = journal.start(request, Cost(9, 9, 1.0), 1.0); journal.settle(a, Cost(3, 4, 0.5), 'yes')"
    in_other_process(path, code)
    journal.scope([request_of()])
    assert journal.answer(request_of().key) == "yes"
    assert journal.start(request_of(), WORST, 9.0) is Refusal.answered
    spending = journal.spending()
    assert (spending.requests, spending.attempts, spending.prompt_tokens, spending.completion_tokens) == (1, 1, 3, 4)
    assert (spending.usd, spending.assumed_usd) == (0.5, 0.0)


def test_live_claim_of_another_is_respected(path: Path, journal: Journal) -> None:
    other = Journal(path)
    assert isinstance(other.start(request_of(), WORST, 9.0), int)
    assert journal.start(request_of(), WORST, 9.0) is Refusal.busy


def test_claim_of_a_dead_process_is_taken_over_and_its_attempt_still_counted(path: Path, journal: Journal) -> None:
    in_other_process(path, "journal.start(request, Cost(9, 9, 1.0), 1.0)")
    journal.scope([request_of()])
    assert not journal.others_in_flight()
    assert journal.start(request_of(), WORST, 1.5) is Refusal.budget
    attempt = journal.start(request_of(), WORST, 2.0)
    assert isinstance(attempt, int)
    journal.settle(attempt, Cost(1, 1, 0.25), "yes")
    spending = journal.spending()
    assert (spending.attempts, spending.usd, spending.assumed_usd) == (2, 1.25, 1.0)


@pytest.mark.parametrize(("renewed", "expected"), [(False, int), (True, Refusal)])
def test_claim_of_another_host_lasts_as_long_as_it_is_renewed(
    renewed: bool, expected: type, path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(journal_module.socket, "gethostname", lambda: "elsewhere")
        other = Journal(path)
    start = journal_module.time.time()
    assert isinstance(other.start(request_of(), WORST, 9.0), int)
    monkeypatch.setattr(journal_module.time, "time", lambda: start + 0.9 * journal_module.LEASE)
    assert journal.start(request_of(), WORST, 9.0) is Refusal.busy
    if renewed:
        other.renew()
    monkeypatch.setattr(journal_module.time, "time", lambda: start + 1.1 * journal_module.LEASE)
    assert isinstance(journal.start(request_of(), WORST, 9.0), expected)


def test_first_answer_stands_and_both_attempts_are_counted(path: Path, journal: Journal) -> None:
    other = Journal(path)
    slow = other.start(request_of(), WORST, 9.0)
    other.give_up("interrupted")
    fast = journal.start(request_of(), WORST, 9.0)
    assert isinstance(slow, int)
    assert isinstance(fast, int)
    journal.settle(fast, Cost(1, 1, 0.1), "first")
    other.settle(slow, Cost(1, 1, 0.1), "second")
    journal.scope([request_of()])
    assert journal.answer(request_of().key) == "first"
    assert journal.spending().usd == pytest.approx(0.2)


def test_failed_request_keeps_its_reason_and_may_be_tried_again(path: Path, journal: Journal) -> None:
    attempt = journal.start(request_of(), WORST, 9.0)
    assert isinstance(attempt, int)
    journal.settle(attempt, Cost(0, 0, 0.0))
    journal.give_up("500: it broke", request_of().key)
    assert sqlite3.connect(path).execute("select state, reason from requests").fetchall() == [
        ("failed", "500: it broke")
    ]
    assert journal.answer(request_of().key) is None
    assert isinstance(Journal(path).start(request_of(), WORST, 9.0), int)


def test_giving_up_leaves_the_claims_of_others_and_the_answers(path: Path, journal: Journal) -> None:
    other = Journal(path)
    assert isinstance(other.start(request_of("theirs"), WORST, 9.0), int)
    attempt = journal.start(request_of("done"), WORST, 9.0)
    assert isinstance(attempt, int)
    journal.settle(attempt, None, "yes")
    journal.give_up("interrupted")
    assert journal.start(request_of("theirs"), WORST, 9.0) is Refusal.busy
    assert journal.answer(request_of("done").key) == "yes"


def test_budget_is_for_the_scope_alone(journal: Journal) -> None:
    journal.scope([request_of("old")])
    assert isinstance(journal.start(request_of("old"), WORST, 1.0), int)
    journal.scope([request_of("new"), request_of("newer")])
    assert isinstance(journal.start(request_of("new"), WORST, 1.5), int)
    assert journal.start(request_of("newer"), WORST, 1.5) is Refusal.budget


def test_reservation_is_given_back_when_the_bill_is_smaller(journal: Journal) -> None:
    journal.scope([request_of("a"), request_of("b")])
    attempt = journal.start(request_of("a"), WORST, 1.5)
    assert isinstance(attempt, int)
    assert journal.start(request_of("b"), WORST, 1.5) is Refusal.budget
    journal.settle(attempt, Cost(1, 1, 0.5), "yes")
    assert isinstance(journal.start(request_of("b"), WORST, 1.5), int)


def test_flight_of_a_living_process_is_seen(path: Path, journal: Journal) -> None:
    other = Journal(path)
    journal.scope([request_of()])
    attempt = other.start(request_of(), WORST, 9.0)
    assert isinstance(attempt, int)
    assert journal.others_in_flight()
    other.settle(attempt, Cost(0, 0, 0.0))
    assert not journal.others_in_flight()


def test_processes_may_open_a_new_journal_together(path: Path) -> None:
    code = "print('opened')"
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: in_other_process(path, code), range(4))) == ["opened\n"] * 4


def test_unusable_file_is_a_user_error(tmp_path: Path) -> None:
    file = tmp_path / "text.sqlite"
    file.write_text("this is no database, and long enough to be seen as none" * 20)
    with pytest.raises(UserError, match=r"text\.sqlite: file is not a database"):
        Journal(file)
    with pytest.raises(UserError, match=r"text\.sqlite.*: choose another runs_dir"):
        Journal(file / "requests.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_a_user_error(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(UserError, match=r"requests\.sqlite: unable to open database file"):
        Journal(tmp_path / "requests.sqlite")


def test_full_disk_is_a_user_error_and_loses_nothing(journal: Journal) -> None:
    attempt = journal.start(request_of(), WORST, 9.0)
    assert isinstance(attempt, int)
    pages = journal._db.execute("pragma page_count").fetchone()[0]
    journal._db.execute(f"pragma max_page_count={pages}")
    with pytest.raises(UserError, match=r"database or disk is full.*free space"):
        journal.settle(attempt, Cost(1, 1, 0.1), "long" * 10_000)
    journal._db.execute("pragma max_page_count=100000")
    journal.settle(attempt, Cost(1, 1, 0.1), "yes")
    assert journal.answer(request_of().key) == "yes"


def test_journal_of_a_newer_version_is_left_alone(path: Path, journal: Journal) -> None:
    sqlite3.connect(path).execute("pragma user_version=2")
    with pytest.raises(UserError, match=r"requests\.sqlite: written by a newer lema \(version 2"):
        Journal(path)
