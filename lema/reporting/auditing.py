"""How good a corrector is on solutions with human labels: its metrics, and paired tests of two of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from lema.reporting.statistics import Interval, f1, holm, mcnemar, wilson
from lema.types import NO_ERROR, Correction, Labelled

_NOT_KEPT = "earlier steps not kept"


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        """In [0, 1]; None of nothing."""
        return self.part / self.whole if self.whole else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's, over solutions."""
        return wilson(self.part, self.whole) if self.whole else None


@dataclass(frozen=True)
class Reading:
    """A labelled solution, and what a corrector said of it."""

    solution: Labelled
    said: Correction

    @property
    def hit(self) -> bool:
        """Whether it names exactly the first wrong step, or of a right solution that there is none."""
        label = self.solution.label
        return self.said.reason == NO_ERROR if label is None else self.said.incorrect_step == label

    @property
    def near(self) -> bool:
        """Whether it names the first wrong step, or one beside it."""
        label, named = self.solution.label, self.said.incorrect_step
        return bool(label and named) and abs(named - (label or 0)) <= 1


@dataclass(frozen=True)
class Measures:
    """One corrector on some solutions. Shares are of the wrong ones where nothing else is said."""

    exact: Share  # the step is named exactly
    near: Share  # or one beside it
    kept: Share  # of the right ones: it says that no step is wrong
    alarms: Share  # of the right ones: it names a step
    f1: float | None  # ProcessBench's; None where it cannot say that nothing is wrong, or all are wrong or all right
    f1_interval: Interval | None
    answered: Share  # of those whose answer is known: the correction is accepted
    precise: Share  # of those that are accepted: exactly the first wrong step is named
    lucky: Share  # of those that are accepted: another step than the first wrong one is named
    faithful: Share  # of those in which a step is named: the correction keeps the steps before it
    unread: Share  # of all: neither a step nor none is named


def measure(readings: Sequence[Reading], says_none: bool) -> Measures:
    """`says_none`: the corrector can answer that no step is wrong, which its F1 and its false alarms ask of it."""
    wrong = [each for each in readings if each.solution.label is not None]
    right = [each for each in readings if each.solution.label is None] if says_none else []
    accepted = [each for each in wrong if each.said.accepted and each.solution.gradable]
    named = [each for each in wrong if each.said.incorrect_step]
    exact, kept = _share(wrong, lambda each: each.hit), _share(right, lambda each: each.hit)
    score = f1((exact.part, exact.whole), (kept.part, kept.whole)) if wrong and right else (None, None)
    return Measures(
        exact=exact,
        near=_share(wrong, lambda each: each.near),
        kept=kept,
        alarms=_share(right, lambda each: each.said.incorrect_step > 0),
        f1=score[0],
        f1_interval=score[1],
        answered=Share(len(accepted), sum(each.solution.gradable for each in wrong)),
        precise=_share(accepted, lambda each: each.hit),
        lucky=_share(accepted, lambda each: not each.hit),
        faithful=_share(named, lambda each: each.said.reason != _NOT_KEPT),
        unread=_share(readings, lambda each: not each.said.incorrect_step and each.said.reason != NO_ERROR),
    )


def _share(readings: Sequence[Reading], holds: Callable[[Reading], bool]) -> Share:
    return Share(sum(map(holds, readings)), len(readings))


@dataclass(frozen=True)
class Pair:
    """Two correctors on the same solutions: those that only one of them gets right."""

    a: str
    b: str
    only_a: int
    only_b: int
    whole: int
    p: float  # McNemar's exact test
    holm: float  # over the pairs


def paired(readings: Mapping[str, Sequence[Reading]], says_none: Mapping[str, bool]) -> list[Pair]:
    """Each two correctors, on all solutions where both can say that nothing is wrong, else on the wrong ones."""
    found: dict[tuple[str, str], tuple[int, int, int]] = {}
    for a, b in combinations(readings, 2):
        both = [
            (mine.hit, theirs.hit)
            for mine, theirs in zip(readings[a], readings[b], strict=True)
            if mine.solution.label is not None or (says_none[a] and says_none[b])
        ]
        found[a, b] = (both.count((True, False)), both.count((False, True)), len(both))
    p_values = {pair: mcnemar(*counts[:2]) for pair, counts in found.items()}
    adjusted = holm(p_values)
    return [Pair(*pair, *counts, p_values[pair], adjusted[pair]) for pair, counts in found.items()]


def parts(solutions: Iterable[Labelled]) -> dict[str, dict[str, list[int]]]:
    """Solutions by generator, number of steps and length: for each property, value -> their positions.

    Lengths and numbers of steps are cut where they halve, and halve again, the solutions.
    """
    rows = list(solutions)
    generators = sorted({each.generator for each in rows})
    found = {"generator": {of: [k for k, each in enumerate(rows) if each.generator == of] for of in generators}}
    counted = {
        "steps": [len(each.steps) for each in rows],
        "words": [sum(len(step.split()) for step in each.steps) for each in rows],
    }
    for name, values in counted.items():
        ordered = sorted(values)
        ends = sorted({ordered[(len(ordered) - 1) * quarter // 4] for quarter in (1, 2, 3, 4)})
        for low, end in zip([ordered[0], *(each + 1 for each in ends)], ends, strict=False):
            value = f"{low} to {end}" if low < end else str(end)
            found.setdefault(name, {})[value] = [k for k, each in enumerate(values) if low <= each <= end]
    return {name: groups for name, groups in found.items() if len(groups) > 1}


def plain(measures: Mapping[str, Measures]) -> dict[str, Any]:
    """For JSON, by corrector: of each share its parts, value and interval."""

    def share(each: Any) -> Any:
        if not isinstance(each, Share):
            return each
        return {"part": each.part, "of": each.whole, "value": each.value, "interval": each.interval}

    return {name: {field: share(each) for field, each in vars(own).items()} for name, own in measures.items()}
