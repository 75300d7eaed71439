"""report: every finished run of a runs folder in one Markdown table, and in words what it shows and does not.

It reads each run's `run.json` and `metrics.jsonl`, nothing else. Runs that differ in more than mix and seed are
different settings: each has a table of its own, and differences are taken within one only.
"""

import json
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema.artifacts import write_text

UNTUNED = "untuned"
# What each arm is for, in the order of the table.
ARMS = {
    "cot": "CoT alone",
    "cot_random": "CoT + CoT of random questions",
    "cot_matched": "CoT + CoT of the failed questions",
    "lema": "CoT + corrections of the failed questions",
}
CONTRASTS = {
    "cot": "the paper's headline; it flatters, lema has more training data",
    "cot_random": "as many examples",
    "cot_matched": "as many examples of the same failed questions: what the text of the correction adds",
}


@dataclass(frozen=True)
class Run:
    """One finished run: what `pipeline` recorded of it."""

    config: dict[str, Any]
    setting: str
    overrides: list[str]
    summaries: dict[str, dict[str, Any]]  # step -> summary

    @property
    def mix(self) -> str:
        return self.config["mix"]["name"]

    @property
    def shared_overrides(self) -> list[str]:
        """The command line's overrides that another arm or seed of this setting needs too."""
        own = ("mix", "seed", "sweeps", "until", "only", "tracker", "tracker.group")
        return [item for item in self.overrides if item.split("=")[0] not in own]

    @property
    def accuracy(self) -> float:
        return 100 * self.summaries["evaluate"]["accuracy"]


def publish(root: Path) -> None:
    """Write `report.md` in the runs folder and print it."""
    text = render(read_runs(root))
    root.mkdir(parents=True, exist_ok=True)
    write_text(root / "report.md", text)
    print(f"\n{text}\nwritten to {root / 'report.md'}", flush=True)


