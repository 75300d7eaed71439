"""report: every finished run of a runs folder in one Markdown table, and in words what it shows and does not.

It reads each run's `run.json` and `metrics.jsonl`. Runs that differ in more than mix and seed have tables of their own.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lema.artifacts import write_text

# What each arm is for, in the order of the table; the first four stand in it also before they are run.
ARMS = {
    "cot": "CoT alone",
    "cot_random": "CoT + CoT of random questions",
    "cot_matched": "CoT + CoT of the failed questions",
    "lema": "CoT + corrections of the failed questions",
    "cot_repeated": "CoT + the same CoT again",
    "cot_tokens": "cot_matched + CoT of random questions",
    "lema_32k": "corrections in place of some CoT",
    "lema_no_step": "lema, the incorrect step not named",
    "lema_no_explanation": "lema, nothing explained",
    "lema_no_solution": "lema, no corrected solution",
    "corrections": "corrections alone",
    "lema_random": "CoT + corrections of another model's mistakes",
}
STANDARD = list(ARMS)[:4]
CONTRASTS = {
    ("lema", "cot"): "the paper's headline; it flatters, lema has more training data",
    ("lema", "cot_random"): "as many examples",
    ("lema", "cot_matched"): "as many examples of the same failed questions: what the text of the correction adds",
    ("lema", "cot_repeated"): "as many examples, of fewer questions",
    ("lema", "cot_tokens"): "as many training tokens",
    ("lema_32k", "cot"): "as many examples: corrections in place of some",
    ("lema", "lema_no_step"): "what naming the incorrect step adds",
    ("lema", "lema_no_explanation"): "what the explanation adds",
    ("lema", "lema_no_solution"): "what the corrected solution adds",
    ("lema", "corrections"): "what the CoT examples add",
    ("lema", "lema_random"): "as many corrections: whose mistakes they are",
}
# What is counted of each arm's first run, by step and field of its summary; the first five are the setting's.
LOSSES = {
    ("base", "texts_too_long"): "pretraining texts too long for the base",
    ("data", "questions_in_test"): "training questions that are test questions",
    ("test_data", "questions_in_training"): "test questions that are training questions",
    ("evaluate_untuned", "num_truncated"): "untuned answers cut at the token limit",
    ("sample", "truncated"): "sampled solutions cut at the token limit",
    ("train", "truncated"): "{arm}: training examples cut at the length limit",
    ("evaluate", "num_truncated"): "{arm}: answers cut at the token limit",
    ("mix", "repeated_random_cot"): "{arm}: random questions that are CoT examples already, the pool having no others",
}


@dataclass(frozen=True)
class Run:
    """One finished run: what `pipeline` recorded of it."""

    config: dict[str, Any]
    setting: str
    overrides: list[str]
    summaries: dict[str, dict[str, Any]]  # step -> summary

    @property
    def shared_overrides(self) -> list[str]:
        """The command line's overrides that another arm or seed of this setting needs too."""
        own = ("mix", "seed", "sweeps", "until", "only", "tracker", "tracker.group")
        return [item for item in self.overrides if item.split("=")[0] not in own]

    def of(self, step: str) -> list[dict[str, Any]]:
        """The summary of a step; of `sample` those of all its models."""
        names = [name for name in self.summaries if name.startswith("sample_")] if step == "sample" else [step]
        return [self.summaries[name] for name in names if name in self.summaries]

    @property
    def score(self) -> dict[str, Any]:
        return self.summaries["evaluate"]

    @property
    def accuracy(self) -> float:
        return 100 * self.score["accuracy"]


Arms = dict[str, dict[int, Run]]  # the runs of one setting: mix -> training seed -> run


def publish(root: Path) -> None:
    """Write `report.md` in the runs folder and print it."""
    text = render(read_runs(root))
    write_text(root / "report.md", text)
    print(f"\n{text}\nwritten to {root / 'report.md'}", flush=True)


def read_runs(root: Path) -> list[Run]:
    """The runs whose evaluation is done."""
    runs = []
    for file in sorted(root.glob("cells/*/run.json")):
        facts = json.loads(file.read_text(encoding="utf-8"))
        rows = map(json.loads, (file.parent / "metrics.jsonl").read_text(encoding="utf-8").strip().split("\n"))
        summaries = {row["stage"]: row["summary"] for row in rows if "summary" in row}
        if "selection" in summaries.get("evaluate", {}):  # or it is from before checkpoints were chosen
            runs.append(Run(facts["config"], facts["setting"], facts["overrides"], summaries))
    return runs


