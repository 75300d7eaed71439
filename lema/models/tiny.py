"""The tiny backbone: a Llama of about 0.4M parameters, made and pretrained here on a task's own text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from lema.config import Config, TinyConfig
from lema.models.muon import Muon
from lema.models.tiny_corpus import NUMBERS, arithmetic_corpus, make_tokenizer, text_corpus
from lema.prompts.formats import ANSWER, cot_prompt
from lema.types import Problem

Row = tuple[list[int], int]  # token ids with <s> and </s>, and the length of the prompt with <s>


def build(folder: Path, problems: list[Problem], config: Config) -> dict[str, object]:
    """Make the base in Hugging Face format in `folder`, and say how it went.

    `problems` are the training problems, the text of a published task. The same config gives the same bytes on one
    machine; the caller's random state and thread count are left as they were.
    """
    tiny = config.backbone.tiny
    assert tiny is not None
    style = config.backbone.prompt.value
    held_out: list[Problem] = []
    if config.task.arithmetic is not None:
        texts, held_out = arithmetic_corpus(config)
    else:
        texts = text_corpus(style, problems)
    numbers = NUMBERS if config.task.arithmetic is not None else range(0)
    tokenizer = make_tokenizer(texts, style, tiny.vocab_size, tiny.max_positions, numbers)
    rows = _encode(tokenizer, [(text.prompt, text.completion) for text in texts])
    kept = [row for row in rows if len(row[0]) <= min(tiny.max_positions, tiny.batch_tokens)]
    threads = torch.get_num_threads()
    torch.set_num_threads(tiny.num_threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.backbone.seed)
            model = _new_model(tiny, tokenizer)
            trainer = _Trainer(model, kept, tokenizer.pad_token_id, tiny, config.backbone.seed)
            trainer.run(tiny.steps)
            accuracy = _own_accuracy(model, tokenizer, style, held_out)
            extensions = 0
            while accuracy is not None and accuracy < tiny.gate_accuracy and extensions < tiny.max_extensions:
                trainer.run(tiny.extension_steps)
                accuracy = _own_accuracy(model, tokenizer, style, held_out)
                extensions += 1
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "parameters": model.num_parameters(),
        "texts": len(kept),
        "texts_too_long": len(rows) - len(kept),
        "steps": trainer.steps,
        "tokens": trainer.tokens,
        "loss": round(trainer.loss, 4),
        "own_world_accuracy": accuracy,
        "extensions": extensions,
    }


class _Trainer:
    """Muon for the weight matrices, AdamW for embeddings and norms; loss on completions only.

    Each `run` starts at the full learning rates and lets them fall linearly to zero.
    """

    def __init__(self, model: Any, rows: list[Row], pad: int, tiny: TinyConfig, seed: int) -> None:
        self.model = model
        self.batches = _batches(rows, pad, tiny.batch_tokens, Random(seed))
        matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self.optimizers = [
            (Muon(matrices, tiny.matrix_learning_rate, tiny.momentum, tiny.weight_decay), tiny.matrix_learning_rate),
            (torch.optim.AdamW(others, weight_decay=0.0), tiny.other_learning_rate),
        ]
        self.steps = self.tokens = 0
        self.loss = float("nan")  # mean of the last tenth of a run

    def run(self, steps: int) -> None:
        """Train for `steps` batches."""
        losses: list[float] = []
        self.model.train()
        for step in tqdm(range(steps), desc="base", unit="step", disable=None):
            ids, loss_mask = next(self.batches)
            hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
            # Right padding needs no mask under causal attention; the head is asked only where there is a loss.
            logits = self.model.lm_head(hidden[:, :-1][loss_mask])
            loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][loss_mask])
            loss.backward()
            for optimizer, learning_rate in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * (1 - step / steps)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
            self.tokens += ids.numel()
        self.steps += steps
        tail = losses[-max(1, steps // 10) :]
        self.loss = sum(tail) / len(tail)


def _new_model(tiny: TinyConfig, tokenizer: Any) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=tiny.hidden_size,
            intermediate_size=tiny.intermediate_size,
            num_hidden_layers=tiny.num_layers,
            num_attention_heads=tiny.num_heads,
            num_key_value_heads=tiny.num_heads,
            max_position_embeddings=tiny.max_positions,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _encode(tokenizer: Any, texts: list[tuple[str, str]]) -> list[Row]:
    prompts = tokenizer([prompt for prompt, _ in texts])["input_ids"]
    completions = tokenizer([completion for _, completion in texts], add_special_tokens=False)["input_ids"]
    pairs = zip(prompts, completions, strict=True)
    return [([*prompt, *completion, tokenizer.eos_token_id], len(prompt)) for prompt, completion in pairs]


def _batches(rows: list[Row], pad: int, batch_tokens: int, random: Random) -> Iterator[tuple[Any, Any]]:
    """Batches for ever: token ids (batch, length), and where the next token carries loss (batch, length - 1).

    Rows of like length stand together, so that little is padding; the order of the batches is drawn anew each epoch.
    """
    groups: list[list[Row]] = [[]]
    for row in sorted(rows, key=lambda row: len(row[0])):
        if (len(groups[-1]) + 1) * len(row[0]) > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    while True:
        random.shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in group])
            position = torch.arange(1, length)
            starts = torch.tensor([start for _, start in group])[:, None]
            ends = torch.tensor([len(ids) for ids, _ in group])[:, None]
            yield ids, (position >= starts) & (position < ends)


def _own_accuracy(model: Any, tokenizer: Any, style: str, problems: list[Problem]) -> float | None:
    """Share of `problems` whose greedy completion ends in their answer; None without problems."""
    if not problems:
        return None
    model.eval()
    prompts = [cot_prompt(style, problem.question) for problem in problems]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    with torch.no_grad():
        output = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=False, max_new_tokens=64
        )
    texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [text.endswith(ANSWER.format(answer=problem.answer)) for text, problem in zip(texts, problems, strict=True)]
    return sum(right) / len(right)
