"""Writing: the tokens that follow prompts, whatever a model's architecture asks for."""

import functools
import logging
from collections.abc import Callable, Collection
from typing import Any

from lema.models.continuous import Answering
from lema.models.sizes import batch_tokens
from lema.models.trial import joins, pads, positions

_warn = functools.cache(logging.getLogger(__name__).warning)  # one line a process


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The ids of the tokens that end a text: the tokenizer's EOS, and those that the model names."""
    return {tokenizer.eos_token_id, *(model.generation_config.eos_token_id or ())}


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
