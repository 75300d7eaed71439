"""Which attention kernel a model is loaded with: one that computes what eager does, tried on a small random model.

Kernels leave out in silence what they do not know: soft-capping, sinks, windows, the bounds of packed documents. So
each is tried on a model of the same architecture, of random weights and small sizes, against eager attention, one
document by itself. Nothing of the model but its config is needed for that.
"""

import copy
import functools
import logging
import textwrap
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch
from transformers import AttentionInterface, AutoModelForCausalLM, DataCollatorWithFlattening
from transformers.utils.import_utils import is_flash_attn_2_available

from lema.config import Attention, Computation, Precision
from lema.models.attention import varlen
from lema.types import UserError

AttentionInterface.register(Attention.varlen, varlen)
_warn = functools.cache(logging.getLogger(__name__).warning)  # one line a process
Found = TypeVar("Found")

DOCUMENTS = (21, 13, 5)  # tokens of each: two of them are longer than the window
_WINDOW = 8
_VOCABULARY = 64
# Weights so large that scores reach the caps of the models that have some.
_GAIN = 3.0
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # of the logits' norm, relative
# What was seen where a kernel, or a config that is no decoder's, does not serve.
FAULTS = (UserError, ImportError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError)
# A Mamba-2 mixer's heads, their width, its own width in hidden sizes (heads x width), and its groups of heads, by the
# names of Mamba-2, of Bamba and Granite, and of Zamba-2.
_MIXERS = (
    ("num_heads", "head_dim", "expand", "n_groups"),
    ("mamba_n_heads", "mamba_d_head", "mamba_expand", "mamba_n_groups"),
    ("n_mamba_heads", "mamba_headdim", "mamba_expand", "mamba_ngroups"),
)
_found: dict[tuple[Any, ...], Any] = {}


def choose(computation: Computation, architecture: Any, packed: bool, key: str = "backbone") -> tuple[Attention, str]:
    """The kernel to load a model of this architecture (its transformers config) with, and why.

    `packed` rows have no padding, which `varlen` cannot have. Raises `UserError`, with a remedy for the model's `key`
    in the config, when a configured kernel, or every one, computes something else than the architecture asks for.
    """
    attention, precision = computation.attention, computation.precision
    if precision is Precision.bf16 and emulates_bf16():
        _warn("%s: this CPU only emulates bf16, which takes many times as long as fp32: %s.precision=fp32", key, key)
    kernels, why = _wanted(attention, precision, packed)
    dropped = []
    for kernel in kernels:
        fault = _fault(architecture, kernel, packed)
        if fault is None:
            return kernel, "; ".join([why, *dropped])
        dropped.append(f"{kernel} does not compute the attention of {architecture.model_type} ({fault})")
    eager, padded = f"{key}.attention=eager", "train.batches=padded"
    remedies = [(eager, [Attention.eager], packed), (padded, _wanted(attention, precision, False)[0], False)]
    remedies += [(f"{padded} {eager}", [Attention.eager], False)]
    serve = [words for words, others, rows in remedies if not all(_fault(architecture, each, rows) for each in others)]
    where = f"{key}.attention={attention}{' on packed rows' if packed else ''}"
    raise UserError(f"{where}: {'; '.join(dropped)}: {[*serve, 'choose another model'][0]}")


def emulates_bf16() -> bool:
    """Whether models run on a CPU without wide vectors: SmolLM2-135M trains there 20 times as fast in fp32 (AVX2)."""
    return not torch.cuda.is_available() and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def _wanted(attention: Attention, precision: Precision, packed: bool) -> tuple[list[Attention], str]:
    """The kernels that would do on this machine, the fastest first, and why that one; a configured one stands alone."""
    on_gpu = torch.cuda.is_available()
    if attention is Attention.varlen and not packed:
        return [Attention.sdpa, Attention.eager], "varlen computes packed rows alone"
    if attention in (Attention.auto, Attention.varlen) and on_gpu and precision is Precision.fp32:
        return [Attention.sdpa, Attention.eager], "flash kernels compute in 16 bits"
    if attention is not Attention.auto:
        return [attention], "as configured"
    others = [Attention.varlen] * packed + [Attention.sdpa, Attention.eager]
    if not on_gpu:
        return others, "no GPU"
    if is_flash_attn_2_available():
        return [Attention.flash_attention_2, *others], "flash-attn is installed"
    return others, "flash-attn is not installed"


def _fault(architecture: Any, kernel: Attention, packed: bool) -> str | None:
    """What is wrong with a kernel for an architecture."""
    config = small(architecture)
    return once(lambda: _try(config, kernel, packed), config, kernel, packed)


def once(run: Callable[[], Found], config: Any, *what: Any) -> Found:
    """What `run` finds of a small config; tried once in a process."""
    tried = (config.to_json_string(), *what)
    if tried not in _found:
        _found[tried] = run()
    return _found[tried]


