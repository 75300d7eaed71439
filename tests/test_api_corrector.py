"""The corrector behind an OpenAI-compatible server, against a loopback server that bills."""

import os
import re
import signal
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
from lema.correctors.api import Corrections, correct_all, demonstrations, estimate, missing
from lema.prompts.formats import correction_prompt, parse_correction
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
        solution = Solution(problem.id, "m", 0, "", str(number), False, False)
        made.append((problem, solution, [f"{number} + 3 = {number}.", f"The answer is {number}."]))
    return made


def corrected(count: int, config: CorrectorConfig, journal: Path) -> Corrections:
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
        assert correction.steps[0] != wrong[first - 1]
        assert correction.steps[-1].startswith("The answer is ")
        assert correction.steps[-1] != wrong[-1]
        for step in [*wrong[: first - 1], *correction.steps]:
            for left, result in equations(step):
                assert left == pytest.approx(result), step
                checked += 1
        firsts.add(first)
    assert 1 in firsts
    assert len(firsts) > 1
    assert checked >= {"gsm8k": 12, "math": 3}[grader]


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
        run = corrected(2, config_for(server), journal)
        replies = list(run.replies)
    assert [reply.correction.steps for reply in replies if reply.correction] == [["2 + 3 = 5.", "The answer is 5."]] * 2
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
    assert (run.spending.requests, run.spending.attempts, run.spending.assumed_usd) == (2, 2, 0)
    assert run.spending.usd == pytest.approx(server.usd)


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
        ("ok", GOOD.replace("Step 1.", "Step 0."), "step does not exist"),
        ("ok", GOOD.replace("Step 1.", "Step 2."), None),
        ("length", GOOD, "cut off by length"),
        ("content_filter", GOOD, "content filter"),
        ("refusal", GOOD, "refusal"),
        ("null", GOOD, "unparsable"),
        ("too_long", GOOD, "prompt too long"),
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
            (reply,) = corrected(1, config, journal).replies
            assert reply.reason == reason
            assert (reply.correction is None) == (reason is not None)
            if reply.correction:
                reply.correction.explanation.encode()
            assert reply.model == ("gpt-test" if fault == "too_long" else "gpt-test-2026")
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset", "truncated", "malformed", "html", "no_choices"])
def test_passing_fault_is_retried_and_every_attempt_counted(fault: str, journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, faults=[fault]) as server:
        run = corrected(1, config_for(server), journal)
        (reply,) = run.replies
    assert reply.reason is None
    assert len(server.requests) == run.spending.attempts == 2
    assert run.spending.usd >= server.usd - 1e-12
    unknown = fault in ("reset", "truncated", "malformed", "html")
    assert (run.spending.assumed_usd > 0) == unknown


def test_hanging_server_is_given_up_after_the_timeout(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, faults=["hang"]) as server:
        run = corrected(1, config_for(server, request_timeout=0.5), journal)
    assert run.spending.attempts == 2
    assert run.spending.usd >= server.usd


def test_retry_after_holds_all_workers_back(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, faults=["429:1"], latency=0.02) as server:
        corrected(12, config_for(server, max_concurrent_requests=2), journal)
    assert len(server.requests) == 13
    # One was in flight beside the first; nothing else came before the second was over.
    late = [arrival for arrival in server.arrivals if arrival > server.arrivals[0] + 0.9]
    assert len(late) >= 11


def test_long_retry_after_ends_the_run_with_the_time_to_come_back(journal: Path) -> None:
    message = r"asks to wait until \d\d:\d\d; 0 of 1 corrections .* run again then"
    with OpenAIServer(faults=["429:4000"]) as server, pytest.raises(UserError, match=message):
        corrected(1, config_for(server), journal)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("insufficient_quota", "quota is used up .* add credit"),
        ("401", "OPENAI_API_KEY: refused .*Incorrect API key"),
        ("403", "OPENAI_API_KEY: refused"),
        ("404", r"corrector\.model=gpt-test: not found"),
        ("temperature", r"corrector\.temperature=1\.0: .*\(400: Unsupported value: 'temperature'\).* or null"),
    ],
)
def test_hopeless_refusal_stops_at_once_and_keeps_what_was_answered(fault: str, message: str, journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, faults=["ok", "ok", fault]) as server:
        config = config_for(server, max_concurrent_requests=1, temperature=1.0)
        with pytest.raises(UserError, match=message) as raised:
            corrected(20, config, journal)
        assert len(server.requests) == 3
        assert "2 of 20 corrections are answered and kept" in str(raised.value)
        assert "\n" not in str(raised.value)
        assert KEY not in str(raised.value)
        assert len(list(corrected(20, config, journal).replies)) == 20
        assert sum(server.billed.values()) == 20


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
        with pytest.raises(UserError, match=r"gave no answer to 4 corrections in a row \(500: .*run again"):
            corrected(100, config_for(server, max_concurrent_requests=4, max_retries=1), journal)
        assert len(server.requests) <= 12


def test_wrong_base_url_is_a_user_error_and_costs_nothing(journal: Path) -> None:
    with OpenAIServer() as server:
        closed = server.url
    config = config_for(None, base_url=closed, max_retries=1, budget_usd=0.05)
    with pytest.raises(UserError, match=re.escape(closed)):
        corrected(30, config, journal)
    with OpenAIServer(reply=lambda prompt: GOOD) as server:
        assert corrected(1, config_for(server), journal).spending.assumed_usd == 0


