"""A corrector's reply through the front, reader and verdict: what it looks like changes nothing, what it says does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lema.correctors.checking import checked
from lema.correctors.reference import correct, equations_of
from lema.grading.generated import answer_part
from lema.prompts.formats import reference_steps, split_steps
from lema.prompts.replies import read_correction
from lema.types import Correction, Problem, Solution

WRONG = [
    "Ann has 3 + 4 = 7 pens.",
    "She loses 2, so 7 - 2 = 6 are left.",
    "She buys 6 more, which makes 6 + 6 = 12.",
    "The answer is 12.",
]
WHY = "7 - 2 is 5, not 6."
RIGHT = ["She loses 2, so 7 - 2 = 5 are left.", "She buys 6 more, which makes 5 + 6 = 11.", "The answer is 11."]
PENS = Problem("p", "Ann has 3 pens and gets 4, loses 2 and buys 6. How many has she?", "", "11")


def front(reply: str, wrong: list[str] = WRONG, problem: Problem = PENS, grader: str = "gsm8k") -> Correction:
    said, reason = read_correction(reply, wrong, problem.candidates)
    solution = Solution("p", "m", 0, "\n".join(wrong), "12", correct=False, symbolic=False, truncated=False)
    return checked((problem, solution, wrong), said, reason, "c", grader)


def assert_read(reply: str, steps: list[str] = RIGHT) -> None:
    found = front(reply)
    assert (found.reason, found.incorrect_step, found.explanation) == (None, 2, WHY), reply
    assert found.correct_steps == steps


# A case's id -> why it is read otherwise than its label says.
OTHER_READINGS: dict[str, str] = {}


def test_cases_come_out_as_labelled_and_what_is_accepted_is_clean(data_dir: Path) -> None:
    file = data_dir / "cases" / "replies.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    others = set()
    for row in map(json.loads, file.read_text().splitlines()):
        found = front(row["input"])
        if found.accepted != (row["expected"] != "rej"):
            others.add(row["id"])
        elif found.accepted:
            said = (found.incorrect_step, found.explanation, len(found.correct_steps), found.correct_steps[-1])
            assert said == (2, WHY, 3, RIGHT[-1]), row
            assert not any(mark in step for step in found.correct_steps for mark in ("Step", "*", "`", "#", "(corr"))
    assert others == set(OTHER_READINGS)
    assert len(OTHER_READINGS) <= 3


HEAD = f" Step 2.\nExplanation: {WHY}\nCorrect Solution:\n"
LABELS = [
    *("Step {n}: {t}", "Step {n} : {t}", "Step {n}:: {t}", "Step {n}. {t}", "Step {n}) {t}", "Step {n} - {t}"),
    *("Step {n} -- {t}", "Step {n} -> {t}", "Step {n} → {t}", "Step {n} => {t}", "Step {n} | {t}", "Step {n}; {t}"),
    *("STEP {n}: {t}", "step{n}: {t}", "Step #{n}: {t}", "Step No. {n}: {t}", "Step number {n}: {t}", "Step-{n}: {t}"),
    *("Step {n}/4: {t}", "Step {n} of 4: {t}", "(Step {n}/4) {t}", "Step 0{n}: {t}", "Step {n}： {t}"),
    *("Step\u00a0{n}: {t}", "Step\u202f{n}: {t}", "\u200bStep {n}: {t}", "\ufeffStep {n}: {t}", "Step\u3000{n}: {t}"),
    *("[Step {n}] {t}", "[Step {n}]: {t}", "(Step {n}) {t}", "<step {n}> {t}", "<step {n}>{t}</step {n}>"),
    *("`Step {n}:` {t}", "`Step {n}: {t}`", "*Step {n}: {t}*", "_Step {n}: {t}_", "__Step {n}__: {t}"),
    *("***Step {n}:*** {t}", "**Step {n}: {t}**", "- Step {n}: {t}", "• Step {n}: {t}", "> Step {n}: {t}"),
    *("| Step {n} | {t} |", "## Step {n}: {t}", "#### Step {n}\n{t}", "**Step {n}**\n{t}", "**Step {n}:**\n\n{t}"),
    *(
        "<b>Step {n}:</b> {t}",
        "\\textbf{{Step {n}:}} {t}",
        "\\item Step {n}: {t}",
        "✅ Step {n}: {t}",
        "Step {n} ✅: {t}",
    ),
    *("{n}. {t}", "{n}) {t}", "({n}) {t}", "[{n}] {t}", "{n}: {t}", "**{n}.** {t}", "**{n}. {t}**", "- {n}. {t}"),
    *("{n}.\n{t}", "{n}.{t}", "{n}. Step {n}: {t}", "1. Step {n}: {t}", "{n}\ufe0f\u20e3 {t}"),
    *(
        "Step {n} (corrected): {t}",
        "Step {n} [corrected]: {t}",
        "**Step {n} (Corrected):** {t}",
        "Step {n} (fixed) {t}",
    ),
    *("Step {n}: (corrected) {t}", "Step {n}: {t} (corrected)", "Step {n}: {t} **(corrected)**", "Step {n}: {t} ✅"),
    *("Corrected Step {n}: {t}", "Step {n} - corrected: {t}", "Step {n}, corrected: {t}", "Step {n}: Corrected: {t}"),
    *("Step {n}: {t} (was wrong)", "Step {n}: {t} ← corrected", "Step {n} (by subtraction): {t}", 'Step {n}: "{t}"'),
]


@pytest.mark.parametrize("label", LABELS)
def test_a_step_is_read_under_any_usual_label(label: str) -> None:
    lines = [label.format(n=number, t=step) for number, step in enumerate(RIGHT, 2)]
    assert_read(HEAD + "{\n...\n" + "\n".join(lines) + "\n}")
    assert_read(HEAD + "\n".join(lines))
    assert_read(HEAD + "\n" + "\n\n".join(lines))


STEPS = "\n".join(f"Step {number}: {step}" for number, step in enumerate(RIGHT, 2))
BRACED = f"{{\n...\n{STEPS}\n}}"
PARTS = {
    "step": [
        *("Incorrect Step: Step 2", "Incorrect Step: (2)", "Incorrect Step: [Step 2]", "Incorrect Step: `Step 2`"),
        *("Incorrect Step - Step 2", "**Incorrect Step** → Step 2", "The incorrect step is: Step 2", "It is Step 2."),
        *(
            "Wrong Step: Step 2",
            "Faulty Step: Step 2",
            "Error: Step 2",
            "First Mistake: Step 2",
            "A. Incorrect Step: 2",
        ),
        *("(i) Incorrect Step: Step 2", "❌ Incorrect Step: Step 2", "\\textbf{Incorrect Step:} Step 2"),
        *("Incorrect Step: Step 2 of 4", "Incorrect Step ❌: Step 2", "> Incorrect Step: Step 2"),
    ],
    "explanation": [
        *("Why:", "Why it is incorrect:", "Why is it wrong?", "Reason:", "Reason for the error:", "Error:", "Mistake:"),
        *("Analysis:", "Justification:", "What went wrong:", "The Explanation:", "Brief explanation:", "Explanations:"),
        *("Explanation (why it is wrong):", "Explanation —", "Explanation=", "**Explanation**", "## Why it is wrong\n"),
        *("(b) Explanation:", "💡 **Explanation:**", "> Explanation:", "\u200bExplanation:", "Explaination:"),
    ],
    "solution": [
        *("Corrected Steps:", "Correct Steps:", "Corrected Steps", "Correct Solution from Step 2 onwards:"),
        *("Correct Solution (starting at Step 2):", "Correction:", "Solution:", "Revised Solution:", "Fixed solution:"),
        *("Here is the correct solution:", "Here are the corrected steps:", "The correct solution is as follows:"),
        *(
            "**Corrected Steps**",
            "### Corrected Steps\n",
            "Correct Solution —",
            "Correct Solution;",
            "✅ Correct Solution:",
        ),
        *("Step-by-step correct solution:", "Starting from Step 2:", "Corrected Version:", "> The Correct Solution:"),
    ],
}
USUAL = {"step": "Incorrect Step: Step 2", "explanation": "Explanation:", "solution": "Correct Solution:"}


@pytest.mark.parametrize(("part", "words"), [(part, words) for part, all_words in PARTS.items() for words in all_words])
def test_a_part_is_read_under_any_usual_name(part: str, words: str) -> None:
    names = USUAL | {part: words}
    for solution in (BRACED, STEPS):
        assert_read(f"{names['step']}\n{names['explanation']} {WHY}\n{names['solution']}\n{solution}")


ANSWERS = [
    *(
        "\\boxed{11}",
        "$\\boxed{11}$",
        "$$\\boxed{11}$$",
        "\\[\n\\boxed{11}\n\\]",
        "**\\boxed{11}**",
        "\\boxed{11 \\text{ pens}}",
    ),
    *(
        "Answer: 11",
        "**Answer:** 11 pens",
        "**Answer: 11**",
        "Answer = 11",
        "Final Answer: $11$",
        "Final answer:\n\\boxed{11}",
    ),
    *("#### 11", "####11", "The final answer is 11.", "The final answer is: $\\boxed{11}$. I hope it is correct."),
    *("The correct answer is **11**.", "The right answer is 11.", "The answer is: $\\boxed{11}$.", "THE ANSWER IS 11."),
    *(
        "So the answer is 11.",
        "Therefore, the answer is 11 pens.",
        "Hence, Ann has 11 pens.",
        "So, 11.",
        "∴ The answer is 11.",
    ),
    *("🎉 **The answer is 11.**", "<answer>11</answer>", "The answer is 11.<|im_end|>", "The answer is 11.</s>"),
    *("The answer equals 11.", "The answer would be 11."),
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_final_answer_in_any_usual_form_ends_what_is_trained_on_in_the_papers(answer: str) -> None:
    steps = STEPS.rpartition("\n")[0]
    for stated in (f"{steps}\nStep 4: {answer}\n}}", f"{steps}\n{answer}\n}}", f"{steps}\n}}\n{answer}"):
        if not stated.endswith(("\n}", answer)) or "<|" in answer or "</s>" in answer:
            continue
        found = front(f"{HEAD}{{\n...\n{stated}")
        assert (found.reason, found.correct_steps[-1], found.answer) == (None, "The answer is 11.", "11"), stated
        assert found.correct_steps[:2] == RIGHT[:2]
    assert front(f"{HEAD}{steps}\nStep 4: {answer}").correct_steps[-1] == "The answer is 11."


@pytest.mark.parametrize(
    ("last", "steps"),
    [
        ("Thus, she has 11 pens in total.", ["Thus, she has 11 pens in total.", "The answer is 11."]),
        ("So $x = \\boxed{11}$.", ["So $x = \\boxed{11}$.", "The answer is 11."]),
        ("So she has 5 + 6 = 11.", ["So she has 5 + 6 = 11.", "The answer is 11."]),
        ("The answer is 5 + 6 = 11.", ["The answer is 5 + 6 = 11."]),  # the official rules read it
        ("11", ["The answer is 11."]),
    ],
)
def test_a_last_step_that_says_more_is_kept(last: str, steps: list[str]) -> None:
    braced = BRACED.replace("The answer is 11.", last)
    assert_read(HEAD + braced, [*RIGHT[:2], *steps])


GOOD = HEAD + BRACED
DRESSES = {
    "thinking with a draft": f"<think>Incorrect Step: Step 3.\nExplanation: no\nCorrect Solution:\nx</think>\n{GOOD}",
    "a channel": f"<|channel|>analysis<|message|>Incorrect Step: 3<|end|><|channel|>final<|message|>{GOOD}<|return|>",
    "answer tags": f"<answer>\nIncorrect Step:{GOOD}\n</answer>",
    "answer tags on the lines": f"<answer>Incorrect Step:{GOOD}</answer>",
    "a fence that closes on the line": f"{HEAD}```\n{BRACED}```",
    "a table": f"| Incorrect Step | Step 2 |\n|---|---|\n| Explanation | {WHY} |\n\nCorrect Solution:\n{STEPS}",
    "inline code": GOOD.replace("7 - 2 = 5", "`7 - 2 = 5`"),
    "italics": GOOD.replace("7 - 2 = 5", "*7 - 2 = 5*"),
    "underlines": GOOD.replace("7 - 2 = 5", "__7 - 2 = 5__"),
    "tags": GOOD.replace("7 - 2 = 5", "<u>7 - 2 = 5</u>"),
    "struck out": GOOD.replace("= 5 are", "= ~~6~~ 5 are"),
    "stars on a line of their own": HEAD + STEPS.replace("\nStep 3:", "\n**\nStep 3:**"),
    "bullets": HEAD + STEPS.replace("She", "- She"),
    "a note between": GOOD.replace("\nStep 3", "\nNote: I changed this step.\nStep 3"),
    "a remark between": GOOD.replace("\nStep 3", "\n(This was the incorrect step.)\nStep 3"),
    "a title of the answer": HEAD + STEPS.replace("Step 4:", "### Step 4: Answer\n"),
    "numbered from the first": f"{HEAD}1. {WRONG[0]}\n2. {RIGHT[0]}\n3. {RIGHT[1]}\n4. {RIGHT[2]}",
    "the first stays": f"{HEAD}Step 1 is correct.\n{STEPS}",
    "the first unchanged": f"{HEAD}Step 1 (unchanged): {WRONG[0]}\n{STEPS}",
    "the answer again and again": f"{HEAD}{STEPS}\nStep 5: The answer is 11.\nStep 6: The answer is 11.\nStep 7: The",
    "a title before the answer": f"{HEAD}{STEPS.replace('Step 4: ', '**Step 4: Conclusion**' + chr(10))}",
    "the first as before": f"{HEAD}Step 1: As before.\n{STEPS}",
    "the first ticked": f"{HEAD}Step 1: {WRONG[0]} ✓\n{STEPS}",
    "what comes": f"{HEAD}Here are the corrected steps from step 2:\n{STEPS}",
}


@pytest.mark.parametrize("dress", DRESSES)
def test_what_is_around_the_form_is_taken_off(dress: str) -> None:
    assert_read(DRESSES[dress])


ONE_LINE = [
    "Step {n}. {t}",
    "Step {n}) {t}",
    "[Step {n}] {t}",
    "**Step {n}:** {t}",
    "Step {n} → {t}",
    "{n}. {t}",
    "({n}) {t}",
]
REJECTED = {
    **{
        f"on one line: {form}": HEAD + " ".join(form.format(n=n, t=t) for n, t in enumerate(RIGHT, 2))
        for form in ONE_LINE
    },
    "numbers from one again": HEAD + "\n".join(f"{n}. {t}" for n, t in enumerate(RIGHT, 1)),
    "the original and the corrected": f"{HEAD}Step 2 (original): {WRONG[1]}\nStep 2 (corrected): {STEPS[8:]}",
    "both in a step": GOOD.replace("She loses", f"Original: {WRONG[1]}\nCorrected: She loses"),
    "no explanation": GOOD.replace(WHY, "N/A"),
    "the explanation's place": GOOD.replace(WHY, "[Your explanation]"),
    "a step marked as incorrect": GOOD.replace("\nStep 2:", "\nStep 2 (incorrect):"),
    "thinking without an end": f"<think>\nIncorrect Step:{GOOD}",
    "two drafts": f"Incorrect Step:{GOOD}\n\nWait.\n\nIncorrect Step:{GOOD}",
    "JSON in a fence": '```json\n{"incorrect_step": 2, "explanation": "w", "correct_solution": "11"}\n```',
    "the form itself": "Incorrect Step: Step k.\nExplanation: w\nCorrect Solution:\n{\nStep k: The answer is N.\n}",
    "two steps of a slash": GOOD.replace(" Step 2.", " Step 2/3.", 1),
    "one right, one wrong": GOOD.replace(" Step 2.", " Step 1 is right. Step 2 is wrong.", 1),
    "two steps in brackets": GOOD.replace(" Step 2.", " Step [2, 3]", 1),
    "another number in the box": GOOD.replace("The answer is 11.", "\\boxed{12}"),
    "two boxes": GOOD.replace("The answer is 11.", "\\boxed{11} or \\boxed{12}"),
    "not the answer": GOOD.replace("The answer is 11.", "The answer is not 11."),
    "no answer but a sum": GOOD.replace("\nStep 4: The answer is 11.", ""),
    "the first step changed": f"{HEAD}Step 1: Ann has 7 pens.\n{STEPS}",
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_says_otherwise_is_rejected(name: str) -> None:
    assert not front(REJECTED[name]).accepted


HALF = Problem("h", "What is x?", "", "\\frac{1}{2}")


@pytest.mark.parametrize(
    ("last", "steps"),
    [
        ("\\boxed{\\frac{1}{2}}", ["The answer is \\frac{1}{2}."]),
        ("Hence $x = \\boxed{\\frac12}$.", ["Hence $x = \\boxed{\\frac12}$.", "The answer is \\frac12."]),
        ("Thus the final answer is $\\boxed{\\frac{1}{2}}$.", ["The answer is \\frac{1}{2}."]),
        ("The answer is $\\frac{1}{2}$.", ["The answer is $\\frac{1}{2}$."]),
    ],
)
def test_a_boxed_formula_is_stated_in_the_papers_form(last: str, steps: list[str]) -> None:
    found = front(f" Step 1.\nExplanation: w\nCorrect Solution:\n{{\nStep 1: {last}\n}}", ["No."], HALF, "math")
    assert (found.accepted, found.correct_steps) == (True, steps)


BANK = Problem("b", "Where?", "", "bank", candidates=["bank", "library", "city"])


@pytest.mark.parametrize(
    "form", ["\nCorrected Answer:\n{{\nA bank.\n{}\n}}", "\nHere is the correct answer:\nA bank.\n{}"]
)
@pytest.mark.parametrize("last", ["The answer is bank.", "**Answer:** bank", "\\boxed{\\text{bank}}", "Answer: A"])
def test_an_answer_among_choices_is_stated_in_the_papers_form(form: str, last: str) -> None:
    found = front(f" Wrong.{form.format(last)}", ["The answer is city."], BANK, "csqa")
    assert (found.accepted, found.correct_steps) == (True, ["A bank.", "The answer is bank."])
    assert not front(f" Wrong.{form.format('Banks lend.')}", ["The answer is city."], BANK, "csqa").accepted


def test_a_candidate_that_begins_with_not_is_no_denial() -> None:
    problem = Problem("n", "How?", "", "not happy", candidates=["happy", "not happy"])
    found = front(" Wrong.\nCorrected Answer:\n{\nThe answer is not happy.\n}", ["It is happy."], problem, "csqa")
    assert (found.accepted, found.correct_steps) == (True, ["The answer is not happy."])


NOTED = Problem("n", "q", "She has 5 + 3 = <<5+3=8>>8.\nThen 8 - 2 = <<8-2=6>>6.", "6")
READERS: dict[str, Callable[[str], object]] = {
    "equations_of": lambda text: equations_of(text, 0),
    "correct": lambda text: correct(NOTED, split_steps(text)),
    "correct without notes": lambda text: correct(HALF, split_steps(text)),
    "split_steps": split_steps,
    "reference_steps": reference_steps,
    "answer_part": answer_part,
    "front": lambda text: front(f"{text}\n{HEAD}{text}\nStep 2: {text}\n{text}\nThe answer is 11.{text}"),
    "front of an answer": lambda text: front(f"{HEAD}{{\nStep 2: So {text} 11{text}\n}}"),
    "front of choices": lambda text: front(f" w{text}\nCorrected Answer:\n{text}\n{text}", ["a"], BANK, "csqa"),
}
PIECES = [
    *(
        " ",
        "\t",
        "\u00a0",
        "\n",
        " \n",
        "\r",
        "\x1c",
        "9",
        "9 ",
        "9.",
        "a",
        "a ",
        "ab-",
        "(",
        ")",
        "[",
        "{",
        "}",
        "<",
        "<<",
    ),
    *(
        "<think>",
        "</think>",
        "<answer>",
        "$",
        "\\",
        "\\frac{",
        "\\boxed{",
        "\\[",
        "Step 1",
        "\nStep 1: ",
        "\n1. ",
        "*",
        "**",
    ),
    *(
        "** ",
        "_",
        "`",
        "~",
        "~~",
        "#",
        "# ",
        "-",
        "- ",
        "1+",
        "1=",
        "x ",
        "/a",
        "The answer is ",
        ". ",
        "! A",
        "…",
        "|",
        "| ",
        ">",
    ),
    *("\u200b", "✅", "Question: ", "so 1", "(corrected", "5 a/b ", "Explanation: ", "Why: "),
]


@pytest.mark.parametrize("reader", READERS)
def test_hostile_texts_are_read_in_time(reader: str) -> None:
    for piece in PIECES:
        for around in ("{}", "5 + 3 ={}8."):
            text = around.format(piece * (20_000 // len(piece)))
            began = time.process_time()
            READERS[reader](text)
            # A few hundredths; what took quadratic time took 3.4 s and more, and a busy machine adds up to a second.
            assert time.process_time() - began < 2.5, (piece, around)
