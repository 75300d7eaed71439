"""The numbers of a report: the accuracy of each arm, and the differences between arms with intervals and tests.

The headline is the mean over training seeds of the paired difference, with Student's t interval over the seeds. Beside
it stand the interval over problems at these seeds, and McNemar's test within each seed. Where problems were sampled,
the same is said of the means over each problem's samples, with the sign-flip test within each seed. Where a margin was
stated beforehand, so is the verdict, which is for other seeds and other problems.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from lema.reporting.arms import ARMS, CONTRASTS, HEADLINES as HEADLINES, STANDARD as STANDARD, UNTUNED
from lema.reporting.paper import paper_accuracy, results
from lema.reporting.runs import Evaluation, Run
from lema.reporting.settings import Setting, once_each, task_and_backbone, told_apart
from lema.reporting.statistics import (
    Crossed,
    Interval,
    OverSeeds,
    Verdict,
    accuracy_over_problems,
    decide,
    holm,
    over_problems,
    over_seeds,
    paired_p,
    smallest_effect,
)
from lema.reporting.verdicts import Verdicts, aligned, flipped


@dataclass(frozen=True)
class Drawn:
    """What an arm's samples are worth: means over its seeds; accuracies and shares in [0, 1]."""

    samples: int  # of each problem
    temperature: float
    accuracy: OverSeeds  # of the mean over samples
    over_problems: Interval | None
    symbolic: float
    pass_at: dict[str, float]
    majority: float
    unanswered: float


@dataclass(frozen=True)
class Arm:
    """An arm's result over its seeds; accuracies in [0, 1]."""

    setting: Setting
    name: str
    runs: list[Run]  # by seed; of the untuned backbone one run of the setting
    accuracy: OverSeeds
    over_problems: Interval | None
    paper: float | None
    score: dict[str, float]  # means over seeds: symbolic, differ, unanswered, truncated
    drawn: Drawn | None  # where samples were drawn in each run
    by_level: dict[str, list[float]]  # level -> the accuracy of each seed; empty where the problems have no level

    @property
    def prompt(self) -> str:
        """How the untuned backbone was asked, where this is not how the fine-tuned models are: "few_shot"; else ""."""
        run = self.runs[0]
        asked = run.untuned.score.prompt if run.untuned and not self.tuned else None
        return asked if asked and asked != run.config["backbone"].get("prompt") else ""

    @property
    def tuned(self) -> bool:
        return self.name != UNTUNED

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs] if self.tuned else []


@dataclass(frozen=True)
class Difference:
    """One arm less another, paired by training seed and by problem; in [-1, 1]."""

    setting: Setting
    arm: str
    other: str
    runs: list[tuple[Run, Run]]  # the arm's and the other's of each seed
    by_seed: dict[int, float]
    over_seeds: OverSeeds
    over_problems: Interval | None
    within: dict[int, float]  # p within each seed: McNemar's, of samples the sign-flip test's
    p_holm: float | None  # of `p`, over the settings of this contrast
    smallest: float | None  # the smallest effect that would have been shown, with several seeds on other problems too
    flips: dict[int, tuple[list[str], list[str]]]  # seed -> problems that only `other` had right, that only `arm` had
    paper: float | None
    crossed: Crossed | None  # for other seeds and other problems; None with one seed, or without all answers
    verdict: Verdict | None = None  # where one is asked for
    samples: int = 0  # of each problem, whose mean it is; 0: it is of the greedy answers

    @property
    def contrast(self) -> tuple[str, str]:
        return self.arm, self.other

    @property
    def engines(self) -> list[str]:
        """What answered: several make a difference by themselves."""
        return sorted({run.answered for pair in self.runs for run in pair} - {""})

    @property
    def p(self) -> float | None:
        """Student's over seeds; with one seed that within it; None where there is neither."""
        if len(self.by_seed) == 1:
            return next(iter(self.within.values()), None)
        return self.over_seeds.p

    @property
    def test(self) -> str:
        """Whose p stands within a seed."""
        return "sign-flip" if self.samples else "McNemar"


@dataclass(frozen=True)
class Comparison:
    """All numbers of a report."""

    runs: list[Run]  # the usable ones, and those with a trouble
    arms: list[Arm]
    differences: list[Difference]
    sampled: list[Difference]  # of the means over samples
    margin: float | None = None  # the smallest difference worth having, in [0, 1]; None: there are no verdicts
    contrasts: Sequence[tuple[str, str]] | None = None  # those with a verdict: arm and other; None: all that are known

    @property
    def settings(self) -> list[Setting]:
        return list(dict.fromkeys(arm.setting for arm in self.arms))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(setting.task for setting in self.settings))

    def of(self, part: Setting | str) -> "Comparison":
        """What is about one setting, or one task."""
        arms, differences, sampled = (
            [each for each in all_ if part in (each.setting, each.setting.task)]
            for all_ in (self.arms, self.differences, self.sampled)
        )
        return replace(self, arms=arms, differences=differences, sampled=sampled)

    def find(self, setting: Setting, name: str) -> Arm | None:
        return next((arm for arm in self.arms if arm.setting == setting and arm.name == name), None)


