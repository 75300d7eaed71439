"""Models in Hugging Face format: loading them, generating with them.

A prompt is BOS + its tokens, here as in training. Batches are padded on the left; sampling is seeded batch by
batch, so an interrupted generation goes on to the same texts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from lema.artifacts import write_text
from lema.config import Attention, Precision
from lema.models.weights import Weights


transformers.logging.set_verbosity_error()
if not sys.stderr.isatty():
    transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Completion:
    """Generated text; `truncated` when the token limit ended it."""

    text: str
    truncated: bool


def device() -> str:
    """Where models run: the first CUDA device, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(source: Weights) -> PreTrainedTokenizerBase:
    """The tokenizer, with a pad token that is never the EOS token (`<unk>` where the model has none of its own)."""
    tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_model(
    source: Weights,
    precision: Precision,
    attention: Attention,
    four_bit: bool = False,
    adapter: Path | None = None,
) -> Any:
    """A causal language model on this machine's device; `adapter` is a PEFT folder put onto it, unmerged.

    `four_bit` quantises the linear layers to NF4 with double quantisation (the paper's QLoRA, section 4).
    """
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        source.location,
        revision=source.revision,
        dtype=dtype,
        attn_implementation=_attention(attention),
        device_map={"": device()},
        quantization_config=quantization if four_bit else None,
    )
    if adapter is None:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """BOS + the prompt's tokens, as in training."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportAssignmentType]
    return bos + ids


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """The completion's tokens + EOS: what loss falls on. Tokenised apart from the prompt, as the paper's script."""
    ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportAssignmentType]
    return [*ids, tokenizer.eos_token_id]


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    max_new_tokens: int,
    temperature: float,  # 0 is greedy
    seed: int,
    batch_size: int,
    resume: Path,  # a folder: finished batches are kept there, and not generated again
    title: str,
) -> list[Completion]:
    """One completion a prompt, in the order of the prompts."""
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: (len(encoded[index]), index))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    done = _Batches(resume / f"{title}.jsonl")
    model.eval()
    for number, batch in enumerate(tqdm(batches, desc=title, unit="batch", disable=None)):
        if number < len(done.batches):
            continue
        texts = _generate_batch(
            model, tokenizer, [encoded[index] for index in batch], max_new_tokens, temperature, seed + number
        )
        done.append(texts)
    completions = dict(zip(order, (text for batch in done.batches for text in batch), strict=True))
    return [completions[index] for index in range(len(prompts))]


@torch.inference_mode()
def _generate_batch(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[Completion]:
    width = max(map(len, prompts))
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=eos,
        **(sampling if temperature > 0 else {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}),
    )
    completions = []
    for row in output[:, width:].tolist():
        ended = eos in row
        completion = row[: row.index(eos)] if ended else row
        completions.append(Completion(tokenizer.decode(completion, skip_special_tokens=True), truncated=not ended))
    return completions


class _Batches:
    """The batches generated so far, one JSON line each, on disk before the next one begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches = list(self._read()) if path.exists() else []
        write_text(path, "".join(map(self._line, self.batches)))  # without the torn line that a kill may have left

    def append(self, batch: list[Completion]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._line(batch))
            file.flush()
            os.fsync(file.fileno())
        self.batches.append(batch)

    def _read(self) -> Iterator[list[Completion]]:
        for line in self.path.read_bytes().split(b"\n")[:-1]:  # what follows the last newline is torn
            yield [Completion(**row) for row in json.loads(line)]

    @staticmethod
    def _line(batch: list[Completion]) -> str:
        return json.dumps([vars(completion) for completion in batch]) + "\n"


def _attention(attention: Attention) -> str:
    """The name transformers knows; `auto` is flash-attention 2 on a GPU that has the package, else sdpa."""
    if attention is not Attention.auto:
        return attention.value
    flash = device() == "cuda" and importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if flash else "sdpa"
