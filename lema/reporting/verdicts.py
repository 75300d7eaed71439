"""Which problems one model has right."""

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