def by_contrast(differences: Sequence[Difference]) -> list[Difference]:
    """In the order of the contrasts that are known, then of the others."""
    order = list(dict.fromkeys([*CONTRASTS, *(each.contrast for each in differences)]))
    return sorted(differences, key=lambda each: order.index(each.contrast))


def compare(
    runs: Sequence[Run], margin: float | None = None, contrasts: Sequence[tuple[str, str]] | None = None
) -> Comparison:
    """The comparison of all runs whose score can be used.

    `margin` is in [0, 1]. `contrasts` were stated beforehand, known here or not; None takes all that are known.
    """
    runs = once_each(runs)
    alike: dict[tuple[str, str], dict[str, list[Run]]] = {}  # task and backbone -> the key of a setting -> its runs
    for run in (run for run in runs if run.trouble is None):
        alike.setdefault(task_and_backbone(run), {}).setdefault(run.setting or "", []).append(run)
    settings = {
        Setting(task, backbone + told_apart(key, by_key), key): own
        for (task, backbone), by_key in alike.items()
        for key, own in by_key.items()
    }
    rank = {arm: number for number, arm in enumerate(ARMS)}
    arms, differences, sampled = list[Arm](), list[Difference](), list[Difference]()
    for setting in sorted(settings, key=lambda each: (each.task, each.backbone)):
        by_arm: dict[str, dict[int, Run]] = {}
        for run in sorted(settings[setting], key=lambda run: (rank.get(run.arm, len(rank)), run.arm, run.seed)):
            by_arm.setdefault(run.arm, {}).setdefault(run.seed, run)
        tuned = {name: _arm(setting, name, list(by_seed.values())) for name, by_seed in by_arm.items()}
        arms += [_arm(setting, UNTUNED, settings[setting][:1]), *tuned.values()]
        known = dict.fromkeys([*CONTRASTS, *(contrasts or ())])
        pairs = [(tuned[arm], tuned[other]) for arm, other in known if arm in tuned and other in tuned]
        differences += filter(None, (_difference(*pair, sampled=False) for pair in pairs))
        sampled += filter(None, (_difference(*pair, sampled=True) for pair in pairs))
    greedy, drawn = (_judged(own, margin, contrasts or CONTRASTS) for own in (differences, sampled))
    return Comparison(runs, arms, greedy, drawn, margin, contrasts)


def _judged(
    differences: Sequence[Difference], margin: float | None, contrasts: Collection[tuple[str, str]]
) -> list[Difference]:
    """The differences with Holm's correction of their p; where there is a margin, with verdicts on these contrasts."""
    families: dict[tuple[str, str], dict[Setting, float]] = {}  # Holm's correction is over the settings of a contrast
    for each in differences:
        if each.p is not None:
            families.setdefault(each.contrast, {})[each.setting] = each.p
    holms = {contrast: holm(own) for contrast, own in families.items()}

    def verdict(each: Difference) -> Verdict | None:
        if margin is None or each.contrast not in contrasts:
            return None
        unknown = Verdict("not decided", "one seed" if len(each.by_seed) == 1 else "answers are missing")
        return decide(each.crossed, margin) if each.crossed else unknown

    return [
        replace(each, p_holm=holms.get(each.contrast, {}).get(each.setting), verdict=verdict(each))
        for each in differences
    ]


def _arm(setting: Setting, name: str, runs: list[Run]) -> Arm:
    evaluations = [each for run in runs if (each := run.untuned if name == UNTUNED else run.tuned)]
    scores, missing = [each.score for each in evaluations], [float("nan")]  # the base may not have been asked
    accuracy, interval = _spread(
        [score.accuracy for score in scores] or missing, [each.verdicts for each in evaluations]
    )
    values = {
        "symbolic": [score.accuracy_symbolic for score in scores],
        "differ": [len(score.disagreements) for score in scores],
        "unanswered": [score.num_unanswered / score.num_problems for score in scores],
        "truncated": [score.num_truncated / score.num_problems for score in scores],
    }
    means = {part: fmean(each or missing) for part, each in values.items()}
    levels = _by_level(evaluations, runs[0].levels)
    return Arm(setting, name, runs, accuracy, interval, paper(runs[0], name), means, _drawn(evaluations), levels)


