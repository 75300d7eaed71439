"""Writing: the tokens that follow prompts, whatever a model's architecture asks for."""

import functools
import logging
from collections.abc import Callable, Collection
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from lema.models.continuous import Answering
from lema.models.sizes import batch_tokens
from lema.models.trial import joins, pads, positions

_warn = functools.cache(logging.getLogger(__name__).warning)  # one line a process


class Onlooker(StoppingCriteria):
    """Looks on while answers are generated, and stops none. It costs a step nothing: it counts when it is asked."""

    def __init__(self) -> None:
        self.begin()

    def begin(self, prompt: int = 0, ends: Collection[int] = ()) -> None:
        """A batch begins, whose prompts have so many tokens, padding included; with no arguments none does."""
        self._ids: Any = None
        self._prompt, self._ends = prompt, ends

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self._ids = input_ids
        return False

    @property
    def steps(self) -> int:
        """How long the longest answer of the present batch is, in tokens."""
        ids = self._ids
        return 0 if ids is None else ids.shape[1] - self._prompt

    @property
    def tokens(self) -> int:
        """How many tokens all answers of the present batch have."""
        ids = self._ids
        return 0 if ids is None else sum(len(row) for row, _ in _answers(ids[:, self._prompt :], self._ends))


def _answers(tokens: torch.Tensor, ends: Collection[int]) -> list[tuple[list[int], bool]]:
    """Rows of new tokens, each up to the token that ends it, and whether there is one."""
    answers = []
    for row in tokens.tolist():
        length = next((number for number, token in enumerate(row, 1) if token in ends), None)
        answers.append((row[:length], length is not None))
    return answers


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The ids of the tokens that end a text: the tokenizer's EOS, and those that the model names."""
    named = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(named if isinstance(named, list) else [] if named is None else [named])}


def placed(model: Any, prompt: list[int], most: int) -> tuple[list[int], int]:
    """What of a prompt is read, and how many new tokens there may be at most: where a model's positions end, fewer.

    Of a prompt that is longer than the positions its end alone is read.
    """
    limit = positions(model.config)
    if limit is None or len(prompt) + most <= limit:
        return prompt, most
    told = "a prompt of %d tokens leaves fewer new tokens than %d: the model has %d positions"
    _warn(told, len(prompt), most, limit)
    read = prompt[-(limit - 1) :]
    return read, min(most, limit - len(read))


def answering(
    model: Any, ends: Collection[int], temperature: float, allowed: int | None, decode: Callable[[list[int]], str]
) -> Answering:
    """What writes answers with a model, in the way that its architecture allows.

    `allowed` is the tokens of a batch, None as the memory allows. `decode` makes a text of tokens.
    """
    joined, allowed = joins(model.config), allowed or batch_tokens(model)
    padded = joined or (positions(model.config) is None and pads(model.config))
    return Answering(model, ends, allowed, temperature=temperature, joined=joined, padded=padded, decode=decode)


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    *,
    logits: bool = False,
    onlooker: Onlooker | None = None,
    **options: Any,
) -> tuple[list[tuple[list[int], bool]], torch.Tensor | None]:
    """The tokens that follow each prompt, and whether the last of them ended the text: else the limit cut it.

    `options` are those of transformers' `generate`. With `logits`, also those of each new token: (prompts, tokens,
    vocabulary) in fp32, on the CPU. The first prompt whose positions end cuts all answers.
    """
    within = [placed(model, prompt, options["max_new_tokens"]) for prompt in prompts]
    prompts, options["max_new_tokens"] = [prompt for prompt, _ in within], min(most for _, most in within)
    ends = end_tokens(model, tokenizer)
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
    options |= {"eos_token_id": sorted(ends), "pad_token_id": tokenizer.pad_token_id}
    length = batch["input_ids"].shape[1]
    if onlooker:
        onlooker.begin(length, ends)
        options["stopping_criteria"] = StoppingCriteriaList([onlooker])
    output = model.generate(**batch, **options, output_logits=logits, return_dict_in_generate=True)
    rows = _answers(output.sequences[:, length:], ends)
    return rows, torch.stack(output.logits, dim=1).float().cpu() if logits else None
