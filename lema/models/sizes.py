"""How large a training run is: parameters, FLOPs, memory and time, from the model's config; nothing is loaded."""

import ctypes
import gc
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch.utils.benchmark import Timer
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.pytorch_utils import Conv1D

from lema.config import Batches, Method, Precision, TrainConfig
from lema.models.adapters import adapted, experts
from lema.models.kernels import blocks, size
from lema.models.weights import NF4_BYTES, TRAINED_BYTES

# Of a logit, where memory peaks as the backward pass starts: its log-probability, the gradients of that and of itself.
_LOGIT_BYTES = 12
# On all of it, for what is not counted: buffers of single operations, the allocator's gaps, the CUDA context. Ours.
MARGIN = 1.1
# The linear layers of Llama's layer, for which the bytes of activations are worked out.
_LLAMA = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
# Of the measured peak: the low end of what is reported of LoRA with packed rows and flash attention, 0.40 to 0.48.
_UTILISATION = 0.4
# On a CPU more rows at once are no faster. Measured in rows: a Llama of 0.4M parameters is fastest at 128, SmolLM2 of
# 135M at 64.
_ON_CPU = 24_000
_OF_GPU, _OF_MACHINE = 0.6, 0.25  # shares of the memory that the cache may take; the rest is for a pass


@dataclass(frozen=True)
class TrainingSize:
    """What a training run takes; bytes and FLOPs are plain counts, margins not included."""

    parameters: int  # of the backbone, adapters not included
    trained: int
    tokens: float  # of all steps, prompts included, padding not
    at_most: bool  # lengths are not known: every example counts as long as it may be
    flops: float  # a token: forward and backward
    flops_again: float  # a token: what activation checkpointing adds
    weight_bytes: float  # frozen weights; trained ones with all that an optimiser keeps of them
    gathered_bytes: float  # what a rank of a sharded model holds of weights and gradients beside its slices
    activation_bytes: float  # of one forward pass
    checkpointed_bytes: float  # of one forward pass with activation checkpointing
    about: bool  # its layers are not Llama's, and their activations are counted as if they were

    def memory(self, checkpointing: bool, shards: int = 1) -> float:
        """The peak in bytes, margin included; on each of several ranks among which the weights are sharded."""
        weights = self.weight_bytes / shards + (self.gathered_bytes if shards > 1 else 0)
        return MARGIN * (weights + (self.checkpointed_bytes if checkpointing else self.activation_bytes))

    def seconds(self, peak: float, checkpointing: bool) -> float:
        """The time of all steps on a device of `peak` FLOP/s: tokens x FLOPs a token / (peak x utilisation)."""
        return self.tokens * (self.flops + self.flops_again * checkpointing) / (peak * _UTILISATION)

    def words(self, peak: float, checkpointing: bool, shards: int = 1) -> str:
        """One line: "7.24 G parameters, 168 M trained; 58 GB of memory without activation checkpointing; …"."""
        memory = f"{'about ' * self.about}{_short(self.memory(checkpointing, shards))}B of memory"
        memory += f" with{'' if checkpointing else 'out'}"
        work = f"{_short(self.tokens)} tokens at {_short(self.flops + self.flops_again * checkpointing)}FLOP each"
        time = timedelta(seconds=min(round(self.seconds(peak, checkpointing)), 10**13))
        return (
            f"{_short(self.parameters)} parameters, {_short(self.trained)} trained; {memory} activation checkpointing; "
            f"{'at most ' * self.at_most}{work}, {time} at {_UTILISATION:.0%} of {_short(peak)}FLOP/s"
        )


