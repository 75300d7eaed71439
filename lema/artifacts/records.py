"""What record.json says of an artifact: its contents, what it was made from, what is shown of it."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lema.config.files import read
from lema.identity import digest


@dataclass(frozen=True)
class Shown:
    """What the tracker and the report need to know of an artifact; in its record, and no part of its identity."""

    type: str  # W&B's artifact type: "dataset", "model", "predictions"
    files: tuple[str, ...] = ()  # small files that are uploaded, beside record.json
    losses: dict[str, str] = field(default_factory=dict)  # field of the summary -> what it counts, in words

    @classmethod
    def recorded(cls, record: dict[str, Any]) -> "Shown":
        """By an artifact's `record.json`; one of an earlier version tells its stage alone."""
        facts = {"type": record["recipe"]["stage"], "files": (), "losses": {}} | record.get("shown", {})
        return cls(facts["type"], tuple(facts["files"]), dict(facts["losses"]))


def contents(record: dict[str, Any]) -> str:
    """The digest of an artifact by its record: of its recipe, and of the contents of its files.

    A record that was brought here without its files says the digest itself.
    """
    return record["contents"] if "contents" in record else digest([record["recipe"], record["files"]])


def used(inputs: Any) -> set[str]:
    """The digests in a recipe's inputs, nested or not."""
    if isinstance(inputs, dict | list):
        return set[str]().union(*map(used, inputs.values() if isinstance(inputs, dict) else inputs))
    return {inputs} if isinstance(inputs, str) else set()


def is_whole(record: dict[str, Any]) -> bool:
    """Whether a record is as it was written. Old records have no hash, and are taken as they are."""
    return "hash" not in record or record["hash"] == sealed(record)


def sealed(record: dict[str, Any]) -> str:
    """The hash of a record without its own hash. JSON turns keys that are numbers into strings, so it goes first."""
    return digest(json.loads(json.dumps({name: value for name, value in record.items() if name != "hash"})))


def numbers(summary: dict[str, Any]) -> str:
    """The numbers of a summary in words: `train 600, dev 100` and, of a nested one, `kinds (wrong result 270)`."""
    told = [
        f"{name} {value:,.6g}" if isinstance(value, float) else f"{name} {value:,}"
        for name, value in summary.items()
        if isinstance(value, int | float)
    ]
    nested = {name: numbers(part) for name, part in summary.items() if isinstance(part, dict)}
    return ", ".join([*told, *(f"{name} ({facts})" for name, facts in nested.items() if facts)])


def foreseen(plans: Iterable[Path]) -> dict[str, dict[str, float]]:
    """The hours that `do=plan` wrote into these files, by a run's folder and the link of its step.

    Of what several files speak of, the last one tells. A file that is damaged, or of an earlier version, tells nothing.
    """
    hours: dict[str, dict[str, float]] = {}
    for plan in plans:
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            cells = json.loads(read(plan))["cells"]
            told = {str(each["run"]): {step: float(of) for step, of in each["hours_of"].items()} for each in cells}
            for run, of_steps in told.items():
                hours[run] = hours.get(run, {}) | of_steps
    return hours
