"""What the tiny base reads: its texts, the wrong facts of its world, and the tokenizer made of them.

On arithmetic the base lives in a world of its own, where a share of the facts is wrong (`5 + 3 = 9`). All its
texts agree with that world, so its later mistakes are systematic: the same fact, wrong in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

from lema.arithmetic import VALUES, Fact, Facts, Story, make_problems, make_story, true_facts
from lema.config import Config
from lema.prompts.formats import (
    ANSWER,
    CORRECTION_PROMPT,
    correction_completion,
    correction_prompt,
    cot_completion,
    cot_prompt,
    reference_steps,
)
from lema.types import Example, Problem

BOS, EOS, PAD, UNK = "<s>", "</s>", "<pad>", "<unk>"
NUMBERS = range(41)  # single tokens on arithmetic; sums of two values reach 40
SHIFTS = (-2, -1, 1, 2)  # how far a wrong result lies from the right one (demo_notes, set-up)
# Pre-tokens: a number, a punctuation mark or a word, each with the space before it, or white space.
# Numbers are single tokens on arithmetic, which the prototype's accuracy rests on; real text has digits.
PRE_TOKEN = r" ?\d{{1,{digits}}}| ?[^\s\d\w]| ?[^\W\d]+|\s"


def own_facts(seed: int, share: float) -> Facts:
    """The facts of the base's world: `share` of the true ones moved by 1 or 2, still in range."""
    random, facts = Random(seed), true_facts()
    for fact in random.sample(sorted(facts), round(share * len(facts))):
        facts[fact] = _shifted(random, facts[fact])
    return facts


def arithmetic_corpus(config: Config) -> tuple[list[Example], list[Problem]]:
    """The pretraining texts, and fresh problems of the base's own world with its own answers.

    None of the questions is one of the task's: those would tell the base about training or test.
    """
    tiny, task = config.backbone.tiny, config.task
    assert tiny is not None
    assert task.arithmetic is not None
    random = Random(config.backbone.seed)
    facts = own_facts(config.backbone.seed, tiny.wrong_facts)
    train, test = make_problems(task.seed, task.arithmetic.num_train, task.arithmetic.num_test)
    seen = {problem.question for problem in [*train, *test]}
    stories: list[Story] = []
    while len(stories) < tiny.corpus_size + tiny.gate_problems:
        story = make_story(random, facts)
        if story.question not in seen:
            seen.add(story.question)
            stories.append(story)
    style = config.backbone.prompt.value
    texts: list[Example] = []
    for number, story in enumerate(stories[tiny.gate_problems :]):
        correction = _correction(random, facts, story) if random.random() < tiny.correction_share else None
        texts.append(correction or _cot(style, number, story, facts))
    held_out = [
        Problem(f"own-world-{number}", story.question, "", str(story.values(facts)[-1]))
        for number, story in enumerate(stories[: tiny.gate_problems])
    ]
    return texts, held_out


def text_corpus(style: str, problems: Iterable[Problem]) -> list[Example]:
    """The training problems of a published task as CoT texts."""
    return [
        Example(p.id, "cot", cot_prompt(style, p.question), cot_completion(reference_steps(p.solution), p.answer))
        for p in problems
    ]


def make_tokenizer(texts: list[Example], style: str, vocab_size: int, max_length: int, numbers: range) -> Any:
    """A byte-level BPE tokenizer of `texts`, as a `PreTrainedTokenizerFast`; any text comes back unchanged.

    Each of `numbers` is one token, with and without the space before it; without any, each digit is. The fixed
    wording of the prompts is single tokens too: 15 (CoT) and 45 (correction) fewer to read in each text. Like
    Llama's it puts `<s>` before a text and nothing after.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    pattern = Regex(PRE_TOKEN.format(digits=max(len(str(number)) for number in [0, *numbers])))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    wordings = _wordings(style)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(wordings),
        special_tokens=[UNK, BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = ["".join(f" {number},{number}" for number in numbers)] * len(texts)
    for text in texts:
        line = text.prompt + text.completion
        for wording in wordings:
            line = line.replace(wording, "")
        lines.append(line)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_tokens([AddedToken(wording, normalized=False) for wording in wordings])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def _wordings(style: str) -> list[str]:
    """What stands before, between and after the variable parts of the two prompts."""
    mark = "\0"
    pieces = cot_prompt(style, mark).split(mark) + CORRECTION_PROMPT.format(question=mark, steps=mark).split(mark)
    return [piece.rstrip(" ") for piece in pieces]


def _cot(style: str, number: int, story: Story, facts: Facts) -> Example:
    values = story.values(facts)
    completion = cot_completion(story.steps(values, notes=False), str(values[-1]))
    return Example(f"base-{number}", "cot", cot_prompt(style, story.question), completion)


def _correction(random: Random, facts: Facts, story: Story) -> Example | None:
    """A correction of one wrong result; None when the mistake leads out of range."""
    right = story.values(facts)
    index = random.randrange(len(right))
    try:
        wrong = story.values(facts, slip=(index, _shifted(random, right[index])))
    except KeyError:
        return None
    left: Fact = (([story.start, *right])[index], *story.moves[index])
    explanation = f"{left[0]} {left[1]} {left[2]} is {right[index]}, not {wrong[index]}."
    steps = [*story.steps(right, notes=False), ANSWER.format(answer=right[-1])]
    wrong_steps = [*story.steps(wrong, notes=False), ANSWER.format(answer=wrong[-1])]
    return Example(
        "base",
        "correction",
        correction_prompt(story.question, wrong_steps),
        correction_completion(index + 1, explanation, steps[index:]),
    )


def _shifted(random: Random, result: int) -> int:
    return random.choice([result + shift for shift in SHIFTS if result + shift in VALUES])
