"""What a reply costs is what the server bills, as far as that is plausible, and else the most that it may cost."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from asked import PRICE, api_for, asked
from raw_server import RawServer, completion, reply
from tables import table

from lema.api.asking import ask
from lema.api.billing import billed, most_usd
from lema.api.requests import Message
from lema.types import UserError

HUGE, MOST = 10**400, 10**7


def usage(prompt: object, completion: object, total: object = None, cached: object = None, **more: object) -> dict:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return counts | {"prompt_tokens_details": {"cached_tokens": cached}} | more


@pytest.mark.parametrize(
    ("counted", "booked"),
    [
        *table(__file__, "what is booked"),
        (usage(20, 5, HUGE), (20, 0, 5)),
        (usage(HUGE, HUGE, HUGE, HUGE), None),
        *[(usage(20, 5, 25, wrong), (20, 0, 5)) for wrong in (21, -1, 1.5, math.nan, "8", True, None, [8], {}, HUGE)],
    ],
)
def test_what_is_booked(counted: object, booked: Sequence[int] | None) -> None:
    assert billed(counted, True) == (booked and tuple(booked))


def test_an_answer_without_text_may_have_no_tokens() -> None:
    assert billed(usage(20, 0, 20), False) == (20, 0, 0)


VALUES = [0, 1, 7, 20, 86, 87, 88, 499, 500, 501, 586, 587, 588, 2**31, 2**63, HUGE, -1, -HUGE, 1.0, 1.5, 1e308, -0.0]
VALUES += [math.nan, math.inf, -math.inf, "", "7", "NaN", True, False, None, [], [7], {}, {"cached_tokens": 7}]


def test_every_bill_is_of_tokens_that_there_may_be() -> None:
    chance = random.Random(0)
    for _ in range(20_000):
        parts = {name: chance.choice(VALUES) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        parts["prompt_tokens_details"] = chance.choice([*VALUES, *({"cached_tokens": value} for value in VALUES)])
        kept = {name: value for name, value in parts.items() if chance.random() < 0.9}
        tokens = billed(kept, chance.random() < 0.5)
        if tokens is not None:
            prompt, cached, written = tokens
            assert all(type(each) is int for each in tokens)
            assert 0 <= cached <= prompt <= MOST
            assert prompt >= 1
            assert 0 <= written <= MOST


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_bill_beyond_what_the_request_allows_is_what_is_paid(
    at_once: int, journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a model that reasons beyond the limit: 7,000 tokens where 500 are allowed."""
    dear = reply(completion(usage={"prompt_tokens": 20, "completion_tokens": 7000, "total_tokens": 7020}))
    with RawServer(dear, keep=True) as server:
        api = api_for(server.url, max_concurrent_requests=at_once)
        with pytest.raises(UserError, match=r"budget_usd=1: \$0\.9\d are spent, and the next request may cost \$0\.07"):
            asked(100, api, journal, 1.0)
        assert len(server.requests) == 14, "the first is alone, and tells what the others may cost"
        _, spending = asked(14, api, journal, 1.0)
    assert spending.usd == pytest.approx(14 * (20 * 2 + 7000 * 10) / 1e6)
    assert spending.completion_tokens == 14 * 7000
    assert caplog.text.count("a bill of $0.0700, where the request allows $0.0053: it counts") == 1


def raw(**changes: object) -> str:
    """A completion whose usage is such JSON as Python reads and no standard has."""
    return completion(usage="USAGE").replace('"USAGE"', json.dumps(changes))


ABSURD = [
    raw(prompt_tokens=10**9, completion_tokens=10**9, total_tokens=2 * 10**9),
    raw(prompt_tokens=math.nan, completion_tokens=math.inf, total_tokens=-math.inf),
    raw(prompt_tokens=-5, completion_tokens="many", total_tokens=None),
    raw(prompt_tokens=True, completion_tokens=[1], total_tokens={}),
    raw(prompt_tokens=20, completion_tokens=3, prompt_tokens_details=[[["x"]]]),
    raw(prompt_tokens=20, completion_tokens=3).replace("20", "9" * 400),
    raw(prompt_tokens=20, completion_tokens=3).replace("20", "9" * 9000),  # more digits than Python reads
    raw(prompt_tokens=20, completion_tokens=3).replace("20", "1e999"),
    raw(prompt_tokens=20, completion_tokens=3, details="DEEP").replace('"DEEP"', "[" * 400 + "]" * 400),
    completion(usage=[]),
    completion(usage="free"),
    completion(usage=None),
]


@pytest.mark.parametrize("body", ABSURD)
def test_an_absurd_usage_loses_no_answer_and_books_no_more_than_was_reserved(body: str, journal: Path) -> None:
    with RawServer(reply(body), keep=True) as server:
        answers, spending = asked(20, api_for(server.url), journal)
    assert [answer.text for answer in answers] == ["Hello."] * 20
    assert len(server.requests) == 20
    bodies = [request.partition(b"\r\n\r\n")[2].decode() for request in server.requests]
    assert 0 <= spending.usd <= sum(most_usd(sent, 500, PRICE) for sent in bodies) * (1 + 1e-9)
    assert 0 <= spending.prompt_tokens <= sum(map(len, bodies))
    assert 0 <= spending.completion_tokens <= 20 * 500
    assert 0 <= spending.cached_tokens <= spending.prompt_tokens


def test_one_absurd_reply_neither_ends_nor_stalls_a_run_within_its_budget(journal: Path) -> None:
    good, absurd = reply(completion()), reply(ABSURD[0], x_ratelimit_limit_requests="6000")
    with RawServer(good, absurd, good, keep=True) as server:
        api = api_for(server.url, max_tokens_per_minute=600_000)
        prompts = [Message(f"What is {number}?") for number in range(60)]
        settings = {"section": "corrector", "budget_usd": 0.06, "journal_path": journal}
        answers, spending = ask(prompts, api, PRICE, **settings)
    assert all(answer.usable for answer in answers)
    assert spending.usd < 0.06
