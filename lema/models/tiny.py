"""The tiny backbone: a Llama of about 0.4M parameters, made and pretrained here on a task's own text.

On arithmetic a share of the facts of its world is wrong (`5 + 3 = 9`), in all its texts alike, so its later mistakes
are systematic: the same fact, wrong in the same way.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import DataCollatorForSeq2Seq, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lema.artifacts import check
from lema.config import Pretraining, TinyConfig
from lema.console.progress import Progress
from lema.data.arithmetic import VALUES, Facts, Story, make_stories, true_facts
from lema.models.muon import Muon
from lema.prompts import formats
from lema.types import Problem, UserError

Text = tuple[str, str]  # prompt and completion

IGNORED = -100  # the label of a token without loss
_SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
NUMBERS = range(41)  # single tokens on arithmetic; sums of two values reach 40
_SHIFTS = (-2, -1, 1, 2)  # how far a wrong result lies from the right one
# Pre-tokens: a number, a punctuation mark or a word, each with the space before it, or white space.
# Numbers are single tokens on arithmetic, which the prototype's accuracy rests on; real text has digits.
_PRE_TOKEN = r" ?\d{{1,{digits}}}| ?[^\s\d\w]| ?[^\W\d]+|\s"


def build(folder: Path, problems: list[Problem], settings: Pretraining) -> dict[str, Any]:
    """Make the base in Hugging Face format in `folder`: the same settings give the same bytes on one machine.

    The training texts are those of a published task's training problems; of problems that are made here none is read.
    Loss is on completions only.
    """
    tiny, style, seed = settings.tiny, settings.prompt, settings.seed
    texts = (
        arithmetic_corpus(settings, problems)
        if settings.made
        else [formats.cot(style, problem) for problem in problems]
    )
    with Progress("making the tokenizer"):
        tokenizer: Any = make_tokenizer(texts, style, tiny, NUMBERS if settings.made else range(0))
    prompts = tokenizer([prompt for prompt, _ in texts])["input_ids"]
    completions = tokenizer([text + tokenizer.eos_token for _, text in texts], add_special_tokens=False)["input_ids"]
    rows = [{"input_ids": p + c, "labels": [IGNORED] * len(p) + c} for p, c in zip(prompts, completions, strict=True)]
    rows = [row for row in rows if len(row["input_ids"]) <= min(tiny.max_positions, tiny.batch_tokens)]
    if not rows:
        short = f"backbone.tiny.max_positions={tiny.max_positions}, backbone.tiny.batch_tokens={tiny.batch_tokens}"
        raise UserError(f"{short}: hold none of the {len(texts)} texts to pretrain on; raise them")
    torch.manual_seed(seed)
    size = {"hidden_size": tiny.hidden_size, "intermediate_size": tiny.intermediate_size}
    size |= {"num_hidden_layers": tiny.num_layers, "num_attention_heads": tiny.num_heads}
    size |= {"vocab_size": len(tokenizer), "max_position_embeddings": tiny.max_positions}
    special: Any = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model: Any = LlamaForCausalLM(LlamaConfig(**size, **special, tie_word_embeddings=True))
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [model.get_input_embeddings().weight, *(p for p in model.parameters() if p.ndim == 1)]
    muon = {"lr": tiny.matrix_learning_rate, "momentum": tiny.momentum, "weight_decay": tiny.weight_decay}
    optimizers = [Muon(matrices, muon), torch.optim.AdamW(others, tiny.other_learning_rate, weight_decay=0.0)]
    batches = _batches(rows, tokenizer, tiny.batch_tokens, Random(seed))
    losses, tokens = _pretrain(model, optimizers, batches, tiny.steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = {"parameters": model.num_parameters(), "texts": len(rows), "texts_too_long": len(texts) - len(rows)}
    return made | {"steps": tiny.steps, "tokens": tokens, "loss": round(fmean(losses[-max(1, tiny.steps // 10) :]), 4)}


def _pretrain(model: Any, optimizers: list[Any], batches: Iterator[Any], steps: int) -> tuple[list[float], int]:
    """Train for `steps`, one batch each: the loss of each step, and the number of tokens."""
    losses, tokens = [], 0

    def told() -> list[str]:
        return [f"loss {losses[-1]:.3g}", f"{progress.per_second(tokens):,.0f} tokens/s"] if losses else []

    with Progress("step", steps, told) as progress:
        for step in progress.over(range(steps)):
            check()
            batch = next(batches)
            ids, targets = batch["input_ids"], batch["labels"][:, 1:]
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            # Right padding needs no mask under causal attention; the head is asked only where there is a loss.
            logits = model.lm_head(hidden[:, :-1][targets != IGNORED])
            loss = torch.nn.functional.cross_entropy(logits, targets[targets != IGNORED])
            loss.backward()
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * (1 - step / steps)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
            tokens += ids.numel()
    return losses, tokens


def _batches(rows: list[dict[str, list[int]]], tokenizer: Any, batch_tokens: int, random: Random) -> Iterator[Any]:
    """Batches for ever: `input_ids` and `labels`, each (batch, length).

    Rows of like length stand together, so that little is padding; the order of the batches is drawn anew each epoch.
    """
    groups: list[list[Any]] = [[]]
    for row in sorted(rows, key=lambda row: len(row["input_ids"])):
        if (len(groups[-1]) + 1) * len(row["input_ids"]) > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    while True:
        random.shuffle(groups)
        yield from map(DataCollatorForSeq2Seq(tokenizer), groups)


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
