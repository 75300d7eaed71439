r"""The verdicts of the paper's evaluation code, quirks included (microsoft/LEMA, inference_code/utils.py @ 94fea82).

The published numbers were made with these rules, so we reproduce them: `\left` is cut out of `\leftarrow`, `10^2` is
8, `1,000` is not `1000` in MATH. Two things differ without changing a verdict. The official code runs arithmetic as
Python; `lema.grading.expressions` works it out. An answer that was not found is None here; the official code has 0
(numbers), "" (LaTeX) or the whole text (choices), and we still compare that: finding nothing is right when the gold
answer is 0. An empty gold LaTeX answer stops the official code; here nothing equals it. Rules take linear time.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

from rapidfuzz.distance import Levenshtein

from lema.grading.expressions import evaluate

NO_CANDIDATES = "task='csqa': an answer is graded among candidates; pass those of the problem"
_PHRASE = "The answer is "
_BOX = "\\boxed{"
_BRACE = re.compile(r"[{}]")
# `\sqrt3`, `\frac12` and `\frac1{2}`; a fraction with one argument that is no group, or with none.
_BARE_ROOT = re.compile(r"\\sqrt([^{])")
_BARE_FRACTION = re.compile(r"\\frac([^{])([^{])?")
_LACKING = re.compile(r"\\frac([^{])?(?=\\frac|\Z)")
# Python reads no integer of more than 4,300 digits, so the official code leaves such a fraction as it is.
_INTEGER_FRACTION = re.compile(r"\A(0|-?[1-9][0-9]{0,4299})/(0|-?[1-9][0-9]{0,4299})\Z")


def number_verdict(
    text: str, answer: str, candidates: Sequence[str] = (), digits: int | None = None
) -> tuple[str | None, bool]:
    """The number found in `text`, and whether it equals the gold `answer` (alone or ending a text) as a float.

    The official code rounds both to two `digits` for SVAMP and ASDiv.

    >>> number_verdict("She makes 9 * 2 = $18. The answer is $18.", "18"), number_verdict("I do not know.", "0")
    (('18', True), (None, True))
    >>> number_verdict("The answer is 1/3.", "0.33", digits=2), number_verdict("The answer is 1/3.", "0.33")
    (('0.33', True), ('0.3333333333333333', False))
    """
    found, gold = _number(text), gold_number(answer) or 0.0
    if digits:
        found, gold = None if found is None else round(found, digits), round(gold, digits)
    # 18.0 is shown as `18`, and no zero as `-0`.
    return None if found is None else repr(found + 0.0).removesuffix(".0"), (found or 0.0) == gold


def gold_number(answer: str) -> float | None:
    """The number of a gold answer, alone or ending a text; None when it has none, as `1/0`."""
    return _number(answer if _PHRASE in answer else f"{_PHRASE}{answer}.")


def latex_verdict(text: str, answer: str, candidates: Sequence[str] = ()) -> tuple[str | None, bool]:
    r"""The normalised answer found in `text`, and whether it is the string that `answer` gives.

    `answer` is the gold answer, alone or inside a text that boxes or announces it. Alone it stands for both such
    texts, which differ where a dollar sign is escaped: `\$5` is `5` in a box, but `\5` after the phrase.

    >>> latex_verdict(r"Hence $x = \boxed{\dfrac12}$.", r"\frac{1}{2}"), latex_verdict("The answer is 1000.", "1,000")
    (('\\frac{1}{2}', True), ('1000', False))
    """
    found = _latex(text)
    if not found:
        return None, False
    if _BOX in answer or _PHRASE in answer:
        return found, found == _latex(answer)
    golds = {answer, answer.replace("$", "").strip()}
    return found, found in map(_normalised, golds)


def choice_verdict(text: str, answer: str, candidates: Sequence[str] = ()) -> tuple[str | None, bool]:
    r"""The candidate nearest to what follows the last `The answer is `, and whether it is `answer`.

    Nearness is the Levenshtein distance, and the first of equals wins. Without the phrase no answer was given: the
    verdict is that on the candidate nearest to the whole text, which favours long ones.

    >>> choice_verdict("A bank has one. The answer is bank.", "bank", ["mall", "bank"])
    ('bank', True)
    >>> choice_verdict("The answer is ice.\n\nQ: Where? The answer is bank.", "ice", ["bank", "ice"])
    ('ice', True)
    >>> choice_verdict("Surely a bank.", "new york", ["bank", "new york"])
    (None, False)
    """
    if not candidates:
        raise ValueError(NO_CANDIDATES)
    _, phrase, found = _to_next_question(text).rpartition(_PHRASE)
    found = found.strip(".")
    nearest = min(candidates, key=lambda candidate: Levenshtein.distance(candidate, found))
    return nearest if phrase else None, nearest == answer


VERDICTS: dict[str, Callable[..., tuple[str | None, bool]]] = {
    "arithmetic": number_verdict,
    "gsm8k": number_verdict,
    "svamp": partial(number_verdict, digits=2),
    "asdiv": partial(number_verdict, digits=2),
    "math": latex_verdict,
    "csqa": choice_verdict,
}


def last_box(text: str) -> str | None:
    r"""The content of the last `\boxed{}`, None when it has no brace or is not closed. Escaped braces count too."""
    start = text.rfind("\\boxed")
    depth = 0
    for brace in _BRACE.finditer(text, start) if text.startswith(_BOX, start) else ():
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start + len(_BOX) : brace.start()]
    return None


def _to_next_question(text: str) -> str:
    """Without the further questions that a model asks itself; the phrase always without a colon."""
    return text.split("\n\nQ: ")[0].split("\n\nQuestion: ")[0].replace("The answer is: ", _PHRASE)


def _number(text: str) -> float | None:
    """The number after the last `The answer is `, None when there is none."""
    text = _to_next_question(text)
    if _PHRASE not in text:
        return None
    found = text.rpartition(_PHRASE)[2].removesuffix(".")
    found = re.sub("[£€]", "", found).removesuffix(".").replace(",", "")
    for mark in ("=", ">>"):  # of `>>>5` the split leaves `>5`, which is no number
        if mark in found:
            found = found.split(mark)[-1].strip()
    found = re.sub("[a-z]", "", found.lower()).partition(":")[0].replace("$", "").replace('"', "")
    if "%" in found:
        found, _, rest = found.strip().rpartition("%")
        if rest:
            return None
    found = found.removesuffix("/").replace(" ", "")
    value = evaluate(found) if any(sign in found for sign in "+-*/") else found
    try:
        return None if value is None else float(value)
    except (ValueError, OverflowError):
        return None


def _latex(text: str) -> str:
    """The normalised answer after the last `The answer is `, else in the last box; "" when there is none."""
    for mark in ("Q:", "Question:"):
        if mark in text:
            text = text.partition(mark)[0].strip()
    text = text.replace("The answer is: ", _PHRASE)
    _, phrase, found = text.rpartition(_PHRASE)
    if phrase:
        found = found.strip().removesuffix(".").replace("$", "").strip()
    return _normalised(found if phrase and "boxed{" not in found else last_box(found) or "")


def _normalised(text: str) -> str:
    r"""The string rules of Hendrycks et al. (MATH, 2021), in the official order: later ones see what earlier leave.

    Where the official code fails on a text it counts as unanswered, which is "" here.
    """
    text = text.replace("\n", "")
    if "\\" in text:
        text = text.replace("\\!", "").replace("\\\\", "\\")
    if "frac" in text:
        text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    if "\\" in text:
        text = text.replace("\\left", "").replace("\\right", "")
        text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "")
        text, unit, rest = text.partition("\\text{ ")
        if unit in rest and unit:
            return ""  # it expects one unit
        # Percent signs go twice: `\\%%` still holds one after the first time.
        text = text.replace("\\%", "").replace("\\%", "")
    # `.5` becomes `0.5`, and `x=5` becomes `5`.
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    text = f"0{text}" if text.startswith(".") else text
    if text.count("=") == 1 and text.index("=") <= 2:
        text = text.partition("=")[2]
    if re.search(r"\\sqrt(?=\\sqrt|\Z)", text):
        return ""
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text).replace(" ", "")
    # All fractions stay as they are when one lacks its second argument.
    if lacking := _LACKING.search(text):
        if not lacking[1]:
            return ""
    else:
        text = _BARE_FRACTION.sub(
            lambda bare: "\\frac" + "".join(f"{{{part}}}" for part in bare.groups() if part), text
        )
    text = "1/2" if text == "0.5" else text
    return _INTEGER_FRACTION.sub(r"\\frac{\1}{\2}", text) if "/" in text else text
