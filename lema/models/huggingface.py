"""Models in Hugging Face format: loading them, and answering problems with them.

A prompt is BOS + its tokens, here as in training. Batches are padded on the left and sampling is seeded batch by
batch, so interrupted work goes on to the same texts.
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from lema.artifacts import write_text
from lema.config import Attention, BackboneConfig, ModelConfig, Precision
from lema.grading import grade
from lema.models.weights import Weights
from lema.prompts.formats import cot_prompt
from lema.types import Problem, Solution


def device() -> str:
    """Where models run: the first CUDA device, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(source: Weights) -> Any:
    """The tokenizer; one without a pad token pads with `<unk>`, as EOS must stay a token to learn."""
    tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_model(
    source: Weights, precision: Precision, attention: Attention, four_bit: bool, adapter: Path | None
) -> Any:
    """A causal language model on this machine's device, with an unmerged PEFT `adapter` if one is given.

    `four_bit` quantises the linear layers to NF4 with double quantisation, as the paper does. `attention=auto` is
    flash-attention 2 on a GPU that has the package, else sdpa.
    """
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    flash = device() == "cuda" and importlib.util.find_spec("flash_attn") is not None
    automatic = "flash_attention_2" if flash else "sdpa"
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = AutoModelForCausalLM.from_pretrained(
        source.location,
        revision=source.revision,
        dtype=dtype,
        attn_implementation=automatic if attention is Attention.auto else attention,
        device_map={"": device()},
        quantization_config=quantization if four_bit else None,
    )
    if adapter is None:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter))


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """BOS + the prompt's tokens, as in training."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return bos + tokenizer.encode(prompt, add_special_tokens=False)


def encode_completion(tokenizer: Any, completion: str) -> list[int]:
    """The completion's tokens + EOS: what loss falls on. Tokenised apart from the prompt, as the paper's script."""
    return [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id]


def solve(
    problems: list[Problem],
    model: BackboneConfig | ModelConfig,
    source: Weights,
    *,
    grader: str,
    max_new_tokens: int,
    temperature: float = 0.0,  # greedy
    samples: int = 1,
    seed: int = 0,
    batch_size: int,
    four_bit: bool = False,
    adapter: Path | None = None,
    resume: Path,
    title: str,
) -> list[Solution]:
    """Answer each problem `samples` times and grade the answers; sampling and evaluation both come here.

    Finished batches are kept in the folder `resume` and not generated again.
    """
    tokenizer = load_tokenizer(source)
    language_model = load_model(source, model.precision, model.attention, four_bit, adapter).eval()
    asked = [(problem, number) for problem in problems for number in range(samples)]
    prompts = [encode_prompt(tokenizer, cot_prompt(model.prompt, problem.question)) for problem, _ in asked]
    order = sorted(range(len(asked)), key=lambda index: (len(prompts[index]), index))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    path = resume / f"{title}.jsonl"
    done = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []  # what follows \n is torn
    write_text(path, "".join(line + "\n" for line in done))
    texts: list[tuple[str, bool]] = [tuple(text) for line in done for text in json.loads(line)]
    with path.open("a", encoding="utf-8") as file:
        for number in tqdm(range(len(done), len(batches)), desc=title, unit="batch", disable=None):
            torch.manual_seed(seed + number)
            batch = [prompts[index] for index in batches[number]]
            new = _generate(language_model, tokenizer, batch, max_new_tokens, temperature)
            file.write(json.dumps(new) + "\n")
            file.flush()
            os.fsync(file.fileno())
            texts += new
    solutions = {}
    for index, (text, truncated) in zip(order, texts, strict=True):
        problem, number = asked[index]
        verdict = grade(text, problem.answer, grader)
        solutions[index] = Solution(
            problem.id, source.name, number, text, verdict.answer, correct=verdict.correct, truncated=truncated
        )
    return [solutions[index] for index in range(len(asked))]


@torch.inference_mode()
def _generate(
    model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int, temperature: float
) -> list[tuple[str, bool]]:
    """Each prompt's text, and whether the token limit ended it."""
    width, pad, eos = max(map(len, prompts)), tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    # Models ship sampling defaults of their own; nothing but the temperature is to shape these samples.
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    greedy = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=eos,
        **(sampling if temperature > 0 else greedy),
    )
    rows = [(row[: row.index(eos)] if eos in row else row, eos not in row) for row in output[:, width:].tolist()]
    return [(tokenizer.decode(row, skip_special_tokens=True), truncated) for row, truncated in rows]
