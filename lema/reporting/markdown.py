"""The report in Markdown: for each task the grid, the differences, the cost of each arm, and what follows in words.

Accuracies and differences are shown in percent and points.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lema.artifacts import own_folder, write_json, write_text
from lema.reporting import learnt
from lema.reporting.commands import command
from lema.reporting.comparing import ARMS, CONTRASTS, STANDARD, UNTUNED, Arm, Comparison, Difference, by_contrast, paper
from lema.reporting.runs import Run
from lema.reporting.statistics import Interval, standard_error
from lema.reporting.words import once, warnings

LEGEND = """\
Accuracy is the percentage of problems answered right by the official rules, which the paper's numbers are by.

- `[low, high]` 95 % interval over training seeds, by Student's t: what other seeds would give **on these problems**.
- `{low, high}` 95 % interval over problems, **at these seeds**: what other problems of the kind would give these
  models. It does not cover how much training varies.
- × is the number of training seeds. The paper's numbers are of one run each, its checkpoint chosen on the test split;
  ± is the standard error that the number of problems alone gives them."""


def render(comparison: Comparison, pictures: dict[str, list[str]]) -> str:
    """The whole report; `pictures` has the files of each task."""
    if not comparison.runs:
        return f"# Results\n\nNo run has been evaluated yet. `{command()}` runs the first.\n"
    runs = [run for run in comparison.runs if not run.links]  # each once, whatever further tests it was asked
    number, troubled = len(runs), sum(run.trouble is not None for run in runs)
    others = f", and {troubled} that are named at the end" if troubled else ""
    counted = f"{number - troubled} evaluated {'run' if number - troubled == 1 else 'runs'}{others}."
    parts = ["# Results", counted, *([LEGEND] if comparison.arms else [])]
    for task in comparison.tasks:
        parts += [f"## {heading}\n\n{text}" for heading, text in sections(comparison, task)]
        parts.append("\n".join(f"![{task}]({name})" for name in pictures.get(task, [])))
    return "\n\n".join(filter(None, [*parts, not_compared(comparison)])) + "\n"


def sections(comparison: Comparison, task: str) -> Iterator[tuple[str, str]]:
    """A task's tables and words, each with its heading."""
    own = comparison.of(task)
    problems = own.arms[0].runs[0].score.num_problems
    told = bullets([*once({setting: [facts(own.of(setting))] for setting in own.settings}), *_missing(own)])
    yield f"{task}: {problems:,} problems", f"{grid(own)}\n\n{told}"
    if own.margin is not None:
        yield f"{task}: verdicts, margin {100 * own.margin:g} points", verdicts_table(own)
    if own.differences:
        yield f"{task}: differences", differences_table(own.differences)
    if drawn := [arm for arm in own.arms if arm.drawn]:
        yield f"{task}: samples", samples_table(drawn)
    if own.sampled:
        yield f"{task}: differences of the means over samples", differences_table(own.sampled)
    if rows := learnt.found(own):
        yield f"{task}: what was learnt", f"{columns(learnt.cells(rows), words=2)}\n\n{bullets(learnt.NOTES)}"
    yield f"{task}: what each arm took", took(own.arms)
    yield f"{task}: what follows, and what does not", bullets(warnings(own))


def not_compared(comparison: Comparison) -> str:
    """The runs whose scores are not used, each with its reason; empty when all are used."""
    amiss = [f"{run.name}: {run.trouble}" for run in comparison.runs if run.trouble]
    return f"## Not compared\n\n{bullets(amiss)}" if amiss else ""


def publish(folder: Path, name: str, text: str, facts: dict[str, Any]) -> None:
    """Write `NAME.json` and `NAME.md` into a folder, which is made if it is missing, and print the text."""
    write_json(own_folder(folder) / f"{name}.json", facts)
    write_text(folder / f"{name}.md", text)
    print(f"\n{text}\nwritten to {folder}", flush=True)


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table; the first `words` columns hold words, the others numbers."""
    lines = [head, ["---"] * words + ["--:"] * (len(head) - words), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def columns(rows: Sequence[Mapping[str, str]], words: int) -> str:
    """A Markdown table of rows that have their cells by the heads of the columns."""
    return table([*rows[0]], [[*row.values()] for row in rows], words)


def grid(comparison: Comparison) -> str:
    """Backbones by arms: accuracy, interval and number of seeds, and the paper's numbers in the line below."""
    have = {arm.name for arm in comparison.arms}
    names = [UNTUNED, *(name for name in ARMS if name in have or name in STANDARD), *sorted(have - {UNTUNED, *ARMS})]
    lines = []
    for setting in comparison.settings:
        arms = [comparison.find(setting, name) for name in names]
        lines.append([setting.backbone, *(accuracy(arm) if arm else "not run" for arm in arms)])
        run, theirs = comparison.of(setting).arms[0].runs[0], {}
        for name in names:
            if (share := paper(run, name)) is not None:
                problems = run.score.num_problems
                error = standard_error(round(share * problems), problems)
                theirs[name] = f"{100 * share:.1f} ±{100 * error:.1f}"
        if theirs:
            lines.append(["– the paper", *(theirs.get(name, "") for name in names)])
    return table(["backbone", *names], lines)


