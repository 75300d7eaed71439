"""What is asked of a server is paid for once, within the budget, at its pace, against a loopback server that bills."""

import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asked import KEY, PRICE, api_for, asked, number_of
from openai_server import OpenAIServer
from tables import table

from lema.api.asking import ask
from lema.api.journal import Spending
from lema.api.requests import Message
from lema.config import PriceConfig
from lema.types import Completion, UserError


def test_answers_come_in_order_and_cost_what_the_server_billed(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: prompt[8:11]) as server:
        answers, spending = asked(30, api_for(server), journal)
    assert answers == [Completion(f"{number} + 3"[:3], "stop", "gpt-test") for number in range(30)]
    assert all(answer.usable for answer in answers)
    assert {frozenset(request) for request in server.requests} == {
        frozenset({"model", "messages", "max_completion_tokens"})
    }
    assert spending.requests == 30
    assert spending.completion_tokens == 30
    assert spending.usd == pytest.approx(server.usd)


def test_parameters_are_sent_only_when_set(journal: Path) -> None:
    with OpenAIServer() as server:
        asked(1, api_for(server, temperature=0.5, reasoning_effort="low"), journal)
        asked(1, api_for(server, max_tokens=7, max_completion_tokens=None), journal)
    assert {name: value for name, value in server.requests[0].items() if name != "messages"} == {
        "model": "gpt-test",
        "temperature": 0.5,
        "reasoning_effort": "low",
        "max_completion_tokens": 500,
    }
    assert server.requests[1].keys() == {"model", "messages", "max_tokens"}


def test_duplicates_are_asked_once_and_attempts_are_requests_of_their_own(journal: Path) -> None:
    counted = iter(range(100))
    with OpenAIServer(reply=lambda prompt: str(next(counted))) as server:
        api = api_for(server, max_concurrent_requests=1)
        prompts = [Message("a"), Message("b"), Message("a"), Message("a", 1), Message("a", 2), Message("a", 1)]
        for _ in range(2):
            answers, spending = ask(prompts, api, PRICE, section="s", budget_usd=1.0, journal_path=journal)
            assert [answer.text for answer in answers] == ["0", "1", "0", "2", "3", "2"]
            assert spending.requests == 4
    assert len(server.requests) == 4
    assert "attempt" not in str(server.requests)


def test_half_a_surrogate_pair_goes_over_no_wire(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: "is 5 \ud83d.") as server:
        settings = {"section": "s", "budget_usd": 1.0, "journal_path": journal}
        answers, _ = ask([Message("a \ud83d b")], api_for(server), PRICE, **settings)
    assert server.requests[0]["messages"][0]["content"] == "a ? b"
    assert answers[0].text == "is 5 ?."


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        ("ok", Completion("Hello.", "stop", "gpt-2026")),
        ("length", Completion("Hel", "length", "gpt-2026")),
        ("content_filter", Completion(None, "content_filter", "gpt-2026")),
        ("refusal", Completion(None, "refusal", "gpt-2026")),
        ("null", Completion(None, "stop", "gpt-2026")),
        ("too_long", Completion(None, "prompt too long", "gpt-test")),
        ("no_usage", Completion("Hello.", "stop", "gpt-2026")),
        ("wrong_model", Completion("Hello.", "stop", "another-model")),
    ],
)
def test_every_answer_is_paid_once_and_kept(fault: str, answer: Completion, journal: Path) -> None:
    with OpenAIServer(faults=[fault], model="gpt-2026") as server:
        for _ in range(2):
            assert asked(1, api_for(server), journal)[0] == [answer]
    assert len(server.requests) == 1
    assert answer.usable == (answer.text == "Hello.")
    assert answer.failed == (fault == "too_long")