def read_runs(root: Path) -> list[Run]:
    """The runs whose evaluation is done."""
    runs = []
    for file in sorted(root.glob("cells/*/run.json")):
        facts = json.loads(file.read_text(encoding="utf-8"))
        rows = map(json.loads, (file.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        summaries = {row["stage"]: row["summary"] for row in rows if "summary" in row}
        if "evaluate" in summaries:
            runs.append(Run(facts["config"], facts["setting"], facts["overrides"], summaries))
    return runs


def render(runs: Sequence[Run]) -> str:
    """The report as Markdown."""
    if not runs:
        return "# Results\n\nNo run has been evaluated yet. `python run.py` runs the first.\n"
    settings: dict[str, list[Run]] = {}
    for run in runs:
        settings.setdefault(run.setting, []).append(run)
    ordered = sorted(settings.values(), key=lambda group: _title(group[0]))
    return "# Results\n\n" + "\n".join(map(_section, ordered))


def _section(runs: list[Run]) -> str:
    names = [*ARMS, *sorted({run.mix for run in runs} - set(ARMS))]
    arms = {name: {run.config["seed"]: run for run in runs if run.mix == name} for name in names}
    lines = [f"## {_title(runs[0])}", "", _table(runs[0], arms), ""]
    lines += _open_cells(runs[0], arms)
    lines += _differences(arms)
    lines += _words(runs[0], arms)
    return "\n".join(lines) + "\n"


def _title(run: Run) -> str:
    config = run.config
    facts = [f"sampler {config['sampler']['name']}", f"corrector {config['corrector']['name']}"]
    facts.append(f"{config['train']['method']} fine-tuning, learning rate {config['train']['learning_rate']:g}")
    facts += [item for item in run.shared_overrides if "." in item.split("=")[0] or item.startswith("limit=")]
    size = f" {config['backbone']['size']}" if config["backbone"]["size"] else ""
    return f"{config['task']['name']}, {config['backbone']['name']}{size}: {'; '.join(facts)}"


def _table(any_run: Run, arms: dict[str, dict[int, Run]]) -> str:
    rows = [
        "| arm | accuracy, % | seeds | problems | no answer | examples | tokens | steps |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    untuned = any_run.summaries["evaluate_untuned"]
    rows.append(
        f"| {UNTUNED} | {100 * untuned['accuracy']:.1f} | – | {untuned['num_problems']} "
        f"| {untuned['num_unanswered']} | – | – | – |"
    )
    for name, by_seed in arms.items():
        label = f"{name}: {ARMS[name]}" if name in ARMS else name
        if not by_seed:
            rows.append(f"| {label} | not run | | | | | | |")
            continue
        runs = list(by_seed.values())
        scores = [run.summaries["evaluate"] for run in runs]
        train = [run.summaries["train"] for run in runs]
        rows.append(
            f"| {label} | {_spread([run.accuracy for run in runs])} | {len(runs)} | {scores[0]['num_problems']} "
            f"| {statistics.fmean(score['num_unanswered'] for score in scores):.0f} | {train[0]['examples']:,} "
            f"| {train[0]['tokens']:,} | {train[0]['steps']:,} |"
        )
    return "\n".join(rows)


def _spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation over seeds (n - 1 in the denominator); one value alone has no spread."""
    mean = f"{statistics.fmean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _open_cells(any_run: Run, arms: dict[str, dict[int, Run]]) -> list[str]:
    """The command that fills the open cells."""
    missing = [name for name in ARMS if not arms[name]]
    if not missing:
        return []
    command = shlex.join(["python", "run.py", *any_run.shared_overrides, f"mix={missing[0]}"])
    others = f" (and the same with {', '.join(f'mix={name}' for name in missing[1:])})" if missing[1:] else ""
    return [f"Not run yet, so nothing is compared with it: `{command}`{others}.", ""]


def _differences(arms: dict[str, dict[int, Run]]) -> list[str]:
    rows = []
    for other, what in CONTRASTS.items():
        if pairs := _paired(arms["lema"], arms[other]):
            ahead = sum(pair > 0 for pair in pairs)
            rows.append(f"| lema − {other} | {_spread(pairs, '+')} | {ahead} of {len(pairs)} | {what} |")
    if not rows:
        return []
    head = "| difference, points | mean ± SD over seeds | lema ahead in | compares |\n|---|--:|--:|---|"
    return [head, *rows, ""]


def _paired(arm: dict[int, Run], other: dict[int, Run]) -> list[float]:
    """Differences in accuracy points, seed by seed."""
    return [arm[seed].accuracy - other[seed].accuracy for seed in sorted(arm.keys() & other.keys())]


def _words(any_run: Run, arms: dict[str, dict[int, Run]]) -> list[str]:
    words = [_seeds_cover(arms), *_what_helped(arms)]
    task, backbone = any_run.config["task"], any_run.config["backbone"]
    if any_run.config["limit"]:
        words.append(f"Every split is cut to its first {any_run.config['limit']} problems: a rehearsal, not a result.")
    if backbone["tiny"] and not backbone["path"]:
        if task["real"]:
            words.append(
                f"Accuracy is near zero because the backbone has {any_run.summaries['base']['parameters'] / 1e6:.1f} "
                f"million parameters and was trained for minutes on this task's text alone: it cannot solve "
                f"{task['name']}. This run shows that every stage works on the real files."
            )
        else:
            words.append(
                "The tiny backbone demonstrates the machinery and the controls. It says nothing about the paper's "
                "effect, which is about models ten thousand times its size."
            )
    words += _counted(any_run, arms)
    return [f"- {line}" for line in words]


def _seeds_cover(arms: dict[str, dict[int, Run]]) -> str:
    seeds = sorted({seed for by_seed in arms.values() for seed in by_seed})
    if len(seeds) == 1:
        return f"One training seed ({seeds[0]}): how much training itself varies is not covered."
    return (
        f"± is the standard deviation over training seeds {', '.join(map(str, seeds))}: order of the examples and "
        "initialisation of adapters. Data, sampled mistakes and base are the same for all of them, and so is the "
        "test split: its sampling error is not in the ±."
    )


def _what_helped(arms: dict[str, dict[int, Run]]) -> list[str]:
    """The decomposition in words that follow the numbers: which questions, and what is said of the mistake."""
    lines = []
    choosing = _paired(arms["cot_matched"], arms["cot_random"])
    text = _paired(arms["lema"], arms["cot_matched"])
    more = _paired(arms["lema"], arms["cot"])
    if choosing:
        lines.append(f"Choosing questions by the model's mistakes, same size, plain CoT: {_verdict(choosing)}.")
    if text:
        lines.append(f"Training on the text of the corrections, same questions, same size: {_verdict(text)}.")
    if more and not (choosing and text):
        lines.append("lema − cot alone cannot tell more data from learning from mistakes: run the two controls.")
    return lines


def _verdict(pairs: list[float]) -> str:
    mean = statistics.fmean(pairs)
    size = f"{mean:+.1f} points"
    if len(pairs) == 1:
        return f"{size} in the one seed run, which proves nothing"
    agree = max(sum(pair > 0 for pair in pairs), sum(pair < 0 for pair in pairs))
    if agree == len(pairs):
        return f"it {'helps' if mean > 0 else 'costs'}, {size}, the same sign in all {len(pairs)} seeds"
    return f"{size}, but the seeds disagree ({agree} of {len(pairs)} have one sign)"


def _counted(any_run: Run, arms: dict[str, dict[int, Run]]) -> list[str]:
    """What was cut, too long or repeated, in one line."""
    notes = {
        "pretraining texts too long for the base": any_run.summaries.get("base", {}).get("texts_too_long", 0),
        "untuned answers cut at the token limit": any_run.summaries["evaluate_untuned"]["num_truncated"],
    }
    for name, run in {name: next(iter(by_seed.values())) for name, by_seed in arms.items() if by_seed}.items():
        if "sample" in run.summaries:
            notes["sampled solutions cut at the token limit"] = run.summaries["sample"]["truncated"]
        notes[f"{name}: training examples cut at the length limit"] = run.summaries["train"]["truncated"]
        notes[f"{name}: answers cut at the token limit"] = run.summaries["evaluate"]["num_truncated"]
        repeated = run.summaries["mix"]["repeated_random_cot"]
        notes[f"{name}: random questions that are CoT examples already, the pool having no others"] = repeated
    counted = "; ".join(f"{what} {count:,}" for what, count in notes.items() if count)
    return [f"Counted: {counted}."] if counted else []
