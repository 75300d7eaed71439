"""The offline corrector: finds the first wrong step by matching a solution's equations with the reference's formulas.

The formulas are the reference's calculator notes (`<<5+3=8>>`: arithmetic, GSM8K), or the sums of its text. An equation
is right when it states a formula, or finds its result by right arithmetic, in its turn. The first that does neither is
the mistake, or another way to the answer: then a later sum is the mistake, if it is false and would lead back to the
reference. Where all sums are right and formulas are missing, the step with a number that nothing says is the mistake.
References in LaTeX (MATH) or without a sum are compared step by step, and the explanation says so. The reference is
always right. Nothing fails on any text.
"""

import ast
import re
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from lema.grading.expressions import value_of
from lema.prompts.formats import ANSWER, reference_steps, split_steps
from lema.prompts.replies import ParsedCorrection
from lema.types import Problem

_NOTE = re.compile(r"<<([^<>]*)>>")
_LABEL = re.compile(r"(?i:\W{0,4}(?:step )?\d{1,3}[.):])")  # `1.`, `**Step 2:`
_ANSWER_LINE = re.compile(r"\bthe (?:final )?answer is\b|^#### ", re.IGNORECASE)
# Possessive, so that a word is never tried in pieces: models without an end write words of a thousand letters.
_UNIT = r"(?:[a-zA-Z]{2,20}+|[ghms]\b)"
_UNITS = rf"(?:[ '’-]?{_UNIT}){{0,12}}(?:/{_UNIT}(?: {_UNIT})?){{0,2}}(?: ?\([a-zA-Z ,]{{1,40}}\))?"
_REWRITES = (  # in this order: LaTeX, the ways to write an operation, then units and spaces inside a sum
    (r"\\d?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}", r"((\1)/(\2))"),
    (r"\\(?:text|mathrm|boxed)\{([^{}]{0,80})\}", r"\1"),
    (r"\\[()\[\]]|[{}]", " "),
    (r"×|\\times(?![a-z])|\\cdot(?![a-z])", "*"),
    (r"÷|//|\\div(?![a-z])", "/"),
    (r"[−–]", "-"),
    (r"[$£€\\]|(?<=\d),(?=\d{3}(?!\d))|(?m:^[^\S\n]*+[-*]\s)", ""),
    (r"(?<=[\d)%])\s?[xX]\s?(?=[\d(.])|(?<=\w)\s[xX]\s(?=[\d(.])", "*"),
    (r"(%|/\d{1,9})\sof\s(?=[\d(.])", r"\1*"),
    # A run of blanks is read once: from its start, or not at all.
    (r"(?:(?<![^\S\n])[^\S\n]++)?([-+*/=)])[^\S\n]*+|(?<=\()[^\S\n]++", r"\1"),
    (rf"(?<=[\d)%]){_UNITS}(?=[-+*/=])", ""),
)
_NUMBER = re.compile(r"(?:[0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})(?![0-9])%?")
_MOST = 10**300  # nearly the largest that a float holds
_OPERATOR = re.compile(r"(?<=[0-9)%])[-+*/]")
_OPERAND = rf"\({{0,3}}-?{_NUMBER.pattern}\){{0,3}}"
_SUM = rf"{_OPERAND}(?:[-+*/]{_OPERAND})"  # then how often: 20 numbers at most, less than a float holds
_EQUATION = re.compile(rf"(?<![\w.^%)])(?<![\w.%)*/+-][-+*/])({_SUM}{{1,19}})=(?=({_SUM}{{0,19}}))")


@dataclass(frozen=True)
class _Equation:
    """`5 + 3 = 9` in step `step` (0-based): what it says and what its left side is."""

    step: int
    left: str  # "5 + 3"
    operands: tuple[Fraction, ...]
    operators: tuple[str, ...]  # ("+",)
    value: Fraction  # of the left side: 8
    result: Fraction  # as stated: 9
    right: bool
    formula: str  # the same for the same sum: operands in order of size, operators, value: "3 5 + 8"


def correct(problem: Problem, wrong_steps: list[str]) -> ParsedCorrection:
    """Name the first wrong step of a wrong solution, say why, and continue rightly; never fails.

    `wrong_steps` come without `Step k: `, the last one normally `The answer is N.`; without it, the mistake is one
    step after the last.
    """
    steps, answer = reference_steps(problem.solution), ANSWER.format(answer=problem.answer)
    formulas, settled, unread, end = _compared(problem, wrong_steps)
    if not formulas:  # the first step that does not say what the reference step in its place says
        same = [_signature(right) == _signature(step) for right, step in zip(steps, wrong_steps, strict=False)]
        k, rest = [*same, False].index(False), [*steps, answer]
        reason = f"Compared with the reference solution, this step differs. The reference has: {rest[k]}"
        return ParsedCorrection(k + 1, reason, rest[k:], "differs from the reference")
    due = [formula for index, formula in enumerate(formulas) if index not in settled]
    if unread or not due:
        step, strange = unread[0].step if unread else end, None
    else:
        step, strange = _unfounded(problem, wrong_steps[:end], settled)
    last = ("wrong result", f"The solution finds {problem.answer}, so its last step must be: {answer}")
    kind, explanation = _describe(unread, due) if unread or due else last
    explanation = explanation if strange is None else f"Nothing says {_plain(strange)}. {explanation}"
    left = {formula.step for index, formula in enumerate(formulas) if settled.get(index, step) >= step}
    done = {formula.step for formula in formulas} - left
    first = max((k for k in done if k < min(left, default=len(steps))), default=-1) + 1  # texts go with what follows
    rest = [k for k in range(first, len(steps)) if k in left or (k not in done and steps[k] not in wrong_steps[:step])]
    return ParsedCorrection(step + 1, explanation, [*(steps[k] for k in rest), answer], kind)