def test_the_name_that_a_server_gives_its_model_cannot_write_to_a_terminal_or_a_table(journal: Path) -> None:
    with OpenAIServer(model="m\x1b[2J\n# gpt\u2028" + "x" * 500) as server:
        [answer], _ = asked(1, api_for(server), journal)
    assert answer.model == "m[2J# gpt" + "x" * 91
    with OpenAIServer(model="/home/alice/models/mine") as server:
        [answer], _ = asked(2, api_for(server), journal)[0][1:], None
    assert answer.model == "…/mine"  # a folder may name its user


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset", "truncated", "malformed", "html", "no_choices"])
def test_passing_fault_is_retried_and_every_attempt_counted(fault: str, journal: Path) -> None:
    with OpenAIServer(faults=[fault]) as server:
        answers, spending = asked(1, api_for(server), journal)
    assert answers[0].usable
    assert len(server.requests) == 2
    assert spending.usd >= server.usd - 1e-12
    assert (spending.usd > 0.005) == (fault not in ("429", "500", "503")), "its worst case, where the bill is unknown"


def test_hanging_server_is_given_up_after_the_timeout(journal: Path) -> None:
    with OpenAIServer(faults=["hang"]) as server:
        _, spending = asked(1, api_for(server, request_timeout=0.5), journal)
    assert len(server.requests) == 2
    assert spending.usd >= server.usd


@pytest.mark.parametrize("fault", ["429:0.7", "503:0.7"])
def test_retry_after_holds_all_workers_back(fault: str, journal: Path) -> None:
    with OpenAIServer(faults=["ok", fault], latency=0.02) as server:
        asked(12, api_for(server, max_concurrent_requests=2), journal)
    assert len(server.requests) == 13
    # One was in flight beside the second; nothing else came before the wait was over.
    late = [arrival for arrival in server.arrivals if arrival > server.arrivals[0] + 0.65]
    assert len(late) >= 10


def test_retry_after_of_one_among_many_accepted_holds_back_it_alone(journal: Path) -> None:
    with OpenAIServer(faults=["ok"] * 100 + ["429:3"], latency=0.01) as server:
        asked(400, api_for(server), journal)
        others = [at - server.arrivals[100] for at in server.arrivals[101:-1]]
    assert max(others) < 2.9
    assert server.arrivals[-1] - server.arrivals[100] >= 3


def test_long_retry_after_ends_the_run_with_the_time_to_come_back(journal: Path) -> None:
    message = (
        r"takes nothing for 4000 s \(HTTP 429: Rate limit reached\): wait until 20\d\d-\d\d-\d\d \d\d:\d\d\. "
        r"1 of 3 answers are saved; the 2 that are left would cost about \$0\.00\. Then run again\."
    )
    with OpenAIServer(faults=["ok", "429:4000"]) as server, pytest.raises(UserError, match=message):
        asked(3, api_for(server, max_concurrent_requests=1), journal)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("insufficient_quota", r"refuses requests \(HTTP 429: You exceeded your current quota\): add credit"),
        ("401", r"\(HTTP 401: Incorrect API key provided: Bearer \*\*\*\): set an OPENAI_API_KEY"),
        ("403", "Country not supported.*: ask from a place that it serves"),
        ("404", r"does not exist.*: choose a corrector\.model"),
    ],
)
def test_hopeless_refusal_stops_at_once_and_keeps_what_was_answered(fault: str, message: str, journal: Path) -> None:
    with OpenAIServer(faults=["ok", "ok", fault]) as server:
        api = api_for(server, max_concurrent_requests=1, temperature=1.0)
        with pytest.raises(UserError, match=message) as raised:
            asked(8, api, journal)
        assert len(server.requests) == 3
        assert "2 of 8 answers are saved; the 6 that are left would cost about $" in str(raised.value)
        assert "\n" not in str(raised.value)
        assert KEY not in str(raised.value)
        assert len(asked(8, api, journal)[0]) == 8
        assert sum(server.billed.values()) == 8


def test_a_prompt_that_the_server_cannot_read_is_asked_once_and_stops_nothing(journal: Path) -> None:
    with OpenAIServer(faults=lambda body: "echo" if number_of(body) == 3 else "ok") as server:
        for _ in range(2):
            answers, _ = asked(8, api_for(server), journal)
            assert [answer.finish_reason for answer in answers] == ["stop"] * 3 + ["HTTP 400"] + ["stop"] * 4
    assert len(server.requests) == 8


