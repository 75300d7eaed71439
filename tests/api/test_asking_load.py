"""The engine under load, kills and limits, in seconds; `benchmarks/test_api_load.py` is the same at full size."""

import random
import sqlite3
import time
from pathlib import Path

import pytest
from asking_load import BAD_HOUR, finished, served, started, stats

pytestmark = pytest.mark.slow


def test_every_request_of_a_bad_hour_ends_and_nothing_that_arrived_is_paid_twice(tmp_path: Path) -> None:
    bad_hour(1500, 64, 0.1, tmp_path)


def bad_hour(count: int, width: int, latency: float, folder: Path) -> dict:
    """Run it, and return what the client told."""
    with served(latency=latency, spread=0.5, faults=BAD_HOUR) as url:
        told = finished(started(url, count, folder / "journal.sqlite", width=width))
        bill = stats(url)
    print(told, bill, f"{count / told['seconds']:.0f}/s of {width / latency:.0f}/s", sep="\n")
    assert sum(told["ended"].values()) == count
    assert set(told["ended"]) <= {"stop", "refusal", "length", "HTTP 500", "connection lost", "malformed body"}
    assert told["usable"] > 0.98 * count
    assert bill["arrived_twice"] == 0
    assert bill["billed"] - bill["prompts"] <= bill["lost"]
    assert told["spending"]["usd"] >= bill["usd"] - 1e-9
    assert bill["most_in_flight"] <= width
    assert told["megabytes"] < 500
    assert not told["torch"]
    return told


def test_an_answer_costs_no_waiting_for_the_disk(tmp_path: Path) -> None:
    with served() as url:
        told = finished(started(url, 1500, tmp_path / "journal.sqlite", width=64))
    print(told, f"{1500 / told['seconds']:.0f}/s")
    assert 1500 / told["seconds"] > 150  # on two shared cores; the full size asks for 300


def test_killed_at_any_moment_the_answers_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    killed(5, 600, 16, tmp_path)


def killed(times: int, count: int, width: int, folder: Path) -> None:
    """Kill -9 so often, then let it end."""
    chance = random.Random(times)
    with served(latency=0.2, spread=0.5) as url:
        journal, kills = folder / "journal.sqlite", 0
        while kills < times and _answered(journal) < count:
            before = stats(url)["requests"]
            process = started(url, count, journal, width=width)
            while stats(url)["requests"] == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 1))
            process.kill()
            process.communicate()
            kills += 1
            time.sleep(0.1)
            assert stats(url)["requests"] - _answered(journal) <= kills * width
        told = finished(started(url, count, journal, width=width))
        bill = stats(url)
    with served() as url:
        undisturbed = finished(started(url, count, folder / "undisturbed.sqlite", width=width))
    print(told, bill, f"{kills} kills", sep="\n")
    assert kills == times
    assert told["digest"] == undisturbed["digest"]
    assert bill["prompts"] == count
    assert bill["billed"] <= count + kills * width
    assert told["spending"]["usd"] >= bill["usd"] - 1e-9


def _answered(journal: Path) -> int:
    if not journal.exists():
        return 0
    with sqlite3.connect(journal, timeout=60) as db:
        return db.execute("select count(answer) from requests").fetchone()[0]


def test_four_processes_pay_for_the_same_requests_once(tmp_path: Path) -> None:
    four(300, tmp_path)


def four(count: int, folder: Path) -> None:
    """Four clients at once."""
    with served(latency=0.1, spread=0.5) as url:
        clients = [started(url, count, folder / "journal.sqlite", width=64) for _ in range(4)]
        told = [finished(client) for client in clients]
        bill = stats(url)
    print([one["seconds"] for one in told], bill)
    assert len({one["digest"] for one in told}) == 1
    assert bill["billed"] == bill["requests"] == count


def test_a_budget_of_a_third_is_kept_and_a_larger_one_resumes(tmp_path: Path) -> None:
    budget(300, 0.1, tmp_path)


def budget(count: int, dollars: float, folder: Path) -> None:
    """So much, where about three times as much is needed."""
    prices = (1.1, 8.0)  # of 3.4 KB, so 850 tokens, and 120 words
    scale = 3 * dollars / count / 1.83e-3
    price = (prices[0] * scale, prices[1] * scale)
    settings = {"width": 64, "price": (price[0], price[0], price[1])}
    with served(latency=0.05, prices=price, reply=120, faults={"reset": 0.005, "no_choices": 0.005}) as url:
        told = finished(started(url, count, folder / "journal.sqlite", budget=dollars, **settings))
        bill = stats(url)
        print(told["error"], bill["usd"])
        assert f"budget_usd={dollars:g}: " in told["error"]
        assert bill["usd"] <= dollars
        told = finished(started(url, count, folder / "journal.sqlite", budget=10 * dollars, **settings))
        after = stats(url)
        print(told, after)
        assert told["usable"] == count
        assert after["arrived_twice"] == 0
        assert 2 * dollars < after["usd"] <= told["spending"]["usd"] + 1e-9


@pytest.mark.parametrize("limit", [{"burst": 100}, {"window": 3, "headers": True}])
def test_a_limited_server_is_used_at_nine_tenths_of_its_rate(limit: dict, tmp_path: Path) -> None:
    limited({"per_minute": 6000, **limit}, 1200, tmp_path)


def test_a_server_that_says_when_to_come_back_loses_no_request(tmp_path: Path) -> None:
    # In whole seconds, of which a short run has few: the full-size test has a minute's window, and nine tenths.
    limited({"per_minute": 6000, "burst": 100, "retry_after": True}, 1200, tmp_path, share=0.5)


def limited(limit: dict, count: int, folder: Path, share: float = 0.9) -> None:
    """Ask so much of a server with this limit, of whose rate at least a share is to be used."""
    with served(latency=0.2, spread=0.5, limit=limit) as url:
        told = finished(started(url, count, folder / "journal.sqlite", width=64))
        bill = stats(url)
    least = count * 60 / limit["per_minute"]
    print(
        limit, f"{count} in {told['seconds']:.1f} s, {least:.1f} at its rate: {least / told['seconds']:.0%} used", bill
    )
    assert told["usable"] == bill["billed"] == count
    assert told["seconds"] <= least / share + 2  # the first answers are on their way
