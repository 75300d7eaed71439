"""The arms of a comparison, and the differences between them that mean something."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_CONF = Path(__file__).resolve().parents[2] / "conf"

# Arm -> its meaning, in the order of the tables. The first four have a column before they are run.
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
    "lema_solution_loss": "lema, the loss on corrected solutions alone",
    "corrections": "corrections alone",
    "lema_random": "CoT + corrections of another model's mistakes",
    "mistakes": "CoT + the wrong solutions as they are",
    "mistakes_marked": "mistakes, each called incorrect",
    "own_right": "CoT + own right solutions of the failed questions",
    "inline": "cot_matched, the mistakes corrected in place",
    "explanation": "steps and explanations alone",
}
STANDARD = list(ARMS)[:4]
CONTRASTS = {
    ("lema", "cot"): "the paper's headline; it flatters, lema has more training data",
    ("lema", "cot_matched"): "size-matched, the same failed questions: what the text of the correction adds",
    ("lema", "cot_random"): "size-matched, random questions",
    ("cot_matched", "cot_random"): "which questions: failed ones against random ones, both as CoT",
    ("lema", "cot_repeated"): "as many examples, of fewer questions",
    ("lema", "cot_tokens"): "as many training tokens",
    ("lema_32k", "cot"): "as many examples: corrections in place of some",
    ("lema", "lema_no_step"): "what naming the incorrect step adds",
    ("lema", "lema_no_explanation"): "what the explanation adds",
    ("lema", "lema_no_solution"): "what the corrected solution adds",
    ("lema", "lema_solution_loss"): "what writing the step and the explanation adds",
    ("lema", "corrections"): "what the CoT examples add",
    ("lema", "lema_random"): "as many corrections: whose mistakes they are",
    ("mistakes", "cot"): "what wrong solutions teach, uncorrected",
    ("mistakes", "cot_random"): "size-matched: wrong solutions of failed questions, or CoT of random ones",
    ("mistakes_marked", "mistakes"): "what the word that they are incorrect adds",
    ("cot_matched", "mistakes"): "the same failed questions, as CoT: right solutions against wrong ones",
    ("lema", "mistakes"): "the same wrong solutions: corrected, or trained on as they are",
    ("lema", "own_right"): "the same failed questions: corrected mistakes against own right solutions",
    ("cot_matched", "own_right"): "the same failed questions, as CoT: corrected solutions against own right ones",
    ("inline", "cot_matched"): "the same corrected solutions: what the mistake and its correction in them add",
    ("lema", "inline"): "the same corrections: as a task of their own, or inside the solution",
    ("corrections", "explanation"): "without CoT examples: what the corrected solution adds",
    ("lema_no_solution", "explanation"): "what the CoT examples add to steps and explanations",
}
HEADLINES = {  # what is said of them in words, and drawn
    ("lema", "cot"): "Learning from mistakes, with more data than CoT alone",
    ("cot_matched", "cot_random"): "Choosing questions by the model's mistakes, same size, plain CoT",
    ("lema", "cot_matched"): "Training on the text of the corrections, same questions, same size",
}
UNTUNED = "untuned"


def named(mix: dict[str, Any], overrides: Sequence[str]) -> str:
    """The arm of a mix: its name, and what is not as in the file of that name, `lema (mix.without=step)`.

    `overrides` are its command's, which alone tell of a file of the user's own.
    """
    if (usual := _mixes().get(mix["name"])) is None:
        changed = [item for item in overrides if item.startswith("mix.")]
    else:
        own = _parts(mix).items()
        changed = [f"mix.{part}={_written(value)}" for part, value in own if value != usual.get(part, value)]
    return mix["name"] + (f" ({', '.join(changed)})" if changed else "")


@cache
def _mixes() -> dict[str, dict[str, Any]]:
    """The parts of each mix of conf/, by its name."""
    return {file.stem: _parts(yaml.safe_load(file.read_bytes())) for file in _CONF.glob("mix/[!.]*.yaml")}


def _parts(mix: dict[str, Any]) -> dict[str, Any]:
    """`{"extra": "corrections", "without": None, "weights.step": 1.0, …}`: what a mix is, less its name."""
    weights = dict.fromkeys(("step", "explanation", "solution"), 1.0) | mix.get("weights", {})
    parts = {"without": None} | {name: value for name, value in mix.items() if name not in ("name", "weights")}
    return parts | {f"weights.{part}": float(weight) for part, weight in weights.items()}


def _written(value: Any) -> str:
    """As the command line has it: `0.5`, `step`, `null`."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')
