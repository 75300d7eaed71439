"""The paper's text formats: CoT prompts and outputs, zero-shot or after worked examples, and correction examples.

The two CoT prompts and the correction layout are wire formats: released adapters were trained with them, so
they match byte for byte (microsoft/LEMA @ 94fea82, test_data and prompts).

    Step 1.                               a completion: the incorrect step, why, the right steps from there on
    Explanation: 5 + 3 is 8, not 9.
    Correct Solution:
    {
    Step 1: Tom has 5 + 3 = 8 apples.     `...` stands before it when step 1 is right
    Step 2: The answer is 8.
    }

CSQA has its own formats: the candidates stand below the question, and outputs keep their lines (an explanation of each
candidate, the reasons, the answer). A correction states the mistakes and rewrites the whole answer; it names no step.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from lema.types import Problem

COT_PROMPTS = {
    # The paper's own prompt: every LEMAv1 adapter was trained with it.
    "lema": "Please solve the following math problem.\nQuestion: {question}\nAnswer: Let's think step by step.\n",
    # The Alpaca form of WizardMath and MetaMath, as the paper's test file has it (with the final newline).
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{question}\n\n### Response: Let's think step by step.\n"
    ),
}
# The paper's own for CSQA.
_CHOICE_PROMPT = (
    "Please answer the following commonsense question. Please first explain each candidate answer, then select only "
    "one answer that is most relevant to the question and provide reasons."
    "\nQuestion: {question}\nAnswer: Let's think step by step.\n"
)
CORRECTION_PROMPT = (
    "For the following math word problem, the original solution is incorrect. Please identify the incorrect step, "
    "explain why it is incorrect, and provide the correct solution starting from that step.\n"
    "Question: {question}\nOriginal Solution:\n{{\n{steps}\n}}\nIncorrect Step:"
)
_CHOICE_CORRECTION_PROMPT = (
    "For the following commonsense question, the original answer contains mistakes. Please explain the mistakes, and "
    "provide the corrected answer.\n"
    "Question: {question}\nOriginal Answer:\n{{\n{steps}\n}}\nMistakes:"
)
# By the part that an ablation leaves out: words of the two prompts above, and what replaces them. The prompt then asks
# for the remaining parts and ends in the name of the first (CSQA names no step).
_PROMPT_WITHOUT = {
    "step": {
        "identify the incorrect step, explain": "explain",
        "from that step": "from the incorrect step",
        "Incorrect Step:": "Explanation:",
    },
    "explanation": {
        " explain why it is incorrect,": "",
        "explain the mistakes, and provide": "provide",
        "Mistakes:": "Corrected Answer:",
    },
    "solution": {
        "explain why it is incorrect, and provide the correct solution starting from that step": (
            "and explain why it is incorrect"
        ),
        ", and provide the corrected answer": "",
    },
}
ANSWER = "The answer is {answer}."
INCORRECT = "This solution is incorrect."  # ours

# A sentence ends at . ! or ? (not that of "Mr. Smith", "vs. 3", "No. 7") before what can open the next one.
_NOT_ABBREVIATED = r"(?<!\b(?:Mr|Ms|Dr|St|vs|No)\.)(?<!\b(?:Mrs|e\.g|i\.e)\.)(?<!\bapprox\.)"
SENTENCE_END = re.compile(rf"(?<=[.!?]){_NOT_ABBREVIATED}\s+(?=[A-Z0-9\\$(\"'])")
_STEP = re.compile(r"^\s*Step \d+:\s*", re.MULTILINE)


def cot_prompt(style: str, question: str, candidates: Sequence[str] = ()) -> str:
    """The zero-shot prompt of a test or CoT training example; `style` is a key of `COT_PROMPTS`."""
    own = _CHOICE_PROMPT if candidates and style == "lema" else COT_PROMPTS[style]
    return own.format(question=_asked(question, candidates))


def cot(style: str, problem: Problem) -> tuple[str, str]:
    """Prompt and completion of the reference solution, ending in `The answer is X.`."""
    steps = [*reference_steps(problem.solution), ANSWER.format(answer=problem.answer)]
    return cot_prompt(style, problem.question, problem.candidates), cot_completion(steps, problem.candidates)


def few_shot_prompt(demonstrations: str, question: str, candidates: Sequence[str] = ()) -> str:
    """The prompt for a model not trained on our formats: the worked examples as in their file, then the question."""
    head = demonstrations.rstrip("\n")
    return f"{head}\n\nQuestion: {_asked(question, candidates)}\nAnswer: Let's think step by step.\n"


def cot_completion(steps: list[str], candidates: Sequence[str] = ()) -> str:
    """Steps as one line of sentences, the last of which is the answer line already; with candidates, one line each."""
    if candidates:
        return "\n".join(steps)
    return " ".join(step if step.endswith((".", "!", "?", ":", ",", ";")) else step + "." for step in steps)


def reference_steps(solution: str) -> list[str]:
    """The steps of a reference rationale, calculator notes removed."""
    return split_steps(re.sub(r"<<[^<>]*>>", "", solution))


def split_steps(text: str) -> list[str]:
    """The steps of a solution: its non-empty lines, or its sentences when it is one line. `Step k:` is no part of them.

    >>> split_steps("Tom has 5+3=8. He eats 2.5 of them. The answer is 5.5.")
    ['Tom has 5+3=8.', 'He eats 2.5 of them.', 'The answer is 5.5.']
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = SENTENCE_END.split(lines[0])
    return [step for line in lines if (step := _STEP.sub("", line))]


