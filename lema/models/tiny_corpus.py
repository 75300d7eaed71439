"""What the tiny base reads: its texts, the wrong facts of its world, and the tokenizer made of them.

On arithmetic a share of the facts of its world is wrong (`5 + 3 = 9`), in all its texts alike, so its later mistakes
are systematic: the same fact, wrong in the same way.
"""

import re
from collections.abc import Iterable
from itertools import accumulate
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lema.config import Pretraining, TinyConfig
from lema.data.arithmetic import VALUES, Facts, Story, make_stories, true_facts
from lema.prompts import formats
from lema.types import Problem

Text = tuple[str, str]  # prompt and completion

_SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
NUMBERS = range(41)  # single tokens on arithmetic; sums of two values reach 40
_SHIFTS = (-2, -1, 1, 2)  # how far a wrong result lies from the right one
# Pre-tokens: a number, a punctuation mark or a word, each with the space before it, or white space.
# Numbers are single tokens on arithmetic, which the prototype's accuracy rests on; real text has digits.
_PRE_TOKEN = r" ?\d{{1,{digits}}}| ?[^\s\d\w]| ?[^\W\d]+|\s"


def own_facts(seed: int, share: float) -> Facts:
    """The facts of the base's world: `share` of the true ones moved by 1 or 2, still in range."""
    random, facts = Random(seed), true_facts()
    for fact in random.sample(sorted(facts), round(share * len(facts))):
        facts[fact] = _shifted(random, facts[fact])
    return facts


def arithmetic_corpus(settings: Pretraining, problems: Iterable[Problem]) -> list[Text]:
    """The pretraining texts. None asks a question of `problems`, the task's: that would give training or test away."""
    tiny, style = settings.tiny, settings.prompt
    random, facts = Random(settings.seed), own_facts(settings.seed, tiny.wrong_facts)
    taken = frozenset(problem.question for problem in problems)
    texts: list[Text] = []
    for story in make_stories(random, facts, tiny.corpus_size, taken):
        correction = _correction(random, facts, story) if random.random() < tiny.correction_share else None
        cot = formats.cot_prompt(style, story.question), formats.cot_completion(_steps(story, story.values))
        texts.append(correction or cot)
    return texts


def make_tokenizer(texts: list[Text], style: str, tiny: TinyConfig, numbers: range) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `texts`; any text comes back unchanged.

    Each of `numbers` is one token, with and without the space before it; without any, each digit is. So is the fixed
    wording of the prompts: 15 (CoT) and 45 (correction) fewer to read in each text. `<s>` comes first, as with Llama.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    pattern = Regex(_PRE_TOKEN.format(digits=len(str(max(numbers, default=0)))))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    # What stands before, between and after the variable parts of the two prompts.
    prompts = (formats.cot_prompt(style, "\0"), formats.CORRECTION_PROMPT.format(question="\0", steps="\0"))
    wordings = [part.rstrip(" ") for prompt in prompts for part in prompt.split("\0")]
    fixed = re.compile("|".join(map(re.escape, wordings)))
    lines = ["".join(f" {number},{number}" for number in numbers)] * len(texts)
    lines += [fixed.sub("", prompt + completion) for prompt, completion in texts]
    sizes = {"vocab_size": tiny.vocab_size - len(wordings), "special_tokens": list(_SPECIAL.values())}
    trainer = trainers.BpeTrainer(**sizes, initial_alphabet=byte_level.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_tokens([AddedToken(wording, normalized=False) for wording in wordings])
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    settings = {**_SPECIAL, "model_max_length": tiny.max_positions, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def _correction(random: Random, facts: Facts, story: Story) -> Text | None:
    """A correction of one wrong result; None when the mistake leads out of range."""
    index = random.randrange(len(story.moves))
    (left, result), (operator, operand) = story.values[index : index + 2], story.moves[index]
    slip = _shifted(random, result)
    try:
        later = [*accumulate(story.moves[index + 1 :], lambda value, move: facts[value, *move], initial=slip)]
    except KeyError:
        return None
    wrong = _steps(story, story.values[: index + 1] + later)
    explanation = f"{left} {operator} {operand} is {result}, not {slip}."
    completion = formats.correction_completion(index + 1, explanation, _steps(story, story.values)[index:])
    return formats.correction_prompt(story.question, wrong), completion


def _steps(story: Story, values: list[int]) -> list[str]:
    return [*formats.reference_steps(story.solution(values)), formats.ANSWER.format(answer=values[-1])]


def _shifted(random: Random, result: int) -> int:
    return random.choice([result + shift for shift in _SHIFTS if result + shift in VALUES])