def render(runs: Sequence[Run]) -> str:
    """The report as Markdown."""
    if not runs:
        return "# Results\n\nNo run has been evaluated yet. `python run.py` runs the first.\n"
    settings = {run.setting: [other for other in runs if other.setting == run.setting] for run in runs}
    return "# Results\n\n" + "\n".join(map(_section, sorted(settings.values(), key=_title)))


def _section(runs: list[Run]) -> str:
    have = {run.config["mix"]["name"] for run in runs}
    arms: Arms = {name: {} for name in ARMS if name in have or name in STANDARD}
    for run in sorted(runs, key=lambda run: run.config["mix"]["name"]):
        arms.setdefault(run.config["mix"]["name"], {})[run.config["seed"]] = run
    parts = [f"## {_title(runs)}", _table(runs[0], arms)]
    if missing := [f"mix={name}" for name in STANDARD if not arms[name]]:
        command = shlex.join(["python", "run.py", *runs[0].shared_overrides, missing[0]])
        others = f" (and the same with {', '.join(missing[1:])})" if missing[1:] else ""
        parts.append(f"Not run yet, so nothing is compared with it: `{command}`{others}.")
    differences = [
        f"| {arm} − {other} | {_spread(points, '+')} | {sum(point > 0 for point in points)} of {len(points)} | {what} |"
        for (arm, other), what in CONTRASTS.items()
        if (points := _paired(arms, arm, other))
    ]
    if differences:
        head = "| difference, points | mean ± SD over seeds | ahead in | compares |\n|---|--:|--:|---|"
        parts.append("\n".join([head, *differences]))
    parts.append("\n".join(f"- {line}" for line in _words(runs[0], arms)))
    return "\n\n".join(parts) + "\n"


def _title(runs: list[Run]) -> str:
    run = runs[0]
    config, backbone, train = run.config, run.config["backbone"], run.config["train"]
    facts = [f"sampler {config['sampler']['name']}"]
    for what, step, names in (("corrector", "correct", "correctors"), ("rationales", "rationales", "models")):
        name = config[what]["name"]
        answered = sorted({model for each in runs for summary in each.of(step) for model in summary[names]} - {name})
        if name != "none":  # and the models that really answered
            facts.append(f"{what} {name}{f' ({chr(44).join(answered)})' if answered else ''}")
    facts.append(f"{train['method']} fine-tuning, learning rate {train['learning_rate']:g}")
    facts += [item for item in run.shared_overrides if "." in item.split("=")[0] or item.startswith("limit=")]
    size = f" {backbone['size']}" if backbone["size"] else ""
    return f"{config['task']['name']}, {backbone['name']}{size}: {'; '.join(facts)}"


def _table(any_run: Run, arms: Arms) -> str:
    base = any_run.summaries["evaluate_untuned"]
    columns = (
        "accuracy, % | symbolic, % (differ) | checkpoint | seeds | problems | no answer | examples | tokens | steps"
    )
    rows = [f"| arm | {columns} |\n|---|" + "--:|" * 9]
    asked = f"{base['num_problems']} | {base['num_unanswered']}"
    rows.append(f"| untuned | {100 * base['accuracy']:.1f} | {_symbolic([base])} | – | – | {asked} | – | – | – |")
    for name, by_seed in arms.items():
        label, runs = f"{name}: {ARMS[name]}" if name in ARMS else name, list(by_seed.values())
        if not runs:
            rows.append(f"| {label} | not run | | | | | | | | |")
            continue
        accuracy = f"{_spread([run.accuracy for run in runs])} | {_symbolic([run.score for run in runs])}"
        chosen = ", ".join(sorted({_chosen(run) for run in runs}))
        asked = f"{runs[0].score['num_problems']} | {fmean(run.score['num_unanswered'] for run in runs):.0f}"
        size = " | ".join(f"{runs[0].summaries['train'][count]:,}" for count in ("examples", "tokens", "steps"))
        rows.append(f"| {label} | {accuracy} | {chosen} | {len(runs)} | {asked} | {size} |")
    return "\n".join(rows)


