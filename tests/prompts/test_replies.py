"""Reading a corrector's reply: tables of what models write, and what holds for every text."""

import re
import time

import pytest
from hypothesis import assume, given, settings, strategies as st
from tables import some, table

from lema.prompts.formats import correction_completion
from lema.prompts.replies import (
    IDENTICAL,
    NO_SUCH_STEP,
    NOT_KEPT,
    UNPARSABLE,
    ParsedCorrection,
    finds_no_error,
    read_correction,
)
from lema.prompts.wording import PLACEHOLDER

WRONG = [
    *("Tom has 3 + 4 = 7 apples.", "He eats 2, so 7 - 2 = 6 are left.", "He buys 6 more, which makes 6 + 6 = 12."),
    "The answer is 12.",
]
WHY = "7 - 2 is 5, not 6."
RIGHT = ["He eats 2, so 7 - 2 = 5 are left.", "He buys 6 more, which makes 5 + 6 = 11.", "The answer is 11."]
STEPS = "Step 2: {}\nStep 3: {}\nStep 4: {}".format(*RIGHT)
GOOD = f" Step 2.\nExplanation: {WHY}\nCorrect Solution:\n{{\n...\n{STEPS}\n}}"
# What is read as the one correction above.
SAME = dict(table(__file__, "same"))


@pytest.mark.parametrize(
    ("reply", "none"),
    [
        *((" None.", True), ("\n**None**", True), ("Incorrect Step: none\nAll is well.", True), ("N/A", True)),
        *(("No step is incorrect.", True), ("There are no errors.", True), ("All steps are correct.", True)),
        *((GOOD, False), ("", False), ("Nonetheless, Step 2.", False), ("None of them but Step 2.", False)),
        *(("All steps are correct except the last one.", False), ("No error. But the last step is wrong.", False)),
        *(
            ("None of the first three is wrong; the mistake is in the last.", False),
            ("None. Each follows from the last.", True),
        ),
        *(("Notes: none", False), ("The solution is right.", False), ("<think>None.</think> Step 1.", False)),
    ],
)
def test_a_reply_that_finds_no_error_is_told_from_one_that_names_a_step(reply: str, none: bool) -> None:
    assert finds_no_error(reply) is none


@pytest.mark.parametrize("name", SAME)
def test_one_correction_in_many_forms(name: str) -> None:
    assert read_correction(SAME[name], WRONG) == (ParsedCorrection(2, WHY, RIGHT), None)


# name -> reply, incorrect step, explanation, steps
OTHERS = {key: tuple(values) for key, *values in table(__file__, "others")}


@pytest.mark.parametrize("name", OTHERS)
def test_other_corrections(name: str) -> None:
    reply, step, explanation, steps = OTHERS[name]
    assert read_correction(reply, WRONG) == (ParsedCorrection(step, explanation, steps), None)


NO_CORRECTIONS = {key: tuple(values) for key, *values in table(__file__, "no_corrections")} | {
    "thousands of digits": (GOOD.replace("Step 2", f"Step {'9' * 5000}"), UNPARSABLE),
    "thousands of digits in a label": (GOOD.replace("Step 3", f"Step {'9' * 5000}"), UNPARSABLE),
    "two corrections": (f"{GOOD}\n\nIncorrect Step:{GOOD}", UNPARSABLE),
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
CHOICE_REPLIES = {key: tuple(values) for key, *values in table(__file__, "choice_replies")}


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
    r"(?i)[-+\d.()\s{}[\]…=\"'“”]*$|[-+\d.()\s{]*(?:step|explanation|mistake|correct|incorrect|wrong|first|erroneous"
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


ENDLESS = table(__file__, "endless")


@pytest.mark.parametrize("piece", some(ENDLESS, 9))
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
        assert time.process_time() - began < 6
