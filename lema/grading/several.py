"""What several answers to one problem are worth together: pass@k, and the verdict on their majority.

>>> pass_at(1, samples=4, correct=1), pass_at(2, samples=4, correct=1), pass_at(4, samples=4, correct=1)
(0.25, 0.5, 1.0)
>>> majority([("8", True), ("8", True), ("9", False), (None, False)])
1.0
"""

from collections import Counter
from collections.abc import Iterable
from math import comb


def pass_at(k: int, samples: int, correct: int) -> float:
    """The chance that k of these samples, drawn without replacement, hold a right one: 1 - C(n - c, k) / C(n, k).

    This is the unbiased estimator of Chen et al. (2021), arXiv 2107.03374, equation 1; k is at most `samples`.
    """
    return 1 - comb(samples - correct, k) / comb(samples, k)


def shown(samples: int) -> list[int]:
    """The k for which pass@k is shown: the powers of two below the number of samples, and that number."""
    return [*(1 << power for power in range((samples - 1).bit_length())), samples]


def majority(votes: Iterable[tuple[str | None, bool]]) -> float:
    """The verdict on the answer that most samples give, from each one's answer by the official rules and its verdict.

    Answers that these rules call equal are one vote: those that have the same normal form, which is what the rules
    extract, and all that are right. Of t answers with equally many votes, one of them right, each is as good as
    the others: 1 / t. A sample without an answer votes for nothing, also where the rules call nothing right (for a
    gold answer of 0), and where no sample has an answer the verdict is 0.

    >>> majority([("8", True), ("9", False)]), majority([(None, True), (None, True)])
    (0.5, 0.0)
    """
    counts = Counter(None if right else answer for answer, right in votes if answer is not None)
    most = max(counts.values(), default=0)
    first = [answer for answer, count in counts.items() if count == most]
    return (None in first) / len(first) if first else 0.0
