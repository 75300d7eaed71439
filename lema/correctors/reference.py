"""The offline corrector: finds the first wrong step by walking the equations beside those of the reference solution.

With calculator notes (`<<5+3=8>>`: arithmetic, GSM8K) an equation is right when it is a pending formula of the
reference, or finds the result of one by right arithmetic; the first that is neither is the mistake. Without notes
(MATH) steps are compared, and the explanation says so. The reference is always right. Nothing fails on any text.
"""

import ast
import operator
import re
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

from lema.prompts.formats import ANSWER, reference_steps, split_steps
from lema.types import Problem

_NOTE = re.compile(r"<<([^<>]*)>>")
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
    (r"[$£€\\]|(?<=\d),(?=\d{3}(?!\d))|(?m:^\s*[-*]\s)", ""),
    (r"(?<=[\d)%])\s?[xX]\s?(?=[\d(.])|(?<=\w)\s[xX]\s(?=[\d(.])", "*"),
    (r"(%|/\d{1,9})\sof\s(?=[\d(.])", r"\1*"),
    (r"[^\S\n]*([-+*/=)])[^\S\n]*|(?<=\()[^\S\n]+", r"\1"),
    (rf"(?<=[\d)%]){_UNITS}(?=[-+*/=])", ""),
)
_NUMBER = re.compile(r"(?:[0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})(?![0-9])%?")
_OPERATOR = re.compile(r"(?<=[0-9)%])[-+*/]")
_OPERAND = rf"\({{0,3}}-?{_NUMBER.pattern}\){{0,3}}"
_SUM = rf"{_OPERAND}(?:[-+*/]{_OPERAND})"  # then how often: 20 numbers at most, less than a float holds
_EQUATION = re.compile(rf"(?<![\w.^%)])(?<![\w.%)*/+-][-+*/])({_SUM}{{1,19}})=(?=({_SUM}{{0,19}}))")
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_Mistake = tuple[int, str, str]  # step (0-based), kind, explanation


@dataclass(frozen=True)
class Equation:
    """`5 + 3 = 9` in step `step` (0-based): what it says and what its left side is."""

    step: int
    left: str  # "5 + 3"
    operands: tuple[Fraction, ...]
    operators: tuple[str, ...]  # ("+",)
    value: Fraction  # of the left side: 8
    result: Fraction  # as stated: 9
    right: bool
    formula: str  # the same for the same sum: operands in order of size, operators, value: "3 5 + 8"


@dataclass(frozen=True)
class ReferenceCorrection:
    """`incorrect_step` is 1-based; `correct_steps` stand from it on and end in `The answer is X.`.

    A solution that only lacks its answer line has its mistake one step after its last.
    """

    incorrect_step: int
    kind: str
    explanation: str
    correct_steps: list[str]


def correct(problem: Problem, wrong_steps: list[str]) -> ReferenceCorrection:
    """Name the first wrong step of a wrong solution, say why, and continue rightly; never fails.

    `wrong_steps` come without `Step k: `, the last one normally `The answer is N.`. The caller keeps
    `wrong_steps[:incorrect_step - 1]`.
    """
    steps, answer = reference_steps(problem.solution), ANSWER.format(answer=problem.answer)
    if "<<" not in problem.solution:
        return _compare([*steps, answer], wrong_steps)
    formulas = _reference_formulas(problem.solution, steps)
    end = next((k for k, step in enumerate(wrong_steps) if _ANSWER_LINE.search(step)), len(wrong_steps))
    equations: list[Equation] = []
    for k, step in enumerate(wrong_steps[: end + 1]):  # a reference step says what its notes say
        same = [formula for formula in formulas if step in steps and formula.step == steps.index(step)]
        equations += [replace(formula, step=k) for formula in same] or equations_of(step, k)
    walk = _Walk(formulas, equations)
    reason = f"The solution finds {problem.answer}, so its last step must be: {answer}"
    step, kind, explanation = walk.first_mistake(end) or (end, "wrong result", reason)
    left = {formula.step for index, formula in enumerate(formulas) if walk.settled.get(index, step) >= step}
    done = {formula.step for formula in formulas} - left
    first = max((k for k in done if k < min(left, default=len(steps))), default=-1) + 1  # texts go with what follows
    rest = [k for k in range(first, len(steps)) if k in left or (k not in done and steps[k] not in wrong_steps[:step])]
    return ReferenceCorrection(step + 1, kind, explanation, [*(steps[k] for k in rest), answer])


