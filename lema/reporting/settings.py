"""The settings of a report: which runs are compared, what that is called, and which of two runs of a seed counts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lema.identity import flat
from lema.reporting.runs import Run


@dataclass(frozen=True)
class Setting:
    """What the arms of one comparison share: a task, a backbone, and everything but mix and seed."""

    task: str  # "gsm8k", with its limit "gsm8k, first 300"
    backbone: str  # "llama2 7b", and what tells it from other settings of this backbone
    key: str  # `Run.setting` of its runs


def task_and_backbone(run: Run) -> tuple[str, str]:
    """The task and the backbone of a run, as they are shown."""
    config = run.config
    task = config["task"]["name"] + (f", first {config['limit']}" if config["limit"] else "")
    if run.score.split != "test":
        task += f", {run.score.split}"
    size = config["backbone"]["size"]
    return task, config["backbone"]["name"] + (f" {size}" if size else "")


def told_apart(key: str, alike: dict[str, list[Run]]) -> str:
    """What tells a setting from others of its task and backbone: ` (train.learning_rate=0.001; KEY)`, or nothing.

    Of a key that only the others have set, it is `no evaluation.samples`.
    """
    if len(alike) == 1:
        return ""
    configs = {each: flat(runs[0].config) for each, runs in alike.items()}
    differ = [
        f"{name}={str(value).rstrip('/').rpartition('/')[2][:24]}"  # of a path the last part
        for name, value in sorted(configs[key].items())
        if name.split(".")[0] not in ("mix", "seed") and len({repr(each.get(name)) for each in configs.values()}) > 1
    ]
    lacking = sorted({name for own in configs.values() for name in own} - configs[key].keys())
    differ += [f"no {name}" for name in lacking if name.split(".")[0] not in ("mix", "seed")]
    return f" ({', '.join(differ[:3]) or 'other data'}; {key})"


def once_each(runs: Sequence[Run]) -> list[Run]:
    """The runs, each setting, arm and seed once: another run of it with other answers gets a `trouble`.

    A run from here goes before an imported one.
    """
    used: dict[Any, Run] = {}
    troubles = dict[str, str]()  # by `Run.key`
    for run in sorted((run for run in runs if run.trouble is None), key=lambda run: run.imported is not None):
        first = used.setdefault((task_and_backbone(run), run.setting, run.arm, run.seed), run)
        if first.digests["evaluate"] != run.digests["evaluate"]:
            same = f"it has the setting, arm and seed of {first.name} ({first.folder.name}), which counts"
            troubles[run.key] = f"{same}; delete the folder of one of them"
    return [replace(run, trouble=troubles[run.key]) if run.key in troubles else run for run in runs]