def test_a_server_that_can_read_no_prompt_ends_the_run(journal: Path) -> None:
    message = r"keeps failing \(HTTP 400: Cannot read Bearer \*\*\*\): mend what it says, .*base_url\. 0 of 8 answers"
    with OpenAIServer(faults=lambda body: "echo") as server, pytest.raises(UserError, match=message):
        asked(8, api_for(server, max_retries=1), journal)
    assert len(server.requests) == 2


def test_the_first_request_goes_alone_so_a_refused_key_is_used_once(journal: Path) -> None:
    with OpenAIServer(faults=lambda body: "401", latency=0.1) as server, pytest.raises(UserError):
        asked(50, api_for(server, max_concurrent_requests=32), journal)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("refuse", "changes", "message"), table(__file__, "refused parameters"))
def test_a_model_that_refuses_a_parameter_says_in_one_line_what_to_remove(
    refuse: str, changes: dict, message: str, journal: Path
) -> None:
    with OpenAIServer(refuse=[refuse]) as server:
        with pytest.raises(UserError, match=message) as raised:
            asked(2, api_for(server, **changes), journal)
        assert "\n" not in str(raised.value)
        limits = {"max_tokens": 90, "max_completion_tokens": None} if refuse == "max_completion_tokens" else {}
        answers, spending = asked(2, api_for(server, **limits), journal)
    assert all(answer.usable for answer in answers)
    assert spending.usd == pytest.approx(server.usd)


def test_key_is_in_no_file_though_the_server_repeats_it(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: f"Your key is {KEY}.", faults=["ok", "401"]) as server:
        with pytest.raises(UserError):
            asked(20, api_for(server, max_concurrent_requests=1), journal)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    written = b"".join(file.read_bytes() for file in journal.parent.iterdir())
    assert b"What is 0 + 3?" in written
    assert b"Your key is ***." in written
    assert KEY.encode() not in written
    assert b"Bearer" not in written


def test_server_that_is_down_is_asked_by_one_request_at_a_time_and_not_for_long(journal: Path) -> None:
    with OpenAIServer(faults=lambda body: "500") as server:
        with pytest.raises(
            UserError, match=r"keeps failing \(HTTP 500: .*\): wait until it is well again\. 0 of 100 .* at most \$0\.5"
        ):
            asked(100, api_for(server, max_retries=1), journal)
        assert len(server.requests) == 2


def test_server_that_goes_down_ends_the_run_and_nothing_is_held_to_have_failed(journal: Path) -> None:
    with OpenAIServer(faults=lambda body: "ok" if number_of(body) < 10 or fine else "500") as server:
        fine = False
        with pytest.raises(
            UserError, match=r"500.*: wait until it is well again\. 10 of 60 answers are saved; the 50 that are left"
        ):
            asked(60, api_for(server, max_retries=2), journal)
        assert len(server.requests) < 40
        fine = True
        answers, _ = asked(60, api_for(server), journal)
    assert all(answer.usable for answer in answers)
    assert sum(server.billed.values()) == 60


@pytest.mark.parametrize("url", [None, "localhost:1/v1", "http://nowhere.invalid/v1"])
def test_wrong_base_url_is_a_user_error_and_costs_nothing(url: str | None, journal: Path) -> None:
    with OpenAIServer() as server:
        url = url or server.url
    with pytest.raises(UserError, match=r"no connection: .*: check it, or corrector\.base_url") as raised:
        asked(30, api_for(url, max_retries=1), journal)
    assert url in str(raised.value)
    with OpenAIServer() as server:
        _, spending = asked(1, api_for(server), journal)
        assert spending.usd == pytest.approx(server.usd)