def accuracy(arm: Arm) -> str:
    """`73.1 [70.5, 75.7] ×5`; with one seed `60.7 {56.7, 64.5} ×1`, whose interval is over problems.

    Of an untuned backbone that was asked in its own way, `14.0 {6.9, 26.2} few_shot`.
    """
    mean = f"{100 * arm.accuracy.mean:.1f}"
    if arm.accuracy.interval:
        return f"{mean} {interval(arm.accuracy.interval)} ×{len(arm.runs)}"
    seeds = f" ×{len(arm.runs)}" if arm.tuned else f" {arm.prompt}".rstrip()
    return mean + (f" {over(arm.over_problems)}" if arm.over_problems else "") + seeds


def interval(of: Interval | None, sign: str = "") -> str:
    return f"[{100 * of.low:{sign}.1f}, {100 * of.high:{sign}.1f}]" if of else "–"


def over(of: Interval | None, sign: str = "") -> str:
    """An interval over problems, in braces."""
    return f"{{{interval(of, sign)[1:-1]}}}" if of else "–"


def facts(comparison: Comparison) -> str:
    """How the runs of one setting were made: sampler, corrector, the models that answered, training, device."""
    runs = [run for arm in comparison.arms for run in arm.runs]
    config, train = runs[0].config, runs[0].config["train"]
    lines = [f"sampler {config['sampler']['name']}"]
    for what, step, models in (("corrector", "correct", "correctors"), ("rationales", "rationales", "models")):
        if (name := config[what]["name"]) != "none":  # and the models that really answered
            made = [run.records[step]["summary"] for run in runs if step in run.records]
            answered = ",".join(sorted({model for summary in made for model in summary[models]} - {name}))
            lines.append(f"{what} {name}{answered and f' ({answered})'}")
    lines.append(f"{train['method']} fine-tuning, learning rate {train['learning_rate']:g}")
    if "grader" in config["task"]:
        lines.append(f"graded as {config['task']['grader']}")
    return "; ".join([*lines, *(f"on {device}" for device in _devices(runs))])


def _devices(runs: Iterable[Run]) -> list[str]:
    return sorted({run.device for run in runs} - {""})


def _missing(comparison: Comparison) -> Iterator[str]:
    """The standard arms that were not run, each with the command that runs it, with the seeds of the others."""
    dropped, settings = ("mix", "do", "until", "only", "tracker.group", "runs_dir"), comparison.settings
    for name in STANDARD:
        if lacking := [setting for setting in settings if comparison.find(setting, name) is None]:
            runs = [run for arm in comparison.of(lacking[0]).arms for run in arm.runs]
            seeds, first = sorted({run.seed for run in runs}), runs[0]
            keys = {each: each.lstrip("+~").partition("=")[0] for each in first.overrides}
            kept = [each for each, key in keys.items() if key not in dropped and not key.startswith("mix.")]
            if len(seeds) > 1:
                kept = [each for each in kept if keys[each] != "seed"] + [f"seed={','.join(map(str, seeds))}"]
                kept = kept if "sweeps" in keys.values() else ["-m", *kept]
            of = f" for {', '.join(setting.backbone for setting in lacking)}" if len(settings) > 1 else ""
            told = command(*kept, f"mix={name}", root=first.folder.parents[1])
            yield f"{name} was not run{of}, so nothing is compared with it: `{told}`"


