"""How often verdicts are wrong, and what they find: 2,000 simulated experiments for each design and variance."""

from itertools import product

import numpy as np
import pytest
from simulated import differences

from lema.reporting.statistics import Crossed, decide

EXPERIMENTS, PILOTS = 2000, 500
PROBLEMS = 600
MARGINS = (0.03, 0.06)
SEED_SD = (0.0, 0.03, 0.06)  # of the difference itself, without the drawing of answers, which adds 0.024 to a seed's
PROBLEM_SD = (0.0, 0.1, 0.2)


@pytest.mark.full
def test_verdicts_have_the_error_rates_that_they_claim() -> None:
    rng = np.random.default_rng(20231031)

    def told(effect: float, margin: float, number: int = EXPERIMENTS) -> list[str]:
        found = (Crossed.of(differences(rng, seeds, PROBLEMS, effect, *sds)) for _ in range(number))
        return [decide(each, margin).word for each in found]

    head = [
        "seeds",
        "seed sd",
        "problem sd",
        "helps or costs at 0",
        "no difference at 3 of 3",
        "at 6 of 6",
        "at 0 of 3",
    ]
    print("\n| " + " | ".join([*head, "at 0 of 6", "could show", "shown at twice that"]) + " |\n|" + "--:|" * 10)
    for seeds, *sds in product((3, 5), SEED_SD, PROBLEM_SD):
        without = [told(0.0, margin) for margin in MARGINS]
        wrong = [np.mean([word in ("helps", "costs") for word in words]) for words in without]
        same = [np.mean([word == "no difference" for word in words]) for words in without]
        at_margin = [np.mean([word == "no difference" for word in told(margin, margin)]) for margin in MARGINS]
        pilots = [Crossed.of(differences(rng, seeds, PROBLEMS, 0.0, *sds)) for _ in range(PILOTS)]
        shows = [each.smallest(seeds, PROBLEMS) or np.nan for each in pilots]
        found = np.mean([told(2 * each, 0.03, 1) == ["helps"] for each in shows])
        numbers = [np.mean(wrong), *at_margin, *same, np.median(shows), found]
        print(
            f"| {seeds} | {100 * sds[0]:.0f} | {100 * sds[1]:.0f} | "
            + " | ".join(f"{100 * x:.1f}" for x in numbers)
            + " |"
        )
        assert max(*wrong, *at_margin) <= 0.06
        assert found >= 0.8