def training_size(
    architecture: Any, train: TrainConfig, precision: Precision, mean_tokens: float | None, steps: int
) -> TrainingSize:
    """What training a decoder (`architecture`: its transformers config) takes.

    `mean_tokens` is the mean length of an example, prompt and completion; None counts each at its limit.

    FLOPs a token (Kaplan et al., arXiv 2001.08361, section 2.1): 2 N forward, N the parameters of the matrices that
    multiply: the head, not the embedding; of fused experts those that a token is sent to. Backward, 2 N for the
    gradient of the inputs and 2 N for that of the weights, which frozen ones need not: 6 N for full, 4 N + 6 x trained
    for (Q)LoRA. Causal attention over L tokens: 2 x layers x width x L forward, twice that backward (PaLM, arXiv
    2204.02311, appendix B, halved as half the scores are masked). Activation checkpointing runs the layers forward once
    more: 2 N and attention (the head is not, the adapters are, which about cancels).

    Memory is that of the weights as `lema.models.huggingface.load_trainable` holds them, plus 16 bytes a trained
    parameter and 2 for its copy in bf16, plus the activations of a forward pass of `row_tokens` (packed) or of
    `micro_batch_size` examples at their limit (padded), with logits for each token. Raises `UserError` when PEFT cannot
    adapt the model.
    """
    shape = _Shape.of(architecture, train, precision)
    length = mean_tokens or train.max_source_tokens + train.max_target_tokens
    attention = 2 * shape.layers * shape.width * length
    full, half = train.method is Method.full, precision is Precision.bf16
    base_bytes = {
        Method.full: 0.0,
        Method.lora: (2.0 if half else 4.0) * shape.parameters,
        # PEFT's prepare_model_for_kbit_training makes 32-bit what is not quantised: embedding, norms, experts, head.
        Method.qlora: NF4_BYTES * shape.linear + 4.0 * (shape.parameters - shape.linear),
    }[train.method]
    rows = train.row_tokens
    if train.batches is Batches.padded:
        rows = train.micro_batch_size * (train.max_source_tokens + train.max_target_tokens)
    activations, layer_inputs = _activation_bytes(shape, train, half)
    logits = _LOGIT_BYTES * shape.vocabulary
    return TrainingSize(
        parameters=shape.parameters,
        trained=shape.trained,
        tokens=float(steps * train.batch_size * length),
        at_most=mean_tokens is None,
        flops=(6 * shape.multiplied if full else 4 * shape.multiplied + 6 * shape.trained) + 3 * attention,
        flops_again=2 * shape.multiplied + attention,
        weight_bytes=base_bytes + (TRAINED_BYTES + 2 * half) * shape.trained,
        activation_bytes=rows * (activations + logits),
        gathered_bytes=shape.gathered,
        checkpointed_bytes=rows * (layer_inputs + activations / shape.layers + logits),
        about=not shape.llama,
    )


def llama(parameters: int) -> LlamaConfig:
    """The config of a Llama of about so many parameters, for a model that is not here yet.

    It is 128 times as wide as deep, and its depth is a multiple of 4: for 7B, 13B and 70B 32, 40 and 72.
    """
    layers = max(4, 4 * round((parameters / (12 * 128**2)) ** (1 / 3) / 4))
    return LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=128 * layers,
        intermediate_size=round(8 / 3 * 128 * layers),
        num_attention_heads=layers,
        vocab_size=32_000,
    )


def measured_peak(precision: Precision) -> float:
    """FLOP/s of a large matrix product on the GPU, else on the CPU: the median over a tenth of a second of them."""
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 256)
    matrix = torch.ones(size, size, device=device, dtype=torch.bfloat16 if precision is Precision.bf16 else torch.float)
    timer = Timer("matrix @ matrix", globals={"matrix": matrix}, num_threads=torch.get_num_threads())
    return 2 * size**3 / timer.blocked_autorange(min_run_time=0.1).median


