"""The verdicts of the paper's evaluation code, quirks included (microsoft/LEMA, inference_code/utils.py @ 94fea82).

A published number was made with these rules, so they are reproduced, not improved: `\\left` is cut out of
`\\leftarrow`, `10^2` is 8, `1,000` is not `1000` in MATH. Two things differ, and neither moves a verdict: arithmetic
is worked out by `lema.grading.expressions` where the official code runs it, and an answer that was not found is
None where the official code has 0 (numbers) or an empty string (LaTeX). It is still compared as that, so finding
nothing is right when the gold answer is 0. An empty gold LaTeX answer stops the official code; nothing equals it here.
"""

import re

from lema.grading.expressions import evaluate

_PHRASE = "The answer is "
_BOX = "\\boxed{"
_INTEGER_FRACTION = re.compile(r"\A(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)\Z")


def number_verdict(text: str, answer: str) -> tuple[str | None, bool]:
    """The answer extracted from `text`, and whether it equals the gold `answer` (alone or ending a text) as a float."""
    found = _number(text)
    gold = _number(answer if _PHRASE in answer else f"{_PHRASE}{answer}.")
    # 18.0 is shown as `18`, and no zero as `-0`.
    shown = None if found is None else repr(found + 0.0).removesuffix(".0")
    return shown, (found or 0.0) == (gold or 0.0)


def latex_verdict(text: str, answer: str) -> tuple[str | None, bool]:
    """The normalised answer extracted from `text`, and whether it is the string that `answer` gives.

    `answer` is the gold answer, alone or inside a text that boxes or announces it. Alone it stands for both such
    texts, which differ where a dollar sign is escaped: `\\$5` is `5` in a box, but `\\5` after the phrase.
    """
    found = _latex(text)
    golds = [answer] if _BOX in answer or _PHRASE in answer else [f"{_BOX}{answer}}}", f"{_PHRASE}{answer}."]
    return found or None, found != "" and found in map(_latex, golds)


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{}`, None when it has no brace or is not closed. Escaped braces count too."""
    start = text.rfind("\\boxed")
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]) if text.startswith(_BOX, start) else ():
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start + len(_BOX) : start + brace.start()]
    return None


def _number(text: str) -> float | None:
    """The number after the last `The answer is `, None when there is none."""
    text = text.split("\n\nQ: ")[0].split("\n\nQuestion: ")[0].replace("The answer is: ", _PHRASE)
    if _PHRASE not in text:
        return None
    found = text.rpartition(_PHRASE)[2].removesuffix(".")
    found = re.sub("[£€]", "", found).removesuffix(".").replace(",", "")
    for mark in ("=", ">>"):
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
            text = text.split(mark)[0].strip()
    text = text.replace("The answer is: ", _PHRASE)
    found = text
    if _PHRASE in text:
        found = text.rpartition(_PHRASE)[2].strip().removesuffix(".").replace("$", "").strip()
    if _PHRASE not in text or "boxed{" in found:
        found = last_box(found) or ""
    try:
        return _normalised(found)
    except (IndexError, ValueError):  # the official code fails on this text, which then counts as unanswered
        return ""


def _normalised(text: str) -> str:
    """The string rules of Hendrycks et al. (MATH, 2021), in the official order: later ones see what earlier leave."""
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    for mark in ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$"):
        text = text.replace(mark, "")
    if "\\text{ " in text:
        text, _ = text.split("\\text{ ")
    # Percent signs go twice: `\\%%` still holds one after the first time.
    text = text.replace("\\%", "").replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    # `.5` becomes `0.5`, `x=5` becomes `5`, `\sqrt3` becomes `\sqrt{3}`.
    text = re.sub(r"\A\.", "0.", text)
    text = re.sub(r"\A[^=]{0,2}=([^=]*)\Z", r"\1", text)
    head, *parts = text.split("\\sqrt")
    text = "\\sqrt".join([head, *(part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}" for part in parts)])
    text = _braced_fractions(text.replace(" ", ""))
    return _INTEGER_FRACTION.sub(r"\\frac{\1}{\2}", "1/2" if text == "0.5" else text)


def _braced_fractions(text: str) -> str:
    """`\\frac12` and `\\frac1{2}` become `\\frac{1}{2}`; all stays as it is when one lacks its second argument."""
    head, *parts = text.split("\\frac")
    for index, part in enumerate(parts):
        if part[0] != "{":
            if len(part) == 1:
                return text
            rest = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            parts[index] = f"{{{part[0]}}}{rest}"
    return "\\frac".join([head, *parts])
