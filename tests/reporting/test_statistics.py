"""Statistics against published worked examples, and against brute force on small cases."""

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from lema.reporting.statistics import (
    Crossed,
    accuracy_over_problems,
    holm,
    mcnemar,
    over_problems,
    over_seeds,
    sign_flip,
    smallest_effect,
    standard_error,
    wilson,
)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # Newcombe (1998), Statistics in Medicine 17, 857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_newcombes(correct: int, total: int, low: float, high: float) -> None:
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_over_seeds_is_students_own_example() -> None:
    # Student (1908), Biometrika 6, 1: extra hours of sleep of ten patients by two drugs; as R's t.test(paired = TRUE).
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = over_seeds([a - b for a, b in zip(first, second, strict=True)])
    assert found.mean == pytest.approx(-1.58)
    assert found.interval == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert found.p == pytest.approx(0.002833, abs=1e-6)


def test_over_seeds_with_two_seeds_is_the_cauchy_distributions() -> None:
    found = over_seeds([0.01, 0.03])
    assert found.interval
    assert found.interval.high - found.mean == pytest.approx(math.tan(math.pi * 0.475) * 0.01, rel=1e-6)


@pytest.mark.parametrize("values", [[0.4], [0.1 + 0.2, 0.3], [0.5] * 5])
def test_a_spread_that_cannot_be_told_gives_no_interval(values: list[float]) -> None:
    found = over_seeds(values)
    assert found.mean == pytest.approx(values[0])
    assert found.interval is None
    assert found.p is None


@pytest.mark.parametrize("values", [[1.0, 0.0, 0.5], [0.2, -0.4, 0.2, 1.0], [1, 1, 0, 0, 0.5, -1]])
def test_over_problems_is_the_bootstrap_of_all_resamples(values: list[float]) -> None:
    exact = Counter(
        round(sum(drawn) / len(values), 9) for drawn in itertools.product(values, repeat=len(values))
    )  # all n^n resamples
    ordered = np.array(sorted(exact.elements()))
    low, high = over_problems(values, draws=200_000)
    below, above = np.mean(ordered < low - 1e-9), np.mean(ordered <= low + 1e-9)
    assert below - 0.003 <= 0.025 <= above + 0.003
    below, above = np.mean(ordered < high - 1e-9), np.mean(ordered <= high + 1e-9)
    assert below - 0.003 <= 0.975 <= above + 0.003


def test_over_problems_draws_as_resampling_rows_does() -> None:
    rng = np.random.default_rng(1)
    values = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=400)
    plain = [values[rng.integers(0, 400, 400)].mean() for _ in range(20_000)]
    assert over_problems(values) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.004)
    assert over_problems(values) == over_problems(values)  # the same numbers each time


def test_an_accuracy_of_nothing_or_all_still_has_an_interval() -> None:
    assert accuracy_over_problems([0.0] * 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert accuracy_over_problems([1.0] * 20) == pytest.approx((0.8389, 1.0), abs=5e-5)
    assert accuracy_over_problems([0.5, 1.0, 0.0]) == over_problems([0.5, 1.0, 0.0])


@pytest.mark.parametrize("gained", range(7))
@pytest.mark.parametrize("lost", range(7))
def test_mcnemar_counts_all_ways_the_signs_could_have_fallen(gained: int, lost: int) -> None:
    total = gained + lost
    as_far = sum(abs(sum(signs)) >= abs(gained - lost) for signs in itertools.product((-1, 1), repeat=total))
    assert mcnemar(gained, lost) == pytest.approx(as_far / 2**total)


def test_mcnemar_is_the_published_example() -> None:
    # Fagerland, Lydersen & Laake (2013), BMC Med Res Methodol 13, 91: bronchial hyperresponsiveness of 21 children
    # before and after transplantation, 1 and 7 discordant: exact conditional p = 0.070.
    assert mcnemar(1, 7) == pytest.approx(0.0703125)


@pytest.mark.parametrize("seed", range(12))
def test_the_sign_flip_test_counts_all_ways_to_flip_the_signs(seed: int) -> None:
    values = np.random.default_rng(seed).integers(-4, 5, size=seed)
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((-1, 1), repeat=seed)]
    assert sign_flip(values) == pytest.approx(np.mean([each >= abs(values.sum()) for each in sums]))


@pytest.mark.parametrize(("gained", "lost", "same"), [(0, 0, 3), (7, 1, 0), (1, 7, 100), (5, 5, 9), (40, 12, 1200)])
def test_of_one_answer_a_problem_the_sign_flip_test_is_mcnemars(gained: int, lost: int, same: int) -> None:
    assert sign_flip([1] * gained + [-1] * lost + [0] * same) == pytest.approx(mcnemar(gained, lost))


