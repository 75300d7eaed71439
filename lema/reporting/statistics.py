"""Intervals and tests for accuracies and their differences, on plain values. 95 % and two-sided throughout.

Two kinds of uncertainty are kept apart: over training seeds, on the problems that were asked (`over_seeds`, the
headline), and over problems, at the seeds that were run (`over_problems`, `mcnemar`, of samples `sign_flip`). Neither
covers the other. `Crossed` has both at once, for other seeds and other problems, and verdicts are by it.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import special  # scipy.stats takes half a second more to import

Key = TypeVar("Key", bound=Hashable)

_LEVEL = 0.05  # the size of a test; an interval has 1 - _LEVEL
_POWER = 0.8  # Cohen's convention
_QUANTILES = 4_000  # so many represent a distribution
_DRAWS = 10_000  # of a bootstrap


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class OverSeeds:
    """The mean of one value a training seed, and how surely it is known."""

    mean: float
    sd: float | None  # between seeds, n - 1 in the denominator; None for one seed
    interval: Interval | None  # of the mean, Student's t
    p: float | None  # of a mean of 0


def standard_error(correct: int, total: int) -> float:
    """Of a proportion: sqrt(p (1 - p) / n)."""
    share = correct / total
    return math.sqrt(share * (1 - share) / total)


def wilson(correct: int, total: int) -> Interval:
    """Wilson's score interval of a proportion (1927), without continuity correction."""
    share, z = correct / total, float(special.ndtri(1 - _LEVEL / 2))
    centre, half = share + z**2 / (2 * total), z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    low, high = ((centre + side) / (1 + z**2 / total) for side in (-half, half))
    return Interval(low if correct else 0.0, high if correct < total else 1.0)


def f1(found: tuple[int, int], kept: tuple[int, int]) -> tuple[float, Interval]:
    """ProcessBench's F1 (arXiv 2412.06559, section 3.1), with the percentile bootstrap over either kind of solution.

    The harmonic mean of two accuracies, each as (right, all): `found` of the solutions with an error, `kept` of those
    without. 0 where both are 0.
    """

    def mean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.divide(2 * first * second, first + second, out=np.zeros_like(first), where=first + second > 0)

    random, shares = np.random.default_rng(0), [right / all_ for right, all_ in (found, kept)]
    drawn = [random.binomial(n, share, _DRAWS) / n for (_, n), share in zip((found, kept), shares, strict=True)]
    [value] = mean(*(np.array([share]) for share in shares))
    return float(value), _middle(mean(*drawn))


def _middle(drawn: np.ndarray) -> Interval:
    """Between its outer 2.5 % on either side."""
    low, high = np.quantile(drawn, [_LEVEL / 2, 1 - _LEVEL / 2])
    return Interval(float(low), float(high))


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Student's t over seeds, n - 1 degrees of freedom: of accuracies, or of paired differences (the headline).

    One value has no spread; values that are all the same tell too little of it (whole problems are counted, so a few
    seeds can agree by chance): then there is no interval, rather than one of no width.
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return OverSeeds(mean, None, None, None)
    sd = float(np.std(values, ddof=1))
    if np.ptp(values) < 1e-9:  # accuracies are quotients: equal ones may differ by a rounding
        return OverSeeds(mean, 0.0, None, None)
    freedom, error = len(values) - 1, sd / math.sqrt(len(values))
    half = error * _t(freedom, _LEVEL)
    p = 2 * float(special.stdtr(freedom, -abs(mean) / error))
    return OverSeeds(mean, sd, Interval(mean - half, mean + half), p)


