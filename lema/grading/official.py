"""The verdicts of the paper's evaluation code, quirks included (microsoft/LEMA, inference_code/utils.py @ 94fea82).

A published number was made with these rules, so they are reproduced, not improved: `\\left` is cut out of
`\\leftarrow`, `10^2` is 8, `1,000` is not `1000` in MATH. Two things differ, and neither moves a verdict: arithmetic
is worked out by `lema.grading.expressions` where the official code runs it, and an answer that was not found is
reported as None where the official code has 0 (numbers) or an empty string (LaTeX). It is still compared as
that, so finding nothing is right when the gold answer is the number 0. An empty gold LaTeX answer stops the official
code; here nothing equals it.
"""

from __future__ import annotations

import re
import string

from lema.grading.expressions import evaluate

_PHRASE = "The answer is "
_BOX = "\\boxed{"
_NO_LETTERS = str.maketrans("", "", string.ascii_lowercase)
_NO_CURRENCY = str.maketrans("", "", "£€")
# In the official order: later rules see what earlier ones leave.
_BEFORE_UNITS = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
# Percent signs go twice: `\\%%` still holds one after the first time.
_AFTER_UNITS = (("\\%", ""), ("\\%", ""), (" .", " 0."), ("{.", "{0."))
_UNITS = "\\text{ "
_INTEGER_FRACTION = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")


class _Refused(Exception):
    """The official normalisation fails on this text, which then counts as unanswered."""


def number_verdict(text: str, answer: str) -> tuple[str | None, bool]:
    """The answer extracted from `text`, and whether it equals `answer` as a float.

    `answer` is the gold answer, alone or at the end of a text in the same form.

    >>> number_verdict("So she pays 5 * $3. The answer is $15.00.", "15")
    ('15', True)
    >>> number_verdict("I do not know.", "0")
    (None, True)
    """
    found, gold = _number(text), _number(_labelled(answer))
    return (None if found is None else _plain(found)), (found or 0.0) == (gold or 0.0)


def latex_verdict(text: str, answer: str) -> tuple[str | None, bool]:
    """The normalised answer extracted from `text`, and whether it is the string that `answer` gives.

    `answer` is the gold answer, alone or inside a text that boxes or announces it. Alone it stands for both such
    texts, which differ where a dollar sign is escaped: `\\$5` is `5` in a box, but `\\5` after the phrase.

    >>> latex_verdict("Hence $x = \\\\boxed{\\\\dfrac12}$.", "\\\\frac{1}{2}")
    ('\\\\frac{1}{2}', True)
    """
    found = _latex(text)
    golds = [answer] if _BOX in answer or _PHRASE in answer else [f"{_BOX}{answer}}}", _labelled(answer)]
    return found or None, found != "" and any(found == _latex(gold) for gold in golds)


def _labelled(answer: str) -> str:
    return answer if _PHRASE in answer else f"{_PHRASE}{answer}."


def _plain(value: float) -> str:
    """`18` for 18.0, else the shortest decimal that reads back as the same float."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)


def _number(text: str) -> float | None:
    """The number after the last `The answer is `, None when there is none."""
    text = text.split("\n\nQ: ")[0].split("\n\nQuestion: ")[0].replace("The answer is: ", _PHRASE)
    if _PHRASE not in text:
        return None
    found = text.rpartition(_PHRASE)[2].removesuffix(".").translate(_NO_CURRENCY).removesuffix(".").replace(",", "")
    for mark in ("=", ">>"):
        if mark in found:
            found = found.split(mark)[-1].strip()
    found = found.lower().translate(_NO_LETTERS).partition(":")[0].replace("$", "").replace('"', "")
    if "%" in found:
        found = found.strip()
        if not found.endswith("%"):
            return None
        found = found[:-1]
    found = found.removesuffix("/").replace(" ", "")
    if any(sign in found for sign in "+-*/"):
        return _as_float(evaluate(found))
    return _as_float(found)


def _as_float(value: int | float | str | None) -> float | None:
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
    if _PHRASE in text:
        found = text.rpartition(_PHRASE)[2].strip().removesuffix(".").replace("$", "").strip()
        if "boxed{" in found:
            found = _last_box(found)
    else:
        found = _last_box(text)
    try:
        return _normalised(found)
    except _Refused:
        return ""


def _last_box(text: str) -> str:
    """The content of the last `\\boxed{}`, "" when it is not closed or has no brace. Escaped braces count too."""
    start = text.rfind("\\boxed")
    if not text.startswith(_BOX, start):
        return ""
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start + len(_BOX) : start + brace.start()]
    return ""


def _normalised(text: str) -> str:
    """The string rules of Hendrycks et al. (MATH, 2021), as the official code has them."""
    for old, new in _BEFORE_UNITS:
        text = text.replace(old, new)
    before, *after = text.split(_UNITS)
    if len(after) > 1:
        raise _Refused
    text = before
    for old, new in _AFTER_UNITS:
        text = text.replace(old, new)
    if text.startswith("."):
        text = "0" + text
    left, *right = text.split("=")
    if len(right) == 1 and len(left) <= 2:
        text = right[0]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    if text == "0.5":
        return "\\frac{1}{2}"
    fraction = _INTEGER_FRACTION.fullmatch(text)
    return f"\\frac{{{fraction[1]}}}{{{fraction[2]}}}" if fraction else text


def _braced_roots(text: str) -> str:
    """`\\sqrt3` becomes `\\sqrt{3}`."""
    head, *parts = text.split("\\sqrt")
    if "" in parts:
        raise _Refused
    return "\\sqrt".join([head, *(part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}" for part in parts)])


def _braced_fractions(text: str) -> str:
    """`\\frac12` and `\\frac1{2}` become `\\frac{1}{2}`; all stays as it is when one lacks its second argument."""
    head, *parts = text.split("\\frac")
    braced = [head]
    for part in parts:
        if not part:
            raise _Refused
        if part[0] == "{":
            braced.append(part)
        elif len(part) == 1:
            return text
        elif part[1] == "{":
            braced.append(f"{{{part[0]}}}{part[1:]}")
        else:
            braced.append(f"{{{part[0]}}}{{{part[1]}}}{part[2:]}")
    return "\\frac".join(braced)
