"""What a server says in place of an answer is shown in its words, with one remedy that fits."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from asked import KEY, api_for, asked, check_model, number_of
from openai_server import OpenAIServer
from raw_server import RawServer, completion, reply
from tables import some, table

from lema.api.client import Attempt, Client
from lema.api.journal import export
from lema.api.requests import Message
from lema.types import UserError

LATER, AGAIN, PROMPT, END = "later", "again", "prompt", "end"


def said(message: object, code: object = None, **more: object) -> str:
    return json.dumps({"error": {"message": message, "code": code, **more}})


# Status, body, what is made of it, the words that are shown, the remedy.
TABLE = [
    *table(__file__, "table"),
    (200, "[" * 90_000, AGAIN, "the body breaks off, or is no JSON", ""),
    (200, '{"a":' * 9_000 + "1" + "}" * 9_000, AGAIN, "the body breaks off, or is no JSON", ""),
]


def landed(status: int, body: str, **headers: str) -> tuple[Attempt, RawServer]:
    with RawServer(reply(body.replace("KEY", KEY), status, None, **headers)) as server:
        client = Client(api_for(server.url), "corrector")

        async def once() -> Attempt:
            async with client.openai:
                return await client.send('{"model": "gpt-test", "messages": []}', Message.path, 500)

        return asyncio.run(once()), server


def kind(found: Attempt) -> str:
    return found.answer.finish_reason if found.answer else found.means.name.lower()


@pytest.mark.parametrize(("status", "body", "made", "words", "remedy"), some(TABLE, 3))
def test_the_words_of_a_server_are_shown_with_one_remedy_that_fits(
    status: int, body: str, made: str, words: str, remedy: str | None
) -> None:
    found, server = landed(status, body)
    shown = found.answer.error if found.answer else found.said
    assert kind(found) == made, found
    assert re.search(words, shown), shown
    assert len(shown) <= 300
    assert "\n" not in shown
    assert KEY not in shown
    if remedy:
        assert re.search(remedy, found.remedy), found.remedy
    if remedy == "":
        assert not found.remedy
    assert sum(part in found.remedy for part in ("credit", "OPENAI_API_KEY", "a place", "says")) <= 1, "they contradict"
    assert len(server.requests) == 1


@pytest.mark.parametrize("told", [{}, {"Content_Encoding": "identity"}, {"Content_Encoding": ""}])
def test_no_compression_is_asked_for(told: dict[str, str]) -> None:
    found, server = landed(200, completion(), **told)
    assert found.answer
    assert found.answer.text == "Hello."
    assert b"accept-encoding: identity\r\n" in server.requests[0].lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "remedy"),
    [
        ("ELSEWHERE/chat/completions", r"^set corrector\.base_url=ELSEWHERE, if you trust that address$"),
        (
            "https://other.example/api/v1/chat/completions",
            r"^set corrector\.base_url=https://other\.example/api/v1, if",
        ),
        ("//other.example/v1/chat/completions/", r"^set corrector\.base_url=http://other\.example/v1, if"),
        ("/login?next=x", r"^mend corrector\.base_url$"),
        ("http://me:secret@other.example/v1/chat/completions", r"^mend corrector\.base_url$"),
        ("http://[::1", r"^mend corrector\.base_url$"),
        ("", r"^mend corrector\.base_url$"),
        ("x" * 5000, r"^mend corrector\.base_url$"),
    ],
)
def test_neither_key_nor_prompt_follows_to_another_address(status: int, location: str, remedy: str) -> None:
    with RawServer(reply(completion())) as elsewhere:
        found, _ = landed(status, "", Location=location.replace("ELSEWHERE", elsewhere.url))
        assert not elsewhere.requests
        assert kind(found) == END
        assert re.search(remedy.replace("ELSEWHERE", elsewhere.url), found.remedy), found.remedy
        with RawServer(reply("", 307, Location=f"{elsewhere.url}/models")) as server:
            line = check_model(api_for(server.url), "corrector", 100)
        assert line
        assert line.endswith(f"set corrector.base_url={elsewhere.url}, if you trust that address")
        assert not elsewhere.requests


def test_a_limit_that_is_told_with_a_time_to_come_back_passes() -> None:
    assert kind(landed(429, said("Please check your plan and billing"))[0]) == END
    assert kind(landed(429, said("Please check your plan and billing"), Retry_After="2")[0]) == LATER
    assert kind(landed(429, said("No", "insufficient_quota"), Retry_After="2")[0]) == END


@pytest.mark.parametrize(
    ("reason", "ended"), [*table(__file__, "the reason why an answer ends is short and plain"), ("x" * 900, "x" * 40)]
)
def test_the_reason_why_an_answer_ends_is_short_and_plain(reason: object, ended: str) -> None:
    found, _ = landed(200, completion(choices=[{"message": {"content": "Hi"}, "finish_reason": reason}]))
    assert found.answer
    assert found.answer.finish_reason == ended


def test_an_error_among_answers_is_kept_in_the_servers_words(journal: Path, tmp_path: Path) -> None:
    def instead(body: dict) -> tuple[int, str] | None:
        return (200, said("Upstream\n died", 502)) if number_of(body) == 3 else None

    with OpenAIServer(instead=instead) as server:
        answers, _ = asked(12, api_for(server, max_retries=1), journal)
    assert [answer.finish_reason for answer in answers] == ["stop"] * 3 + ["HTTP 502"] + ["stop"] * 8
    assert answers[3].error == "HTTP 200, error 502: Upstream died"
    export(journal, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    [error] = [row["error"] for row in rows if row["error"]]
    assert error == {"code": "HTTP 502", "message": "HTTP 200, error 502: Upstream died"}


def test_a_limit_told_under_200_is_waited_for_and_costs_nothing(journal: Path) -> None:
    limits = iter([(200, said("Slow", 429))] * 2)
    with OpenAIServer(instead=lambda body: next(limits, None)) as server:
        answers, spending = asked(3, api_for(server), journal)
    assert all(answer.usable for answer in answers)
    assert spending.usd == pytest.approx(server.usd)


def test_an_error_under_200_ends_the_run_with_its_words(journal: Path) -> None:
    with OpenAIServer(instead=lambda body: (200, said("The moon is full"))) as server:
        message = r"keeps failing \(HTTP 200: The moon is full\): mend what it says\. 0 of 5 answers are saved"
        with pytest.raises(UserError, match=message):
            asked(5, api_for(server, max_retries=1), journal)
