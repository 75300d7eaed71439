"""A request that is too long is told apart by the server's own words, which are kept: its prompt, or its limit."""

import json
import logging
import re
from pathlib import Path

import pytest
from asked import api_for, asked, check_model, number_of
from openai_server import OpenAIServer
from tables import table

from lema.api.journal import export
from lema.api.lengths import context
from lema.config import ApiConfig
from lema.types import UserError

# Of one prompt: the words, the limit that was sent.
PROMPTS = table(__file__, "prompts")
# Of every prompt: the words, the limit, and the one to set in its place.
LIMITS = table(__file__, "limits")
PASSING = table(__file__, "passing")


def shapes(words: str) -> list[tuple[int, str]]:
    """As OpenAI and vLLM, as TGI, as FastAPI, and as an older vLLM write an error."""
    bodies = [{"error": {"message": words, "code": 400, "param": "x"}}, {"error": words, "error_type": "validation"}]
    bodies += [{"detail": words}, {"object": "error", "message": words, "code": 40303}]
    return list(zip((400, 422, 400, 413), map(json.dumps, bodies), strict=True))


@pytest.mark.parametrize(("words", "limit"), PROMPTS)
def test_a_prompt_that_is_too_long_is_counted_as_that_and_the_servers_words_are_kept(
    words: str, limit: int, journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    told = shapes(words)
    with OpenAIServer(instead=lambda body: told[number_of(body)] if number_of(body) < 4 else None) as server:
        api = api_for(server, max_completion_tokens=limit)
        first, (answers, spending) = asked(6, api, journal), asked(6, api, journal)
    assert first == (answers, spending)
    assert [answer.finish_reason for answer in answers] == ["prompt too long"] * 4 + ["stop"] * 2
    assert all(words[:200] in answer.error for answer in answers[:4])
    assert all(answer.failed and not answer.usable for answer in answers[:4])
    assert len(server.requests) == 6, "it is not asked again"
    assert spending.usd == pytest.approx(server.usd), "nor paid for"
    assert "4 of 6 requests have no answer: prompt too long (HTTP 400: " in caplog.text
    export(journal, journal.parent)
    rows = [json.loads(line) for line in (journal.parent / "responses.jsonl").read_text().splitlines()]
    errors = [row["error"] for row in rows if row["response"] is None]
    assert [error["code"] for error in errors] == ["prompt too long"] * 4
    assert all(words[:200] in error["message"] for error in errors)


@pytest.mark.parametrize(("words", "limit", "instead"), LIMITS)
def test_a_limit_beyond_what_the_server_allows_ends_the_run_with_the_value_to_set(
    words: str, limit: int, instead: str, journal: Path
) -> None:
    for name, other in (("max_completion_tokens", "max_tokens"), ("max_tokens", "max_completion_tokens")):
        with OpenAIServer(instead=lambda _: shapes(words)[0]) as server, pytest.raises(UserError) as said:
            asked(4, api_for(server, **{name: limit, other: None}), journal)
        assert re.search(
            rf"corrector\.{name}={limit} is too much: .*; set corrector\.{name}={instead}\.", str(said.value)
        )
        assert f"{other}=" not in str(said.value).replace(words, ""), "it goes in no circle"
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [("Unsupported value: messages[0].content", "HTTP 400"), ("Invalid \x1b[31m\nrole at /home/alice/x", "HTTP 400")],
)
def test_another_refusal_of_one_prompt_keeps_its_words_on_one_safe_line(
    words: str, reason: str, journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with OpenAIServer(instead=lambda body: shapes(words)[0] if number_of(body) == 2 else None) as server:
        answers, _ = asked(6, api_for(server), journal)
    assert [answer.finish_reason for answer in answers] == ["stop"] * 2 + [reason] + ["stop"] * 3
    assert answers[2].error.startswith(f"HTTP 400: {words[:7]}")
    assert answers[2].error.isprintable()
    assert "alice" not in answers[2].error
    assert "\x1b" not in caplog.text
    assert "1 of 6 requests have no answer: HTTP 400" in caplog.text


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation", "invalid_prompt"])
def test_what_a_server_refuses_for_its_content_is_no_refusal_of_the_model(code: str, journal: Path) -> None:
    body = json.dumps({"error": {"message": "Your prompt was flagged.", "code": code}})
    with OpenAIServer(instead=lambda sent: (400, body) if number_of(sent) == 2 else None, faults=["refusal"]) as server:
        answers, _ = asked(4, api_for(server, max_concurrent_requests=1), journal)
    assert [answer.finish_reason for answer in answers] == ["refusal", "stop", "refused by the server", "stop"]
    assert [answer.error for answer in answers] == [
        *("I cannot help with that.", "", "HTTP 400: Your prompt was flagged.", ""),
    ]


@pytest.mark.parametrize(("status", "words"), PASSING)
def test_a_failure_that_passes_is_no_length_whatever_it_says(status: int, words: str, journal: Path) -> None:
    told = iter([(status, json.dumps({"error": {"message": words}}))])
    with OpenAIServer(instead=lambda _: next(told, None)) as server:
        answers, _ = asked(3, api_for(server, max_completion_tokens=8192), journal)
    assert all(answer.usable for answer in answers)


def test_a_rate_limit_that_speaks_of_lengths_passes(journal: Path) -> None:
    words = (
        "This would exceed the rate limit of 30,000 input tokens per minute. Reduce the prompt length or max_tokens."
    )
    said = iter([(429, json.dumps({"error": {"message": words}}))])
    with OpenAIServer(instead=lambda _: next(said, None)) as server:
        answers, _ = asked(3, api_for(server), journal)
    assert all(answer.usable for answer in answers)


def test_against_the_words_of_vllm_all_is_said_before_and_counted_after(journal: Path) -> None:
    with OpenAIServer(max_model_len=40, model="gpt-test") as server:
        api = api_for(server, max_completion_tokens=2000)
        line = check_model(api, "corrector", 15)
        assert line is not None
        assert line.endswith(
            "corrector.max_completion_tokens=2000 is too much: it allows 40 tokens for prompt and answer together, and "
            "a prompt takes about 15; set corrector.max_completion_tokens=25"
        )
        assert "about 300; have it serve a longer context" in (check_model(api, "corrector", 300) or "")
        assert not server.requests
        fits = api_for(server, max_completion_tokens=40)
        assert check_model(fits, "corrector", 15) is None
        answers, _ = asked(3, fits, journal)
        assert [answer.finish_reason for answer in answers] == ["stop"] * 3
        with pytest.raises(UserError, match=r"corrector\.max_completion_tokens=2000 is too much: it allows 40 tokens"):
            asked(3, api, journal)


def test_the_context_is_read_under_the_names_that_servers_give_it() -> None:
    listed = [{"max_model_len": 1024}, {"context_window": 1024}, {"context_length": 1024}, {"max_context_length": 1024}]
    assert [context(each) for each in listed] == [1024] * 4
    others = [{}, {"max_model_len": None}, {"max_model_len": "x"}, {"max_model_len": 0}]
    assert [context(each) for each in others] == [None] * 4


def test_config_of_an_unlimited_section_is_not_checked() -> None:
    with OpenAIServer(max_model_len=40) as server:
        api: ApiConfig = api_for(server, max_completion_tokens=None)
        assert check_model(api, "corrector", 15) is None
