"""Models in Hugging Face format: loading them to answer or to be trained, and the tokens of their texts.

Models ship settings for their chat (`repetition_penalty`, `max_time`, `num_beams`, …) in `generation_config.json`,
older ones in `config.json`. With these, greedy answers are not greedy, and samples are not the model's. Only the ids of
the tokens that end a text are taken from there.
"""

import functools
import json
import logging
import os
import string
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    FineGrainedFP8Config,
    GenerationConfig,
)
from transformers.trainer_utils import set_seed
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME
from transformers.utils.hub import cached_file
from transformers.utils.quantization_config import Mxfp4Config

from lema.config import Attention, Batches, Computation, Method, Precision, TrainConfig
from lema.console.progress import Progress
from lema.models.adapters import adapted, experts
from lema.models.kernels import choose
from lema.models.reading import reading
from lema.models.weights import Weights, quantised
from lema.types import UserError

log = logging.getLogger(__name__)
_tell, _warn = functools.cache(log.info), functools.cache(log.warning)  # one line a process, however often
_UNUSUAL = "é≤\u2603漢\U0001f419"  # characters that many a tokenizer has no token of its own for
# Else transformers has the Hub's converter open a pull request in each repository of `.bin` weights it loads.
os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"


_DTYPES = {Precision.bf16: torch.bfloat16, Precision.fp32: torch.float32}
# By the method of their quantisation: weights that become plain numbers as they are read.
_MADE_PLAIN: dict[str, Any] = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}


def load_tokenizer(source: Weights) -> Any:
    """The tokenizer, without those of its tokens that lie beyond the model's embedding.

    One without a pad token, or with one beyond the embedding, pads with `<unk>`, as EOS must stay a token to learn.
    Added tokens beyond the embedding are taken out: their text is then read as any other. Raises `UserError` for a
    tokenizer without EOS, or whose EOS or usual tokens the model does not have.
    """
    with reading(source, "tokenizer"):
        tokenizer: Any = AutoTokenizer.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=False
        )
    if tokenizer.eos_token_id is None:
        remedy = "name one in its tokenizer_config.json, as eos_token"
        raise UserError(f"{source.location}: its tokenizer has no EOS token, which ends every completion: {remedy}")
    rows = getattr(load_architecture(source).get_text_config(decoder=True), "vocab_size", None)
    if rows is not None:
        _keep_within(tokenizer, rows, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # a file may leave the mask out, which padding needs
    return tokenizer


def _keep_within(tokenizer: Any, rows: int, source: Weights) -> None:
    """Take what lies beyond an embedding of so many rows out of a tokenizer; `UserError` where that cannot be done."""
    beyond = f"beyond the {rows} rows of the model's embedding"
    if tokenizer.eos_token_id >= rows:
        which = f"its tokenizer's eos_token {tokenizer.eos_token!r} is token {tokenizer.eos_token_id}, {beyond}"
        raise UserError(f"{source.location}: {which}: name another one in its tokenizer_config.json")
    for name in ("pad", "bos", "unk"):
        index = getattr(tokenizer, f"{name}_token_id")
        if index is not None and index >= rows:
            _warn("%s: its %s_token is token %d, %s: it is not used", source.name, name, index, beyond)
            setattr(tokenizer, f"{name}_token", None)
    added = {index for index in tokenizer.added_tokens_decoder if index >= rows}
    if added and (raw := getattr(tokenizer, "_tokenizer", None)) is not None:
        stored = json.loads(raw.to_str())
        stored["added_tokens"] = [each for each in stored["added_tokens"] if each["id"] < rows]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(stored))
    used = max(tokenizer.encode(string.printable + _UNUSUAL, add_special_tokens=False), default=0)
    if used >= rows:
        which = f"its tokenizer reads usual text as token {used}, {beyond}"
        raise UserError(f"{source.location}: {which}: it is another model's; copy the tokenizer that belongs to it")


def load_architecture(source: Weights) -> Any:
    """The model's config alone: its kind and its sizes, without what would shape or return its answers otherwise."""
    with reading(source, "model"):
        config = AutoConfig.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
    _without_settings(config)
    return config


def end_ids(source: Weights) -> list[int]:
    """The ids of the model's end tokens, from the first of its two files that names some.

    Raises `UserError` when a file is damaged, or names what is no id.
    """
    ends: list[int] = []
    with reading(source, "generation config"):
        for name in (CONFIG_NAME, GENERATION_CONFIG_NAME):  # the second has the last word
            file = cached_file(
                source.location, name, revision=source.revision, _raise_exceptions_for_missing_entries=False
            )
            settings = json.loads(Path(file).read_bytes()) if file else {}
            if not isinstance(settings, dict):
                raise ValueError(f"{name} is no JSON object")
            named = settings.get("eos_token_id")
            ids = named if isinstance(named, list) else [] if named is None else [named]
            if wrong := [each for each in ids if type(each) is not int]:
                raise ValueError(f"eos_token_id={wrong[0]!r} in {name} is no token's id")
            ends = [each for each in ids if 0 <= each < 2**31] or ends  # -1 and the like: none ever comes
    return ends


def _without_settings(config: Any) -> None:
    """Take out of a model's config what older models keep there of generating, and what a forward pass would return."""
    for part in {id(each): each for each in (config, config.get_text_config())}.values():
        declared = {field.name for field in fields(part)}
        for name in vars(GenerationConfig()).keys() - declared:
            vars(part).pop(name, None)
        part.return_dict, part.output_attentions, part.output_hidden_states = True, False, False