def verdicts_table(comparison: Comparison) -> str:
    """The verdict on each contrast that was stated, in that order, and what its words mean."""
    lines = []
    for contrast in comparison.contrasts or CONTRASTS:
        for setting in comparison.settings:
            of = comparison.of(setting)
            own = [each for each in (*of.differences, *of.sampled) if each.contrast == contrast]
            name = " − ".join(contrast)
            lines += [
                [
                    name,
                    setting.backbone,
                    f"mean of {each.samples} samples" if each.samples else "greedy",
                    ": ".join(filter(None, each.verdict or ())),
                    str(len(each.by_seed)),
                    f"{100 * each.over_seeds.mean:+.1f}",
                    *(interval(each.crossed and each.crossed.interval(level), "+") for level in (0.05, 0.1)),
                ]
                for each in own
            ]
            if not own and comparison.contrasts:
                lines.append([name, setting.backbone, "–", "not run", "0", *["–"] * 3])
    margin = f"{100 * (comparison.margin or 0):g}"
    head = ["difference", "backbone", "answers", "verdict", "seeds", "points", "95 %", "90 %"]
    notes = [
        "It *helps* or *costs* where the 95 % interval excludes 0. There is *no difference* where the 90 % interval "
        f"lies inside ±{margin} points, which is two one-sided tests of 5 % (Schuirmann 1987); where both hold, the "
        "difference is there and less than the margin. Else it is *not decided*.",
        "The intervals are for **other seeds and other problems** alike: Student's t over seeds, widened by how much "
        "the difference varies between problems. Each verdict is for itself: none is corrected for their number.",
    ]
    return table(head, lines, words=4) + "\n\n" + bullets(notes)


def differences_table(differences: Sequence[Difference]) -> str:
    """Each difference with both its intervals, its tests, what it could have shown, and the paper's."""
    ordered, rows = by_contrast(differences), []
    for each in ordered:
        ahead = sum(points > 0 for points in each.by_seed.values())
        flips = [(len(gained), len(lost)) for lost, gained in each.flips.values()]
        mean_flips = " / ".join(f"{fmean(side):.0f}" for side in zip(*flips, strict=True)) if flips else "–"
        rows.append({
            "difference": f"{each.arm} − {each.other}" + (" ‡" if len(each.engines) > 1 else ""),
            "backbone": each.setting.backbone,
            "points": f"{100 * each.over_seeds.mean:+.1f}",
            "over seeds": interval(each.over_seeds.interval, "+"),
            "p": _p(each.p) + ("*" if len(each.by_seed) == 1 and each.p is not None else ""),
            "p, Holm": _p(each.p_holm),
            "ahead in": f"{ahead} of {len(each.by_seed)}",
            "over problems": over(each.over_problems, "+"),
            f"{each.test} p": ", ".join(map(_p, each.within.values())) or "–",
            "gained / lost": mean_flips,
            "could show": f"{100 * each.smallest:.1f}" if each.smallest is not None else "–",
            "paper": f"{100 * each.paper:+.1f}" if each.paper is not None else "",
        })  # fmt: skip
    meanings = [
        f"*{arm} − {other}*: {CONTRASTS[arm, other]}."
        for arm, other in dict.fromkeys(each.contrast for each in ordered)
        if (arm, other) in CONTRASTS
    ]
    notes = [
        "*over seeds* is the headline: the mean over training seeds of the paired difference, with Student's t "
        "interval and p; \\* with one seed there is none, and p is McNemar's, which does not cover training noise.",
        "*over problems* (paired bootstrap) and McNemar's exact test hold the seeds fixed. *p, Holm* is corrected for "
        "the backbones and tasks of this report that have the same difference.",
        "*gained / lost* are problems that only the first, or only the second, has right (mean over seeds; "
        "`report.json` lists them). *could show* is the smallest true difference that so many problems and seeds would "
        "have shown four times in five; with several seeds, other seeds and other problems alike.",
    ]
    notes = _SAMPLED_NOTES if differences[0].samples else [*meanings, *notes]
    mixed = dict.fromkeys(" and ".join(each.engines) for each in ordered if len(each.engines) > 1)
    notes = [*notes, *(f"‡ Their answers came from different engines: {engines}." for engines in mixed)]
    return columns(rows, words=2) + "\n\n" + bullets(notes)


_SAMPLED_NOTES = [
    "As above, of the mean over a problem's samples, which varies less than one greedy answer does. The *sign-flip p* "
    "takes McNemar's place: the exact paired test whose values need not be 0 or 1.",
    "*gained / lost* are problems that the first, or the second, has right more often.",
]


