"""Which problems one model has right, and two models side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Verdicts:
    """The answers of one model to one split, in the order of `ids`: booleans, of samples the share that is right."""

    ids: tuple[str, ...]
    correct: np.ndarray
    symbolic: np.ndarray

    def of(self, ids: Sequence[str]) -> "Verdicts":
        """Those on some of the problems, in the given order."""
        place = {problem: number for number, problem in enumerate(self.ids)}
        chosen = [place[problem] for problem in ids]
        return Verdicts(tuple(ids), self.correct[chosen], self.symbolic[chosen])


def aligned(first: Verdicts | None, second: Verdicts | None) -> tuple[Verdicts, Verdicts] | None:
    """The verdicts of two models on their common problems, in the first one's order; None without a common problem."""
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
