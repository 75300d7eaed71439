"""The engine under load, kills and limits, in seconds; `benchmarks/test_api_load.py` is the same at full size."""

import time
from pathlib import Path

import pytest
from asking_load import bad_hour, budget, finished, four, killed, limited, served, started, stats

pytestmark = pytest.mark.slow


def test_every_request_of_a_bad_hour_ends_and_nothing_that_arrived_is_paid_twice(tmp_path: Path) -> None:
    bad_hour(1500, 64, 0.1, tmp_path)


def test_an_exact_prompt_takes_three_milliseconds_of_a_core_at_the_most(tmp_path: Path) -> None:
    with served() as url:
        told = finished(started(url, 5000, tmp_path / "journal.sqlite", width=256, ids=True))
    print(told, f"{5000 / told['seconds']:.0f}/s")
    assert told["usable"] == 5000
    assert 5000 / told["cpu_seconds"] > 300


def test_an_answer_costs_no_waiting_for_the_disk(tmp_path: Path) -> None:
    with served() as url:
        told = finished(started(url, 1500, tmp_path / "journal.sqlite", width=64))
    print(told, f"{1500 / told['seconds']:.0f}/s")
    assert 1500 / told["seconds"] > 150  # on two shared cores; the full size asks for 300


def test_killed_at_any_moment_the_answers_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    killed(5, 600, 16, tmp_path)


def test_a_signal_waits_for_no_answer_that_costs_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    with served(latency=0.5, spread=2) as url:
        process = started(url, 400, journal, width=64, ids=True)
        while stats(url)["billed"] < 100 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    with served(latency=60) as url:
        process = started(url, 400, journal, width=64, ids=True)
        while stats(url)["most_in_flight"] < 64 and process.poll() is None:
            time.sleep(0.01)
        sent = time.monotonic()
        process.terminate()
        told = finished(process, timeout=50)
    assert time.monotonic() - sent < 20
    assert "corrector: stopped by SIGTERM: " in told["error"]
    with served() as url:
        assert finished(started(url, 400, journal, width=64, ids=True))["usable"] == 400
        assert stats(url)["billed"] < 400


def test_four_processes_pay_for_the_same_requests_once(tmp_path: Path) -> None:
    four(300, tmp_path)


def test_a_budget_of_a_third_is_kept_and_a_larger_one_resumes(tmp_path: Path) -> None:
    budget(300, 0.1, tmp_path)


@pytest.mark.parametrize("limit", [{"burst": 100}, {"window": 3, "headers": True}])
def test_a_limited_server_is_used_at_nine_tenths_of_its_rate(limit: dict, tmp_path: Path) -> None:
    # The best of three: other tests may take the cores meanwhile.
    assert any(limited({"per_minute": 6000, **limit}, 1200, tmp_path / name) for name in "abc")


def test_a_server_that_says_when_to_come_back_loses_no_request(tmp_path: Path) -> None:
    # In whole seconds, of which a short run has few: the full-size test has a minute's window, and nine tenths.
    assert limited({"per_minute": 6000, "burst": 100, "retry_after": True}, 1200, tmp_path, share=0.5)
