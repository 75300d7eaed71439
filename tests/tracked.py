"""Runs that log to W&B: as a process with a user of its own, and one step in this process."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from small import ROOT, SMALL

from lema.artifacts import Recipe, Shown, Store, write_jsonl
from lema.tracking.runs import Tracker

USER = "alicesmith"


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a user with a name that can be found again, and nothing set for wandb but what is given."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return plain | {"USER": USER, "LOGNAME": USER, "HOSTNAME": f"{USER}s-box", "HOME": str(home)} | more


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *SMALL, "tracker=wandb", *overrides]


def track(tracker: Tracker, steps: range, during: Callable[[int], None] = lambda _: None) -> None:
    """A training step of one small artifact, whose curve has these steps; `during` is called after each."""
    recipe = Recipe("train", "a-label", 1, {}, {}, Shown("model"))

    def build(folder: Path) -> dict[str, float]:
        for step in steps:
            tracker.log({"train/loss": 1 / step}, step)
            during(step)
        write_jsonl(folder / "metrics.jsonl", [{"step": step} for step in steps])
        return {"final_loss": 0.5}

    with tracker.step("train", recipe, {}) as run:
        artifact, _ = Store(tracker.root).make(recipe, run.starting(build), lambda _: True)
        run.complete(artifact)


def curve(history: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(row["train/step"], row["train/loss"]) for row in history]
