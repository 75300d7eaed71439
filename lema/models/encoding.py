"""The tokens of a text, as training, sampling and evaluation all have them."""

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """BOS + the prompt's tokens, as in training."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return bos + tokenizer.encode(prompt, add_special_tokens=False)


def encode_completion(tokenizer: Any, completion: str) -> list[int]:
    """The completion's tokens + EOS: what loss falls on. Tokenised apart from the prompt, as the paper's script."""
    return [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id]


def loss_weights(tokenizer: Any, completion: str, spans: Sequence[Sequence[float]]) -> list[float]:
    """The weight of the loss on each token of `encode_completion`, by `Example.weights`: that of its last character.

    The tokenizer must be a fast one: others do not say which characters a token has.
    """
    ends = list(accumulate(int(characters) for characters, _ in spans))
    places = tokenizer(completion, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [spans[bisect(ends, max(end - 1, 0))][1] for _, end in places] + [spans[-1][1]]