def over_problems(values: Sequence[float] | np.ndarray, draws: int = _DRAWS) -> Interval:
    """The percentile bootstrap over problems; `values` has each problem's mean over the seeds (shape: problems).

    Drawing n problems with replacement is one multinomial draw over the distinct values, of which there are few.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    total = int(counts.sum())
    return _middle(np.random.default_rng(0).multinomial(total, counts / total, size=draws) @ distinct / total)


def accuracy_over_problems(values: Sequence[float] | np.ndarray) -> Interval:
    """Over problems, of an accuracy: Wilson's where each problem is right or wrong, in one seed or in all alike."""
    found = np.asarray(values, dtype=float)
    if np.isin(found, (0.0, 1.0)).all():
        return wilson(int(found.sum()), len(found))
    return over_problems(found)


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test of two models on the same problems: p by the sign of those that only one has right."""
    return min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5)))


def sign_flip(differences: Sequence[int] | np.ndarray) -> float:
    """The exact paired randomisation test of two models whose answers to a problem are several: p by all sign flips.

    A problem's value is then the number of right samples of one model less that of the other, and no longer 0 or ±1,
    which McNemar's test is for. If the models answer alike, each difference is as likely to have the other sign
    (Fisher 1935, The Design of Experiments, section 21), so the p is the share of the 2^n ways to flip signs whose sum
    is at least as far from 0. Of values of 0 and ±1 this is McNemar's exact test. `differences` has one whole number
    a problem; paired values are taken, as Miller (2024), arXiv 2411.00640, advises for evaluations with samples.
    """
    sizes, counts = np.unique(np.abs(np.asarray(differences, dtype=int)), return_counts=True)
    ways = np.ones(1)  # the chance of each sum of those that are flipped to the positive side
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        if size:
            chosen = np.arange(count + 1)
            logs = special.gammaln(count + 1) - special.gammaln(chosen + 1) - special.gammaln(count - chosen + 1)
            spaced = np.zeros(size * count + 1)
            spaced[::size] = np.exp(logs - count * math.log(2))
            ways = np.convolve(ways, spaced)
    sums = 2 * np.arange(len(ways)) - (len(ways) - 1)
    return min(1.0, float(ways[np.abs(sums) >= abs(int(np.sum(differences)))].sum()))


def paired_p(differences: np.ndarray, samples: int = 0) -> float:
    """Of two models on the same problems: McNemar's p of greedy answers, the sign-flip test's of so many samples each.

    `differences` has the share of a problem's answers that the first has right, less the second's.
    """
    if samples:
        return sign_flip(np.rint(differences * samples))
    return mcnemar(int(np.sum(differences > 0)), int(np.sum(differences < 0)))


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's step-down adjusted p (1979): reject what is below 0.05, and at most 5 % of families have a false one."""
    ranked = sorted(p_values, key=lambda key: p_values[key])
    steps = (min(1.0, (len(ranked) - rank) * p_values[key]) for rank, key in enumerate(ranked))
    adjusted = dict(zip(ranked, accumulate(steps, max), strict=True))
    return {key: adjusted[key] for key in p_values}


@dataclass(frozen=True)
class Crossed:
    """The mean of one value for each seed and problem, where either could have been another: a crossed design.

    A value is the mean, a part of its seed, a part of its problem, which all seeds share, and a rest, all independent
    (the two-way random model without replication: Scheffé 1959, The Analysis of Variance, chapter 7).
    """

    mean: float
    num_seeds: int
    num_problems: int
    spread: float  # variance of the seeds' means on these problems
    problems: float  # variance of the problems' parts; 0 where the estimate is below it
    rest: float  # variance of the rest of a single value

    @classmethod
    def of(cls, values: np.ndarray) -> "Crossed":
        """From a value for each seed and problem (shape: seeds x problems, two of either at least)."""
        (seeds, problems), mean = values.shape, float(values.mean())
        by_seed, by_problem = values.mean(axis=1), values.mean(axis=0)
        residuals = values - by_seed[:, None] - by_problem + mean
        rest = float((residuals**2).sum()) / ((seeds - 1) * (problems - 1))
        shared = max(0.0, float(np.var(by_problem, ddof=1)) - rest / seeds)
        return cls(mean, seeds, problems, float(np.var(by_seed, ddof=1)), shared, rest)

    def interval(self, level: float = _LEVEL) -> Interval | None:
        """Of the mean, for other seeds and other problems; it misses with a chance of at most `level`.

        Its variance is a sum: that of the mean over seeds, and the part of the problems. Each has its own half-width,
        by Student's t, and the interval's is the root of the sum of their squares (Banerjee 1960, Sankhya 22, 357). If
        the parts are normal, it is exact where either is 0 and too wide between, as the chance to lie within a bound
        is concave in the bound's square. So it is never narrower than the interval over seeds. None where the seeds'
        means are all the same, as in `over_seeds`.
        """
        if self.spread < 1e-18:
            return None
        half = math.sqrt(
            _t(self.num_seeds - 1, level) ** 2 * self.spread / self.num_seeds
            + _t(self.num_problems - 1, level) ** 2 * self.problems / self.num_problems
        )
        return Interval(self.mean - half, self.mean + half)

    def smallest(self, num_seeds: int, num_problems: int, rest: float | None = None) -> float | None:
        """The smallest true mean whose 95 % interval would exclude 0 with a power of 80 %, with so many of either.

        `rest` stands for this design's own, as another number of samples changes it. The interval's width varies with
        the spread of the seeds, whose distribution is averaged over. None when nothing varied.
        """
        rest, own = self.rest if rest is None else rest, max(0.0, self.spread - self.rest / self.num_problems)
        of_seeds, of_problems = (own + rest / num_problems) / num_seeds, self.problems / num_problems
        if not of_seeds:
            return None
        freedom = num_seeds - 1
        drawn = special.chdtri(freedom, 1 - (np.arange(_QUANTILES) + 0.5) / _QUANTILES) / freedom
        bounds = np.sqrt(_t(freedom, _LEVEL) ** 2 * of_seeds * drawn + _t(num_problems - 1, _LEVEL) ** 2 * of_problems)
        error = math.sqrt(of_seeds + of_problems)

        def lacking(mean: float) -> float:
            shown = special.ndtr((mean - bounds) / error) + special.ndtr((-mean - bounds) / error)
            return float(np.mean(shown)) - _POWER

        return _root(lacking, 10 * _t(freedom, _LEVEL) * error)

    @property
    def factors(self) -> Interval:
        """Between which multiples of its estimate the true deviation between seeds lies, in 95 % of estimates."""
        freedom, ends = self.num_seeds - 1, (_LEVEL / 2, 1 - _LEVEL / 2)
        low, high = (math.sqrt(freedom / float(special.chdtri(freedom, end))) for end in ends)
        return Interval(low, high)


