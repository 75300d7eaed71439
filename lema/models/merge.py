"""Merging an adapter into its base, and measuring how far the merged model is the adapter on its base."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lema.artifacts import check
from lema.config import Attention, Computation, Precision
from lema.console.progress import Progress
from lema.models.encoding import encode_prompt
from lema.models.huggingface import check_widths, load_adapter, load_model, load_to_answer, load_tokenizer
from lema.models.sizes import MARGIN, available_memory
from lema.models.trial import raise_positions
from lema.models.weights import Weights
from lema.models.writing import Onlooker, generate

_MIN_POSITIONS = 4096  # the official script raises the merged model's limit to it
_CHECKED_TOKENS = 64  # new ones a prompt: to see that two models agree, not to solve the problem
_CHECKED_AT_ONCE = 20  # prompts; at most 64 x 20 x vocabulary logits are on the device


def merge(base: Weights, adapter: Path, folder: Path, computation: Computation, *, dequantise: bool) -> None:
    """Write base + adapter as one model in its precision, with its tokenizer.

    `dequantise` rounds the base's linear layers to NF4 and back, which makes the base that `qlora` trained on:
    merged into the original weights, the adapter meets others than it was trained to correct.
    """
    language_model = load_to_answer(base, computation, four_bit=dequantise)
    if dequantise:
        language_model = language_model.dequantize()
    merged: Any = load_adapter(language_model, adapter)
    with Progress("merging the adapter into its base"):
        merged = merged.merge_and_unload(safe_merge=True)  # refuses weights that are not numbers
    raise_positions(merged.config, _MIN_POSITIONS)
    check()
    with Progress("writing the merged model"):
        merged.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)


def write_dequantised(base: Weights, folder: Path, precision: Precision) -> None:
    """Write the base that `qlora` trains on, through NF4 and back, as a model in its precision, with its tokenizer.

    The CPU does it where the GPU has too little memory for the whole model.
    """
    fits = MARGIN * base.parameters * (2 if precision is Precision.bf16 else 4) < available_memory()
    if not fits:
        check_widths(load_model(base, precision, Attention.eager, False, "meta"), base)
    loaded = load_model(base, precision, Attention.eager, True, None if fits else "cpu").dequantize()
    with Progress("writing the base that qlora trains on"):
        loaded.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)


def agreement(
    base: Weights, adapter: Path, merged: Path, computation: Computation, prompts: list[str], *, four_bit: bool
) -> dict[str, Any]:
    """How far the merged model answers as the adapter does on its base (in NF4 when `four_bit`), greedily.

    `equal_outputs` is the share of the prompts with the same tokens, in [0, 1]; `largest_logit_difference` is taken
    over all tokens up to the first at which two answers part: from there on they are asked different things.
    """
    tokenizer = load_tokenizer(base)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    adapted = load_adapter(load_to_answer(base, computation, four_bit=four_bit), adapter).eval()
    onlooker = Onlooker()

    def partly() -> float:
        return min(_CHECKED_AT_ONCE, len(encoded) - progress.done % len(encoded)) * onlooker.steps / _CHECKED_TOKENS

    with Progress("compared answer", 2 * len(encoded), partly=partly) as progress:
        expected = list(progress.over(_replies(adapted, tokenizer, encoded, onlooker)))
        del adapted  # the two need not fit on the device together
        whole = load_to_answer(Weights(base.name, str(merged), None, ""), computation, four_bit=False)
        equal, largest, found = 0, 0.0, progress.over(_replies(whole, tokenizer, encoded, onlooker))
        for (ours, our_logits), (theirs, their_logits) in zip(found, expected, strict=True):
            equal += ours == theirs
            pairs = zip(ours, theirs, strict=False)
            same = next((number for number, (one, other) in enumerate(pairs) if one != other), len(ours) - 1)
            largest = max(largest, float((our_logits[: same + 1] - their_logits[: same + 1]).abs().max()))
    return {"prompts": len(prompts), "equal_outputs": equal / len(prompts), "largest_logit_difference": largest}


def _replies(
    model: Any, tokenizer: Any, prompts: list[list[int]], onlooker: Onlooker
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """The tokens of a greedy answer to each prompt, EOS included, and their logits, (tokens, vocabulary) in fp32."""
    options: dict[str, Any] = {"max_new_tokens": _CHECKED_TOKENS, "do_sample": False, "logits": True}
    options |= {"onlooker": onlooker}
    for start in range(0, len(prompts), _CHECKED_AT_ONCE):
        check()
        rows, logits = generate(model, tokenizer, prompts[start : start + _CHECKED_AT_ONCE], **options)
        assert logits is not None
        onlooker.begin()  # its answers are counted now
        for (tokens, _), of_row in zip(rows, logits, strict=True):
            yield tokens, of_row[: len(tokens)].clone()