def settles_all(problem: Problem, steps: list[str]) -> bool:
    """Whether a solution states every formula of the reference rightly, or its results, and no other equation.

    Without notes: whether its steps say what the reference's say.
    """
    formulas, settled, unread, _ = _compared(problem, steps)
    if not formulas:
        right = [*reference_steps(problem.solution), ANSWER.format(answer=problem.answer)]
        return [*map(_signature, right)] == [*map(_signature, steps)]
    return not unread and len(settled) == len(formulas)


def _compared(problem: Problem, wrong_steps: list[str]) -> tuple[list[_Equation], dict[int, int], list[_Equation], int]:
    """The reference's formulas, what `_settled` finds of them, and the step (0-based) that states the answer."""
    steps, formulas = reference_steps(problem.solution), _reference_formulas(problem.solution)
    end = next((k for k, step in enumerate(wrong_steps) if _ANSWER_LINE.search(step)), len(wrong_steps))
    equations: list[_Equation] = []
    for k, step in enumerate(wrong_steps[: end + 1]):  # a reference step says what its notes say
        same = [formula for formula in formulas if step in steps and formula.step == steps.index(step)]
        equations += [replace(formula, step=k) for formula in same] or equations_of(step, k)
    return formulas, *_settled(equations, formulas), end


@lru_cache(maxsize=16_384)  # more than a data set has questions, each with hundreds of recorded solutions
def _reference_formulas(solution: str) -> list[_Equation]:
    """The formulas of the reference: its notes, or what its text says when notes and steps cannot be paired.

    None of LaTeX, whose steps are compared as texts.
    """
    raw, steps, formulas = split_steps(solution), reference_steps(solution), []
    if "\\" in solution and "<<" not in solution:
        return formulas
    for step, text in enumerate(raw if len(raw) == len(steps) else steps):
        found = equations_of("\n".join(_NOTE.findall(text)), step) or equations_of(_NOTE.sub("", text), step)
        formulas += [replace(formula, right=True) for formula in found]
    return formulas


def _settled(equations: list[_Equation], formulas: list[_Equation]) -> tuple[dict[int, int], list[_Equation]]:
    """The formulas (by index) that right equations settle, each with its step; and the equations from a mistake on.

    An equation out of turn that does not stand for the formula in its turn may be another way to the answer. Then the
    mistake is the next false equation, if its left side has the value of a result of the reference.
    """
    sources: dict[Fraction, set[int]] = {}  # a result: its formula, and those that its operands come from
    matches: dict[int, set[int]] = {}  # the position of an equation: the same for what it finds
    for index, formula in enumerate(formulas):
        sources[formula.result] = {index}.union(*(sources.get(number, ()) for number in formula.operands))
        # Two of the three hold: the equation is right, it is the same sum, it has the same result.
        finds = [one.right + (one.formula == formula.formula) + (one.result == formula.result) for one in equations]
        free = [k for k, holding in enumerate(finds) if holding >= 2 and k not in matches]
        if free:
            matches[min(free, key=lambda k: equations[k].formula != formula.formula)] = sources[formula.result]
    settled: dict[int, int] = {}
    end = len(equations)
    for position, equation in enumerate(equations):
        new = matches.get(position, set()).difference(settled)
        if end == len(equations) and not 1 <= len(new) <= len(equation.operators):  # several steps may be in one
            due = next((formula for index, formula in enumerate(formulas) if index not in settled), None)
            false = next((k for k in range(position, end) if not equations[k].right), position)
            another_way = equations[false].value in sources and not (due and _stands_for(equation, due))
            end = false if another_way else position
        if position >= end:
            break
        settled |= dict.fromkeys(new, equation.step)
    return settled, equations[end:]


def _unfounded(problem: Problem, steps: list[str], settled: dict[int, int]) -> tuple[int, Fraction | None]:
    """The mistake where all sums are right and formulas are missing: a step, and a number in it that nothing says.

    That is a number of neither question nor reference, in a step that settles no formula. Without one, it is the step
    after the last that settles a formula.
    """
    known = _numbers(problem.question) | _numbers(problem.solution)
    for k, step in enumerate(steps):
        if k not in settled.values() and (strange := _numbers(_LABEL.sub("", step)) - known):
            return k, min(strange)
    return min(max(settled.values(), default=-1) + 1, len(steps)), None