def test_password_in_the_base_url_is_refused_and_not_shown(journal: Path) -> None:
    with pytest.raises(UserError, match=r"corrector\.base_url=http://\*\*\*@localhost:1/v1: leave") as raised:
        asked(3, api_for("http://me:secret@localhost:1/v1"), journal)
    assert "secret" not in str(raised.value)


def test_a_sender_that_lost_the_journal_stops_and_keeps_what_it_paid_for(journal: Path) -> None:
    def lose(prompt: str) -> str:
        if "What is 3 + 3?" in prompt:
            lock = journal.with_name(journal.name + ".lock")
            lock.write_text(re.sub("token=.*", "token=another", lock.read_text()))
        return "Hello."

    with OpenAIServer(reply=lose) as server:
        with pytest.raises(
            UserError, match=r"another process has taken the journal over.* \d+ of 40 answers are saved"
        ):
            asked(40, api_for(server, max_concurrent_requests=4), journal)
        paid = sum(server.billed.values())
        assert 4 <= paid < 40  # how soon it is noticed is the machine's
        with sqlite3.connect(journal) as db:
            assert db.execute("select count(*) from requests where answer is not null").fetchone() == (paid,)


@pytest.mark.parametrize(("fault", "ended"), table(__file__, "what fails for good gets a reason and is asked again"))
def test_what_fails_for_good_gets_a_reason_and_is_asked_again_only_on_demand(
    fault: str, ended: str, journal: Path
) -> None:
    with OpenAIServer(faults=lambda body: fault if number_of(body) == 3 and not fine else "ok") as server:
        fine = False
        api = api_for(server, max_retries=1, request_timeout=0.5)
        answers, before = asked(12, api, journal)
        for _ in range(2):
            assert asked(12, api, journal) == (answers, before)
            assert [answer.finish_reason for answer in answers] == ["stop"] * 3 + [ended] + ["stop"] * 8
            assert answers[3].failed
            assert not answers[3].usable
        assert len(server.requests) == 13
        fine = True
        assert asked(12, api, journal)[0] == answers
        answers, after = asked(12, api, journal, retry_failed=True)
        assert len(server.requests) == 14
        assert all(answer.usable for answer in answers)
        assert after.usd > before.usd
        assert after.usd >= server.usd - 1e-12
        asked(12, api, journal, retry_failed=True)
        assert len(server.requests) == 14


def test_only_unusable_answers_are_asked_again_and_a_new_one_stands(journal: Path) -> None:
    with OpenAIServer(faults=["ok", "length", "refusal", "null"]) as server:
        api = api_for(server, max_concurrent_requests=1)
        answers, _ = asked(4, api, journal)
        assert [answer.usable for answer in answers] == [True, False, False, False]
        answers, spending = asked(4, api, journal, retry_failed=True)
        assert [answer.usable for answer in answers] == [True] * 4
        assert len(server.requests) == 7
        assert spending.usd == pytest.approx(server.usd)


def test_cached_prompt_tokens_are_billed_at_their_price(journal: Path) -> None:
    price = PriceConfig(2.0, 0.1, 10.0)
    with OpenAIServer(prices=(2.0, 10.0), cached=(0.5, 0.1)) as server:
        _, spending = asked(5, api_for(server), journal, price=price)
    assert spending.cached_tokens > 0
    assert spending.usd == pytest.approx(server.usd)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_completion_tokens": None},
            r"corrector\.max_completion_tokens is not set, and nothing is sent without it",
        ),
        ({"max_retries": None}, r"corrector\.max_retries is not set"),
        ({"model": None}, r"corrector\.model=null: name the model"),
    ],
)
def test_nothing_is_sent_while_something_is_missing(change: dict, message: str, journal: Path) -> None:
    with OpenAIServer() as server, pytest.raises(UserError, match=message):
        asked(3, api_for(server, **change), journal)
    assert not server.requests