def load_model(
    source: Weights, precision: Precision, attention: Attention, four_bit: bool, device: str | None = None
) -> Any:
    """A causal language model on the GPU, if there is one; on `device="meta"` without its numbers.

    `four_bit` quantises the linear layers to NF4 with double quantisation, as the paper does.
    """
    if source.folder and (source.folder / "adapter_config.json").is_file():  # transformers would load its base instead
        beside = "an adapter lies beside its weights (adapter_config.json)"
        raise UserError(f"{source.location}: {beside}: merge it into them, or move it away")
    architecture, settings = load_architecture(source), GenerationConfig(eos_token_id=end_ids(source) or None)
    quantization = held_as(source, architecture, precision, four_bit)
    with reading(source, "model"), Progress("loading the model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.location,
            config=architecture,
            generation_config=settings,
            revision=source.revision,
            trust_remote_code=False,
            weights_only=True,
            dtype=_DTYPES[precision],
            attn_implementation=attention.value,  # a plain string, which torch.compile can follow
            device_map={"": device or ("cuda" if torch.cuda.is_available() else "cpu")},
            quantization_config=quantization,
            ignore_mismatched_sizes=True,  # refused below, as are missing ones, which are else drawn at random
            output_loading_info=True,
        )
    model, found = loaded
    if lacking := sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}):
        which = f"{len(lacking)} tensors that its config.json asks for are missing or of another size: {lacking[0]}"
        raise UserError(f"{source.location}: its weights do not fit ({which}): copy or download it again")
    if source.files and source.files[0].suffix != ".safetensors":
        _warn("%s has no safetensors: read from .bin, without unpickling code", source.location)
    for module in model.modules():  # on a CPU that has it, this kernel computes in bf16 whatever precision was asked
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def held_as(source: Weights, architecture: Any, precision: Precision, four_bit: bool) -> Any:
    """How the weights are to be held; None as they lie. `UserError` for weights that are quantised and stay so."""
    stored = quantised(vars(architecture))
    if stored is None:
        if not four_bit:
            return None
        nf4: Any = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        return BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=_DTYPES[precision])
    if stored in _MADE_PLAIN and not four_bit:
        return _MADE_PLAIN[stored](dequantize=True)
    remedy = "train=lora" if stored in _MADE_PLAIN else "choose the model in 16 bits that they were made from"
    raise UserError(f"{source.location}: its weights are quantised already ({stored}): {remedy}")


def check_files(source: Weights, precision: Precision, train: TrainConfig | None) -> None:
    """Raise `UserError` for a model's files that could not be loaded later, or for layers that PEFT cannot adapt.

    Weights are loaded without their numbers, and only where all of them are here already.
    """
    end_ids(source)
    load_tokenizer(source)
    four_bit = train is not None and train.method is Method.qlora
    held_as(source, load_architecture(source), precision, four_bit)
    if not Path(source.location).is_dir() and not (source.files and all(file.is_file() for file in source.files)):
        return
    loaded = load_model(source, precision, Attention.eager, four_bit=False, device="meta")
    if four_bit and not torch.cuda.is_available():
        check_widths(loaded, source)
    if train and train.method is not Method.full:
        adapted(loaded, train, low_cpu_mem_usage=True)


def check_widths(model: Any, source: Weights) -> None:
    """Raise `UserError` for layers that bitsandbytes holds wrongly on some CPUs: blocks of 64 end with each row there.

    Of 1,376 columns of random weights 25 % are off (norm of the difference by norm of the weights), of 1,408 the 9 %
    of NF4 (bitsandbytes 0.50.2). Other CPUs have 9 % of both; a run does not depend on which one it meets.
    """
    for name, part in model.named_modules():
        if isinstance(part, torch.nn.Linear) and part.in_features % 64:
            why = f"{name} has {part.in_features} columns, and on a CPU 4 bits need a multiple of 64"
            raise UserError(f"{source.location}: train.method=qlora: {why}: train=lora")


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
    source: Weights,
    computation: Computation,
    config: TrainConfig,
    seed: int,
    checkpointing: bool,
    device: str | None = None,
) -> Any:
    """The backbone with the parameters that are to be trained: all, or those of a new LoRA adapter drawn by `seed`.

    It lies where `load_model` puts it.
    """
    # Full fine-tuning keeps 32-bit master weights; bf16 is then the compute type alone.
    precision = Precision.fp32 if config.method is Method.full else computation.precision
    packed = config.batches is Batches.packed
    attention, why = choose(computation, load_architecture(source), packed)
    tell = log.debug if device == "meta" else log.info  # a shape alone, beside a model of which this is said
    tell("train: attention %s (%s)", attention, why)
    model = load_model(source, precision, attention, config.method is Method.qlora, device)
    if checkpointing and model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    elif checkpointing:
        log.warning("train: %s has no activation checkpointing, so it may not fit", model.config.model_type)
    if config.method is Method.full:
        return model
    if config.method is Method.qlora:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # done above
    set_seed(seed)
    made = adapted(model, config, low_cpu_mem_usage=device == "meta")
    if fused := experts(made):
        how = "are adapted too" if made.peft_config["default"].target_parameters else "stay as they are"
        tell("train: the %d matrices of the fused experts %s", len(fused), how)
    return made