def available_memory() -> int:
    """Bytes of the GPU, if there is one, else of the machine; what others use of it is not looked at."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def visible_gpus() -> int:
    """How many CUDA GPUs this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def device() -> str:
    """What computes here: "NVIDIA H100 80GB HBM3", or "cpu"."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def release_memory() -> None:
    """Give the memory that no tensor uses back: the GPU's, and what glibc keeps of this process's."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def batch_tokens(model: Any) -> int:
    """How many tokens a batch may have: what a share of the GPU's free memory holds, on a CPU a number that is fast."""
    config = model.config.get_text_config(decoder=True)
    heads, width = size(config, "num_attention_heads", 1), size(config, "hidden_size", 1024)
    of_head = size(config, "head_dim", width // heads) * size(config, "num_key_value_heads", heads)
    of_token = 2 * size(config, "num_hidden_layers", 1) * of_head * model.dtype.itemsize
    if model.device.type != "cuda":
        return max(1, min(_ON_CPU, int(_OF_MACHINE * available_memory() / of_token)))
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return max(1, int(_OF_GPU * free / of_token))


@dataclass(frozen=True)
class _Shape:
    """What a model's own modules count, and of its config the few sizes that no module tells."""

    parameters: int
    trained: int
    linears: int  # linear layers, all without the head
    linear: int  # their weights
    inputs: int  # their inputs
    gathered: float  # bytes of weights outside the blocks and of two blocks, with gradients of those that are trained
    multiplied: float  # weights that a token is multiplied with: linear layers, head, its share of the experts
    vocabulary: int
    layers: int
    width: int
    kv_share: float  # of the heads
    mlp: int
    llama: bool

    @classmethod
    def of(cls, architecture: Any, train: TrainConfig, precision: Precision) -> "_Shape":
        with torch.device("meta"):  # shapes without storage
            model: Any = AutoModelForCausalLM.from_config(architecture)
        text = architecture.get_text_config(decoder=True)
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        linear = {
            name: part
            for name, part in model.named_modules()
            if isinstance(part, torch.nn.Linear | Conv1D) and part is not head
        }
        matrices, parameters = sum(each.weight.numel() for each in linear.values()), model.num_parameters()
        last = embedding.weight if head is None else head.weight
        fused, chosen = experts(model).values(), size(text, "num_experts_per_tok", 0)
        shares = [each.numel() * (min(1, chosen / len(each)) if chosen else 1) for each in fused]
        width = size(text, "hidden_size", embedding.weight.shape[1])
        heads = size(text, "num_attention_heads", 1)
        if train.method is not Method.full:
            model = adapted(model, train, low_cpu_mem_usage=True)
        parts = [_weights(part.parameters(), train, precision) for part in blocks(model)]
        everything = list(model.parameters())
        return cls(
            parameters=parameters,
            trained=sum(each.numel() for each in everything if each.requires_grad),
            gathered=_weights(everything, train, precision) - sum(parts) + 2 * max(parts, default=0),
            linear=matrices,
            inputs=sum(each.nx if isinstance(each, Conv1D) else each.in_features for each in linear.values()),
            linears=len(linear),
            multiplied=matrices + last.numel() + sum(shares),
            vocabulary=last.shape[0],
            layers=size(text, "num_hidden_layers", 1),
            width=width,
            kv_share=size(text, "num_key_value_heads", heads) / heads,  # GPT-NeoX and older: each its own
            mlp=size(text, "intermediate_size", 4 * width),
            llama={name.rpartition(".")[2] for name in linear} == _LLAMA,
        )


def _weights(parameters: Iterable[torch.Tensor], train: TrainConfig, precision: Precision) -> float:
    """Bytes of parameters as they are held, and of the gradients of those that are trained, in 32 bits both."""
    frozen = 2.0 if precision is Precision.bf16 and train.method is not Method.full else 4.0
    return sum(each.numel() * (8.0 if each.requires_grad else frozen) for each in parameters)


def _activation_bytes(shape: _Shape, train: TrainConfig, half: bool) -> tuple[float, float]:
    """Bytes a token that a forward pass keeps for the backward pass: of all layers; of the layers' inputs alone.

    A layer keeps each norm's input in 32 bit (and, to train its weight, what it normalised); q, k, v and the output of
    flash attention; gate, its activation and up of the MLP; the input of each of its seven linear layers, with one byte
    of dropout mask, and LoRA's `rank` numbers. Llama-2-7B, LoRA of rank 64, bf16: 7.7 MB a token. On a CPU, where each
    storage of a step can be counted, within 6 % of the peak in bf16; in fp32 linear layers share inputs: 15 % above it.
    """
    full, qlora = train.method is Method.full, train.method is Method.qlora
    number = 2 if half else 4
    residual = 2 if half and train.method is Method.lora else 4  # embeddings of 32 bit make 32-bit hidden states
    wide = 4 if qlora else number  # 4-bit layers answer in the type of the hidden states
    norms = 2 * shape.width * (8 if full else 4)
    attention = 2 * shape.width * (1 + shape.kv_share) * number
    activations = shape.layers * (norms + attention + 3 * shape.mlp * wide) + shape.linears * train.lora_rank * number
    activations += shape.inputs * (number + (train.lora_dropout > 0))
    return activations, shape.layers * shape.width * residual


def _short(value: float) -> str:
    """Three digits and the prefix of a thousand: 7241732096 is "7.24 G"."""
    for prefix in ("", "K", "M", "G", "T"):
        if value < 999.5:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} P"