def test_nothing_is_sent_without_a_budget(journal: Path) -> None:
    with (
        OpenAIServer() as server,
        pytest.raises(UserError, match=r"^budget_usd is not set, and nothing is sent without it: "),
    ):
        asked(3, api_for(server), journal, None)
    assert not server.requests


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "is not set"), ("", "is not set"), ("  ", "is not set"), ("sk-ä", "no key has"), ("sk x", "no key has")],
)
def test_without_a_key_nothing_is_sent(
    value: str | None, message: str, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with OpenAIServer() as server, pytest.raises(UserError, match=f"OPENAI_API_KEY .*{message}"):
        asked(3, api_for(server), journal)
    assert not server.requests


def test_what_is_answered_needs_neither_key_nor_budget_nor_server(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer() as server:
        first = asked(3, api_for(server), journal)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert asked(3, api_for(server, max_wait=None), journal, budget=None) == first


@pytest.mark.parametrize("fault", ["ok", "no_usage", "absurd_usage", "reset"])
@pytest.mark.parametrize("budget", [0.06, 0.001])
def test_budget_is_never_passed_by_the_servers_own_count(fault: str, budget: float, journal: Path) -> None:
    def mostly(body: dict) -> str:
        return fault if len(server.requests) % 2 else "ok"

    with OpenAIServer(reply=lambda prompt: "word" * 100, faults=mostly, latency=0.01) as server:
        with pytest.raises(
            UserError,
            match=rf"^budget_usd={budget}: .* are spent, and the next request may cost .*: raise it\. \d+ of 300",
        ):
            asked(300, api_for(server, max_completion_tokens=800), journal, budget)
        assert server.usd <= budget
        if budget == 0.06 and fault == "ok":
            assert server.usd > 0.045, "reservations of what landed are given back"


def test_budget_counts_what_earlier_runs_paid_and_a_larger_one_resumes(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: "word" * 100) as server:
        with pytest.raises(UserError) as raised:
            asked(60, api_for(server), journal, 0.05)
        answered = len(server.requests)
        assert 0 < answered < 60
        mean = server.usd / answered
        left = f"the {60 - answered} that are left would cost about ${mean * (60 - answered):.2f}"
        assert f"raise it. {answered} of 60 answers are saved; {left}" in str(raised.value)
        assert f"${server.usd:.2f} are spent" in str(raised.value)
        with pytest.raises(UserError, match="are spent, and the next"):
            asked(60, api_for(server), journal, 0.05)
        assert len(server.requests) == answered
        _, spending = asked(60, api_for(server), journal)
    assert len(server.requests) == 60
    assert spending.usd == pytest.approx(server.usd)


def test_budget_counts_what_it_paid_elsewhere(journal: Path) -> None:
    settings = {"section": "s", "budget_usd": 1.0, "journal_path": journal}
    with OpenAIServer() as server, pytest.raises(UserError, match=r"budget_usd=1: \$0\.99 are spent"):
        ask([Message("a" * 100)], api_for(server, max_completion_tokens=2000), PRICE, paid_usd=0.99, **settings)
    assert not server.requests


def test_what_costs_nothing_needs_no_budget_that_is_left(journal: Path) -> None:
    settings = {"section": "s", "journal_path": journal, "paid_usd": 5.0}
    with OpenAIServer() as server:
        for number, budget in enumerate((0.0, 4.0)):
            free = PriceConfig(0.0, 0.0, 0.0)
            answers, _ = ask([Message(f"{number}?")], api_for(server), free, budget_usd=budget, **settings)
            assert answers[0].usable


def test_no_more_requests_at_once_than_configured(journal: Path) -> None:
    with OpenAIServer(latency=0.05) as server:
        asked(20, api_for(server, max_concurrent_requests=5), journal)
    assert server.most_in_flight == 5


def test_requests_are_not_logged_one_by_one(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with OpenAIServer() as server:
        asked(3, api_for(server), journal)
    [line] = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert line.startswith("asking           corrector by gpt-test: 3 requests, "), "what they will cost"


def test_requests_of_older_journals_stay_answered(journal: Path) -> None:
    """The key of a request is the hash of its canonical JSON, as it always was."""
    request = '{"max_completion_tokens": 500, "messages": [{"content": "Größe?", "role": "user"}], "model": "gpt-test"}'
    key = hashlib.sha256(request.encode()).hexdigest()
    journal.parent.mkdir()
    with sqlite3.connect(journal) as db:
        db.execute(
            "create table requests (key text primary key, prompt_tokens integer not null default 0, "
            "completion_tokens integer not null default 0, usd real not null, request text not null, answer text)"
        )
        answer = json.dumps({"text": "groß", "ended": "stop", "model": "m"})
        db.execute("insert into requests values (?, 3, 4, 0.5, ?, ?)", (key, request, answer))
    answers, spending = ask(
        [Message("Größe?")], api_for(None), PRICE, section="s", budget_usd=None, journal_path=journal
    )
    assert answers == [Completion("groß", "stop", "m")]
    assert spending == Spending(1, 3, 4, 0.5)


CLIENT = """
import sys
from pathlib import Path
from asked import api_for, asked
print(len(asked(int(sys.argv[2]), api_for(sys.argv[1]), Path(sys.argv[3]), float(sys.argv[4]))[0]))
assert "torch" not in sys.modules
"""


def client(server: OpenAIServer, count: int, journal: Path, budget: float = 100.0) -> subprocess.Popen:
    arguments = [server.url, count, journal, budget]
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("end", "after"), [(signal.SIGKILL, 30), (signal.SIGINT, 20)])
def test_killed_run_loses_no_answer_and_pays_only_for_the_rest(end: signal.Signals, after: int, journal: Path) -> None:
    with OpenAIServer(latency=0.05) as server:
        process = client(server, 50, journal)
        while len(server.requests) < after:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, end)
        process.communicate(timeout=20)
        sent = len(server.requests)
        with sqlite3.connect(journal) as db:
            (answered,) = db.execute("select count(*) from requests where answer is not null").fetchone()
        assert sent - answered <= 8, "at most what was in flight is lost"
        _, spending = asked(50, api_for(server), journal)
        assert len(server.requests) == sent + 50 - answered
    assert len(server.billed) == 50
    assert spending.usd >= server.usd - 1e-12


def test_processes_together_pay_for_each_request_once(journal: Path) -> None:
    with OpenAIServer(latency=0.1) as server:
        processes = [client(server, 40, journal) for _ in range(2)]
        outputs = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in outputs] == ["40\n"] * 2, outputs
    assert len(server.requests) == len(server.billed) == 40


