"""The tiny backbone: a Llama of about 0.4M parameters, made and pretrained here on a task's own text."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, LlamaConfig, LlamaForCausalLM

from lema.artifacts import check
from lema.config import Pretraining
from lema.console.progress import Progress
from lema.models.muon import Muon
from lema.models.tiny_corpus import NUMBERS, arithmetic_corpus, make_tokenizer
from lema.prompts.formats import cot
from lema.types import Problem, UserError

IGNORED = -100  # the label of a token without loss


def build(folder: Path, problems: list[Problem], settings: Pretraining) -> dict[str, Any]:
    """Make the base in Hugging Face format in `folder`: the same settings give the same bytes on one machine.

    The training texts are those of a published task's training problems; of problems that are made here none is read.
    Loss is on completions only.
    """
    tiny, style, seed = settings.tiny, settings.prompt, settings.seed
    texts = arithmetic_corpus(settings, problems) if settings.made else [cot(style, problem) for problem in problems]
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
