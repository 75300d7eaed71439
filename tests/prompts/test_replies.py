"""Reading a corrector's reply: tables of what models write, and what holds for every text."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lema.prompts.formats import correction_completion
from lema.prompts.replies import IDENTICAL, NO_SUCH_STEP, NOT_KEPT, UNPARSABLE, ParsedCorrection, read_correction
from lema.prompts.wording import PLACEHOLDER

WRONG = [
    "Tom has 3 + 4 = 7 apples.",
    "He eats 2, so 7 - 2 = 6 are left.",
    "He buys 6 more, which makes 6 + 6 = 12.",
    "The answer is 12.",
]
WHY = "7 - 2 is 5, not 6."
RIGHT = ["He eats 2, so 7 - 2 = 5 are left.", "He buys 6 more, which makes 5 + 6 = 11.", "The answer is 11."]
STEPS = "Step 2: {}\nStep 3: {}\nStep 4: {}".format(*RIGHT)
FIRST = f"Step 1: {WRONG[0]}"
HEAD = f" Step 2.\nExplanation: {WHY}\nCorrect Solution:\n"
GOOD = f"{HEAD}{{\n...\n{STEPS}\n}}"
STARRED_STEPS = re.sub(r"(Step \d):", r"**\1**:", STEPS)
BOLD_STEPS = re.sub(r"(Step \d:)", r"**\1**", STEPS)

# What is read as the one correction above.
SAME = {
    "the papers form": GOOD,
    "the prompts last words again": f"Incorrect Step:{GOOD}",
    "the last words twice": f"Incorrect Step: Incorrect Step:{GOOD}",
    "first incorrect step": f"First Incorrect Step:{GOOD}",
    "upper case": GOOD.replace("Explanation", "EXPLANATION").replace("Correct Solution", "CORRECT SOLUTION"),
    "no white space before": GOOD.strip(),
    "white space around": f"\n\n  {GOOD}\n\n ",
    "tabs and indentation": GOOD.replace("\n", "\n\t "),
    "trailing spaces": GOOD.replace("\n", "   \n"),
    "empty lines between": GOOD.replace("\n", "\n\n"),
    "CRLF": GOOD.replace("\n", "\r\n"),
    "CR": GOOD.replace("\n", "\r"),
    "corrected solution": GOOD.replace("Correct Solution", "Corrected Solution"),
    "solution from the step": GOOD.replace("Correct Solution:", "Correct Solution (starting from Step 2):"),
    "solution starting from that step": GOOD.replace("Solution:", "Solution starting from that step:"),
    "explanation of": GOOD.replace("Explanation:", "Explanation of the error:"),
    "bold headers": (
        f"**Incorrect Step:** Step 2\n\n**Explanation:** {WHY}\n\n**Correct Solution:**\n{{\n...\n{STEPS}\n}}"
    ),
    "bold without the colon": f"**Incorrect Step**: Step 2\n**Explanation**: {WHY}\n**Correct Solution**:\n{STEPS}",
    "everything bold": f"**Step 2.**\n**Explanation: {WHY}**\n**Correct Solution:**\n**{{**\n{BOLD_STEPS}\n**}}**",
    "headings": f"### Incorrect Step\nStep 2\n\n### Explanation\n{WHY}\n\n### Correct Solution\n...\n{STEPS}",
    "headings with colons": f"## Incorrect Step: Step 2\n## Explanation:\n{WHY}\n## Correct Solution:\n{{\n{STEPS}\n}}",
    "numbered headings": f"1. **Incorrect Step:** Step 2\n2. **Explanation:** {WHY}\n3. **Correct Solution:**\n{STEPS}",
    "bullets": f"- Incorrect Step: Step 2\n- Explanation: {WHY}\n- Correct Solution:\n{{\n{STEPS}\n}}",
    "rules between": GOOD.replace("\nExplanation", "\n\n---\n\nExplanation").replace("\nCorrect", "\n***\nCorrect"),
    "all in a fence": f"```\nIncorrect Step:{GOOD}\n```",
    "the solution in a fence": f"{HEAD}```text\n{{\n...\n{STEPS}\n}}\n```",
    "a fence without braces": f"{HEAD}```\n{STEPS}\n```\nLet me know if you have questions.",
    "bold labels": f"{HEAD}{{\n...\n{BOLD_STEPS}\n}}",
    "bold labels, colon outside": f"{HEAD}{{\n{STARRED_STEPS}\n}}",
    "bold steps": HEAD + "\n".join(f"**{line}**" for line in STEPS.split("\n")),
    "bullets before labels": HEAD + "\n".join(f"- {line}" for line in STEPS.split("\n")),
    "bold labels in bullets": HEAD + "\n".join(f"* {line}" for line in BOLD_STEPS.split("\n")),
    "numbers before labels": f"{HEAD}2. Step 2: {RIGHT[0]}\n3. Step 3: {RIGHT[1]}\n4. Step 4: {RIGHT[2]}",
    "labels as headings": f"{HEAD}#### Step 2\n{RIGHT[0]}\n\n#### Step 3:\n{RIGHT[1]}\n\n#### Step 4\n{RIGHT[2]}",
    "labels with full stops": HEAD + STEPS.replace(":", "."),
    "labels with dashes": HEAD + re.sub(r"(Step \d):", r"\1 –", STEPS),
    "labels with #": HEAD + STEPS.replace("Step ", "Step #"),
    "lower-case labels": HEAD + STEPS.replace("Step", "step"),
    "no space after labels": HEAD + re.sub(r"(Step \d:) ", r"\1", STEPS),
    "a bold answer": GOOD.replace("The answer is 11.", "The answer is **11**."),
    "a bold answer line": GOOD.replace("The answer is 11.", "**The answer is 11.**"),
    "bold in the explanation": GOOD.replace("is 5, not 6", "is **5**, not **6**"),
    "a step and its comment": GOOD.replace(" Step 2.", " Step 2. The difference is wrong."),
    "the step quoted": GOOD.replace(" Step 2.", f" Step 2: {WRONG[1]}"),
    "the step quoted below": GOOD.replace(" Step 2.", f" Step 2.\n“{WRONG[1]}”"),
    "the step as a number": GOOD.replace(" Step 2.", " 2"),
    "the step as a number and full stop": GOOD.replace(" Step 2.", " **2**."),
    "the step with #": GOOD.replace(" Step 2.", " Step #2"),
    "the step with no.": GOOD.replace(" Step 2.", " Step No. 2"),
    "the step as a word": GOOD.replace(" Step 2.", " Step two."),
    "the step as an ordinal": GOOD.replace(" Step 2.", " The second step is wrong."),
    "the step as 2nd": GOOD.replace(" Step 2.", " The 2nd step."),
    "the step in a sentence": GOOD.replace(" Step 2.", " The first incorrect step is Step 2."),
    "the mistake in a sentence": GOOD.replace(" Step 2.", "I believe the mistake is in **Step 2**."),
    "incorrect step 2": f"**Incorrect Step 2:**\n{GOOD.partition('.')[2]}",
    "prose before": f"Sure! I compared each of the steps with the question.\n\nIncorrect Step:{GOOD}",
    "prose that names a step before": f"Step 1 is right, as 3 + 4 = 7.\n\nIncorrect Step:{GOOD}",
    "the question echoed": f"Question: How many?\nOriginal Solution:\n{{\n{FIRST}\n}}\nIncorrect Step:{GOOD}",
    "thoughts before": f"<think>\nIncorrect Step: Step 1?\nExplanation: no.\n</think>\n\nIncorrect Step:{GOOD}",
    "prose before the braces": GOOD.replace("Solution:\n", "Solution:\nHere is the solution from Step 2 on.\n"),
    "prose before the steps": f"{HEAD}Here is the corrected solution:\n{STEPS}",
    "prose after": f"{GOOD}\n\nI hope this helps! Let me know if anything is unclear.",
    "prose after and no braces": f"{HEAD}{STEPS}\n\nI hope this helps!",
    "prose after in the braces": f"{HEAD}{{\n{STEPS}\nI hope this helps!\n}}",
    "prose after on the line": f"{HEAD}{STEPS} I hope this helps!",
    "a step after the answer": f"{HEAD}{{\n{STEPS}\nStep 5: I hope it is correct.\n}}",
    "a question made up": f"{GOOD}\n\nQuestion: Why?\nOriginal Solution:\n{{\nStep 1: 9\n}}\nIncorrect Step: Step 1.",
    "a question made up, no braces": f"{HEAD}{STEPS}\n\nQ: How many eggs are left?\nA: 3",
    "a path made up": f"{GOOD}\nOriginal Solution:\n{{\n{FIRST}\n}}\nIncorrect Step: Step 1.\nExplanation: Why.",
    "a problem made up in Markdown": f"{GOOD}\n\n### Question:\nHow many?\n\n### Incorrect Step: Step 1.",
    "no dots": GOOD.replace("...\n", ""),
    "one character for dots": GOOD.replace("...", "…"),
    "dots in brackets": GOOD.replace("...", "[...]"),
    "dots with a remark": GOOD.replace("...", "... (Step 1 as before)"),
    "dots and spaces": GOOD.replace("...", ". . ."),
    "a remark for dots": GOOD.replace("...", "(Step 1 is right.)"),
    "dots in a step": GOOD.replace("...", "Step 1: ..."),
    "unchanged in a step": GOOD.replace("...", "Step 1: (unchanged)"),
    "the earlier step copied": GOOD.replace("...", FIRST),
    "the earlier step respaced": GOOD.replace("...", FIRST.replace("3 + 4", "3+4").replace("Tom ", "Tom  ")),
    "the earlier step bold": GOOD.replace("...", f"**Step 1:** {WRONG[0]}"),
    "the earlier step without label": GOOD.replace("...", WRONG[0]),
    "the brace on the headers line": GOOD.replace("Solution:\n{", "Solution: {"),
    "the brace before the dots": GOOD.replace("{\n...", "{ ..."),
    "the brace before the step": f"{HEAD}{{Step 2: {STEPS[8:]}}}",
    "the brace on the last steps line": f"{HEAD}{{\n...\n{STEPS} }}",
    "the brace on the last steps line, prose": f"{HEAD}{{\n...\n{STEPS}}}\n\nDone.",
    "only an opening brace": f"{HEAD}{{\n...\n{STEPS}",
    "only a closing brace": f"{HEAD}{STEPS}\n}}",
    "braces escaped": f"{HEAD}\\{{\n...\n{STEPS}\n\\}}",
    "no braces": f"{HEAD}...\n{STEPS}",
    "the answer without a label": f"{HEAD}{STEPS.replace('Step 4: ', '')}",
    "the answer without a label, bold": f"{HEAD}{STEPS.replace('Step 4: The answer is 11.', '**The answer is 11.**')}",
    "the solution before the explanation": (
        f" Step 2.\nCorrect Solution:\n{{\n...\n{STEPS}\n}}\nExplanation: {WHY}\n\nI hope this helps!"
    ),
    "the explanation first": f"Explanation: {WHY}\nIncorrect Step: Step 2\nCorrect Solution:\n{{\n{STEPS}\n}}",
    "the step last": f"**Correct Solution:**\n{STEPS}\n\n**Explanation:** {WHY}\n\n**Incorrect Step:** Step 2",
}


@pytest.mark.parametrize("name", SAME)
def test_one_correction_in_many_forms(name: str) -> None:
    assert read_correction(SAME[name], WRONG) == (ParsedCorrection(2, WHY, RIGHT), None)


def of(step: int, steps: str, why: str = WHY) -> str:
    return f" Step {step}.\nExplanation: {why}\nCorrect Solution:\n{{\n{steps}\n}}"


# name -> reply, incorrect step, explanation, steps
OTHERS = {
    "the first step": (of(1, "Step 1: No.\nStep 2: The answer is 1."), 1, WHY, ["No.", "The answer is 1."]),
    "the last step": (of(4, "...\nStep 4: The answer is 1."), 4, WHY, ["The answer is 1."]),
    "two earlier steps copied": (
        of(3, f"Step 1: {WRONG[0]}\nStep 2: {WRONG[1]}\nStep 3: The answer is 1."),
        3,
        WHY,
        ["The answer is 1."],
    ),
    "one step becomes three": (
        of(4, "...\nStep 4: One.\nStep 5: Two.\nStep 6: The answer is 1."),
        4,
        WHY,
        ["One.", "Two.", "The answer is 1."],
    ),
    "a step that is right stays": (of(1, f"{FIRST}\nStep 2: The answer is 5."), 1, WHY, [WRONG[0], "The answer is 5."]),
    "LaTeX braces": (
        of(2, "...\nStep 2: $\\frac{1}{2}\\left\\{x\\right\\}$.\nStep 3: The answer is \\frac{1}{2}."),
        2,
        WHY,
        ["$\\frac{1}{2}\\left\\{x\\right\\}$.", "The answer is \\frac{1}{2}."],
    ),
    "LaTeX that ends in a brace": (
        of(2, "...\nStep 2: The answer is \\frac{1}{2}"),
        2,
        WHY,
        ["The answer is \\frac{1}{2}"],
    ),
    "LaTeX and the brace on its line": (
        f"{HEAD}{{\nStep 2: The answer is \\frac{{1}}{{2}}}}",
        2,
        WHY,
        ["The answer is \\frac{1}{2}"],
    ),
    "LaTeX without braces around": (
        f"{HEAD}Step 2: The answer is \\boxed{{\\frac{{1}}{{2}}}}",
        2,
        WHY,
        ["The answer is \\boxed{\\frac{1}{2}}"],
    ),
    "only a box": (
        f"{HEAD}...\nStep 2: So $x = \\boxed{{9}}$.\n\nThis is what was asked.",
        2,
        WHY,
        ["So $x = \\boxed{9}$."],
    ),
    "unbalanced LaTeX": (
        of(2, "...\nStep 2: $\\frac{1}{2$ and {.\nStep 3: The answer is 1."),
        2,
        WHY,
        ["$\\frac{1}{2$ and {.", "The answer is 1."],
    ),
    "a display of several lines": (
        of(2, "...\nStep 2: We get\n\\[\n  x = 1\n\\]\nand so on.\nStep 3: The answer is 1."),
        2,
        WHY,
        ["We get\n\\[\nx = 1\n\\]\nand so on.", "The answer is 1."],
    ),
    "a display with a brace of its own line": (
        of(2, "...\nStep 2: \\text{\nx\n}\nStep 3: The answer is 1."),
        2,
        WHY,
        ["\\text{\nx\n}", "The answer is 1."],
    ),
    "an answer on the line below": (
        of(2, "...\nStep 2: The answer is\n$$\n1\n$$"),
        2,
        WHY,
        ["The answer is\n$$\n1\n$$"],
    ),
    "a minus after the label": (
        of(2, "...\nStep 2: -5 + 4 = -1.\nStep 3: The answer is -1."),
        2,
        WHY,
        ["-5 + 4 = -1.", "The answer is -1."],
    ),
    "powers are not bold": (
        of(2, "...\nStep 2: 2**3 + 4**2 = 24.\nStep 3: The answer is 24."),
        2,
        WHY,
        ["2**3 + 4**2 = 24.", "The answer is 24."],
    ),
    "dollars with cents": (of(2, "...\nStep 2: The answer is $2.50. That is all."), 2, WHY, ["The answer is $2.50."]),
    "an explanation of paragraphs": (
        of(4, "Step 4: The answer is 1.", "One.\n\nStep 2 says 6.\n- Two."),
        4,
        "One.\n\nStep 2 says 6.\n- Two.",
        ["The answer is 1."],
    ),
    "an explanation on its own line": (GOOD.replace("Explanation: ", "Explanation:\n\n"), 2, WHY, RIGHT),
    "an explanation after the solution that is cut": (
        f" Step 2.\nCorrect Solution:\n{STEPS}\n\nExplanation: One.\nTwo.\n\nThree.",
        2,
        "One.\nTwo.",
        RIGHT,
    ),
    "an answer within a step": (
        of(2, "...\nStep 2: There are 5.\nSo the answer is $5$.\nStep 3: The answer is 5."),
        2,
        WHY,
        ["There are 5.\nSo the answer is $5$.", "The answer is 5."],
    ),
    "an answer without a label, on the line below": (
        f"{HEAD}Step 2: So we are done.\nThe answer is\n$$\n1\n$$",
        2,
        WHY,
        ["So we are done.", "The answer is\n$$\n1\n$$"],
    ),
    "an answer that is stated twice": (
        of(2, "Step 2: The answer is $3! \\cdot 2 = \\boxed{12}$.\nStep 3: The answer is 12.\nStep 4: I hope so."),
        2,
        WHY,
        ["The answer is $3! \\cdot 2 = \\boxed{12}$.", "The answer is 12."],
    ),
    "a factorial in the answer": (
        of(2, "...\nStep 2: The answer is $3! \\cdot 2$. Good luck!"),
        2,
        WHY,
        ["The answer is $3! \\cdot 2$."],
    ),
    "a step that refers to another": (
        of(3, "...\nStep 3: By Step 2 and (step 1), 6 - 2 = 4.\nStep 4: The answer is 4."),
        3,
        WHY,
        ["By Step 2 and (step 1), 6 - 2 = 4.", "The answer is 4."],
    ),
    "the answer and a sentence before it on one line": (
        of(2, "...\nStep 2: So 5 remain. The answer is 5. Good luck!"),
        2,
        WHY,
        ["So 5 remain. The answer is 5."],
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_corrections(name: str) -> None:
    reply, step, explanation, steps = OTHERS[name]
    assert read_correction(reply, WRONG) == (ParsedCorrection(step, explanation, steps), None)


NO_CORRECTIONS = {
    "nothing": ("", UNPARSABLE),
    "white space": (" \n\r\n\t", UNPARSABLE),
    "praise": ("The solution is right.", UNPARSABLE),
    "a refusal": ("I'm sorry, but I can't help with that.", UNPARSABLE),
    "JSON": ('{"incorrect_step": 2, "explanation": "Why.", "correct_solution": ["The answer is 11."]}', UNPARSABLE),
    "no explanation": (f" Step 2.\nCorrect Solution:\n{{\n...\n{STEPS}\n}}", UNPARSABLE),
    "an empty explanation": (GOOD.replace(WHY, ""), UNPARSABLE),
    "no solution": (f" Step 2.\nExplanation: {WHY}", UNPARSABLE),
    "an empty solution": (f"{HEAD}{{\n...\n}}", UNPARSABLE),
    "braces alone": (f"{HEAD}{{\n}}", UNPARSABLE),
    "an empty step": (of(2, "...\nStep 2:\nStep 3: The answer is 11."), UNPARSABLE),
    "no step named": (GOOD.replace(" Step 2.", " The subtraction."), UNPARSABLE),
    "no incorrect step": (GOOD.replace(" Step 2.", " None, although Step 2 is odd."), UNPARSABLE),
    "a step that is right": (GOOD.replace(" Step 2.", " Step 2 is correct."), UNPARSABLE),
    "no mistake in a step": (GOOD.replace(" Step 2.", " There is no mistake in Step 2."), UNPARSABLE),
    "two steps": (GOOD.replace(" Step 2.", " Step 2 and Step 3."), UNPARSABLE),
    "a range of steps": (GOOD.replace(" Step 2.", " Step 2-3."), UNPARSABLE),
    "a list of steps": (GOOD.replace(" Step 2.", " Step 2, 3"), UNPARSABLE),
    "steps": (GOOD.replace(" Step 2.", " Steps 2 to 3"), UNPARSABLE),
    "either step": (GOOD.replace(" Step 2.", " Step 2 or 3"), UNPARSABLE),
    "a step of a step": (GOOD.replace(" Step 2.", " Step 2.5"), UNPARSABLE),
    "a step with a letter": (GOOD.replace(" Step 2.", " Step 2b"), UNPARSABLE),
    "a negative step": (GOOD.replace(" Step 2.", " Step -2"), UNPARSABLE),
    "verdicts on all steps": (GOOD.replace(" Step 2.", " Step 1: correct\nStep 2: incorrect"), UNPARSABLE),
    "ten digits": (GOOD.replace("Step 2", "Step 2222222222"), UNPARSABLE),
    "thousands of digits": (GOOD.replace("Step 2", f"Step {'9' * 5000}"), UNPARSABLE),
    "thousands of digits in a label": (GOOD.replace("Step 3", f"Step {'9' * 5000}"), UNPARSABLE),
    "two corrections": (f"{GOOD}\n\nIncorrect Step:{GOOD}", UNPARSABLE),
    "two steps in two places": (f"{GOOD}\n\nIncorrect Step: Step 3", UNPARSABLE),
    "two explanations": (GOOD.replace("Correct Solution", "Explanation: Or not.\nCorrect Solution"), UNPARSABLE),
    "no labels": (f"{HEAD}{{\n{RIGHT[0]}\n{RIGHT[2]}\n}}", UNPARSABLE),
    "an unknown line before the steps": (GOOD.replace("...", "Tom has 8 apples."), UNPARSABLE),
    "a step left out": (of(2, f"...\nStep 2: {RIGHT[0]}\nStep 4: {RIGHT[2]}"), UNPARSABLE),
    "a step twice": (of(2, f"...\nStep 2: {RIGHT[0]}\nStep 2: {RIGHT[2]}"), UNPARSABLE),
    "steps out of order": (of(2, f"...\nStep 3: {RIGHT[1]}\nStep 2: {RIGHT[0]}\nStep 4: {RIGHT[2]}"), NOT_KEPT),
    "steps on one line": (of(2, f"...\n{STEPS}".replace("\nStep", " Step")), UNPARSABLE),
    "dots between the steps": (GOOD.replace("\nStep 4", "\n...\nStep 4"), UNPARSABLE),
    "dots after the steps": (of(2, f"...\nStep 2: {RIGHT[0]}\n..."), UNPARSABLE),
    "cut off in the explanation": (GOOD[:40], UNPARSABLE),
    "cut off in the solution": (GOOD[: GOOD.index("which makes 5")], UNPARSABLE),
    "a fence in a step": (GOOD.replace("Step 4: ", "Step 4: ```"), UNPARSABLE),
    "half a surrogate pair": (GOOD.replace("not 6", "not \ud83d"), UNPARSABLE),
    "half a surrogate pair in a step": (GOOD.replace("5 are", "\udc00 are"), UNPARSABLE),
    "step 0": (GOOD.replace(" Step 2.", " Step 0."), NO_SUCH_STEP),
    "a step behind the last": (of(5, "...\nStep 5: The answer is 11."), NO_SUCH_STEP),
    "step 999,999,999": (GOOD.replace("Step 2.", "Step 999999999."), NO_SUCH_STEP),
    "the earlier step changed": (GOOD.replace("...", FIRST.replace("7", "8")), NOT_KEPT),
    "the earlier step changed, in brackets": (GOOD.replace("...", "Step 1: (3 + 4 = 8)"), NOT_KEPT),
    "the earlier step abridged": (GOOD.replace("...", "Step 1: 3 + 4 = 7"), NOT_KEPT),
    "one of two earlier steps changed": (of(3, f"{FIRST}\nStep 2: {RIGHT[0]}\nStep 3: The answer is 11."), NOT_KEPT),
    "numbered from one again": (of(3, "Step 1: 5 + 6 = 11.\nStep 2: The answer is 11."), NOT_KEPT),
    "steps that start too late": (GOOD.replace(f"Step 2: {RIGHT[0]}\n", ""), NOT_KEPT),
    "a label of zero": (GOOD.replace("...", "Step 0: Read the question."), NOT_KEPT),
    "the wrong path again": (of(2, f"...\nStep 2: {WRONG[1]}\nStep 3: {WRONG[2]}\nStep 4: {WRONG[3]}"), IDENTICAL),
    "the wrong path respaced": (
        of(1, "\n".join(f"Step {row}: {step.replace(' + ', '+')}" for row, step in enumerate(WRONG, 1))),
        IDENTICAL,
    ),
    "only the last full stop differs": (of(4, "...\nStep 4: The answer is 12"), IDENTICAL),
}


@pytest.mark.parametrize("name", NO_CORRECTIONS)
def test_what_is_no_correction_has_its_reason(name: str) -> None:
    reply, reason = NO_CORRECTIONS[name]
    parsed, found = read_correction(reply, WRONG)
    assert found == reason
    assert (parsed is None) == (reason == UNPARSABLE), "what was read stands beside the other reasons"


def test_what_was_read_is_told_with_the_reason() -> None:
    assert read_correction(GOOD, WRONG[:1]) == (ParsedCorrection(2, WHY, RIGHT), NO_SUCH_STEP)
    assert read_correction(GOOD, []) == (ParsedCorrection(2, WHY, RIGHT), NO_SUCH_STEP)
    late = GOOD.replace(f"Step 2: {RIGHT[0]}\n", "")
    assert read_correction(late, WRONG) == (ParsedCorrection(2, WHY, RIGHT[1:]), NOT_KEPT)


CHOICES = ["bank", "library", "department store"]
WRONG_LINES = ["Explanations:", "Bank - It lends money.", "Library - It sells.", "The answer is library."]
RIGHT_LINES = ["Explanations:", "Bank - It lends money.", "Library - It lends books.", "The answer is bank."]
LINES = "\n".join(RIGHT_LINES)
ANSWER = f"Corrected Answer:\n{{\n{LINES}\n}}"
CHOICE = f" A library sells nothing.\n{ANSWER}"
# reply -> None for the correction above, or the reason
CHOICE_REPLIES = {
    "the papers form": (CHOICE, None),
    "the prompts last words again": (f"Mistakes:{CHOICE}", None),
    "bold headers": (CHOICE.replace("Corrected Answer:", "**Corrected Answer:**"), None),
    "headings": (f"### Mistakes\n{CHOICE}".replace("Corrected Answer:", "### Corrected Answer"), None),
    "prose before": (f"Sure, here it is.\n\nMistakes:{CHOICE}", None),
    "prose after": (f"{CHOICE}\n\nI hope this helps!", None),
    "no braces, prose after": (f" A library sells nothing.\nCorrected Answer:\n{LINES}\n\nHope this helps!", None),
    "bullets": (CHOICE.replace("Bank -", "- Bank -").replace("Library -", "* **Library** -"), None),
    "a bold answer": (CHOICE.replace("is bank.", "is **bank**."), None),
    "a fence": (CHOICE.replace("{\n", "```\n{\n"), None),
    "CRLF": (CHOICE.replace("\n", "\r\n"), None),
    "a question made up": (f"{CHOICE}\n\nQuestion: Why?\nCandidate Answers: a, b.\nOriginal Answer:\n{{\n}}", None),
    "the mistakes last": (f"{ANSWER}\n\nMistakes: A library sells nothing.\n\nDone.", None),
    "nothing": ("", UNPARSABLE),
    "praise": ("It is right.", UNPARSABLE),
    "no lines": (" It has none.\nCorrected Answer:\n{\n}", UNPARSABLE),
    "no mistakes": ("\nCorrected Answer:\n{\nA bank.\n}", UNPARSABLE),
    "left out": (CHOICE.replace("Bank - It lends money.", "..."), UNPARSABLE),
    "cut off": (CHOICE[:-30], UNPARSABLE),
    "twice": (f"{CHOICE}\n{ANSWER}", UNPARSABLE),
    "the wrong answer again": (" Why.\nCorrected Answer:\n{\n" + "\n".join(WRONG_LINES) + "\n}", IDENTICAL),
}


@pytest.mark.parametrize("name", CHOICE_REPLIES)
def test_replies_among_choices(name: str) -> None:
    reply, reason = CHOICE_REPLIES[name]
    parsed, found = read_correction(reply, WRONG_LINES, CHOICES)
    assert found == reason
    if reason is None:
        assert parsed == ParsedCorrection(1, "A library sells nothing.", RIGHT_LINES)


def test_a_candidate_with_a_full_stop_stays_whole() -> None:
    lines = ["St. Louis - It is far.", "The answer is u.s. Army."]
    reply = correction_completion(1, "Why.", lines, ["bank", "u.s. Army"])
    assert read_correction(reply, WRONG_LINES, ["bank", "u.s. Army"]) == (ParsedCorrection(1, "Why.", lines), None)


# Lines as any text has them: no layout of ours, no Markdown.
_LINE = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"], exclude_characters="*`~_#>•\u00a0\u2007\u202f"),
    min_size=1,
    max_size=60,
).map(str.strip)
_LATEX = st.lists(
    st.sampled_from(["\\frac{1}{2}", "$x$", "{", "}", "\\{", "= 8", "so", "Step 2", "5.", "\\\\", "the answer is"]),
    min_size=1,
    max_size=8,
).map(" ".join)
_LAYOUT = re.compile(
    r"(?i)[-+\d.()\s{}[\]…=]*$|[-+\d.()\s{]*(?:step|explanation|mistake|correct|incorrect|wrong|first|erroneous"
    r"|(?:so|thus|hence|therefore)?,? ?the (?:final |correct )?answer|question|original|problem|q\b)"
    r"|.*(?:Step \d+:|\.\.\.|…$)"
    r"|[\[(].*[\])]\.?$|[-+•] |.*</think>"
)
LINE = st.one_of(_LINE, _LATEX).filter(lambda line: line and not _LAYOUT.match(line))
STEP = st.lists(LINE, min_size=1, max_size=3).map("\n".join)


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 5), STEP, st.lists(STEP, max_size=4), LINE)
def test_reading_inverts_writing(step: int, explanation: str, steps: list[str], answer: str) -> None:
    assume(not PLACEHOLDER.fullmatch(explanation))
    steps = [*steps, f"The answer is {answer.split()[0]}."]
    completion = correction_completion(step, explanation, steps)
    wrong = ["One.", "Two.", "Three.", "Four.", "Five."]
    assert read_correction(completion, wrong) == (ParsedCorrection(step, explanation, steps), None)


@settings(deadline=None, max_examples=150)
@given(STEP, st.lists(LINE, max_size=6))
def test_reading_inverts_writing_among_choices(explanation: str, lines: list[str]) -> None:
    assume(not PLACEHOLDER.fullmatch(explanation))
    lines = [*lines, "The answer is bank."]
    completion = correction_completion(1, explanation, lines, CHOICES)
    assert read_correction(completion, WRONG_LINES, CHOICES) == (ParsedCorrection(1, explanation, lines), None)


PIECES = [
    *(" ", "\n", "\n\n", "\r\n", "{", "}", "\n{\n", "\n}", "\\{", "**", "```\n"),
    *("...", "…", "# ", "- ", "$", "\\frac{1}{2}", "\ud800", "\x00", "9" * 50),
    *("Step ", "Step 1: ", "\nStep 2: ", "Step 3.", "Incorrect Step:", "\nExplanation: ", "\nCorrect Solution:\n"),
    *("Mistakes:", "\nCorrected Answer:\n", "The answer is 11.", "\nQuestion: ", "<think>", "</think>"),
    *("unchanged", "is right", "the second step", WRONG[0], WRONG[1], RIGHT[1]),
]
MUTATIONS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 30), st.sampled_from(["", *PIECES])), min_size=1, max_size=6
)


def mutated(reply: str, mutations: list[tuple[int, int, str]]) -> str:
    for start, cut, piece in mutations:
        start %= len(reply) + 1
        reply = reply[:start] + piece + reply[start + cut :]
    return reply


REPLIES = st.one_of(
    st.text(st.characters()),
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.builds(mutated, st.sampled_from([GOOD, CHOICE, *SAME.values()]), MUTATIONS),
)


@settings(deadline=1000, max_examples=1500)
@given(REPLIES, st.sampled_from([(), CHOICES]))
def test_no_reply_raises_and_what_is_accepted_is_clean(reply: str, candidates: list[str]) -> None:
    parsed, reason = read_correction(reply, WRONG, candidates)
    assert reason in (None, UNPARSABLE, NO_SUCH_STEP, NOT_KEPT, IDENTICAL)
    if reason is not None:
        return
    assert parsed is not None
    assert 1 <= parsed.incorrect_step <= len(WRONG)
    assert parsed.explanation
    assert parsed.correct_steps
    assert [*WRONG[: parsed.incorrect_step - 1], *parsed.correct_steps] != WRONG
    for text in [parsed.explanation, *parsed.correct_steps]:
        assert text == text.strip() != ""
        assert "```" not in text
        text.encode()
    for step in parsed.correct_steps:
        assert not re.search(r"\n\s*\n|\r\n", step)
        assert candidates or not re.match(r"\W*Step \d:", step)
        assert not re.match(r"\*\*[^\s*][^*]*(?<=\S)\*\*$", step)


ENDLESS = [
    *(
        "\n",
        " ",
        "\n ",
        "\t",
        "\u2028",
        "\n\u00a0",
        "\r",
        "{",
        "}",
        "{\n",
        "}\n",
        "\\",
        "*",
        "**a ",
        "** ",
        "#",
        "-",
        "- ",
    ),
    *("(", ". ", "…", "a", "9", "Mr. ", "```", "```\n", "</think>", "Step 2", "Step 2:", "\nStep 2: ", "Step 2 and "),
    *("step one ", "The answer is ", "\nThe answer is 8", "\\boxed{", "wrong is ", "the first step is wrong in "),
    *("Incorrect Step:", "Incorrect Step: \n", "Explanation: ", "Explanation:\n", "Correct Solution:"),
    *("Correct Solution:\n", "Question:", "Mistakes: "),
]


@pytest.mark.parametrize("piece", ENDLESS)
@pytest.mark.parametrize(
    "reply",
    [
        "<>",
        "Incorrect Step: <> Step 1.\nExplanation: why\nCorrect Solution:\n{\nStep 1: The answer is 8.\n}",
        "Step 1.<>Explanation: <>why\nCorrect Solution:\n{\nStep 1: The answer is 8.\n}",
        "Step 1.\nExplanation: why\nCorrect Solution:<>{<>Step 1: The answer is 8.<>}<>",
        "Step 1.\nExplanation: why\nCorrect Solution:\nStep 1:<>The answer is<>8.<>Step 2:<>",
    ],
)
def test_endless_replies_are_read_in_time(reply: str, piece: str) -> None:
    count = reply.count("<>")
    reply = reply.replace("<>", piece * (200_000 // len(piece) // count))
    for candidates in ((), CHOICES):
        began = time.process_time()
        read_correction(reply, ["It is 9."], candidates)
        assert time.process_time() - began < 2