def small(architecture: Any) -> Any:
    """The same config with small sizes; caps, sinks, kinds of layers and heads that share keys are kept."""
    config = copy.deepcopy(architecture.get_text_config(decoder=True))
    vars(config).pop("quantization_config", None)  # of the published weights
    heads = size(config, "num_attention_heads", 1)
    shared = size(config, "num_key_value_heads", heads)
    keys = min(shared, 2)
    few = keys * max(1, heads // shared)
    # A head's size is kept, as kernels have limits; it often is the width's share.
    width = few * (16 if vars(config).get("head_dim") else size(config, "hidden_size", 16 * heads) // heads)
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or ()))
    # One layer of each kind; Zamba needs two of a kind, as they share their weights.
    kinds *= 2 if len(kinds) == 1 or size(config, "attn_layer_period", 0) else 1
    sizes = {name: 32 for name in vars(config) if "intermediate_size" in name}
    sizes |= {name: _VOCABULARY for name in vars(config) if "vocab_size" in name}
    sizes |= {"layer_types": kinds, "num_hidden_layers": len(kinds) or 2, "initializer_range": _GAIN / width**0.5}
    sizes |= {"num_attention_heads": few, "num_key_value_heads": keys, "hidden_size": width}
    sizes |= {"sliding_window": _WINDOW, "attention_chunk_size": _WINDOW}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    # Bamba, Jamba, RecurrentGemma and Zamba-2 say by these which layers have attention: the second of two.
    sizes |= {"attn_layer_indices": [1], "attn_layer_period": 2, "attn_layer_offset": 1}
    sizes |= {"block_types": ["recurrent", "attention"], "hybrid_layer_ids": [1]}
    # Zamba's attention is twice as wide as the model, as it also reads the embedding; RWKV's is as wide.
    ratio = size(config, "attention_hidden_size", 0) // size(config, "hidden_size", 1)
    sizes |= {"attention_hidden_size": ratio * width}
    for heads_name, width_name, expand_name, groups_name in _MIXERS:
        if (expand := size(config, expand_name, 0)) and size(config, heads_name, 0) and hasattr(config, width_name):
            each = min(size(config, width_name, 64), expand * width)
            sizes |= {heads_name: expand * width // each, width_name: each, groups_name: 1}
            sizes |= {"mamba_d_ssm": expand * width}  # Falcon-H1's own name of the product
    for name, value in sizes.items():
        with suppress(*FAULTS):  # a name that this architecture derives from others
            if getattr(config, name, None) is not None:
                setattr(config, name, value)
    return config


def build(config: Any, attention: str = "eager", dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """A small model that answers, with the same weights each time."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    return model.to(device).eval()


def documents() -> list[torch.Tensor]:
    """Texts for a small model, (tokens,) each."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(3, _VOCABULARY, (length,), generator=draw) for length in DOCUMENTS]


def short(error: BaseException) -> str:
    """An error in a few words."""
    return textwrap.shorten(f"{type(error).__name__}: {error}".removeprefix("UserError: "), 100)


def blocks(model: Any) -> list[Any]:
    """The model's repeated blocks, of the kinds that its class names (`_no_split_modules`)."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    return [part for part in model.modules() if kinds & {kind.__name__ for kind in type(part).__mro__}]


def size(config: Any, name: str, default: int) -> int:
    """A size of a model by its usual name; the default where its config has none, or one for each layer."""
    try:
        found = getattr(config, name)
    except (AttributeError, RuntimeError):  # transformers raises the second for a size that differs from layer to layer
        return default
    return found if type(found) is int and found > 0 else default


def _try(config: Any, kernel: Attention, packed: bool) -> str | None:
    """How a kernel fails on a small model; None when it computes what eager does, one document by itself."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flash = device == "cuda" and kernel in (Attention.flash_attention_2, Attention.varlen)
    dtype, texts = torch.bfloat16 if flash else torch.float32, documents()
    with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad():
        try:
            eager = build(config, "eager", dtype, device)
            alone = [eager(input_ids=each.to(device)[None], use_cache=False).logits[0] for each in texts]
        except FAULTS as error:
            _warn(f"no kernel could be tried on a small {config.model_type} ({error}): only training is checked")
            return None
        try:
            model = build(config, str(kernel), dtype, device)
            found, expected = _logits(model, texts, packed), torch.cat(alone)[int(packed) :]
        except FAULTS as error:
            return short(error)
    if found.shape != expected.shape:
        return "it does not take logits_to_keep"
    off = float((found - expected).float().norm() / expected.float().norm())
    return None if off <= TOLERANCE[dtype] else f"{off:.0e} off eager's logits"


def _logits(model: Any, documents: list[Any], packed: bool) -> Any:
    """The logits of each document's tokens; packed, without the row's first."""
    inputs = laid_out(documents, packed, model.device)
    if not packed:
        return model(**inputs).logits[inputs["attention_mask"].bool()]
    kept = torch.arange(1, sum(map(len, documents)), device=model.device)
    found = model(**inputs, logits_to_keep=kept).logits[0]
    model.train()(**inputs)  # dropout too must be something that the kernel takes
    return found


def laid_out(documents: list[Any], packed: bool, device: Any) -> dict[str, Any]:
    """What a model reads of documents: a row each, filled up to the longest; packed, one row."""
    if not packed:
        rows = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True).to(device)
        return {"input_ids": rows, "attention_mask": (rows != 0).long(), "use_cache": False}
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    row = dict(collate([{"input_ids": each.tolist()} for each in documents])) | {"use_cache": False}
    del row["labels"]
    return {name: each.to(device) if torch.is_tensor(each) else each for name, each in row.items()}