def test_the_sign_flip_test_holds_its_level_and_many_problems_with_many_samples_take_no_time() -> None:
    rng = np.random.default_rng(0)
    alike = [sign_flip(rng.binomial(4, share := rng.random(60)) - rng.binomial(4, share)) for _ in range(800)]
    assert np.mean(np.array(alike) < 0.05) == pytest.approx(0.05, abs=0.02)
    values = rng.binomial(64, 0.52, 5000) - rng.binomial(64, 0.5, 5000)
    assert sign_flip(values) == pytest.approx(
        2 * stats.norm.sf(abs(values.sum()) / math.sqrt((values**2).sum())), rel=0.2
    )


def test_holm_is_the_published_example() -> None:
    # R's p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm"); and Holm's own rule with ties
    found = holm({"a": 0.01, "c": 0.03, "b": 0.02, "d": 0.04})
    assert found == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06})
    assert list(found) == ["a", "c", "b", "d"]
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_testing_procedure(p_values: list[float]) -> None:
    """Each p is the largest Bonferroni p of all sets of hypotheses that it is in."""
    numbers = range(len(p_values))
    subsets = [set(each) for size in range(1, len(p_values) + 1) for each in itertools.combinations(numbers, size)]
    expected = {
        number: max(min(1.0, len(each) * min(p_values[other] for other in each)) for each in subsets if number in each)
        for number in numbers
    }
    assert holm(dict(enumerate(p_values))) == pytest.approx(expected)


def of_seeds(sd: float) -> Crossed:
    """Values that differ between seeds alone."""
    return Crossed(0.0, 3, 10**9, sd**2, 0.0, 0.0)


def test_the_smallest_effect_over_seeds_has_the_power_that_it_claims() -> None:
    # Cohen (1988), and G*Power's manual: for an effect of 0.5 SD a paired t test needs 34 pairs, and 33 are too few.
    found = [of_seeds(1.0).smallest(pairs, 10**9) for pairs in (33, 34)]
    assert found[0]
    assert found[1]
    assert found[0] > 0.5 > found[1]
    rng = np.random.default_rng(2)
    for seeds in (2, 3, 5):
        least = of_seeds(0.01).smallest(seeds, 10**9)
        assert least
        drawn = rng.normal(least, 0.01, (40_000, seeds))
        tested: Any = stats.ttest_1samp(drawn, 0.0, axis=1)
        shown = tested.pvalue < 0.05
        assert shown.mean() == pytest.approx(0.8, abs=0.01)


def test_the_smallest_effect_of_one_seed_has_the_power_that_it_claims() -> None:
    # Connor (1987) by its formula: psi = 0.2, d = 0.1 and these errors ask for 154.9 pairs; so 155 show 0.1.
    assert smallest_effect(155, 0.2) == pytest.approx(0.1, abs=1e-3)
    rng = np.random.default_rng(3)
    problems, discordant = 1319, 0.15
    least = smallest_effect(problems, discordant)
    assert least
    different = rng.binomial(problems, discordant, 4000)
    gained = rng.binomial(different, (discordant + least) / 2 / discordant)
    shown = [mcnemar(int(g), int(d - g)) < 0.05 for g, d in zip(gained, different, strict=True)]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.03)  # the exact test is a little conservative


def test_the_smallest_effect_grows_with_noise_and_shrinks_with_problems_and_seeds() -> None:
    def least(num_seeds: int, num_problems: int, *parts: float) -> float:
        found = Crossed(0.0, 3, 1000, *parts).smallest(num_seeds, num_problems)
        assert found is not None
        return found

    parts = (0.0004, 0.01, 0.2)
    assert least(5, 1000, *parts) < least(3, 1000, *parts) < least(2, 1000, *parts)
    assert least(3, 4000, *parts) < least(3, 1000, *parts)
    for more in ((0.0009, 0.01, 0.2), (0.0004, 0.02, 0.2)):
        assert least(3, 1000, *more) > least(3, 1000, *parts)
    # The spread of the seeds is not below what drawing answers alone makes.
    assert least(3, 1000, 0.0001, 0.01, 0.2) == least(3, 1000, 0.0002, 0.01, 0.2)


def test_where_nothing_varied_no_effect_can_be_named() -> None:
    assert smallest_effect(1000, 0.0) is None
    # About 2.8 sqrt(.02 / 300). As a share of problems 0.02 is less than would show.
    assert smallest_effect(300, 0.02, sampled=True) == pytest.approx(0.0229, abs=5e-4)
    assert smallest_effect(300, 0.02) is None
    assert smallest_effect(4, 0.25) is None  # one problem that differs shows nothing
    assert Crossed.of(np.zeros((5, 1000))).smallest(5, 1000) is None


def test_standard_error_of_a_proportion() -> None:
    assert standard_error(50, 100) == pytest.approx(0.05)
    assert standard_error(0, 100) == 0
