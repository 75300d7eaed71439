"""The numbers of a report for other programs: plain values for JSON, and rows for two CSV files."""

import csv
import io
import json
import math
from typing import Any

from lema.reporting import learnt
from lema.reporting.commands import shared
from lema.reporting.comparing import Arm, Comparison, Difference, Drawn
from lema.reporting.runs import Run
from lema.reporting.statistics import Interval


def as_json(comparison: Comparison) -> str:
    """All numbers, with the ids of the flipped problems; accuracies and differences in [0, 1]."""
    rows = learnt.found(comparison)
    values = {
        "arms": [_arm(arm) | {"by_level": arm.by_level} for arm in comparison.arms],
        "differences": list(map(_flips, comparison.differences)),
        **({"sampled_differences": list(map(_flips, comparison.sampled))} if comparison.sampled else {}),
        **({} if comparison.margin is None else {"margin": comparison.margin, "contrasts": comparison.contrasts}),
        **({"learnt": [_setting(row) | {**vars(row), "setting": row.setting.key} for row in rows]} if rows else {}),
        "runs": {run.key: _run(run) for run in comparison.runs},
    }
    return json.dumps(_without_nan(values), indent=1, ensure_ascii=False) + "\n"


def _flips(each: Difference) -> dict[str, Any]:
    flips = {seed: {"lost": lost, "gained": gained} for seed, (lost, gained) in each.flips.items()}
    return _difference(each) | {"flips": flips}


def tables(comparison: Comparison) -> dict[str, str]:
    """The CSV files: one line an arm, and one line a difference, of greedy answers and of means over samples."""
    rows = {"report.csv": map(_arm, comparison.arms), "differences.csv": map(_difference, comparison.differences)}
    if comparison.sampled:
        rows["sampled_differences.csv"] = map(_difference, comparison.sampled)
    return {name: _csv(list(own)) for name, own in rows.items()}


def _run(run: Run) -> dict[str, Any]:
    """A run's score, its cost and the digests of its artifacts; of a run that is not compared the reason."""
    if run.trouble:
        return {"trouble": shared(run.trouble, run.overrides, run.folder.parents[1]), "artifacts": run.digests}
    return {
        "setting": run.setting,
        "arm": run.arm,
        "seed": run.seed,
        "accuracy": run.score.accuracy,
        "accuracy_symbolic": run.score.accuracy_symbolic,
        "tokens": run.trained.get("tokens"),
        "hours": run.hours,
        "gpus": run.gpus,
        "usd": run.usd,
        "artifacts": run.digests,
    } | ({"answered": run.score.answered} if run.score.answered else {})


def _arm(arm: Arm) -> dict[str, Any]:
    run, tuned = arm.runs[0], arm.tuned
    train = run.trained if tuned else {}
    return {
        **_setting(arm),
        "arm": arm.name,
        "prompt": (run.tuned if tuned else run.untuned or run.tuned).score.prompt,
        "seeds": arm.seeds,
        "problems": run.score.num_problems,
        "accuracy": arm.accuracy.mean,
        "sd_over_seeds": arm.accuracy.sd,
        **_interval("over_seeds", arm.accuracy.interval),
        **_interval("over_problems", arm.over_problems),
        "paper": arm.paper,
        **arm.score,
        "checkpoint": sorted({each.chosen for each in arm.runs}) if tuned else [],
        "grader": run.config["task"].get("grader"),
        **{name: train.get(name) for name in ("examples", "tokens", "target_tokens", "steps")},
        "hours": sum(each.hours for each in arm.runs) / len(arm.runs) if tuned else None,
        "device": run.device or None,
        "usd": run.usd if tuned else None,
        "accuracies": {each.seed: each.score.accuracy for each in arm.runs} if tuned else {},
        **(_drawn(arm.drawn) if arm.drawn else {}),
    }


def _drawn(drawn: Drawn) -> dict[str, Any]:
    return {
        "samples": drawn.samples,
        "temperature": drawn.temperature,
        "sampled_accuracy": drawn.accuracy.mean,
        "sampled_sd_over_seeds": drawn.accuracy.sd,
        **_interval("sampled_over_seeds", drawn.accuracy.interval),
        **_interval("sampled_over_problems", drawn.over_problems),
        "sampled_symbolic": drawn.symbolic,
        "sampled_unanswered": drawn.unanswered,
        "pass_at": drawn.pass_at,
        "majority": drawn.majority,
    }


def _difference(each: Difference) -> dict[str, Any]:
    return {
        **_setting(each),
        "arm": each.arm,
        "other": each.other,
        "seeds": list(each.by_seed),
        "difference": each.over_seeds.mean,
        "sd_over_seeds": each.over_seeds.sd,
        **_interval("over_seeds", each.over_seeds.interval),
        "p": each.p,
        "p_of": each.test.lower() if len(each.by_seed) == 1 else "student",
        "p_holm": each.p_holm,
        **_interval("over_problems", each.over_problems),
        **_interval("over_both", each.crossed and each.crossed.interval()),
        "smallest_effect": each.smallest,
        "paper": each.paper,
        "by_seed": each.by_seed,
        each.test.lower(): each.within,
        **_verdict(each),
        **({"samples": each.samples} if each.samples else {}),
        **({"engines": " and ".join(each.engines)} if each.engines else {}),
    }


def _verdict(each: Difference) -> dict[str, Any]:
    if not each.verdict:
        return {}
    narrow = each.crossed and each.crossed.interval(0.1)
    return {"verdict": each.verdict.word, "verdict_why": each.verdict.why, **_interval("over_both_90", narrow)}


def _setting(each: Arm | Difference | learnt.Learnt) -> dict[str, Any]:
    return {"task": each.setting.task, "backbone": each.setting.backbone, "setting": each.setting.key}


def _interval(name: str, of: Interval | None) -> dict[str, float | None]:
    return {f"{name}_low": of.low if of else None, f"{name}_high": of.high if of else None}


def _csv(rows: list[dict[str, Any]]) -> str:
    """Spaces join a list in a cell, a table there is written as `key=value`, and None is an empty cell."""
    file = io.StringIO()
    if rows:
        # Not all arms were sampled.
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return " ".join(f"{name}={part:.6g}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if isinstance(value, float) and math.isnan(value) else value


def _without_nan(value: Any) -> Any:
    """The same values with null for NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
