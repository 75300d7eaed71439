"""Two runs paired by problem: their common problems, those that only one of them has right, and the test of that."""

import numpy as np

from lema.reporting.statistics import mcnemar, sign_flip
from lema.reporting.verdicts import Verdicts as Verdicts


def paired_p(mine: Verdicts, theirs: Verdicts, samples: int = 0) -> float:
    """McNemar's p of greedy answers; the sign-flip test's of so many samples of each problem."""
    if samples:
        return sign_flip(np.rint((mine.correct - theirs.correct) * samples))
    lost, gained = flipped(mine, theirs)
    return mcnemar(len(gained), len(lost))


def aligned(first: Verdicts | None, second: Verdicts | None) -> tuple[Verdicts, Verdicts] | None:
    """The verdicts of two runs on their common problems, in the first run's order; None without a common problem."""
    if first is None or second is None:
        return None
    if first.ids == second.ids:
        return first, second
    common = set(first.ids) & set(second.ids)
    order = [problem for problem in first.ids if problem in common]
    return (first.of(order), second.of(order)) if order else None


def flipped(mine: Verdicts, theirs: Verdicts) -> tuple[list[str], list[str]]:
    """The problems that the second alone has right (of samples, more often), and those that the first has."""
    lost, gained = mine.correct < theirs.correct, mine.correct > theirs.correct
    return [mine.ids[each] for each in np.flatnonzero(lost)], [mine.ids[each] for each in np.flatnonzero(gained)]
