"""The audit of correctors in Markdown and JSON: all that were shown the same labelled solutions, side by side."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema.artifacts import DAMAGED, Artifact
from lema.reporting.auditing import Measures, Pair, Reading, Share, measure, paired, parts, plain
from lema.reporting.markdown import bullets, over, publish, table
from lema.types import Correction, Labelled

_ROWS = {  # of the table: a field of `Measures`, and what it says
    "exact": "first wrong step named, %",
    "near": "that step or one beside it, %",
    "kept": "right solutions: none named, %",
    "alarms": "right solutions: false alarms, %",
    "f1": "F1 (ProcessBench), %",
    "answered": "accepted (right answer, and kept by the filter), %",
    "precise": "accepted, for the first wrong step, %",
    "lucky": "accepted, but for another step, %",
    "faithful": "earlier steps kept, %",
    "unread": "no step read, %",
}
_CANNOT = "cannot say none"


@dataclass(frozen=True)
class _Audited:
    """One corrector's artifact."""

    name: str
    says_none: bool
    readings: list[Reading]
    usd: float
    seconds: float

    def on(self, positions: Iterable[int]) -> Measures:
        """How good it is on some of the solutions."""
        return measure([self.readings[k] for k in positions], self.says_none)

    @property
    def costs(self) -> dict[str, Any]:
        """What it cost in all, and for each accepted correction of a wrong solution."""
        accepted = measure(self.readings, self.says_none).answered.part
        costs = {"usd": self.usd, "seconds": self.seconds}
        per = {name: cost / accepted for name, cost in costs.items()} if accepted else None
        return {"says_none": self.says_none, **costs, "accepted": accepted, "each_accepted": per}


def write_audit(root: Path, labelled: Artifact) -> None:
    """Write `reports/audit-NAME/` (`audit.md`, `audit.json`) and print the text."""
    solutions = labelled.rows("labels.jsonl", Labelled)
    audited = list(_audited(root, labelled, solutions))
    kinds = sorted({each.kind for each in solutions})
    groups = {"": list(range(len(solutions)))}  # kinds of question are told apart, as MR-GSM8K's differ in the task
    if len(kinds) > 1:
        groups |= {kind or "other": [k for k, each in enumerate(solutions) if each.kind == kind] for kind in kinds}
    text, found = [f"# Audit of correctors: {labelled.path.name.rpartition('-')[0]}", labelled.facts + "."], {}
    for kind, positions in groups.items():
        measures = {each.name: each.on(positions) for each in audited}
        pairs = paired(
            {each.name: [each.readings[k] for k in positions] for each in audited},
            {each.name: each.says_none for each in audited},
        )
        text += [f"## {kind or 'All solutions'}: {len(positions):,}", _measured(audited, measures), *_pairs(pairs)]
        found[kind or "all"] = plain(measures) | {"pairs": [*map(vars, pairs)]}
    for name, values in parts(solutions).items():
        by_value = {value: {each.name: each.on(positions) for each in audited} for value, positions in values.items()}
        found[name] = {value: plain(measures) for value, measures in by_value.items()}
        head = [name, "wrong", *(each.name for each in audited)]
        rows = [_exact(value, measures) for value, measures in by_value.items()]
        text += [f"## First wrong step named, by {name}", table(head, rows)]
    costs = {each.name: each.costs for each in audited}
    text.append(bullets(_notes(costs)))
    facts = {"solutions": labelled.summary, "correctors": costs, "measured": found}
    publish(root / "reports" / f"audit-{labelled.path.name}", "audit", "\n\n".join(text) + "\n", facts)


def _audited(root: Path, labelled: Artifact, solutions: list[Labelled]) -> Iterator[_Audited]:
    """The correctors that were shown these solutions, each under a name of its own."""
    names: set[str] = set()
    for file in sorted(root.glob("audit/*/record.json")):
        with contextlib.suppress(OSError, *DAMAGED):
            record = json.loads(file.read_bytes())
            if record["recipe"]["inputs"].get("labelled") != labelled.digest:
                continue
            made = Artifact.recorded(file.parent, record)
            says_none = bool(record["recipe"]["config"].get("may_be_right"))
            said = {each.problem_id: each for each in made.stream("corrections.jsonl", Correction)}
            readings = [Reading(each, said[each.problem_id]) for each in solutions]
            name = ", ".join(made.summary["correctors"])
            name += ", or none" if says_none and name != "reference" else ""
            name += f", {filtered}" if (filtered := made.summary.get("filter")) else ""
            name = f"{name} ({file.parent.name[-12:]})" if name in names else name
            names.add(name)
            yield _Audited(name, says_none, readings, made.summary.get("usd", 0.0), record["made"]["seconds"])


def _measured(audited: Sequence[_Audited], measures: Mapping[str, Measures]) -> str:
    def cell(each: _Audited, field: str) -> str:
        value: Any = getattr(measures[each.name], field)
        if isinstance(value, Share):
            return _percent(value)
        if value is None:
            return "–" if each.says_none else _CANNOT
        return f"{100 * value:.1f} {over(measures[each.name].f1_interval)}"

    rows = [[words, *(cell(each, field) for each in audited)] for field, words in _ROWS.items()]
    return table(["", *(each.name for each in audited)], rows)


def _percent(share: Share) -> str:
    """`57.6 {52.3, 62.8} (196 of 340)`."""
    if share.value is None:
        return "–"
    return f"{100 * share.value:.1f} {over(share.interval)} ({share.part:,} of {share.whole:,})"


def _pairs(pairs: Sequence[Pair]) -> list[str]:
    head = ["a", "b", "right only in a", "right only in b", "of", "McNemar's p", "p, Holm"]
    rows = [
        [each.a, each.b, *map(str, (each.only_a, each.only_b, each.whole)), f"{each.p:.3g}", f"{each.holm:.3g}"]
        for each in pairs
    ]
    return [table(head, rows, words=2)] if pairs else []


def _exact(value: str, measures: Mapping[str, Measures]) -> list[str]:
    """The row of one value of a property."""
    wrong = next((each.exact.whole for each in measures.values()), 0)
    return [value, f"{wrong:,}", *(_percent(each.exact) for each in measures.values())]


def _notes(costs: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    for name, cost in costs.items():
        each = "none accepted"
        if per := cost["each_accepted"]:
            each = f"${per['usd']:.4g} and {per['seconds']:.3g} seconds for each accepted correction"
        yield f"{name}: ${cost['usd']:.4g}, {cost['seconds']:,.1f} seconds; {each}."
    if without := [name for name, cost in costs.items() if not cost["says_none"]]:
        yield f"{' and '.join(without)}: {_CANNOT}, so neither F1 nor false alarms; corrector.prompt=may_be_right asks."
    yield "`{low, high}` is a 95 % interval over solutions: Wilson's, of F1 by the bootstrap."
    yield "Where no others are named, shares are of the wrong solutions. What is accepted ends in the right answer."
