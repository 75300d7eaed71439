"""Models in Hugging Face format: loading them to answer or to be trained, and the tokens of their texts."""

import functools
import logging
import os
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.trainer_utils import set_seed
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from lema.config import Attention, Batches, Computation, Method, Precision, TrainConfig
from lema.console.progress import Progress
from lema.models.generating import own_settings, without_settings
from lema.models.kernels import choose
from lema.models.reading import reading
from lema.models.weights import Weights
from lema.types import UserError

log = logging.getLogger(__name__)
_tell, _warn = functools.cache(log.info), functools.cache(log.warning)  # one line a process, however often
# Else transformers has the Hub's converter open a pull request in each repository of `.bin` weights it loads.
os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"


def load_tokenizer(source: Weights) -> Any:
    """The tokenizer; one without a pad token pads with `<unk>`, as EOS must stay a token to learn."""
    with reading(source, "tokenizer"):
        tokenizer: Any = AutoTokenizer.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=False
        )
    if tokenizer.eos_token_id is None:
        remedy = "name one in its tokenizer_config.json, as eos_token"
        raise UserError(f"{source.location}: its tokenizer has no EOS token, which ends every completion: {remedy}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_architecture(source: Weights) -> Any:
    """The model's config alone: its kind and its sizes, without what would shape or return its answers otherwise."""
    with reading(source, "model"):
        config = AutoConfig.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
    without_settings(config)
    return config


def load_model(source: Weights, precision: Precision, attention: Attention, four_bit: bool) -> Any:
    """A causal language model on the GPU, if there is one.

    `four_bit` quantises the linear layers to NF4 with double quantisation, as the paper does.
    """
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    architecture, settings = load_architecture(source), own_settings(source)
    with reading(source, "model"), Progress("loading the model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.location,
            config=architecture,
            generation_config=settings,
            revision=source.revision,
            trust_remote_code=False,
            weights_only=True,
            dtype=dtype,
            attn_implementation=attention,
            device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
            quantization_config=quantization if four_bit else None,
            ignore_mismatched_sizes=True,  # refused below, as are missing ones, which are else drawn at random
            output_loading_info=True,
        )
    model, found = loaded
    if lacking := sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}):
        which = f"{len(lacking)} tensors that its config.json asks for are missing or of another size: {lacking[0]}"
        raise UserError(f"{source.location}: its weights do not fit ({which}): copy or download it again")
    safe = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    if source.folder and not any((source.folder / name).is_file() for name in safe):
        _warn("%s has no safetensors: read from .bin, without unpickling code", source.location)
    for module in model.modules():  # on a CPU that has it, this kernel computes in bf16 whatever precision was asked
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def load_to_answer(source: Weights, computation: Computation, four_bit: bool) -> Any:
    """A model that is to answer, with the attention that its config, its architecture and this machine ask for."""
    attention, why = choose(computation, load_architecture(source), packed=False)
    _tell("%s: answers with attention %s (%s)", source.name, attention, why)
    return load_model(source, computation.precision, attention, four_bit).eval()


def load_adapter(base: Any, adapter: Path) -> Any:
    """A loaded base with the adapter in a folder on it."""
    with reading(Weights(adapter.name, str(adapter), None, ""), "adapter"):
        return PeftModel.from_pretrained(base, str(adapter))


def load_trainable(
    source: Weights, computation: Computation, config: TrainConfig, seed: int, checkpointing: bool
) -> Any:
    """The backbone with the parameters that are to be trained: all, or those of a new LoRA adapter drawn by `seed`."""
    # Full fine-tuning keeps 32-bit master weights; bf16 is then the compute type alone.
    precision = Precision.fp32 if config.method is Method.full else computation.precision
    packed = config.batches is Batches.packed
    attention, why = choose(computation, load_architecture(source), packed)
    log.info("train: attention %s (%s)", attention, why)
    model = load_model(source, precision, attention, config.method is Method.qlora)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.method is Method.full:
        return model
    if config.method is Method.qlora:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # done above
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",  # PEFT leaves the output head out
        task_type="CAUSAL_LM",
    )
    set_seed(seed)
    adapted = get_peft_model(model, lora)
    found: Any = adapted.peft_config["default"]
    found.target_modules = sorted(found.target_modules or ())  # a set, saved in an order of its own in each process
    return adapted


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """BOS + the prompt's tokens, as in training."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return bos + tokenizer.encode(prompt, add_special_tokens=False)


def encode_completion(tokenizer: Any, completion: str) -> list[int]:
    """The completion's tokens + EOS: what loss falls on. Tokenised apart from the prompt, as the paper's script."""
    return [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id]
