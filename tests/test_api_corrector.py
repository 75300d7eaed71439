"""The corrector behind an OpenAI-compatible server, against a loopback server that bills."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import pytest
from openai_server import OpenAIServer, ReferenceReply

from lema.config import CorrectionMethod, CorrectorConfig
from lema.correctors.api import Reply, correct_all, demonstrations
from lema.grading import grade
from lema.journal import Spending
from lema.prompts.formats import correction_completion, correction_prompt, parse_correction
from lema.types import Problem, Solution, UserError

KEY = "sk-secret-of-the-tests"
GOLD = "the-gold-answer"
GOOD = " Step 1.\nExplanation: 2 + 3 is 5.\nCorrect Solution:\n{\nStep 1: 2 + 3 = 5.\nStep 2: The answer is 5.\n}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "requests.sqlite"


def config_for(server: OpenAIServer | None, **changes: object) -> CorrectorConfig:
    values: dict = {
        "name": "gpt4",
        "method": CorrectionMethod.api,
        "model": "gpt-test",
        "base_url": server and server.url,
        "prompt": None,
        "temperature": None,
        "reasoning_effort": None,
        "max_completion_tokens": 500,
        "input_usd": 2.0,
        "output_usd": 10.0,
        "budget_usd": 100.0,
        "max_concurrent_requests": 8,
        "max_retries": 2,
        "request_timeout": 5.0,
    }
    return CorrectorConfig(**{**values, **changes})


def items_of(count: int) -> list[tuple[Problem, Solution, list[str]]]:
    made = []
    for number in range(count):
        problem = Problem(f"t-{number}", f"What is {number} + 3?", f"{number} + 3 = {number + 3}.", GOLD)
        solution = Solution(problem.id, "m", 0, "", str(number), correct=False, symbolic=False, truncated=False)
        made.append((problem, solution, [f"{number} + 3 = {number}.", f"The answer is {number}."]))
    return made


def corrected(count: int, config: CorrectorConfig, journal: Path) -> tuple[list[Reply], Spending]:
    return correct_all(items_of(count), config, "gsm8k", journal)


@pytest.mark.parametrize("grader", ["gsm8k", "math"])
def test_demonstrations_are_right(grader: str) -> None:
    text = demonstrations(config_for(None), grader)
    blocks = text.split("\n\nQuestion: ")[1:]
    firsts, checked = set(), 0
    assert len(blocks) == 4
    for block in blocks:
        head, _, reply = block.partition("Incorrect Step:")
        question, _, path = head.partition("\nOriginal Solution:\n")
        wrong = [line.partition(": ")[2] for line in path.strip("{}\n").splitlines()]
        prompt = correction_prompt(question, wrong)
        assert prompt.endswith(f"\nQuestion: {head}Incorrect Step:"), "the layout of the training examples"
        correction = parse_correction(reply)
        assert correction is not None
        first = correction.incorrect_step
        assert ("\n...\n" in reply) == (first > 1)
        assert 1 <= first <= len(wrong)
        assert correction.correct_steps[0] != wrong[first - 1]
        assert correction.correct_steps[-1].startswith("The answer is ")
        assert correction.correct_steps[-1] != wrong[-1]
        for step in [*wrong[: first - 1], *correction.correct_steps]:
            for left, result in equations(step):
                assert left == pytest.approx(result), step
                checked += 1
        firsts.add(first)
    assert 1 in firsts
    assert len(firsts) > 1
    assert checked >= {"gsm8k": 12, "math": 3}[grader]


def test_demonstrations_for_choices_are_in_the_layout_of_their_training_examples() -> None:
    blocks = demonstrations(config_for(None), "csqa").rstrip("\n").split("\n\nQuestion: ")[1:]
    assert len(blocks) == 4
    for block in blocks:
        head, _, reply = block.partition("\nMistakes:")
        question, _, rest = head.partition("\nCandidate Answers: ")
        listed, _, wrong = rest.partition(".\nOriginal Answer:\n{\n")
        candidates, wrong_lines = listed.split(", "), wrong.removesuffix("\n}").split("\n")
        assert correction_prompt(question, wrong_lines, candidates).endswith(f"\nQuestion: {head}\nMistakes:")
        correction = parse_correction(reply, candidates)
        assert correction is not None
        assert correction_completion(*correction[:3], candidates) == reply
        for lines in (wrong_lines, correction.correct_steps):
            assert [line.split(" - ")[0].lower() for line in lines[1:6]] == candidates
            assert (lines[0], lines[6]) == ("Explanations:", "Reasons and Final Answer:")
            answer = grade("\n".join(lines), "", "csqa", candidates=candidates).answer
            assert lines[-1] == f"The answer is {answer}."
            assert f'"{answer}"' in lines[-2]
        assert wrong_lines[-1] != correction.correct_steps[-1]


@pytest.mark.parametrize("grader", ["arithmetic", "svamp", "asdiv"])
def test_all_tasks_of_numbers_have_the_demonstrations_of_gsm8k(grader: str) -> None:
    assert demonstrations(config_for(None), grader) == demonstrations(config_for(None), "gsm8k")


def test_answers_of_the_latex_demonstrations_hold_by_trying_out() -> None:
    rolls = [one * other for one in range(1, 7) for other in range(1, 7)]
    odd = Fraction(sum(product % 2 for product in rolls), len(rolls))
    expected = [
        str(min(x * x - 6 * x + 4 for x in range(-20, 20))),
        rf"\frac{{{odd.numerator}}}{{{odd.denominator}}}",
        ", ".join(str(x) for x in range(5, 100) if (x - 5) ** 2 == x + 7),
        str(len(list(permutations("12345", 3)))),
    ]
    blocks = demonstrations(config_for(None), "math").split("Correct Solution:")[1:]
    assert [re.findall(r"The answer is (.*)\.\n}", block)[0] for block in blocks] == expected


def equations(step: str) -> Iterator[tuple[float, float]]:
    """Both sides of `a op b (op c) = d`, as plain numbers, in a step of a demonstration."""
    plain = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", lambda found: str(int(found[1]) / int(found[2])), step)
    plain = plain.replace("$", "").replace(r"\cdot", "*")
    for terms, result in re.findall(
        r"(?<![\w.^)])(?<![\w)] [-+*/] )((?:\d[\d.]*\s*[-+*/]\s*)+\d[\d.]*) = (\d[\d.]*\d|\d)", plain
    ):
        numbers = [float(number) for number in re.split(r"[-+*/]", terms)]
        total = numbers[0]
        for sign, number in zip(re.findall(r"[-+*/]", terms), numbers[1:], strict=True):
            total = {"+": total + number, "-": total - number, "*": total * number, "/": total / number}[sign]
        yield total, float(result)


def test_server_sees_demonstrations_question_and_wrong_path_but_never_the_gold_answer(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD) as server:
        replies, spending = corrected(2, config_for(server), journal)
    assert [reply.correction.correct_steps for reply in replies if reply.correction] == [
        ["2 + 3 = 5.", "The answer is 5."]
    ] * 2
    assert {reply.model for reply in replies} == {"gpt-test"}
    prompts = [request["messages"][0]["content"] for request in server.requests]
    assert sorted(prompts) == [
        demonstrations(config_for(None), "gsm8k")
        + f"\nQuestion: What is {number} + 3?\nOriginal Solution:\n{{\nStep 1: {number} + 3 = {number}.\n"
        f"Step 2: The answer is {number}.\n}}\nIncorrect Step:"
        for number in range(2)
    ]
    assert GOLD not in str(server.requests)
    assert {frozenset(request) for request in server.requests} == {
        frozenset({"model", "messages", "max_completion_tokens"})
    }
    assert spending.requests == 2
    assert spending.completion_tokens == 2 * (len(GOOD) // 4 + 1)
    assert spending.usd == pytest.approx(server.usd)


def test_sampling_parameters_are_sent_only_when_set(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD) as server:
        corrected(1, config_for(server, temperature=0.5, reasoning_effort="low"), journal)
    assert server.requests[0]["temperature"] == 0.5
    assert server.requests[0]["reasoning_effort"] == "low"


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_own_prompt_file_is_used_byte_for_byte(ending: str, journal: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_bytes(f"Correct thís.\r\n\n\nQuestion: q{ending}".encode())
    with OpenAIServer(reply=lambda prompt: GOOD) as server:
        config = config_for(server, prompt=str(file))
        corrected(1, config, journal)
    assert demonstrations(config, "gsm8k").encode() == file.read_bytes()
    sent = server.requests[0]["messages"][0]["content"]
    assert sent.startswith("Correct thís.\r\n\n\nQuestion: q\n\nQuestion: What is 0 + 3?\n")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_prompt_file_is_a_user_error(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    if content:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"corrector\.prompt=.*own\.txt"):
        demonstrations(config_for(None, prompt=str(file)), "gsm8k")


@pytest.mark.parametrize(
    ("fault", "text", "reason"),
    [
        ("ok", GOOD, None),
        ("ok", "Everything is fine.", "unparsable"),
        ("ok", GOOD.replace("Step 1", "Step 3"), "step does not exist"),
        ("ok", GOOD.replace("Step 1", "Step " + "9" * 5000), "unparsable"),
        ("ok", GOOD.replace("Step 1.", "Step 0."), "step does not exist"),
        ("ok", GOOD.replace("Step 1.", "Step 2."), None),
        ("length", GOOD, "cut off by length"),
        ("content_filter", GOOD, "content filter"),
        ("refusal", GOOD, "refusal"),
        ("null", GOOD, "empty"),
        ("too_long", GOOD, "refusal"),
        ("no_usage", GOOD, None),
        ("ok", GOOD.replace("is 5.", "is 5 \ud83d."), None),  # half a surrogate pair
    ],
)
def test_every_reply_is_a_correction_or_a_reason_and_is_paid_once(
    fault: str, text: str, reason: str | None, journal: Path
) -> None:
    with OpenAIServer(reply=lambda prompt: text, faults=[fault], model="gpt-test-2026") as server:
        config = config_for(server)
        for _ in range(2):
            ((reply,), _) = corrected(1, config, journal)
            assert reply.reason == reason
            assert (reply.correction is None) == (reason is not None)
            if reply.correction:
                reply.correction.explanation.encode()
            assert reply.model == ("gpt-test" if fault == "too_long" else "gpt-test-2026")
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset", "truncated", "malformed", "html", "no_choices"])
def test_passing_fault_is_retried_and_every_attempt_counted(fault: str, journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, faults=[fault]) as server:
        ((reply,), spending) = corrected(1, config_for(server), journal)
    assert reply.reason is None
    assert len(server.requests) == 2
    assert spending.usd >= server.usd - 1e-12
    assert (spending.usd > 0.006) == (fault not in ("429", "500", "503")), "its worst case, where the bill is unknown"


def test_hanging_server_is_given_up_after_the_timeout(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, faults=["hang"]) as server:
        _, spending = corrected(1, config_for(server, request_timeout=0.5), journal)
    assert len(server.requests) == 2
    assert spending.usd >= server.usd


def test_retry_after_holds_all_workers_back(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, faults=["429:0.7"], latency=0.02) as server:
        corrected(12, config_for(server, max_concurrent_requests=2), journal)
    assert len(server.requests) == 13
    # One was in flight beside the first; nothing else came before the second was over.
    late = [arrival for arrival in server.arrivals if arrival > server.arrivals[0] + 0.65]
    assert len(late) >= 11


def test_long_retry_after_ends_the_run_with_the_time_to_come_back(journal: Path) -> None:
    message = r"Rate limit reached.* wait 4000 s; 0 of 1 are answered and kept: then run again"
    with OpenAIServer(faults=["429:4000"]) as server, pytest.raises(UserError, match=message):
        corrected(1, config_for(server), journal)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("insufficient_quota", "exceeded your current quota.*: add credit"),
        ("401", "Incorrect API key.*: set an OPENAI_API_KEY"),
        ("403", "Country not supported.*: set an OPENAI_API_KEY"),
        ("404", r"does not exist.*: choose a corrector\.model"),
        ("temperature", r"Unsupported value: 'temperature'.*: change corrector\.temperature"),
    ],
)
def test_hopeless_refusal_stops_at_once_and_keeps_what_was_answered(fault: str, message: str, journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, faults=["ok", "ok", fault]) as server:
        config = config_for(server, max_concurrent_requests=1, temperature=1.0)
        with pytest.raises(UserError, match=message) as raised:
            corrected(8, config, journal)
        assert len(server.requests) == 3
        assert "2 of 8 are answered and kept" in str(raised.value)
        assert "\n" not in str(raised.value)
        assert KEY not in str(raised.value)
        assert len(corrected(8, config, journal)[0]) == 8
        assert sum(server.billed.values()) == 8


def test_key_is_in_no_file(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, faults=["ok", "401"]) as server:
        with pytest.raises(UserError):
            corrected(20, config_for(server, max_concurrent_requests=1), journal)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    written = b"".join(file.read_bytes() for file in journal.parent.iterdir())
    assert b"What is 0 + 3?" in written
    assert KEY.encode() not in written
    assert b"Bearer" not in written


def test_server_that_is_down_is_not_asked_for_every_item(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, faults=lambda body: "500") as server:
        with pytest.raises(UserError, match=r"500.*: wait 30 s; 0 of 100 are answered and kept: then run again"):
            corrected(100, config_for(server, max_concurrent_requests=2, max_retries=1), journal)
        assert len(server.requests) <= 12


@pytest.mark.parametrize("url", [None, "localhost:1/v1"])
def test_wrong_base_url_is_a_user_error_and_costs_nothing(url: str | None, journal: Path) -> None:
    with OpenAIServer() as server:
        url = url or server.url
    with pytest.raises(UserError, match=re.escape(url) + r".*check it, or corrector\.base_url"):
        corrected(30, config_for(None, base_url=url, max_concurrent_requests=1, max_retries=1), journal)
    with OpenAIServer(reply=lambda prompt: GOOD) as server:
        _, spending = corrected(1, config_for(server), journal)
        assert spending.usd == pytest.approx(server.usd)


def test_a_sender_that_lost_the_journal_stops_and_keeps_what_it_paid_for(journal: Path) -> None:
    def lose(prompt: str) -> str:
        if "What is 3 + 3?" in prompt:
            lock = journal.with_name(journal.name + ".lock")
            lock.write_text(re.sub("token=.*", "token=another", lock.read_text()))
        return GOOD

    with OpenAIServer(reply=lose) as server:
        with pytest.raises(UserError, match=r"another process has taken the journal over; \d+ of 40 are answered"):
            corrected(40, config_for(server, max_concurrent_requests=4), journal)
        paid = sum(server.billed.values())
        assert 4 <= paid < 40  # how soon it is noticed is the machine's
        with sqlite3.connect(journal) as db:
            assert db.execute("select count(*) from requests where answer is not null").fetchone() == (paid,)


def test_one_request_that_fails_for_good_does_not_stop_the_others(journal: Path) -> None:
    def fault(body: dict) -> str:
        return "500" if "What is 3 + 3?" in body["messages"][0]["content"] else "ok"

    with OpenAIServer(reply=lambda prompt: GOOD, faults=fault) as server:
        with pytest.raises(UserError, match=r"500.*11 of 12 are answered and kept: then run again"):
            corrected(12, config_for(server, max_retries=1), journal)
        assert sum(server.billed.values()) == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget_usd": None}, r"corrector\.budget_usd=None: nothing is sent until it is set"),
        ({"output_usd": None}, r"corrector\.output_usd=None"),
        ({"max_completion_tokens": None}, r"corrector\.max_completion_tokens=None"),
        ({"budget_usd": float("nan")}, r"corrector\.budget_usd=nan"),
        ({"input_usd": -1.0}, r"corrector\.input_usd=-1\.0: .* 0 or more"),
        ({"max_concurrent_requests": 0}, r"corrector\.max_concurrent_requests=0: .* 1 or more"),
    ],
)
def test_nothing_is_sent_while_something_is_missing(change: dict, message: str, journal: Path) -> None:
    with OpenAIServer() as server, pytest.raises(UserError, match=message):
        corrected(3, config_for(server, **change), journal)
    assert not server.requests


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_a_key_nothing_is_sent(value: str | None, journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with OpenAIServer() as server, pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        corrected(3, config_for(server), journal)
    assert not server.requests


def test_answered_corrections_need_neither_key_nor_budget_nor_server(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD) as server:
        first = corrected(3, config_for(server), journal)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert corrected(3, config_for(server, budget_usd=None), journal) == first


@pytest.mark.parametrize("fault", ["ok", "no_usage", "absurd_usage", "reset"])
@pytest.mark.parametrize("budget", [0.04, 0.001])
def test_budget_is_never_passed_by_the_servers_own_count(fault: str, budget: float, journal: Path) -> None:
    def mostly(body: dict) -> str:
        return fault if len(server.requests) % 2 else "ok"

    with OpenAIServer(reply=lambda prompt: GOOD * 3, faults=mostly, latency=0.01) as server:
        with pytest.raises(UserError, match=rf"corrector\.budget_usd={budget}: reached, .* raise it;"):
            corrected(300, config_for(server, max_completion_tokens=800, budget_usd=budget), journal)
        assert server.usd <= budget
        if budget == 0.04 and fault == "ok":
            assert server.usd > 0.025, "reservations of what landed are given back"


def test_budget_counts_what_earlier_runs_paid_and_a_larger_one_resumes(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD) as server:
        small = config_for(server, budget_usd=0.05)
        with pytest.raises(UserError) as raised:
            corrected(60, small, journal)
        answered = len(server.requests)
        assert 0 < answered < 60
        assert f"reached, ${server.usd:.2f} are spent: raise it; {answered} of 60 are" in str(raised.value)
        with pytest.raises(UserError, match="reached, "):
            corrected(60, small, journal)
        assert len(server.requests) == answered
        _, spending = corrected(60, config_for(server), journal)
    assert len(server.requests) == 60
    assert spending.usd == pytest.approx(server.usd)


def test_no_more_requests_at_once_than_configured(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, latency=0.05) as server:
        corrected(20, config_for(server, max_concurrent_requests=5), journal)
    assert server.most_in_flight == 5


def test_requests_are_not_logged_one_by_one(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with OpenAIServer(reply=lambda prompt: GOOD) as server:
        corrected(3, config_for(server), journal)
    assert not [record for record in caplog.records if record.name != "asyncio"]


CLIENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_api_corrector import config_for, corrected
config = config_for(None, base_url=sys.argv[2], budget_usd=float(sys.argv[5]))
print(len(corrected(int(sys.argv[3]), config, Path(sys.argv[4]))[0]))
"""


