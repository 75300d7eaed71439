"""The tokens of a text, as training, sampling and evaluation all have them."""

from typing import Any


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """BOS + the prompt's tokens, as in training."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return bos + tokenizer.encode(prompt, add_special_tokens=False)


def encode_completion(tokenizer: Any, completion: str) -> list[int]:
    """The completion's tokens + EOS: what loss falls on. Tokenised apart from the prompt, as the paper's script."""
    return [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id]