def _t(freedom: int, level: float) -> float:
    return float(special.stdtrit(freedom, 1 - level / 2))


class Verdict(NamedTuple):
    """What is said of a difference."""

    word: str  # "helps", "costs", "no difference" or "not decided"
    why: str = ""  # what weakens the word


def decide(found: Crossed, margin: float) -> Verdict:
    """The verdict on a difference, `margin` being the smallest one worth having.

    It helps or costs if the 95 % interval excludes 0, and is no difference if the 90 % interval lies inside the margin:
    two one-sided tests of 5 % (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657). Where both hold there is a
    difference, and it is said to be less than the margin.
    """
    wide, narrow = found.interval(), found.interval(2 * _LEVEL)
    if wide is None or narrow is None:
        return Verdict("not decided", "seeds do not differ")
    inside = -margin < narrow.low and narrow.high < margin
    if wide.low > 0 or wide.high < 0:
        return Verdict("helps" if wide.low > 0 else "costs", "by less than the margin" if inside else "")
    return Verdict("no difference" if inside else "not decided")


def smallest_effect(num_problems: int, discordant: float, sampled: bool = False) -> float | None:
    """The smallest true difference of accuracies that one seed would have shown, by a test of 5 % with a power of 80 %.

    `discordant` is the share of problems on which two models differ; of samples the mean square of the differences,
    which is the same for values of 0 and ±1. The test is McNemar's, or of samples the sign-flip test, which has its
    power. Connor (1987), Biometrics 43, 207: n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2, solved for d.
    At most all that differ are gained: d is psi then, but of means over samples, whose mean square psi is, its root.
    None when nothing varied, or when no difference at all would have been shown.
    """
    if not discordant:
        return None
    z_level, z_power = map(float, special.ndtri([1 - _LEVEL / 2, _POWER]))

    def lacking(difference: float) -> float:
        rest = math.sqrt(max(0.0, discordant - difference**2))
        return math.sqrt(num_problems) * difference - z_level * math.sqrt(discordant) - z_power * rest

    most = math.sqrt(discordant) if sampled else discordant
    return _root(lacking, most) if lacking(most) >= 0 else None


def _root(lacking: Callable[[float], float], most: float) -> float:
    """Where a function that is below 0 at 0, and above at `most`, is 0."""
    from scipy import optimize  # only a comparison of arms needs it

    return float(optimize.brentq(lacking, 0.0, most))  # pyright: ignore[reportArgumentType]
