"""Exact prompts at a completions server: what is sent, what comes back, what goes on after an interruption."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from asked import KEY, api_for
from openai_server import OpenAIServer, asked

from lema.api.asking import FREE, ask
from lema.api.client import attempt
from lema.api.journal import export
from lema.api.requests import VLLM, Exact, Message, key, plain
from lema.types import PROMPT_TOO_LONG, UserError

FIELDS = plain(0.7) | VLLM


def exact(count: int, **changes: object) -> list[Exact]:
    values: dict[str, Any] = {"max_tokens": 40, "fields": FIELDS} | changes
    return [Exact([1, 2, 3 + number], **{"seed": number, **values}) for number in range(count)]


def completed(requests: list[Exact], server: OpenAIServer | str, journal: Path, **changes: object) -> list:
    api = api_for(server, max_completion_tokens=None, max_tokens=500, **changes)
    completions, spending = ask(requests, api, FREE, section="engine", budget_usd=0.0, journal_path=journal, whole=True)
    assert spending.usd == 0
    return completions


def echo(prompt: tuple[int, ...]) -> str:
    return " ".join(map(str, prompt))


def test_each_request_says_all_that_shapes_its_answer(journal: Path) -> None:
    requests = [Exact([1, 5, 9], 30, FIELDS, seed=7, stop="\nQuestion:"), Exact("1 + 1 =", 12, plain(0.0))]
    with OpenAIServer(echo) as server:
        completed(requests, server, journal, max_concurrent_requests=1)
    plainly = {"temperature": 0.7, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "n": 1}
    first = {"model": "gpt-test", "prompt": [1, 5, 9], "max_tokens": 30, "seed": 7, "stop": ["\nQuestion:"]}
    second = plainly | {"model": "gpt-test", "prompt": "1 + 1 =", "max_tokens": 12, "temperature": 0.0}
    assert server.requests == [first | plainly | VLLM, second]


def test_answers_come_in_order_with_their_number_of_tokens(journal: Path) -> None:
    with OpenAIServer(echo) as server:
        answers = completed(exact(30), server, journal)
    assert [answer.text for answer in answers] == [f"1 2 {3 + number}" for number in range(30)]
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert all(answer.num_tokens for answer in answers)
    assert all(answer.model == "gpt-test" for answer in answers)


def test_another_seed_limit_field_prompt_or_attempt_is_another_request() -> None:
    api, one = api_for(None), Exact([1, 2], 10, FIELDS, seed=1)
    others = [
        Exact([1, 3], 10, FIELDS, seed=1),
        Exact("1 2", 10, FIELDS, seed=1),
        Exact([1, 2], 11, FIELDS, seed=1),
        Exact([1, 2], 10, FIELDS | {"top_k": 5}, seed=1),
        Exact([1, 2], 10, FIELDS),
        Exact([1, 2], 10, FIELDS, seed=1, stop="\n"),
        Exact([1, 2], 10, FIELDS, seed=1, attempt=1),
        Message("1 2"),
    ]
    assert len({key(request, api) for request in [one, *others]}) == 9
    assert key(one, api) == key(Exact((1, 2), 10, dict(FIELDS), seed=1), api_for("http://elsewhere"))
    assert key(one, api) != key(one, api_for(None, model="another"))


def test_a_text_ends_behind_its_stop(journal: Path) -> None:
    with OpenAIServer(lambda prompt: "It is 2.\nQuestion: and", faults=["length"] * 9) as server:
        answers = completed(exact(2, stop="is", seed=None), server, journal)
    assert [(answer.text, answer.finish_reason) for answer in answers] == [("It is", "stop")] * 2


def test_what_is_answered_is_not_asked_again(journal: Path) -> None:
    requests = exact(20)
    with OpenAIServer(echo) as server:
        first = completed(requests[:12], server, journal)
        assert completed(requests, server, journal)[:12] == first
    assert len(server.requests) == 20


def test_a_request_that_fails_for_good_ends_the_run_and_is_asked_again_by_the_next(journal: Path) -> None:
    requests, sick = exact(20), {"now": True}
    with OpenAIServer(echo, lambda body: "500" if sick["now"] and asked(body) == (1, 2, 7) else "ok") as server:
        with pytest.raises(UserError, match=r"keeps failing at one of the requests .*19 of 20 answers are saved"):
            completed(requests, server, journal, max_retries=1)
        sick["now"] = False
        assert completed(requests, server, journal)[4].text == "1 2 7"
    assert server.met["ok"] == 20


def test_a_prompt_longer_than_the_context_is_told_apart_and_not_cut(journal: Path) -> None:
    with OpenAIServer(echo, max_model_len=30) as server:
        long = Exact([1] * 30, 20, FIELDS)
        answers = completed([*exact(3, max_tokens=20), long], server, journal)
        assert completed([long], server, journal) == answers[3:]
    assert [answer.text for answer in answers] == ["1 2 3", "1 2 4", "1 2 5", None]
    assert answers[3].finish_reason == PROMPT_TOO_LONG
    assert len(server.requests) == 4


def test_an_exported_journal_has_the_form_of_each_request(journal: Path, tmp_path: Path) -> None:
    with OpenAIServer() as server:
        completed(exact(1), server, journal)
        ask([Message("Hi")], api_for(server), FREE, section="s", budget_usd=0.0, journal_path=journal)
    assert export(journal, tmp_path) == 2
    rows = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("requests", "responses")
    ]
    found = {one["url"]: other["response"]["body"] for one, other in zip(*rows, strict=True)}
    assert found["/v1/completions"]["object"] == "text_completion"
    assert found["/v1/completions"]["choices"] == [{"index": 0, "text": "Hello.", "finish_reason": "stop"}]
    assert found["/v1/chat/completions"]["choices"][0]["message"]["content"] == "Hello."


def test_what_costs_nothing_is_written_once_it_is_answered(journal: Path) -> None:
    with OpenAIServer(faults=["500", "ok"]) as server:
        completed(exact(3), server, journal)
    with sqlite3.connect(journal) as db:
        assert sorted(db.execute("select attempts from requests").fetchall()) == [(1,), (1,), (2,)]


def test_one_attempt_tells_the_prompt_that_the_server_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    api = api_for(None)
    with OpenAIServer(echo) as server:
        monkeypatch.delenv("OPENAI_API_KEY")
        asking = Exact([1, 2, 3], 5, FIELDS | {"return_token_ids": True})
        landed = attempt(asking, api_for(server), "engine", "own-key")
        plainly = attempt(Exact([1, 2, 3], 5, FIELDS), api_for(server), "engine", "own-key")
        with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
            attempt(asking, api, "engine")
    assert landed.prompt_token_ids == [1, 2, 3]
    assert landed.answer
    assert plainly.prompt_token_ids is None
    assert {sent["authorization"] for sent in server.headers} == {"Bearer own-key"}


def test_no_proxy_stands_before_a_server_on_this_machine(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with OpenAIServer() as server:
        assert completed(exact(2), server, journal)[0].text == "Hello."
        assert completed(exact(3), server.url.replace("127.0.0.1", "localhost"), journal)[2].text == "Hello."
    assert KEY in str(server.headers)
