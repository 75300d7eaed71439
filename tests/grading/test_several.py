"""pass@k and maj@k against brute force: all subsets of the samples, and all orders of the votes."""

from collections import Counter
from itertools import combinations, permutations, product
from statistics import fmean

import pytest

from lema.grading import grade_all
from lema.grading.several import majority, pass_at, shown


@pytest.mark.parametrize("samples", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_sample(samples: int) -> None:
    for correct in range(samples + 1):
        verdicts = [place < correct for place in range(samples)]
        for k in range(1, samples + 1):
            subsets = [any(chosen) for chosen in combinations(verdicts, k)]
            assert pass_at(k, samples, correct) == pytest.approx(fmean(subsets), abs=1e-12)


def test_pass_at_one_is_the_share_of_right_samples_also_of_many() -> None:
    assert pass_at(1, 64, 16) == 0.25
    assert 0 < pass_at(100, 10_000, 1) < pass_at(1000, 10_000, 1) < 1
    assert (pass_at(3, 10_000, 0), pass_at(3, 10_000, 10_000)) == (0, 1)


@pytest.mark.parametrize(
    ("samples", "ks"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_the_powers_of_two_and_all_samples_are_shown(samples: int, ks: list[int]) -> None:
    assert shown(samples) == ks


def lucky(votes: tuple[tuple[str | None, bool], ...]) -> float:
    """The majority as most programs take it: of answers with equally many votes the one that came first."""
    counts = Counter(vote for vote in votes if vote[0] is not None)
    return float(counts.most_common(1)[0][0][1]) if counts else 0.0


KINDS = [("8", True), ("9", False), ("10", False), (None, False)]


@pytest.mark.parametrize("number", range(1, 6))
def test_the_majority_is_that_of_all_orders_of_the_votes(number: int) -> None:
    for votes in product(KINDS, repeat=number):
        if votes == tuple(sorted(votes, key=KINDS.index)):
            assert majority(votes) == pytest.approx(fmean(map(lucky, permutations(votes)))), votes


@pytest.mark.parametrize(
    ("texts", "gold", "task", "verdict"),
    [
        # One vote: the same number in two spellings, and a wrong one that has fewer votes.
        (["The answer is 1,080.", "The answer is 1080.0.", "The answer is 9.", "The answer is 7."], "1080", "gsm8k", 1),
        # MATH's rules do not call 1,000 and 1000 equal, so three answers lead together.
        (["The answer is 1,000.", "The answer is 1000.", "The answer is 5."], "1000", "math", 1 / 3),
        ([r"\boxed{\dfrac12}", r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", r"\boxed{2}", r"\boxed{2}"], "1/2", "math", 1),
        # Three decimals are two to SVAMP's rules.
        (["The answer is 0.333.", "The answer is 1/3.", "The answer is 4."], "0.33", "svamp", 1),
        # Wrong answers are one vote too.
        (["The answer is 2.0.", "The answer is 2.", "The answer is 8."], "8", "gsm8k", 0),
        # No answer votes for nothing, although the official rules take it for 0.
        (["I do not know.", "Hm.", "The answer is 3."], "0", "gsm8k", 0),
        (["I do not know."], "0", "gsm8k", 0),
        (["The answer is bnk.", "The answer is bank.", "The answer is mall."], "bank", "csqa", 1),
    ],
)
def test_answers_are_one_vote_where_the_official_rules_call_them_equal(
    texts: list[str], gold: str, task: str, verdict: float
) -> None:
    grades = grade_all([(text, gold, ["bank", "mall"]) for text in texts], task)
    assert majority((each.answer, each.correct) for each in grades) == pytest.approx(verdict)