def samples_table(arms: Sequence[Arm]) -> str:
    """What the samples of each arm are worth, beside its greedy answers."""
    ks = sorted({int(k) for arm in arms if arm.drawn for k in arm.drawn.pass_at} - {1})
    rows = []
    for arm in arms:
        drawn = arm.drawn
        assert drawn
        mean = f"{100 * drawn.accuracy.mean:.1f}"
        rows.append({
            "backbone": arm.setting.backbone,
            "arm": arm.name,
            "samples": f"{drawn.samples} at {drawn.temperature:g}",
            "greedy": f"{100 * arm.accuracy.mean:.1f}",
            "mean": f"{mean} {interval(drawn.accuracy.interval)}" if drawn.accuracy.interval else mean,
            "over problems": over(drawn.over_problems),
            **{f"pass@{k}": f"{100 * drawn.pass_at[str(k)]:.1f}" if str(k) in drawn.pass_at else "–" for k in ks},
            "maj@k": f"{100 * drawn.majority:.1f}",
            "symbolic": f"{100 * drawn.symbolic:.1f}",
            "no answer, %": f"{100 * drawn.unanswered:.1f}",
        })  # fmt: skip
    notes = [
        "*mean* is the share of samples that are right, which is pass@1; its intervals are as in the first table.",
        "*pass@k* is the chance that one of k samples is right (Chen et al. 2021, unbiased), *maj@k* the share of "
        "problems whose most frequent answer is right, k being the number of samples. Answers are equal where the "
        "official rules call them so, t answers that lead together count 1/t, and a sample without an answer votes "
        "for nothing.",
    ]
    return columns(rows, words=3) + "\n\n" + bullets(notes)


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def took(arms: Sequence[Arm]) -> str:
    """How each arm's checkpoint was chosen, its scores by other rules, and its cost."""
    hours = "GPU hours" if all(run.gpus == 1 for arm in arms for run in arm.runs) else "hours"
    rows, planned = [], any(run.planned for arm in arms for run in arm.runs)
    for arm in arms:
        tuned, score, run = arm.tuned, arm.score, arm.runs[0]
        train = run.trained if tuned else {}
        rows.append({
            "backbone": arm.setting.backbone,
            "arm": ": ".join(filter(None, [arm.name, ARMS.get(arm.name, arm.prompt)])),
            "checkpoint": ", ".join(sorted({run.chosen for run in arm.runs})) if tuned else "–",
            "over seeds": interval(arm.accuracy.interval),
            "over problems": over(arm.over_problems),
            "symbolic (differ)": f"{100 * score['symbolic']:.1f} ({score['differ']:.0f})",
            "no answer, %": f"{100 * score['unanswered']:.1f}",
            "problems": f"{run.score.num_problems:,}",
            **{what: f"{train[what]:,}" if what in train else "–" for what in ("examples", "tokens", "steps")},
            hours: f"{fmean(run.hours for run in arm.runs):.2g}" if tuned else "–",
            **({"planned": _planned(arm)} if planned else {}),
            "dollars": f"{_paid(arm.runs):,.2f}".removesuffix(".00") if tuned else "–",
        })  # fmt: skip
    return columns(rows, words=3) + "\n\n" + bullets(_costs(arms))


def _planned(arm: Arm) -> str:
    """The mean of what `do=plan` said of the hours of its runs."""
    said = [hours for run in arm.runs if (hours := run.planned_hours) is not None]
    return f"{fmean(said):.2g}" if arm.tuned and len(said) == len(arm.runs) else "–"


def _costs(arms: Sequence[Arm]) -> Iterator[str]:
    """What the columns of a table of costs mean, and the sums that it does not show."""
    runs = [run for arm in arms for run in arm.runs]
    yield "*symbolic* is by a careful reader's rules; *differ* counts the problems on which the two rules disagree."
    on = f" on {' and '.join(_devices(runs))}" if _devices(runs) else ""
    records = {run.digests[step]: record for run in runs for step, record in run.records.items()}  # each artifact once
    own = {run.digests[step] for run in runs for step in run.own_steps}
    shared = {digest: record for digest, record in records.items() if digest not in own}
    hours = sum(record["made"]["seconds"] for record in shared.values()) / 3600
    yield (
        f"Hours are a run's own, training to evaluation{on} (mean over seeds); what runs may share (data, base, "
        f"sampling, corrections, mixes, untuned answers), each counted once, took {hours:.2g} hours more."
    )
    if any(run.planned for run in runs):
        yield "*planned* is what `do=plan` said of these hours before; `plan.json` says for which device."
    if paid := _paid(runs):
        yield f"*dollars* are of all requests that an arm stands on; arms share them: ${paid:,.2f} were paid in all."


def _paid(runs: Sequence[Run]) -> float:
    """The dollars of all requests that runs depend on, those that they share counted once."""
    records = {run.digests[step]: record for run in runs for step, record in run.records.items()}
    return sum(record["summary"].get("usd", 0.0) for record in records.values())