def test_one_request_that_fails_for_good_does_not_stop_the_others(journal: Path) -> None:
    def fault(body: dict) -> str:
        return "500" if "What is 3 + 3?" in body["messages"][0]["content"] else "ok"

    with OpenAIServer(reply=lambda prompt: GOOD, faults=fault) as server:
        with pytest.raises(UserError, match=r"1 of 12 corrections got no answer .*run again"):
            corrected(12, config_for(server, max_retries=1), journal)
        assert sum(server.billed.values()) == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget_usd": None}, r"corrector\.budget_usd=null: nothing is paid for without it"),
        ({"output_usd": None}, r"corrector\.output_usd=null: set it"),
        ({"model": None}, r"corrector\.model=null"),
        ({"budget_usd": float("nan")}, r"corrector\.budget_usd=nan: must be at least 0"),
        ({"input_usd": -1.0}, r"corrector\.input_usd=-1\.0: must be at least 0"),
        ({"max_concurrent_requests": 0}, r"corrector\.max_concurrent_requests=0: must be at least 1"),
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
    config = config_for(server, budget_usd=None)
    assert len(missing(config)) == 2
    again = corrected(3, config, journal)
    assert list(again.replies) == list(first.replies)
    assert again.spending == first.spending


@pytest.mark.parametrize("fault", ["ok", "no_usage", "absurd_usage", "reset", "malformed", "length"])
@pytest.mark.parametrize("budget", [0.1, 0.001])
def test_budget_is_never_passed_by_the_servers_own_count(fault: str, budget: float, journal: Path) -> None:
    def mostly(body: dict) -> str:
        return fault if len(server.requests) % 2 else "ok"

    with OpenAIServer(reply=lambda prompt: GOOD * 3, faults=mostly, latency=0.01) as server:
        with pytest.raises(UserError, match=rf"corrector\.budget_usd={budget}: reached after .* raise it and"):
            corrected(300, config_for(server, max_completion_tokens=800, budget_usd=budget), journal)
        assert server.usd <= budget
        if budget == 0.1 and fault == "ok":
            assert server.usd > 0.08, "reservations of what landed are given back"


def test_budget_counts_what_earlier_runs_paid_and_a_larger_one_resumes(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD) as server:
        small = config_for(server, budget_usd=0.05)
        with pytest.raises(UserError) as raised:
            corrected(60, small, journal)
        answered = len(server.requests)
        assert 0 < answered < 60
        assert f"reached after {answered} of 60 corrections (${server.usd:.2f}" in str(raised.value)
        with pytest.raises(UserError, match="reached after"):
            corrected(60, small, journal)
        assert len(server.requests) == answered
        run = corrected(60, config_for(server), journal)
    assert len(server.requests) == 60
    assert run.spending.usd == pytest.approx(server.usd)


def test_estimate_bounds_the_bill_and_counts_what_is_paid(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD) as server:
        config = config_for(server)
        corrected(2, config, journal)
        paid = server.usd
        assert not estimate(items_of(1), config, "gsm8k", journal.with_name("other")).answered
        assert not journal.with_name("other").exists()
        before = estimate(items_of(6) + items_of(3), config, "gsm8k", journal)
        corrected(6, config, journal)
        after = estimate(items_of(6), config, "gsm8k", journal)
    assert (before.requests, before.answered, before.completion_tokens) == (4, 2, 2000)
    assert before.usd is not None
    assert server.usd - paid <= before.usd
    assert (after.requests, after.answered, after.usd) == (0, 6, 0)


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
print(len(list(corrected(int(sys.argv[3]), config, Path(sys.argv[4])).replies)))
"""


def client(server: OpenAIServer, count: int, journal: Path, budget: float = 100.0) -> subprocess.Popen:
    arguments = [Path(__file__).parent, server.url, count, journal, budget]
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("end", "after"), [(signal.SIGKILL, 30), (signal.SIGKILL, 75), (signal.SIGINT, 40)])
def test_killed_run_loses_no_answer_and_pays_only_for_the_rest(end: signal.Signals, after: int, journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, latency=0.05) as server:
        process = client(server, 100, journal)
        while len(server.requests) < after:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, end)
        process.communicate(timeout=20)
        before = estimate(items_of(100), config_for(None), "gsm8k", journal)
        sent = len(server.requests)
        assert sent - before.answered <= 8, "at most what was in flight is lost"
        run = corrected(100, config_for(server), journal)
        assert len(server.requests) == sent + before.requests
    assert len(server.billed) == 100
    assert run.spending.usd >= server.usd - 1e-12


def test_processes_together_pay_for_each_request_once(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, latency=0.1) as server:
        processes = [client(server, 80, journal) for _ in range(3)]
        outputs = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in outputs] == ["80\n"] * 3, outputs
    assert len(server.requests) == len(server.billed) == 80


def test_processes_together_do_not_pass_the_budget(journal: Path) -> None:
    with OpenAIServer(reply=lambda prompt: GOOD, latency=0.1) as server:
        processes = [client(server, 200, journal, budget=0.08) for _ in range(2)]
        outputs = [process.communicate(timeout=60) for process in processes]
    assert all("reached after" in errors for _, errors in outputs), outputs
    assert 0.06 < server.usd <= 0.08


def test_reference_reply_of_the_double_is_right(journal: Path) -> None:
    items = items_of(5)
    with OpenAIServer(ReferenceReply(problem for problem, _, _ in items)) as server:
        for (problem, _, wrong), reply in zip(items, corrected(5, config_for(server), journal).replies, strict=True):
            assert reply.correction is not None
            assert reply.correction.incorrect_step == 1
            assert reply.correction.steps == [problem.solution, f"The answer is {GOLD}."]
            assert reply.correction.steps != wrong
