"""Intervals and tests for accuracies and their differences, on plain values. 95 % and two-sided throughout.

Two kinds of uncertainty are kept apart: over training seeds, on the problems that were asked (`over_seeds`, the
headline), and over problems, at the seeds that were run (`over_problems`, `mcnemar`, of samples `sign_flip`). Neither
covers the other.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import special  # scipy.stats takes half a second more to import

Key = TypeVar("Key", bound=Hashable)

_LEVEL = 0.05  # the size of a test; an interval has 1 - _LEVEL
_POWER = 0.8  # Cohen's convention
_QUANTILES = 20_000  # so many represent a distribution


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


def f1(found: tuple[int, int], kept: tuple[int, int], draws: int = 10_000, seed: int = 0) -> tuple[float, Interval]:
    """ProcessBench's F1 (arXiv 2412.06559, section 3.1), with the percentile bootstrap over either kind of solution.

    The harmonic mean of two accuracies, each as (right, all): `found` of the solutions with an error, `kept` of those
    without. 0 where both are 0.
    """

    def mean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.divide(2 * first * second, first + second, out=np.zeros_like(first), where=first + second > 0)

    random, shares = np.random.default_rng(seed), [right / all_ for right, all_ in (found, kept)]
    drawn = [random.binomial(n, share, draws) / n for (_, n), share in zip((found, kept), shares, strict=True)]
    low, high = np.quantile(mean(*drawn), [_LEVEL / 2, 1 - _LEVEL / 2])
    [value] = mean(*(np.array([share]) for share in shares))
    return float(value), Interval(float(low), float(high))


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
    half = error * float(special.stdtrit(freedom, 1 - _LEVEL / 2))
    return OverSeeds(
        mean, sd, Interval(mean - half, mean + half), 2 * float(special.stdtr(freedom, -abs(mean) / error))
    )


def over_problems(values: Sequence[float] | np.ndarray, draws: int = 10_000, seed: int = 0) -> Interval:
    """The percentile bootstrap over problems; `values` has each problem's mean over the seeds (shape: problems).

    Drawing n problems with replacement is one multinomial draw over the distinct values, of which there are few.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    total = int(counts.sum())
    means = np.random.default_rng(seed).multinomial(total, counts / total, size=draws) @ distinct / total
    low, high = np.quantile(means, [_LEVEL / 2, 1 - _LEVEL / 2])
    return Interval(float(low), float(high))


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


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's step-down adjusted p (1979): reject what is below 0.05, and at most 5 % of families have a false one."""
    adjusted: dict[Key, float] = {}
    least = 0.0
    for rank, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, (len(p_values) - rank) * p))
        adjusted[key] = least
    return {key: adjusted[key] for key in p_values}


def smallest_effect(
    num_problems: int, num_seeds: int, discordant: float, sd: float, sampled: bool = False
) -> float | None:
    """The smallest true difference of accuracies that a test of size 5 % would have shown with a power of 80 %.

    `discordant` is the share of problems on which two models differ; of samples the mean square of the differences,
    which is the same for values of 0 and ±1. `sd` is that of the differences between seeds. With one seed the test is
    McNemar's, or of samples the sign-flip test, which has its power (`_connor`). With more seeds it is the paired t
    test, whose power is by the noncentral t; a seed's difference varies at least as much as the drawing of answers
    alone makes it, sqrt(discordant / problems).
    None when nothing varied, or when no difference at all would have been shown.
    """
    if num_seeds == 1:
        return _connor(num_problems, discordant, sampled)
    spread = max(sd, math.sqrt(discordant / num_problems))
    return _noncentrality(num_seeds) * spread / math.sqrt(num_seeds) if spread else None


def _noncentrality(num_seeds: int) -> float:
    """The mean in standard errors at which the paired t test of so many pairs has its power.

    By the definition of the noncentral t, a normal over an independent chi: averaged over the quantiles of the latter,
    as the library's own noncentral t has no value where 1 degree of freedom needs it.
    """
    freedom = num_seeds - 1
    critical = float(special.stdtrit(freedom, 1 - _LEVEL / 2))
    quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    bounds = critical * np.sqrt(special.chdtri(freedom, 1 - quantiles) / freedom)

    def lacking(mean: float) -> float:
        return float(np.mean(special.ndtr(mean - bounds) + special.ndtr(-mean - bounds))) - _POWER

    return _root(lacking, 10 * critical)


def _connor(num_problems: int, discordant: float, sampled: bool) -> float | None:
    """Connor (1987), Biometrics 43, 207: n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2, solved for d.

    At most all that differ are gained: d is psi then, but of means over samples, whose mean square psi is, its root.
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
