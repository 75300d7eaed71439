"""The offline corrector: finds the first wrong step with the reference solution and the arithmetic of each step.

With calculator notes (`<<5+3=8>>`: arithmetic, GSM8K) every equation of the wrong solution is walked in order:

- one that a reference formula has, or that finds the result of one that is due, is right;
- a mistake in itself (a wrong result, a number from nowhere) or one change away from the formula that is due
  (another operand, another operation) is the mistake;
- any other right sum of known numbers may be a detour: it is kept when a mistake of its own follows, and named
  when none does or when that mistake builds on it.

Without notes (MATH) the steps are compared with the reference steps, and the explanation says so. The reference
is always taken as right, its rounding included. Nothing here fails, whatever the text.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from fractions import Fraction

from lema.correctors.equations import Equation, equations_of, numbers_in
from lema.prompts.formats import ANSWER, reference_steps, split_steps
from lema.types import Problem

_NOTE = re.compile(r"<<([^<>]*)>>")
_ANSWER_LINE = re.compile(r"\bthe (?:final )?answer is\b:?|^#### ", re.IGNORECASE)
_ALWAYS_KNOWN = frozenset(map(Fraction, (1, 2, 7, 10, 12, 24, 30, 31, 52, 60, 100, 365, 1000)))
_VERBS = {
    "+": ("adds", "add"),
    "-": ("subtracts", "subtract"),
    "*": ("multiplies", "multiply"),
    "/": ("divides", "divide"),
}


@dataclass(frozen=True)
class ReferenceCorrection:
    """`incorrect_step` is 1-based; `correct_steps` stand from it on and end in `The answer is X.`.

    A solution that only lacks its answer line has its mistake one step after its last.
    """

    incorrect_step: int
    kind: str
    explanation: str
    correct_steps: list[str]


@dataclass(frozen=True)
class _Mistake:
    step: int  # 0-based
    kind: str
    explanation: str


@dataclass
class _Walk:
    """The state of reading a wrong solution beside the reference formulas."""

    formulas: list[Equation]
    known: set[Fraction]
    pending: list[int]
    coming: Counter[tuple[object, ...]]  # the formulas of the equations not yet read
    found: list[tuple[int, int]] = field(default_factory=list)  # (step of the wrong solution, formula it settles)
    detour: _Mistake | None = None  # the first
    doubtful: set[Fraction] = field(default_factory=set)  # results of detours and of what builds on them


def correct(problem: Problem, wrong_steps: list[str]) -> ReferenceCorrection:
    """Name the first wrong step of a wrong solution, say why, and continue rightly; never fails.

    `wrong_steps` come without `Step k: `, the last one normally `The answer is N.`. The caller keeps
    `wrong_steps[:incorrect_step - 1]`.
    """
    steps = reference_steps(problem.solution)
    if "<<" not in problem.solution:
        mistake, rest = _compare(problem, steps, wrong_steps)
    else:
        formulas = _reference_formulas(problem.solution, steps)
        mistake, found = _check(problem, steps, formulas, wrong_steps)
        rest = _remaining(steps, formulas, found, wrong_steps[: mistake.step])
    answer = ANSWER.format(answer=problem.answer)
    return ReferenceCorrection(mistake.step + 1, mistake.kind, mistake.explanation, [*rest, answer])


# With calculator notes


def _reference_formulas(solution: str, steps: list[str]) -> list[Equation]:
    """The formulas of the reference: its notes, or what its text says when notes and steps cannot be paired."""
    raw = split_steps(solution)
    if len(raw) != len(steps):
        raw = steps
    formulas: list[Equation] = []
    for step, text in enumerate(raw):
        notes = [equation for note in _NOTE.findall(text) for equation in equations_of(note, step)]
        formulas += [replace(formula, right=True) for formula in notes or equations_of(_NOTE.sub("", text), step)]
    return formulas


def _check(
    problem: Problem, steps: list[str], formulas: list[Equation], wrong_steps: list[str]
) -> tuple[_Mistake, set[int]]:
    """The first mistake, and which formulas the steps before it settle."""
    end = next((k for k, step in enumerate(wrong_steps) if _ANSWER_LINE.search(step)), len(wrong_steps))
    results = {formula.result for formula in formulas}
    constants = {number for formula in formulas for number in formula.operands} - results
    given = numbers_in(problem.question) | constants | _ALWAYS_KNOWN
    for step in steps:  # a number that the reference states without a sum
        given |= set() if equations_of(step, 0) else numbers_in(step) - results
    equations: list[Equation] = []
    for k, step in enumerate(wrong_steps[: end + 1]):
        if step in steps:  # the reference is right, also where its text and its notes differ
            same = [formula for formula in formulas if formula.step == steps.index(step)]
            equations += [replace(formula, step=k) for formula in same]
        else:
            equations += equations_of(step, k)
    coming = Counter(equation.formula for equation in equations)
    walk = _Walk(formulas, given, list(range(len(formulas))), coming)
    known = given | results
    mistake = _first_mistake(walk, equations) or _answer_mistake(problem, walk, wrong_steps, end)
    mistake = _from_nowhere(wrong_steps[: min(end, mistake.step)], equations, known) or mistake
    return mistake, {formula for step, formula in walk.found if step < mistake.step}


def _from_nowhere(steps: list[str], equations: list[Equation], known: set[Fraction]) -> _Mistake | None:
    """The first step without a sum that states a number which is neither given nor computed up to there."""
    sums: dict[int, set[Fraction]] = {}
    for equation in equations:
        sums.setdefault(equation.step, set()).update((*equation.operands, equation.result))
    for k, step in enumerate(steps):
        known |= sums.get(k, set())
        unknown = sorted(numbers_in(step) - known) if k not in sums else []
        if unknown:
            reason = f"{_plain(unknown[0])} is neither given nor found before."
            return _Mistake(k, "wrong operand", reason)
    return None


def _first_mistake(walk: _Walk, equations: list[Equation]) -> _Mistake | None:
    results = {formula.result for formula in walk.formulas}
    for position, equation in enumerate(equations):
        walk.coming[equation.formula] -= 1
        due = walk.formulas[walk.pending[0]] if walk.pending else None
        one_change = due is not None and _changes(equation, due) == 1
        counterpart = _counterpart(walk, equation)
        wrong = counterpart is None and not equation.right
        unknown = counterpart is None and not set(equation.operands) <= walk.known | results
        skipped = _skipped(walk, counterpart, equation, equations[position + 1 :]) if counterpart is not None else None
        mistake = skipped
        if one_change and (counterpart is None or (skipped and _needs(walk, counterpart))):
            mistake = _describe(walk, equations, position, due)
        if wrong or unknown or (mistake and not (skipped and mistake.kind == "missing step")):
            builds_on_detour = not wrong and not walk.doubtful.isdisjoint(equation.operands)
            return (
                walk.detour
                if builds_on_detour and walk.detour
                else mistake or _describe(walk, equations, position, due)
            )
        if counterpart is None and walk.detour is None:
            mistake = _describe(walk, equations, position, due)
        walk.detour = walk.detour or mistake
        if counterpart is None or mistake or not walk.doubtful.isdisjoint(equation.operands):
            walk.doubtful.add(equation.result)
        if counterpart is not None:
            _settle(walk, equation, counterpart)
        walk.known.add(equation.result)
    return walk.detour


def _unlike(equation: Equation, formula: Equation | None) -> list[Fraction]:
    """The operands that a formula does not have."""
    return list((Counter(equation.operands) - Counter(formula.operands if formula else ())).elements())


def _counterpart(walk: _Walk, equation: Equation) -> int | None:
    """The pending formula that an equation is, or whose result it finds in another way."""
    for index in walk.pending:
        formula = walk.formulas[index]
        early = index != walk.pending[0] and walk.coming[formula.formula] >= _due(walk, formula)
        same = equation.formula == formula.formula and (equation.right or equation.result == formula.result)
        if same and not early:  # else it comes again in its turn
            return index
    for index in walk.pending:
        formula = walk.formulas[index]
        several = len(equation.operators) > len(formula.operators)
        if (
            equation.right
            and equation.result == formula.result
            and sorted(equation.operands) != sorted(formula.operands)
            and not walk.coming[formula.formula]  # else the formula itself is still to come
            and (several or not _needs(walk, index))
        ):
            return index
    return None


def _needs(walk: _Walk, index: int) -> list[int]:
    """The pending formulas whose results a formula uses, and theirs, last first."""
    needed: list[int] = []
    for number in walk.formulas[index].operands:
        source = next((i for i in range(index - 1, -1, -1) if walk.formulas[i].result == number), None)
        if source in walk.pending:
            needed += [source, *_needs(walk, source)]
    return sorted(set(needed), reverse=True)


def _skipped(walk: _Walk, index: int, equation: Equation, rest: list[Equation]) -> _Mistake | None:
    """The missing step before a formula that comes out of its turn, unless that step still comes."""
    if equation.formula != walk.formulas[index].formula:
        return None  # several steps in one
    needed = _needs(walk, index)
    results = {other.result for other in rest}
    for skipped in [i for i in walk.pending if i < index]:
        formula = walk.formulas[skipped]
        if walk.coming[formula.formula] < _due(walk, formula) and (skipped in needed or formula.result not in results):
            return _missing(equation.step, formula)
    return None


def _due(walk: _Walk, formula: Equation) -> int:
    """How often a formula is still to come in the reference."""
    return sum(walk.formulas[index].formula == formula.formula for index in walk.pending)


def _settle(walk: _Walk, equation: Equation, index: int) -> None:
    """Take a formula as found, with the pending ones that it needs."""
    for settled in (index, *_needs(walk, index)):
        walk.pending.remove(settled)
        walk.found.append((equation.step, settled))


def _changes(equation: Equation, formula: Equation) -> int:
    """How many operands and operations differ, place by place in order of size; 99 between unlike lengths."""
    if len(equation.operands) != len(formula.operands):
        return 99
    operators = sum(a != b for a, b in zip(sorted(equation.operators), sorted(formula.operators), strict=False))
    return len(_unlike(equation, formula)) + operators or 1  # the same numbers and operations in another order


def _alike(equations: list[Equation], formulas: list[Equation], before: set[Fraction], due: set[Fraction]) -> int:
    """In how many places two runs of sums differ, when each carries its own earlier results on."""
    different = abs(len(equations) - len(formulas))
    for equation, formula in zip(equations, formulas, strict=False):
        same = sorted(equation.operators) == sorted(formula.operators) and len(equation.operands) == len(
            formula.operands
        )
        pairs = zip(equation.operands, formula.operands, strict=False)
        different += not (same and all(a == b or (a in before and b in due) for a, b in pairs))
        before, due = before | {equation.result}, due | {formula.result}
    return different


def _describe(walk: _Walk, equations: list[Equation], position: int, due: Equation | None) -> _Mistake:
    """The kind of mistake and its reason, for an equation that is not in its place."""
    equation = equations[position]
    changed = _changes(equation, due) if due is not None else 99
    if not equation.right and not (due is not None and changed == 1 and equation.result == due.result):
        value = f"{_plain(equation.value)}, not {equation.result_text}"
        return _Mistake(equation.step, "wrong result", f"{equation.left} is {value}.")
    if due is None:
        return _extra(equation)
    return _replaced(walk, equations, position, due)


def _replaced(walk: _Walk, equations: list[Equation], position: int, due: Equation) -> _Mistake:
    """Changed, missing or extra: what makes the rest of the solution most like the rest of the reference."""
    equation, rest = equations[position], equations[position : position + 12]
    formulas = [walk.formulas[i] for i in walk.pending][: len(rest) + 2]
    before = {other.result for other in equations[:position]}
    done = {walk.formulas[i].result for _, i in walk.found}
    changed = _changes(equation, due)
    as_changed = (changed > 1) + _alike(rest[1:], formulas[1:], before | {equation.result}, done | {due.result})
    as_extra = 1 + _alike(rest[1:], formulas, before | {equation.result}, done)
    as_missing = 1 + _alike(rest, formulas[1:], before, done | {due.result})
    if as_missing < min(as_changed + 1, as_extra):
        return _missing(equation.step, due)
    if as_extra < as_changed + 1 or changed > 2:
        return _extra(equation)
    return _changed(equation, due)


def _changed(equation: Equation, due: Equation) -> _Mistake:
    used, needed = _unlike(equation, due), _unlike(due, equation)
    if not used and sorted(equation.operators) != sorted(due.operators):
        differ = [(a, b) for a, b in zip(equation.operators, due.operators, strict=False) if a != b]
        does, must = (_VERBS[differ[0][0]][0], _VERBS[differ[0][1]][1]) if differ else ("adds", "add")
        return _Mistake(equation.step, "wrong operation", f"The step {does} where it must {must}.")
    if len(used) == 1 == len(needed):
        reason = f"The step uses {_plain(used[0])} where {_plain(needed[0])} is needed."
    else:
        reason = f"The step must find {due.left}, not {equation.left}."
    return _Mistake(equation.step, "wrong operand", reason)


def _missing(step: int, formula: Equation) -> _Mistake:
    said = f"{formula.left} = {_plain(formula.result)}"
    return _Mistake(step, "missing step", f"The step that finds {said} is missing.")


def _extra(equation: Equation) -> _Mistake:
    said = f"{equation.left} = {equation.result_text}"
    return _Mistake(equation.step, "extra step", f"This step is not needed: {said}.")


def _answer_mistake(problem: Problem, walk: _Walk, wrong_steps: list[str], end: int) -> _Mistake:
    """What is wrong when every sum is right: something was left out, the answer line, or what follows it."""
    if walk.pending:
        return _missing(end, walk.formulas[walk.pending[0]])
    if end == len(wrong_steps):
        reason = f"The solution finds {problem.answer}, but does not say that it is the answer."
        return _Mistake(end, "wrong result", reason)
    said = _ANSWER_LINE.split(wrong_steps[end])[1].strip().rstrip(".")
    if said == problem.answer and end + 1 < len(wrong_steps):
        return _Mistake(end + 1, "extra step", f"This step is not needed: the answer is {problem.answer}.")
    answer = problem.answer
    return _Mistake(end, "wrong result", f"The solution finds {answer}, so the answer is {answer}, not {said[:40]}.")


def _remaining(steps: list[str], formulas: list[Equation], found: set[int], kept: list[str]) -> list[str]:
    """The reference steps from the first whose result is not there yet, without later ones that are."""
    left = {formula.step for index, formula in enumerate(formulas) if index not in found}
    there = {formula.step for formula in formulas} - left
    before = [step for step in there if step < min(left, default=len(steps))]
    first = max(before, default=-1) + 1
    without_sums = set(kept) - {steps[formula.step] for formula in formulas}
    return [step for k, step in enumerate(steps) if k >= first and k not in there and step not in without_sums]


def _plain(number: Fraction) -> str:
    """`8`, `2.5`, `26.67`."""
    return str(number.numerator) if number.denominator == 1 else f"{float(number):.2f}".rstrip("0").rstrip(".")


# Without notes


def _compare(problem: Problem, steps: list[str], wrong_steps: list[str]) -> tuple[_Mistake, list[str]]:
    """The first step without a counterpart in the reference, and the reference steps not there before it."""
    left = [_signature(step) for step in steps]
    rest = list(steps)
    kind = "differs from the reference"
    for k, step in enumerate(wrong_steps):
        signature = _signature(step)
        if signature not in left:
            if _ANSWER_LINE.search(step) and not rest:
                said = _ANSWER_LINE.split(step)[1].strip().rstrip(".")[:80]
                reason = f"Compared with the reference solution, the answer is {problem.answer}, not {said}."
            elif rest:
                reason = f"Compared with the reference solution, this step differs. The reference has: {rest[0]}"
            else:
                reason = "Compared with the reference solution, this step is not part of it."
            return _Mistake(k, kind, reason), rest
        position = left.index(signature)
        del left[position], rest[position]
    return _Mistake(len(wrong_steps), kind, "Compared with the reference solution, the rest is missing."), rest


def _signature(step: str) -> tuple[str, ...]:
    """What two steps share when they say the same: their formulas and other numbers, or without formulas their text."""
    formulas = re.findall(r"\$([^$]+)\$", step)
    if not formulas:
        return (" ".join(step.lower().split()).rstrip("."),)
    numbers = re.findall(r"[0-9.]*[0-9]", re.sub(r"\$[^$]+\$", " ", step))
    return (*(re.sub(r"\s|\\[,;! ]", "", formula) for formula in formulas), "|", *numbers)