def _reference_formulas(solution: str, steps: list[str]) -> list[Equation]:
    """The formulas of the reference: its notes, or what its text says when notes and steps cannot be paired."""
    raw = split_steps(solution)
    formulas: list[Equation] = []
    for step, text in enumerate(raw if len(raw) == len(steps) else steps):
        notes = [equation for note in _NOTE.findall(text) for equation in equations_of(note, step)]
        formulas += [replace(formula, right=True) for formula in notes or equations_of(_NOTE.sub("", text), step)]
    return formulas


class _Walk:
    """Reading the equations of a wrong solution in order, beside the reference formulas that are pending."""

    def __init__(self, formulas: list[Equation], equations: list[Equation]) -> None:
        self.formulas, self.equations = formulas, equations
        self.pending = list(range(len(formulas)))
        self.settled: dict[int, int] = {}  # formula: the step that settles it
        self.due, self.coming = (Counter(equation.formula for equation in run) for run in (formulas, equations))
        self.needs: list[set[int]] = []  # the earlier formulas that each one's operands come from, directly or not
        latest: dict[Fraction, int] = {}
        for index, formula in enumerate(formulas):
            sources = {latest[number] for number in formula.operands if number in latest}
            self.needs.append(sources.union(*(self.needs[source] for source in sources)))
            latest[formula.result] = index

    def first_mistake(self, end: int) -> _Mistake | None:
        """None when every equation is right and every formula settled; `end` is the step of the answer line."""
        for position, equation in enumerate(self.equations):
            self.coming[equation.formula] -= 1
            same_first = sorted(self.pending, key=lambda index: self.formulas[index].formula != equation.formula)
            index = next((index for index in same_first if self._settles(equation, index)), None)
            if index is None:
                return self._describe(position)
            needed = self.needs[index].intersection(self.pending)
            if equation.formula == self.formulas[index].formula:
                if lost := [other for other in needed if not self._comes(other)]:
                    return _missing(equation.step, self.formulas[min(lost)])
                needed = set()
            for done in {index, *needed}:  # several steps may be in one
                self.pending.remove(done)
                self.due[self.formulas[done].formula] -= 1
                self.settled[done] = equation.step
        return _missing(end, self.formulas[self.pending[0]]) if self.pending else None

    def _comes(self, index: int) -> bool:
        """Whether the equations still to read hold a formula as often as the pending ones do."""
        return self.coming[self.formulas[index].formula] >= self.due[self.formulas[index].formula]

    def _settles(self, equation: Equation, index: int) -> bool:
        formula = self.formulas[index]
        if equation.formula == formula.formula:  # unless it comes again in its turn
            in_turn = index == self.pending[0] or not self._comes(index)
            return in_turn and (equation.right or equation.result == formula.result)
        found = equation.right and equation.result == formula.result and not self.coming[formula.formula]
        several = len(equation.operators) > len(formula.operators)
        return found and (several or self.needs[index].isdisjoint(self.pending))

    def _describe(self, position: int) -> _Mistake:
        """The kind of mistake of an equation that settles nothing, told by what comes next here and what is due."""
        equation, following = self.equations[position], self.equations[position + 1 : position + 2]
        step, value, result = equation.step, _plain(equation.value), _plain(equation.result)
        if not equation.right:
            return step, "wrong result", f"{equation.left} is {value}, not {result}."
        extra = (step, "extra step", f"This step is not needed: {equation.left} = {result}.")
        if not self.pending:
            return extra
        due, *later = (self.formulas[index] for index in self.pending[:2])
        results = {other.result for other in (*self.equations[: position + 1], *self.formulas)}
        used, needed = _difference(equation, due)
        one_change = len(used) == len(needed) and len(used) + (equation.operators != due.operators) == 1
        in_place = len(following) == len(later) and all(map(_carries_on, following, later, [results]))
        if not (one_change and in_place):
            if any(_carries_on(other, due, results) for other in following):
                return extra
            if any(_carries_on(equation, other, results) for other in later):
                return _missing(step, due)
        kind = "wrong operation" if one_change and not used else "wrong operand"
        return step, kind, f"The step must find {due.left}, not {equation.left}."


def _difference(equation: Equation, formula: Equation) -> tuple[list[Fraction], list[Fraction]]:
    """The operands that only the one has, and that only the other has."""
    ours, theirs = Counter(equation.operands), Counter(formula.operands)
    return list((ours - theirs).elements()), list((theirs - ours).elements())


