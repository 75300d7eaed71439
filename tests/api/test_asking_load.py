"""The engine under load, kills and limits, in seconds; `benchmarks/test_api_load.py` is the same at full size."""

from pathlib import Path

import pytest
from asking_load import bad_hour, budget, finished, four, killed, limited, served, started

pytestmark = pytest.mark.slow


def test_every_request_of_a_bad_hour_ends_and_nothing_that_arrived_is_paid_twice(tmp_path: Path) -> None:
    bad_hour(1500, 64, 0.1, tmp_path)


@pytest.mark.parametrize("exact", [{}, {"ids": True, "price": (0, 0, 0)}])
def test_an_answer_costs_no_waiting_for_the_disk(exact: dict, tmp_path: Path) -> None:
    with served() as url:
        told = finished(started(url, 1500, tmp_path / "journal.sqlite", width=64, **exact))
    print(told, f"{1500 / told['seconds']:.0f}/s")
    assert 1500 / told["seconds"] > 150  # on two shared cores; the full size asks for 300


def test_killed_at_any_moment_the_answers_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    killed(5, 600, 16, tmp_path)


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