def correction_prompt(
    question: str, wrong_steps: list[str], candidates: Sequence[str] = (), without: str | None = None
) -> str:
    """The input of a correction example: instruction, question and the wrong path, step by step.

    `without` is the part that its completion leaves out: `step`, `explanation` or `solution`.
    """
    form, steps = CORRECTION_PROMPT, _numbered(wrong_steps, 1)
    if candidates:
        form, steps = _CHOICE_CORRECTION_PROMPT, "\n".join(wrong_steps)
    for words, others in _PROMPT_WITHOUT[without].items() if without else ():
        form = form.replace(words, others)
    return form.format(question=_asked(question, candidates), steps=steps)


def correction_completion(
    incorrect_step: int,
    explanation: str,
    correct_steps: list[str],
    candidates: Sequence[str] = (),
    without: str | None = None,
) -> str:
    """The target of a correction example, which follows its prompt; `correct_steps` start at `incorrect_step`."""
    return "".join(correction_parts(incorrect_step, explanation, correct_steps, candidates, without).values())


def correction_parts(
    incorrect_step: int,
    explanation: str,
    correct_steps: list[str],
    candidates: Sequence[str] = (),
    without: str | None = None,
) -> dict[str, str]:
    """The same by its parts in order, `step`, `explanation` and `solution`; together they are the target.

    The parts other than `without` are byte-identical to those of the full completion.
    """
    dots = "...\n" if incorrect_step > 1 else ""
    parts = {
        "step": f"Incorrect Step: Step {incorrect_step}.",
        "explanation": f"Explanation: {explanation}",
        "solution": f"Correct Solution:\n{{\n{dots}{_numbered(correct_steps, incorrect_step)}\n}}",
    }
    if candidates:
        lines = "\n".join(correct_steps)
        parts = {"explanation": f"Mistakes: {explanation}", "solution": f"Corrected Answer:\n{{\n{lines}\n}}"}
    first, *later = (part for part in parts if part != without)
    told = {first: parts[first].partition(":")[2]}  # the first words end the prompt
    for before, part in pairwise([first, *later]):
        told |= {before: told[before] + "\n", part: parts[part]}
    return told


def inline_parts(
    wrong_steps: list[str], incorrect_step: int, explanation: str, correct_steps: list[str]
) -> dict[str, str]:
    """A solution that corrects itself, by its parts in order; together they are the completion of a CoT prompt.

    `before` are the steps that are right, `wrong` is the incorrect one; `step` says so, `explanation` why, and
    `solution` goes on with `correct_steps`. The form is LEMMA's (arXiv 2503.17439, fix and continue), the wording ours.
    """
    kept = incorrect_step - 1
    parts = {
        "before": wrong_steps[:kept],
        "wrong": wrong_steps[kept:incorrect_step],
        "step": ["Incorrect Step."],
        "explanation": [f"Explanation: {explanation}"],
        "solution": correct_steps,
    }
    texts = {part: cot_completion(steps) for part, steps in parts.items() if steps}
    first = next(iter(texts))
    return {part: text if part == first else f" {text}" for part, text in texts.items()}


def _asked(question: str, candidates: Sequence[str]) -> str:
    return f"{question}\nCandidate Answers: {', '.join(candidates)}." if candidates else question


def _numbered(steps: list[str], first: int) -> str:
    return "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, first))