def _chosen(run: Run) -> str:
    """How its checkpoint was chosen: `last`, `best on dev`; where that is what it is scored on, `…: optimistic`."""
    selection, split = run.score["selection"], run.score["split"]
    on = split if selection == "paper" else selection
    return "last" if selection == "last" else f"best on {on}" + (": optimistic" if on == split else "")


def _symbolic(scores: list[dict[str, Any]]) -> str:
    """Accuracy by the symbolic rules, and on how many problems they and the official ones disagree (mean)."""
    differ = fmean(len(score["disagreements"]) for score in scores)
    return f"{_spread([100 * score['accuracy_symbolic'] for score in scores])} ({differ:.0f})"


def _spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation over seeds (n - 1 in the denominator); one value alone has no spread."""
    mean = f"{fmean(values):{sign}.1f}"
    return f"{mean} ± {stdev(values):.1f}" if len(values) > 1 else mean


def _paired(arms: Arms, arm: str, other: str) -> list[float]:
    """Differences in accuracy points, seed by seed."""
    first, second = arms.get(arm, {}), arms.get(other, {})
    return [first[seed].accuracy - second[seed].accuracy for seed in sorted(first.keys() & second)]


def _words(any_run: Run, arms: Arms) -> Iterator[str]:
    """What follows from the numbers, and what does not."""
    config, task = any_run.config, any_run.config["task"]
    seeds = sorted({seed for by_seed in arms.values() for seed in by_seed})
    one = f"One training seed ({seeds[0]}): how much training itself varies is not covered."
    several = (
        f"± is the standard deviation over training seeds {', '.join(map(str, seeds))}: order of the examples and "
        "initialisation of adapters. Data, sampled mistakes and base are the same for all of them, and so is the "
        "test split: its sampling error is not in the ±."
    )
    yield several if len(seeds) > 1 else one
    yield (
        "accuracy is by the official rules, which the paper's numbers are by; symbolic is by a careful reader's rules, "
        "and differ the number of problems on which the two disagree (`disagreements` in `score.json`)."
    )
    scores = [run.score for by_seed in arms.values() for run in by_seed.values()]
    if split := next((each["split"] for each in scores if each["selection"] in ("paper", each["split"])), None):
        paper = ", as the paper did" if config["selection"] == "paper" else ""
        yield f"Checkpoints were chosen on the {split} split, which they are scored on{paper}: optimistic."
    # The headline difference taken apart: which questions, and what is said of the mistake.
    choosing, text = _paired(arms, "cot_matched", "cot_random"), _paired(arms, "lema", "cot_matched")
    if choosing:
        yield f"Choosing questions by the model's mistakes, same size, plain CoT: {_verdict(choosing)}."
    if text:
        yield f"Training on the text of the corrections, same questions, same size: {_verdict(text)}."
    if _paired(arms, "lema", "cot") and not (choosing and text):
        yield "lema − cot alone cannot tell more data from learning from mistakes: run the two controls."
    if config["limit"]:
        yield f"Every split is cut to its first {config['limit']} problems: a rehearsal, not a result."
    if "base" in any_run.summaries:
        millions = f"{any_run.summaries['base']['parameters'] / 1e6:.1f} million parameters"
        yield (
            f"Accuracy is near zero because the backbone has {millions} and was trained for minutes on the training "
            f"text alone: it cannot solve {task['name']}. This run shows that every stage works on the real files."
            if task["real"]
            else "The tiny backbone demonstrates the machinery and the controls. It says nothing about the paper's "
            "effect, which is about models ten thousand times its size."
        )
    losses = {
        words.format(arm=arm): sum(summary.get(field, 0) for summary in run.of(step))
        for arm, by_seed in arms.items()
        for run in list(by_seed.values())[:1]
        for (step, field), words in LOSSES.items()
    }
    if any(losses.values()):
        yield f"Counted: {'; '.join(f'{what} {count:,}' for what, count in losses.items() if count)}."


def _verdict(points: list[float]) -> str:
    size, seeds = f"{fmean(points):+.1f} points", len(points)
    if seeds == 1:
        return f"{size} in the one seed run, which proves nothing"
    agree = max(sum(point > 0 for point in points), sum(point < 0 for point in points))
    if agree == seeds:
        return f"it {'helps' if fmean(points) > 0 else 'costs'}, {size}, the same sign in all {seeds} seeds"
    return f"{size}, but the seeds disagree ({agree} of {seeds} have one sign)"
