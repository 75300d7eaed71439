"""How often the intervals hold the truth: 2,000 simulated experiments for each number of seeds and training noise."""

from itertools import product

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from lema.reporting.statistics import over_problems, over_seeds

EXPERIMENTS = 2000
PROBLEMS = 1319  # GSM8K's test split
SEEDS = (2, 3, 5)
NOISE = (0.0, 0.1, 0.3)  # standard deviation of a training's skill, in logits
EFFECT = 0.1  # logits
DRAWS = 1000  # of each bootstrap: what it takes here is 18,000 of them


def truth(difficulty: np.ndarray, noise: float) -> float:
    """The expected difference of accuracies on these problems: over all trainings, by quadrature."""
    quantiles = norm.ppf((np.arange(2000) + 0.5) / 2000) * noise
    return float(np.mean(expit(difficulty[:, None] + EFFECT + quantiles) - expit(difficulty[:, None] + quantiles)))


def answers(rng: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    return rng.random(chances.shape) < chances


@pytest.mark.full
def test_the_headline_interval_covers_what_it_says_and_one_over_problems_alone_does_not() -> None:
    rng = np.random.default_rng(20231031)
    difficulty = rng.normal(0.3, 1.5, PROBLEMS)  # fixed, as a test split is
    print("\n| seeds | noise, logits | over seeds: covers, % | width | over problems: covers, % | width |")
    print("|--:|--:|--:|--:|--:|--:|")
    coverage: dict[tuple[int, float], tuple[float, float]] = {}
    for seeds, noise in product(SEEDS, NOISE):
        expected, found = truth(difficulty, noise), []
        for _ in range(EXPERIMENTS):
            skills = rng.normal(0.0, noise, (2, seeds, 1)) + np.array([0.0, EFFECT])[:, None, None]
            cot, lema = answers(rng, expit(difficulty + skills)).astype(float)
            headline = over_seeds((lema - cot).mean(axis=1).tolist()).interval  # none at all counts as a miss
            alone = over_problems((lema - cot).mean(axis=0), draws=DRAWS)
            found.append([
                (headline is not None and headline.low <= expected <= headline.high),
                headline.high - headline.low if headline else np.nan,
                alone.low <= expected <= alone.high,
                alone.high - alone.low,
            ])  # fmt: skip
        over, width, problems, narrow = 100 * np.nanmean(np.array(found, dtype=float), axis=0)
        coverage[seeds, noise] = (over, problems)
        print(f"| {seeds} | {noise} | {over:.1f} | {width:.1f} | {problems:.1f} | {narrow:.1f} |")
    assert all(93 <= over <= 97 for over, _ in coverage.values()), coverage
    assert all(problems < 85 for (_, noise), (_, problems) in coverage.items() if noise >= 0.1), coverage