def test_processes_together_do_not_pass_the_budget(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: "word" * 100, latency=0.1) as server:
        processes = [client(server, 60, journal, budget=0.05) for _ in range(2)]
        outputs = [process.communicate(timeout=60) for process in processes]
    assert all("are spent, and the next" in errors for _, errors in outputs), outputs
    assert 0.03 < server.usd <= 0.05


FULL = """
import resource, sys
from lema.api import journal
journal._SPARE_BYTES = 1000  # there is room for no more
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
""" + CLIENT.replace("sys.argv[1])", "sys.argv[1], max_completion_tokens=5000)")


def test_full_disk_is_one_line_and_loses_nothing(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: "long " * 2000) as server:
        arguments = [server.url, 200, journal, 100.0]
        run = subprocess.run(
            [sys.executable, "-c", FULL, *map(str, arguments)], capture_output=True, text=True, timeout=60
        )
        lost = (
            r"UserError: .*requests\.sqlite: its disk fails .*; [1-8] paid answers could not be written, and are paid"
        )
        assert re.search(lost, run.stderr)
        assert "never retrieved" not in run.stderr
        with sqlite3.connect(journal) as db:
            (answered,) = db.execute("select count(*) from requests where answer is not null").fetchone()
        paid = len(server.requests)
        assert 0 < answered <= paid
        assert paid - answered <= 8
        _, spending = asked(200, api_for(server, max_completion_tokens=5000), journal)
    assert len(server.requests) == paid + 200 - answered
    assert spending.usd >= server.usd - 1e-12