def _carries_on(equation: Equation, formula: Equation, results: set[Fraction]) -> bool:
    """Whether a sum is a formula, but for one operand that was a result before: 9 - 2 for 8 - 2."""
    used, needed = _difference(equation, formula)
    carried = len(used) == len(needed) == 1 and not results.isdisjoint((*used, *needed))
    return equation.operators == formula.operators and (carried or not (used or needed))


def _missing(step: int, formula: Equation) -> _Mistake:
    return step, "missing step", f"The step that finds {formula.left} = {_plain(formula.result)} is missing."


def _plain(number: Fraction) -> str:
    """`8`, `2.5`, `26.6667`."""
    return str(number.numerator) if number.denominator == 1 else f"{float(number):.4f}".rstrip("0").rstrip(".")


def _compare(steps: list[str], wrong_steps: list[str]) -> ReferenceCorrection:
    """Without notes: the first step that does not say what the reference step in its place says."""
    pairs, shorter = zip(steps, wrong_steps, strict=False), min(len(steps) - 1, len(wrong_steps))
    k = next((k for k, (right, step) in enumerate(pairs) if _signature(right) != _signature(step)), shorter)
    reason = f"Compared with the reference solution, this step differs. The reference has: {steps[k]}"
    return ReferenceCorrection(k + 1, "differs from the reference", reason, steps[k:])


def _signature(step: str) -> list[str]:
    """What two steps share that say the same: their formulas and numbers, or without formulas their text."""
    if "$" not in step:
        return [" ".join(step.lower().split()).rstrip(".")]
    return [re.sub(r"\s|\\[,;! ]", "", piece) for piece in re.findall(r"\$[^$]+\$|\d[\d.]*", step)]


def equations_of(text: str, step: int) -> list[Equation]:
    """The sums of a text with a stated result, chains (`a = b = c`) and units included."""
    for pattern, plain in _REWRITES:
        text = re.sub(pattern, plain, text)
    found: list[Equation] = []
    for match in _EQUATION.finditer(text):
        left, stated = _balanced(match[1]), _balanced(match[2])
        value, first = _value(left), _NUMBER.findall(stated)[0]
        if value is not None:
            # `8 * 2 = 16 - 3 = 13` states 16; `48 / 2 = 72 / 3` states 24.
            result = value if _value(stated) == value else _number(first) * (-1 if stated.startswith("-") else 1)
            operands, operators = tuple(map(_number, _NUMBER.findall(left))), tuple(_OPERATOR.findall(left))
            formula = " ".join(map(str, (*sorted(operands), *sorted(operators), value)))
            left, right = _OPERATOR.sub(r" \g<0> ", left), _agrees(value, result, first)
            found.append(Equation(step, left, operands, operators, value, result, right, formula))
    return found


def _number(text: str) -> Fraction:
    """`"12"`, `".5"`, `"50%"` (a half)."""
    return Fraction(text.rstrip("%")) / (100 if text.endswith("%") else 1)


def _agrees(value: Fraction, result: Fraction, shown: str) -> bool:
    """Whether a stated result is the value, rounded or cut to its decimals; a percentage may be stated either way."""
    percent = shown.endswith("%")
    unit = Fraction(1, 10 ** (len(shown.rstrip("%").partition(".")[2]) + 2 * percent))
    return result == value or (unit < 1 and abs(value - result) < unit) or (percent and result * 100 == value)


def _balanced(side: str) -> str:
    """Without the parentheses that open or close outside the expression: `(16*2` -> `16*2`."""
    excess = side.count("(") - side.count(")")
    return side.removeprefix("(" * excess).removesuffix(")" * -excess)


def _value(expression: str) -> Fraction | None:
    """The value of a sum, exactly; None when it is none (a division by zero, parentheses out of order)."""
    try:  # numbers as strings: exact, and free of Python's own rules for digits
        return _value_of(ast.parse(_NUMBER.sub(r"'\g<0>'", expression), mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        return None


def _value_of(node: ast.AST) -> Fraction:
    if isinstance(node, ast.BinOp):
        return _OPERATIONS[type(node.op)](_value_of(node.left), _value_of(node.right))
    return -_value_of(node.operand) if isinstance(node, ast.UnaryOp) else _number(ast.literal_eval(node))
