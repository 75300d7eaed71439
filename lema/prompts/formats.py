"""The paper's text formats: CoT prompts and outputs, correction examples, and their parser.

The two CoT prompts and the correction layout are wire formats: released adapters were trained with them, so
they match byte for byte (paper.md, section 3; microsoft/LEMA @ 94fea82).

    Step 1: Tom has 5 + 3 = 9 apples.     wrong path in the prompt, between braces
    Step 2: The answer is 9.

    Step 1.                               completion: the incorrect step, why, the right steps from there on
    Explanation: 5 + 3 is 8, not 9.
    Correct Solution:
    {
    Step 1: Tom has 5 + 3 = 8 apples.     `...` stands before it when step 1 is right
    Step 2: The answer is 8.
    }
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COT_PROMPTS = {
    # The paper's own prompt: every LEMAv1 adapter was trained with it.
    "lema": "Please solve the following math problem.\nQuestion: {question}\nAnswer: Let's think step by step.\n",
    # The Alpaca form of WizardMath and MetaMath, as the paper's test file has it (with the final newline).
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{question}\n\n### Response: Let's think step by step.\n"
    ),
}
CORRECTION_PROMPT = (
    "For the following math word problem, the original solution is incorrect. Please identify the incorrect step, "
    "explain why it is incorrect, and provide the correct solution starting from that step.\n"
    "Question: {question}\nOriginal Solution:\n{{\n{steps}\n}}\nIncorrect Step:"
)
ANSWER = "The answer is {answer}."

_CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")
# A sentence ends at . ! or ? followed by white space and something that can open the next one.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\\$(\"'])")
# ... but not after these: "Mr. Smith", "vs. 3", "No. 7".
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|vs|No|approx|e\.g|i\.e)\.$")
_STEP = re.compile(r"^\s*Step (\d+):\s*")


@dataclass(frozen=True)
class ParsedCorrection:
    """A correction as read from text: `incorrect_step` is 1-based, `steps` start at that step."""

    incorrect_step: int
    explanation: str
    steps: list[str]


def cot_prompt(style: str, question: str) -> str:
    """The zero-shot prompt of a test or CoT training example; `style` is a key of `COT_PROMPTS`."""
    return COT_PROMPTS[style].format(question=question)


def reference_steps(solution: str) -> list[str]:
    """The steps of a reference rationale: its lines (or sentences), calculator notes removed."""
    return split_steps(_CALCULATOR_NOTE.sub("", solution))


def cot_completion(steps: list[str], answer: str) -> str:
    """One line of sentences ending in `The answer is X.`, as the paper's CoT outputs."""
    return one_line([*steps, ANSWER.format(answer=answer)])


def one_line(steps: list[str]) -> str:
    """Steps as sentences on one line; the last one is the answer line already."""
    return " ".join(map(_sentence, steps))


def split_steps(text: str) -> list[str]:
    """The steps of a solution: its non-empty lines, or its sentences when it is one line.

    >>> split_steps("Tom has 5+3=8. He eats 2.5 of them. The answer is 5.5.")
    ['Tom has 5+3=8.', 'He eats 2.5 of them.', 'The answer is 5.5.']
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) != 1:
        return [_STEP.sub("", line) for line in lines]
    steps: list[str] = []
    for sentence in _SENTENCE_END.split(lines[0]):
        if steps and _ABBREVIATION.search(steps[-1]):
            steps[-1] += " " + sentence
        else:
            steps.append(sentence)
    return [_STEP.sub("", step) for step in steps]


def correction_prompt(question: str, wrong_steps: list[str]) -> str:
    """The input of a correction example: instruction, question and the wrong path, step by step."""
    return CORRECTION_PROMPT.format(question=question, steps=_numbered(wrong_steps))


def correction_completion(incorrect_step: int, explanation: str, correct_steps: list[str]) -> str:
    """The target of a correction example; `correct_steps` start at `incorrect_step` (1-based).

    It opens with a space: the prompt ends in `Incorrect Step:` without one.
    """
    dots = "...\n" if incorrect_step > 1 else ""
    steps = _numbered(correct_steps, first=incorrect_step)
    return f" Step {incorrect_step}.\nExplanation: {explanation}\nCorrect Solution:\n{{\n{dots}{steps}\n}}"


def parse_correction(text: str) -> ParsedCorrection | None:
    """Read a corrector's reply; None when it is not in the paper's form.

    A leading `Incorrect Step:` is allowed. The inverse of `correction_completion`.
    """
    match = re.match(
        r"\s*(?:Incorrect Step:)?\s*Step (\d+)\b[^\n]*\n\s*Explanation:\s*(.*?)\n\s*Correct Solution:\s*\{?\s*\n(.*)",
        text,
        re.DOTALL,
    )
    if not match:
        return None
    body = match[3].strip().removesuffix("}").strip()
    steps: list[str] = []
    for line in body.splitlines():
        if line.strip() in ("", "..."):
            continue
        if _STEP.match(line):
            steps.append(_STEP.sub("", line).strip())
        elif steps:  # a step that runs over several lines
            steps[-1] += "\n" + line
        else:
            return None
    return ParsedCorrection(int(match[1]), match[2].strip(), steps) if steps else None


def _numbered(steps: list[str], first: int = 1) -> str:
    return "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, first))


def _sentence(step: str) -> str:
    return step if step.endswith((".", "!", "?", ":", ",", ";")) else step + "."
