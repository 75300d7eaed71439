"""What was learnt: the kinds of mistakes that each model makes on dev, and whether it makes the corrected ones again.

Runs with `evaluation.learnt=true` have it; all numbers are means over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lema.reporting.comparing import UNTUNED, Arm, Comparison, Setting

_KINDS = 5  # that have a column


@dataclass(frozen=True)
class Learnt:
    """An arm's mistakes; shares in [0, 1], means over its seeds."""

    setting: Setting
    arm: str
    seeds: int  # of the untuned backbone: how many sets of corrected questions it was asked
    dev: float  # questions
    wrong: float  # share of them
    kinds: dict[str, float]  # likewise, by kind
    corrected: float  # questions whose mistakes were drawn to be corrected; the three shares of them make 1
    right: float
    same: float
    another: float


def found(comparison: Comparison) -> list[Learnt]:
    """What is known of each arm; the untuned backbone first in each setting."""
    return [row for arm in comparison.arms if (row := _learnt(arm, comparison.of(arm.setting).arms))]


def _learnt(arm: Arm, alike: Sequence[Arm]) -> Learnt | None:
    step, runs = ("learnt", arm.runs) if arm.tuned else ("learnt_untuned", [run for each in alike for run in each.runs])
    # A further test of a run is of the same model; the untuned backbone is one for all arms.
    there = [run for run in runs if step in run.records and not run.links]
    records = {run.key if arm.tuned else run.digests[step]: run.records[step] for run in there}
    if not records:
        return None
    dev, corrected = ([record["summary"][part] for record in records.values()] for part in ("dev", "corrected"))
    named = {kind: 0 for each in dev for kind in each["kinds"]}
    return Learnt(
        setting=arm.setting,
        arm=arm.name,
        seeds=len(records),
        dev=fmean(each["questions"] for each in dev),
        wrong=fmean(each["wrong"] / each["questions"] for each in dev),
        kinds={kind: fmean(each["kinds"].get(kind, 0) / each["questions"] for each in dev) for kind in named},
        corrected=fmean(each["questions"] for each in corrected),
        **{part: fmean(each[part] / each["questions"] for each in corrected) for part in ("right", "same", "another")},
    )


def cells(rows: Sequence[Learnt]) -> list[dict[str, str]]:
    """The rows of the table, in percent; the kinds with most mistakes have a column each."""
    total = {kind: sum(row.kinds.get(kind, 0) for row in rows) for row in rows for kind in row.kinds}
    kinds = sorted(total, key=lambda kind: (-total[kind], kind))[:_KINDS]
    return [
        {
            "backbone": row.setting.backbone,
            "arm": row.arm,
            "seeds": "–" if row.arm == UNTUNED else f"{row.seeds}",
            "dev wrong, %": f"{100 * row.wrong:.1f}",
            **{kind: f"{100 * row.kinds.get(kind, 0):.1f}" for kind in kinds},
            "corrected questions": f"{row.corrected:.0f}",
            "right now, %": f"{100 * row.right:.1f}",
            "same mistake, %": f"{100 * row.same:.1f}",
            "another, %": f"{100 * row.another:.1f}",
        }
        for row in rows
    ]


NOTES = [
    "Greedy answers. *dev wrong* and the kinds beside it are shares of the dev questions, which are held out of the "
    "training questions. The kind is that of the first wrong step, as the corrector `reference` names it.",
    "*corrected questions* are the training questions whose mistakes were drawn to be corrected, the same for all arms "
    "of a seed, whatever an arm is trained on. *same mistake*: the first wrong step states the same formulas with the "
    "same results as in a mistake on this question that was corrected, or without a formula says the same words. Arms "
    "that are trained on these questions have seen their right solutions; what carries over shows on dev.",
]
