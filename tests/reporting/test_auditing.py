"""The audit's metrics on cases that are worked out by hand; F1 by ProcessBench's own definition."""

import pytest

from lema.reporting.auditing import Reading, Share, measure, paired, parts
from lema.reporting.statistics import f1
from lema.types import NO_ERROR, Correction, Labelled

KEPT_NOT = "earlier steps not kept"


def reading(label: int | None, named: int, reason: str | None = None, gradable: bool = True) -> Reading:
    """What a corrector said of a solution of four steps; with `named` 0 it names none of them."""
    said = Correction("p", "m", 0, "c", ["s"] * 4, named, "", [], None, accepted=reason is None, reason=reason)
    return Reading(Labelled("p", "m", "", ["s"] * 4, label, gradable), said)


READINGS = [
    *(reading(2, 2), reading(3, 3, "wrong answer"), reading(1, 4), reading(2, 3), reading(4, 3, KEPT_NOT)),
    *(reading(1, 0, "unparsable"), reading(1, 0, NO_ERROR), reading(1, 2, gradable=False)),
    *(reading(None, 0, NO_ERROR), reading(None, 0, NO_ERROR), reading(None, 1), reading(None, 0, "unparsable")),
]


def test_the_metrics_are_those_that_are_counted_by_hand() -> None:
    found = measure(READINGS, says_none=True)
    assert found.exact == Share(2, 8), "2 and 3 are named"
    assert found.near == Share(5, 8), "3 for 2, 3 for 4 and 2 for 1 too, and not 4 for 1"
    assert found.kept == Share(2, 4)
    assert found.alarms == Share(1, 4), "an unreadable reply is no alarm, and not right either"
    assert found.f1 == pytest.approx(2 * 0.25 * 0.5 / (0.25 + 0.5))
    assert found.f1 is not None
    assert found.f1_interval
    assert found.f1_interval.low < found.f1 < found.f1_interval.high
    assert found.answered == Share(3, 7), "of one the right answer is not known"
    assert found.lucky == Share(2, 3), "the right answer, and another step"
    assert found.faithful == Share(5, 6)
    assert found.unread == Share(2, 12)


def test_a_corrector_that_cannot_say_none_has_no_f1() -> None:
    found = measure(READINGS, says_none=False)
    assert (found.f1, found.kept.value, found.alarms.value) == (None, None, None)
    assert found.exact == Share(2, 8)
    assert measure(READINGS[:8], says_none=True).f1 is None, "no solution is right"


@pytest.mark.parametrize(
    ("found", "kept", "value"), [((91, 207), (74, 193), 0.40962), ((0, 5), (0, 5), 0.0), ((5, 5), (0, 5), 0.0)]
)
def test_f1_is_the_harmonic_mean_of_both_accuracies(found, kept, value: float) -> None:
    mean, interval = f1(found, kept)
    assert mean == pytest.approx(value, abs=1e-4)
    assert interval.low <= mean <= interval.high


def test_correctors_are_compared_where_both_can_be_right() -> None:
    better = [*(reading(1, 1) for _ in range(6)), reading(2, 1), reading(None, 0, NO_ERROR)]
    worse = [*(reading(1, 2) for _ in range(6)), reading(2, 2), reading(None, 3)]
    [pair] = paired({"a": better, "b": worse}, {"a": True, "b": False})
    assert (pair.only_a, pair.only_b, pair.whole) == (6, 1, 7)
    assert pair.p == pytest.approx(2 * (1 + 7) / 2**7)
    [pair] = paired({"a": better, "b": worse}, {"a": True, "b": True})
    assert (pair.only_a, pair.only_b, pair.whole) == (7, 1, 8)
    three = paired({name: better if name == "a" else worse for name in "abc"}, dict.fromkeys("abc", False))
    assert [each.holm for each in three] == pytest.approx([0.375, 0.375, 1.0])


def test_each_property_parts_the_solutions() -> None:
    rows = [Labelled(str(k), "ab"[k % 2], "", ["one two"] * (k + 1), 1, True) for k in range(8)]
    found = parts(rows)
    assert list(found) == ["generator", "steps", "words"]
    assert all(sorted(k for own in groups.values() for k in own) == list(range(8)) for groups in found.values())
    assert found["steps"] == {"1 to 2": [0, 1], "3 to 4": [2, 3], "5 to 6": [4, 5], "7 to 8": [6, 7]}
    assert "generator" not in parts(rows[::2])