def _by_level(evaluations: Sequence[Evaluation], levels: dict[str, str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for verdicts in (each.verdicts for each in evaluations if each.verdicts and levels):
        own = np.array([levels.get(problem, "") for problem in verdicts.ids])
        for level in sorted(set(own.tolist()) - {""}):
            found.setdefault(level, []).append(float(verdicts.correct[own == level].mean()))
    return found


def _spread(accuracies: Sequence[float], verdicts: Sequence[Verdicts | None]) -> tuple[OverSeeds, Interval | None]:
    """An accuracy over seeds, and its interval over problems at these seeds."""
    accuracy = over_seeds(accuracies)
    if found := accuracy.interval:  # two seeds that differ may have one beyond what an accuracy can be
        accuracy = replace(accuracy, interval=Interval(max(0.0, found.low), min(1.0, found.high)))
    there = [each for each in verdicts if each]
    if len(there) < len(verdicts) or len({each.ids for each in there}) != 1:
        return accuracy, None  # a run's predictions are missing, or are of other problems
    return accuracy, accuracy_over_problems(np.mean([each.correct for each in there], axis=0))


def _drawn(evaluations: Sequence[Evaluation]) -> Drawn | None:
    scores = [each.sampled for each in evaluations if each.sampled]
    if not scores or len(scores) < len(evaluations):
        return None
    first, problems = scores[0], evaluations[0].score.num_problems
    accuracy, interval = _spread([score.accuracy for score in scores], [each.sampled_verdicts for each in evaluations])
    return Drawn(
        samples=first.samples,
        temperature=first.temperature,
        accuracy=accuracy,
        over_problems=interval,
        symbolic=fmean(score.accuracy_symbolic for score in scores),
        pass_at={k: fmean(score.pass_at[k] for score in scores) for k in first.pass_at},
        majority=fmean(score.majority for score in scores),
        unanswered=fmean(score.num_unanswered for score in scores) / problems / first.samples,
    )


def paper(run: Run, arm: str) -> float | None:
    """The paper's accuracy of an arm in [0, 1]: of the whole test split, so None for a rehearsal or a part of it."""
    config, score = run.config, run.score
    whole = score.split == "test" and score.num_problems == results()["problems"].get(config["task"]["name"])
    if config["limit"] or not whole:
        return None
    percent = paper_accuracy(config["backbone"]["name"], config["backbone"]["size"], config["task"]["name"], arm)
    return None if percent is None else percent / 100


def _difference(arm: Arm, other: Arm, sampled: bool) -> Difference | None:
    """Of the greedy answers or of the means over samples; None without a seed of both, or where one has no samples."""
    runs = [(mine, theirs) for mine in arm.runs for theirs in other.runs if mine.seed == theirs.seed]
    if not runs or (sampled and not all(run.tuned.sampled for pair in runs for run in pair)):
        return None
    by_seed, verdicts = dict[int, float](), dict[int, tuple[Verdicts, Verdicts]]()
    for mine, theirs in runs:
        first, second = (((sampled and run.tuned.sampled) or run.score).accuracy for run in (mine, theirs))
        by_seed[mine.seed] = first - second
        answers = (run.tuned.sampled_verdicts if sampled else run.tuned.verdicts for run in (mine, theirs))
        if pair := aligned(*answers):
            verdicts[mine.seed] = pair
    samples = score.samples if sampled and (score := runs[0][0].tuned.sampled) else 0
    differences = {seed: mine.correct.astype(float) - theirs.correct for seed, (mine, theirs) in verdicts.items()}
    interval, smallest, crossed = None, None, None
    if len(verdicts) == len(runs) and len({mine.ids for mine, _ in verdicts.values()}) == 1:
        per_problem = np.array(list(differences.values()))
        if discordant := float((per_problem**2).mean()):  # of no difference at all there is no interval
            interval = over_problems(per_problem.mean(axis=0))
        if len(runs) == 1:
            smallest = smallest_effect(per_problem.size, discordant, sampled)
        elif per_problem.shape[1] > 1:
            crossed = Crossed.of(per_problem)
            smallest = crossed.smallest(*per_problem.shape)
    return Difference(
        setting=arm.setting,
        arm=arm.name,
        other=other.name,
        runs=runs,
        by_seed=by_seed,
        over_seeds=over_seeds(list(by_seed.values())),
        over_problems=interval,
        within={seed: paired_p(each, samples) for seed, each in differences.items()},
        p_holm=None,
        smallest=smallest,
        flips={seed: flipped(*pair) for seed, pair in verdicts.items()},
        paper=None if arm.paper is None or other.paper is None or sampled else arm.paper - other.paper,
        crossed=crossed,
        samples=samples,
    )