def _describe(equations: list[_Equation], due: list[_Equation]) -> tuple[str, str]:
    """The kind of mistake, and the explanation, when these equations come and these formulas should."""
    if equations and not equations[0].right:
        value, result = _plain(equations[0].value), _plain(equations[0].result)
        return "wrong result", f"{equations[0].left} is {value}, not {result}."
    # One too many, one left out, or one for another: what makes the rest fit best.
    extra, missing = _misfits(equations[1:], due), _misfits(equations, due[1:])
    changed = _misfits(equations[1:], due[1:])
    if not due or extra < min(changed, missing):
        return "extra step", f"This step is not needed: {equations[0].left} = {_plain(equations[0].result)}."
    if not equations or missing < changed:
        return "missing step", f"The step that finds {due[0].left} = {_plain(due[0].result)} is missing."
    kind = "wrong operation" if _same_operands(equations[0], due[0]) else "wrong operand"
    return kind, f"The step must find {due[0].left}, not {equations[0].left}."


def _misfits(equations: list[_Equation], formulas: list[_Equation]) -> int:
    """How many differ in their operations, or in more than the one operand that a mistake before them changes."""
    return max(len(equations), len(formulas)) - sum(map(_alike, equations, formulas))


def _alike(one: _Equation, due: _Equation) -> bool:
    """Whether two sums have the same operations, and all operands but one."""
    return one.operators == due.operators and (Counter(one.operands) - Counter(due.operands)).total() <= 1


def _same_operands(one: _Equation, due: _Equation) -> bool:
    return sorted(one.operands) == sorted(due.operands)


def _stands_for(one: _Equation, due: _Equation) -> bool:
    """Whether a sum is a formula but for one operand, or for its operations."""
    return _alike(one, due) or _same_operands(one, due)


def _plain(number: Fraction) -> str:
    """`8`, `2.5`, `26.6667`."""
    return str(number.numerator) if number.denominator == 1 else f"{float(number):.4f}".rstrip("0").rstrip(".")


def _signature(step: str) -> list[str]:
    """What two steps share that say the same: their formulas and numbers, or without formulas their text."""
    if "$" not in step:
        return step.rstrip(".").lower().split()
    return [re.sub(r"\s|\\[,;! ]", "", piece) for piece in re.findall(r"\$[^$]+\$|\d[\d.]*", step)]


def equations_of(text: str, step: int) -> list[_Equation]:
    """The sums of a text with a stated result, chains (`a = b = c`) and units included."""
    for pattern, plain in _REWRITES:
        text = re.sub(pattern, plain, text)
    found: list[_Equation] = []
    for match in _EQUATION.finditer(text):
        left, stated = map(_balanced, match.groups())
        first = _NUMBER.findall(stated)[0]
        if (value := _value(left)) is None or abs(value) > _MOST:
            continue
        # `8 * 2 = 16 - 3 = 13` states 16; `48 / 2 = 72 / 3` states 24.
        result = value if _value(stated) == value else _number(first) * (-1 if stated.startswith("-") else 1)
        operands, operators = tuple(map(_number, _NUMBER.findall(left))), tuple(_OPERATOR.findall(left))
        formula = " ".join(map(str, (*sorted(operands), *sorted(operators), value)))
        # A result may be rounded or cut to its decimals; a percentage may be stated either way.
        percent = first.endswith("%")
        unit = Fraction(1, 10 ** (len(first.rstrip("%").partition(".")[2]) + 2 * percent))
        right = result == value or (unit < 1 and abs(value - result) < unit) or (percent and result * 100 == value)
        left = _OPERATOR.sub(r" \g<0> ", left)
        found.append(_Equation(step, left, operands, operators, value, result, right, formula))
    return found


def _number(text: str) -> Fraction:
    """`"12"`, `".5"`, `"50%"` (a half)."""
    return Fraction(text.rstrip("%")) / (100 if text.endswith("%") else 1)


def _numbers(text: str) -> set[Fraction]:
    """`{1200, 50}` of `"1,200 and 50%"`."""
    return {Fraction(number.rstrip("%")) for number in _NUMBER.findall(text.replace(",", ""))}


def _balanced(side: str) -> str:
    """Without the parentheses that open or close outside the expression: `(16*2` -> `16*2`."""
    excess = side.count("(") - side.count(")")
    return side.removeprefix("(" * excess).removesuffix(")" * -excess)


def _value(expression: str) -> Fraction | None:
    """The value of a sum, exactly; None when it is none (a division by zero, parentheses out of order)."""
    try:  # numbers as strings: exact, and free of Python's own rules for digits
        return value_of(ast.parse(_NUMBER.sub(lambda number: f"'{_number(number[0])}'", expression), mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        return None
