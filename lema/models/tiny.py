"""The tiny backbone: a Llama of about 0.4M parameters, made and pretrained here on a task's own text."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from lema.arithmetic import Story
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
    tiny, style, seed = config.backbone.tiny, config.backbone.prompt, config.backbone.seed
    assert tiny
    if config.task.arithmetic:
        (texts, held_out), numbers = arithmetic_corpus(config), NUMBERS
    else:
        texts, held_out, numbers = text_corpus(style, problems), [], range(0)
    tokenizer: Any = make_tokenizer(texts, style, tiny, numbers)
    prompts = tokenizer([prompt for prompt, _ in texts])["input_ids"]
    completions = tokenizer([completion for _, completion in texts], add_special_tokens=False)["input_ids"]
    rows = [([*p, *c, tokenizer.eos_token_id], len(p)) for p, c in zip(prompts, completions, strict=True)]
    rows = [row for row in rows if len(row[0]) <= min(tiny.max_positions, tiny.batch_tokens)]
    batches = _batches(rows, tokenizer.pad_token_id, tiny.batch_tokens, Random(seed))
    threads = torch.get_num_threads()
    torch.set_num_threads(tiny.num_threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _new_model(tiny, tokenizer)
            optimizers = _optimizers(model, tiny)
            tokens, loss = _train(model, batches, optimizers, tiny.steps)
            accuracy = _own_accuracy(model, tokenizer, style, held_out)
            extensions = 0
            while accuracy is not None and accuracy < tiny.gate_accuracy and extensions < tiny.max_extensions:
                more_tokens, loss = _train(model, batches, optimizers, tiny.extension_steps)
                accuracy = _own_accuracy(model, tokenizer, style, held_out)
                tokens, extensions = tokens + more_tokens, extensions + 1
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    steps = tiny.steps + extensions * tiny.extension_steps
    made = {"parameters": model.num_parameters(), "texts": len(rows), "texts_too_long": len(texts) - len(rows)}
    learned = {"steps": steps, "tokens": tokens, "loss": round(loss, 4), "own_world_accuracy": accuracy}
    return {**made, **learned, "extensions": extensions}


def _new_model(tiny: TinyConfig, tokenizer: Any) -> Any:
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=tiny.hidden_size,
        intermediate_size=tiny.intermediate_size,
        num_hidden_layers=tiny.num_layers,
        num_attention_heads=tiny.num_heads,
        max_position_embeddings=tiny.max_positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(llama)


def _optimizers(model: Any, tiny: TinyConfig) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices, AdamW for embeddings and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    return [
        Muon(matrices, {"lr": tiny.matrix_learning_rate, "momentum": tiny.momentum, "weight_decay": tiny.weight_decay}),
        torch.optim.AdamW(others, tiny.other_learning_rate, weight_decay=0.0),
    ]


def _train(model: Any, batches: Iterator[Any], optimizers: list[Any], steps: int) -> tuple[int, float]:
    """Train for `steps` batches, from the full learning rates linearly to zero, on the loss of completions only.

    Returns the tokens read, padding included, and the mean loss of the last tenth.
    """
    losses: list[float] = []
    tokens = 0
    model.train()
    for step in tqdm(range(steps), desc="base", unit="step", disable=None):
        ids, loss_mask = next(batches)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        # Right padding needs no mask under causal attention; the head is asked only where there is a loss.
        logits = model.lm_head(hidden[:, :-1][loss_mask])
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][loss_mask])
        loss.backward()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * (1 - step / steps)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        tokens += ids.numel()
    tail = losses[-max(1, steps // 10) :]
    return tokens, sum(tail) / len(tail)


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
            length = len(group[-1][0])
            ids = [ids + [pad] * (length - len(ids)) for ids, _ in group]
            loss_mask = [[start <= position < len(ids) for position in range(1, length)] for ids, start in group]
            yield torch.tensor(ids), torch.tensor(loss_mask)


def _own_accuracy(model: Any, tokenizer: Any, style: str, stories: list[Story]) -> float | None:
    """Share of `stories` whose greedy completion ends in their answer; None without stories."""
    if not stories:
        return None
    model.eval()
    prompts = [cot_prompt(style, story.question) for story in stories]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    with torch.no_grad():
        output = model.generate(**batch, do_sample=False, max_new_tokens=64)
    texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [text.endswith(ANSWER.format(answer=s.values[-1])) for text, s in zip(texts, stories, strict=True)]
    return sum(right) / len(right)
