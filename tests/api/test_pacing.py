"""The pace of requests on a clock of its own: what limits allow is used, and little else is sent."""

import heapq
import random
import time
from email.utils import formatdate

import pytest
from openai_faults import RateLimit
from tables import table

from lema.api.pacing import Pace, retry_after, seconds


@pytest.mark.parametrize(("text", "expected"), table(__file__, "durations of servers are read"))
def test_durations_of_servers_are_read(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [*table(__file__, "retry after is read in all its forms"), ({"retry-after": "9" * 400}, None)],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict, expected: float | None) -> None:
    assert retry_after(headers) == (None if expected is None else pytest.approx(expected, abs=5))


@pytest.mark.parametrize(("seconds_from_now", "expected"), [(100, 100.0), (-100, 0.0)])
def test_retry_after_may_be_a_date(seconds_from_now: float, expected: float) -> None:
    headers = {"retry-after": formatdate(time.time() + seconds_from_now, usegmt=True)}
    assert retry_after(headers) == pytest.approx(expected, abs=5)


@pytest.mark.parametrize(
    "absurd",
    [
        *table(__file__, "one absurd word on the limits holds nobody up for long"),
        {"x-ratelimit-limit-requests": "9" * 400, "x-ratelimit-limit-tokens": "1e400"},
    ],
)
def test_one_absurd_word_on_the_limits_holds_nobody_up_for_long(absurd: dict) -> None:
    pace, sane = Pace(None, None), {"x-ratelimit-limit-requests": "6000", "x-ratelimit-limit-tokens": "6000000"}
    now = time.monotonic()
    for headers in (sane, absurd):
        pace.send(now, 1000.0)
        pace.accepted(now)
        pace.landed(1000.0, 900.0, headers)
    assert pace.wait(now) <= 61
    pace.send(now, 1000.0)
    pace.accepted(now)
    pace.landed(1000.0, 900.0, sane)
    assert pace.wait(time.monotonic()) < 1


def simulated(pace: Pace, limit: RateLimit, until: float, latency: float = 0.3, workers: int = 64) -> tuple[int, int]:
    """How many a server with this limit accepts of an endless queue, and how many it refuses, in `until` seconds."""
    now, start, chance = time.monotonic(), time.monotonic(), random.Random(0)
    limit.at, landing, accepted, refused = now, [], 0, 0
    limit.level = limit.burst
    while now < start + until:
        wait = pace.wait(now)
        if wait <= 0 and len(landing) < workers:
            pace.send(now, 100)
            told = limit.take(now)
            at = now + (0.01 if told else latency * chance.uniform(0.5, 1.5))
            headers = {name.lower(): value for name, value in limit.told(told).items()}
            heapq.heappush(landing, (at, now, bool(told), list(headers.items())))
            continue
        free = now + wait if len(landing) < workers else float("inf")
        if landing and landing[0][0] <= free:
            now, sent_at, over, items = heapq.heappop(landing)
            pace.landed(100, 100, dict(items))
            if over:
                refused += 1
                pace.refused(now, sent_at, retry_after(dict(items)))
            else:
                accepted += 1
                pace.accepted(now)
        else:
            now = free
    return accepted, refused


@pytest.mark.parametrize("told", ["", "retry_after", "headers", "headers retry_after"])
@pytest.mark.parametrize("kind", ["burst 20", "burst 1200", "window 60", "window 1"])
def test_nine_tenths_of_a_limit_are_used_whatever_the_server_tells(kind: str, told: str) -> None:
    minutes, (name, number) = 5, kind.split()
    options: dict = {name: float(number), **dict.fromkeys(told.split(), True)}
    accepted, refused = simulated(Pace(None, None), RateLimit(1200, **options), minutes * 60)
    print(f"{kind}, {told or 'nothing told'}: {accepted / 1200 / minutes:.0%} used, {refused} refused")
    assert accepted >= 0.9 * 1200 * minutes
    assert refused < 0.25 * accepted


def test_a_full_window_is_no_sign_of_a_low_limit() -> None:
    accepted, _ = simulated(Pace(None, None), RateLimit(1200, window=10.0), 60, latency=0.2)
    assert accepted >= 0.8 * 1200, "although nothing at all was accepted for seconds, several times"


def test_set_limit_is_kept_evenly() -> None:
    accepted, refused = simulated(Pace(1200, None), RateLimit(1200, burst=25), 120)
    assert accepted >= 0.97 * 2400
    assert refused == 0


def test_token_limit_is_kept() -> None:
    accepted, _ = simulated(Pace(None, 60_000), RateLimit(1e6, burst=1e6), 60)
    assert 570 <= accepted <= 640  # of 100 tokens each


def test_single_refusals_among_many_accepted_slow_nothing_down() -> None:
    pace, now, sent = Pace(None, None), time.monotonic(), 0
    for number in range(5000):
        now += 0.002
        while pace.wait(now) <= 0 and pace.in_flight < 256:
            pace.send(now, 1)
            sent += 1
        if pace.in_flight:
            pace.landed(1, 1, {})
            if number % 50 == 30:
                pace.refused(now, now - 0.5, 1.0 if number % 100 == 30 else None)
            else:
                pace.accepted(now)
    assert sent > 4800