def client(server: OpenAIServer, count: int, journal: Path, budget: float = 100.0) -> subprocess.Popen:
    arguments = [Path(__file__).parent, server.url, count, journal, budget]
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("end", "after"), [(signal.SIGKILL, 30), (signal.SIGINT, 20)])
def test_killed_run_loses_no_answer_and_pays_only_for_the_rest(end: signal.Signals, after: int, journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, latency=0.05) as server:
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
        _, spending = corrected(50, config_for(server), journal)
        assert len(server.requests) == sent + 50 - answered
    assert len(server.billed) == 50
    assert spending.usd >= server.usd - 1e-12


def test_processes_together_pay_for_each_request_once(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, latency=0.1) as server:
        processes = [client(server, 40, journal) for _ in range(2)]
        outputs = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in outputs] == ["40\n"] * 2, outputs
    assert len(server.requests) == len(server.billed) == 40


def test_processes_together_do_not_pass_the_budget(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, latency=0.1) as server:
        processes = [client(server, 60, journal, budget=0.03) for _ in range(2)]
        outputs = [process.communicate(timeout=60) for process in processes]
    assert all("reached, " in errors for _, errors in outputs), outputs
    assert 0.015 < server.usd <= 0.03


def test_reference_reply_of_the_double_is_right(journal: Path) -> None:
    items = items_of(5)
    with OpenAIServer(ReferenceReply(problem for problem, _, _ in items)) as server:
        for (problem, _, wrong), reply in zip(items, corrected(5, config_for(server), journal)[0], strict=True):
            assert reply.correction is not None
            assert reply.correction.incorrect_step == 1
            assert reply.correction.correct_steps == [problem.solution, f"The answer is {GOLD}."]
            assert reply.correction.correct_steps != wrong
