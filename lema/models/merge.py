"""Merging an adapter into its base, and measuring how far the merged model is the adapter on its base.

A merge goes block by block, a decoder layer each, so that it takes memory for one block and one file of the result.
Reading, its renamings and the writing of a model's own names are transformers', and a layer's merge is PEFT's: so the
bytes are those of the whole model loaded, merged and saved by them.
"""

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from lema.artifacts import check
from lema.config import Attention, Computation, Precision
from lema.console.progress import Progress
from lema.models.adapters import foreign
from lema.models.continuous import Row
from lema.models.encoding import encode_prompt
from lema.models.huggingface import check_widths, load_adapter, load_model, load_to_answer, load_tokenizer
from lema.models.sizes import MARGIN, available_memory, release_memory
from lema.models.streaming import Shards, load, stored_blocks
from lema.models.trial import raise_positions
from lema.models.weights import Weights
from lema.models.writing import answering, end_tokens, placed
from lema.types import UserError

log = logging.getLogger(__name__)
SHARD = 5_000_000_000  # bytes of a file at most, unless one tensor has more
_MIN_POSITIONS = 4096  # the official script raises the merged model's limit to it
_CHECKED_TOKENS = 64  # new ones a prompt: to see that two models agree, not to solve the problem


def merge(
    base: Weights, adapter: Path, folder: Path, precision: Precision, *, dequantise: bool, shard: int = SHARD
) -> None:
    """Write base + adapter as one model in its precision, with its tokenizer, in files of at most `shard` bytes.

    `dequantise` rounds the base's linear layers to NF4 and back, which makes the base that `qlora` trained on:
    merged into the original weights, the adapter meets others than it was trained to correct. Raises `UserError` for an
    adapter that holds more than LoRA's matrices, and for weights that do not fit.
    """
    if more := foreign(adapter):
        raise UserError(f"{adapter}: {more}, and only LoRA's matrices of linear layers are merged: train.merge=null")
    plain = load_model(base, precision, Attention.eager, False, "meta")
    adapted = load_adapter(_hollow(plain), adapter)
    raise_positions(plain.config, _MIN_POSITIONS)
    layers = {
        name.removeprefix("base_model.model."): part
        for name, part in adapted.named_modules()
        if isinstance(part, LoraLayer) and not name.endswith(".base_layer")  # these are merged with what they lie in
    }
    _stream(base, plain, folder, layers, _four_bit(base, precision) if dequantise else set(), shard)
    load_tokenizer(base).save_pretrained(folder)


def write_dequantised(base: Weights, folder: Path, precision: Precision) -> None:
    """Write the base that `qlora` trains on, through NF4 and back, as a model in its precision, with its tokenizer."""
    plain = load_model(base, precision, Attention.eager, False, "meta")
    _stream(base, plain, folder, {}, _four_bit(base, precision), SHARD)
    load_tokenizer(base).save_pretrained(folder)


def _hollow(plain: Any) -> Any:
    """A model without memory that PEFT takes for a loaded one: each of its parameters is a zero that is repeated."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made = copy.deepcopy(plain)
    for module in made.modules():
        for name, each in module.named_parameters(recurse=False):
            zeros = torch.zeros((), dtype=each.dtype, device=device).expand(each.shape)
            setattr(module, name, torch.nn.Parameter(zeros, requires_grad=False))
    return made


def _four_bit(base: Weights, precision: Precision) -> set[str]:
    """The linear layers that `qlora` holds in 4 bits, by name."""
    held = load_model(base, precision, Attention.eager, True, "meta")
    return {name for name, part in held.named_modules() if type(part).__name__ == "Linear4bit"}


def _stream(base: Weights, plain: Any, folder: Path, layers: dict[str, Any], four_bit: set[str], shard: int) -> None:
    """Write a model that lies on the meta device, block by block, with its weights read, rounded and merged."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if four_bit and device == "cpu":
        check_widths(plain, base)
    plain.save_pretrained(folder, state_dict={})  # its config and its generation settings
    written, parts = Shards(folder, shard), stored_blocks(base, plain)
    ignored = set(plain._keys_to_ignore_on_save or ())
    with Progress("written block", len(parts)) as progress, torch.no_grad():
        for block, files in progress.over(parts.items()):
            check()
            names = load(base, plain, block, files, device)
            modules = {name.rpartition(".")[0]: plain.get_submodule(name.rpartition(".")[0]) for name in names}
            for name, module in modules.items():
                if name in four_bit:
                    module.weight = _through_four_bits(module.weight)
                if name in layers:
                    _merge_layer(layers.pop(name), module)
            state = plain.state_dict()
            kept = remove_tied_weights_from_state_dict({n: state[n] for n in names if n not in ignored}, plain)
            for name, tensor in revert_weight_conversion(plain, kept).items():
                written.add(name, tensor)
            for module in modules.values():
                module.to("meta")
            del state, kept
            release_memory()  # else it grows by half of each block, tensors below 32 MB lying between others
        written.close()
    if layers:
        raise UserError(f"{base.location}: it has no weights of {next(iter(layers))}, which the adapter is to change")


def _through_four_bits(weight: torch.Tensor) -> torch.nn.Parameter:
    """A linear layer's weight in NF4 and back, as bitsandbytes rounds it where it lies."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # where it is installed, and for NF4 alone

    held, state = quantize_4bit(weight.data.contiguous(), compress_statistics=True, quant_type="nf4")
    return torch.nn.Parameter(dequantize_4bit(held, state), requires_grad=False)


def _merge_layer(layer: Any, module: Any) -> None:
    """Add what PEFT's layers of one name make to the weights of the module; of fused experts they lie in each other."""
    around = [layer]
    while isinstance(around[-1].base_layer, LoraLayer):
        around.append(around[-1].base_layer)
    around[-1].base_layer = module
    for each in around:
        each.merge(safe_merge=True)  # refuses weights that are not numbers


def agreement(
    base: Weights, adapter: Path, merged: Path, computation: Computation, prompts: list[str], *, four_bit: bool
) -> dict[str, Any]:
    """How far the merged model answers as the adapter does on its base (in NF4 when `four_bit`), greedily.

    Both read the adapter's answers. `equal_outputs` is the share of these of which both give each token the same
    likeliest one, in [0, 1], and `largest_logit_difference` is over all their tokens. Nothing is asked (`prompts` is 0)
    where the merged model does not fit on one device, as it does not for vLLM on several.
    """
    made = Weights(base.name, str(merged), None, "")
    need = MARGIN * sum(file.stat().st_size for file in made.files)
    if need > available_memory():
        log.warning(
            "merge: the merged model takes %.0f GB, and this device has %.0f GB: it is not compared with its adapter",
            need / 1e9,
            available_memory() / 1e9,
        )
        return {"prompts": 0}
    tokenizer = load_tokenizer(base)
    adapted = load_adapter(load_to_answer(base, computation, four_bit=four_bit), adapter).eval()
    rows = [Row(*placed(adapted, encode_prompt(tokenizer, prompt), _CHECKED_TOKENS)) for prompt in prompts]
    with Progress("compared answer", 2 * len(rows)) as progress:
        for finished in answering(adapted, end_tokens(adapted, tokenizer), 0.0, None, str).answer(rows):
            check()
            progress.advance(len(finished))
        expected = [_logits(adapted, row) for row in rows]
        del adapted  # the two need not fit on the device together
        release_memory()
        whole = load_to_answer(made, computation, four_bit=False)
        equal, largest = 0, 0.0
        for row, theirs in progress.over(zip(rows, expected, strict=True)):
            check()
            ours = _logits(whole, row)
            equal += torch.equal(ours.argmax(-1), theirs.argmax(-1))
            largest = max(largest, float((ours - theirs).abs().max()))
    return {"prompts": len(prompts), "equal_outputs": equal / len(prompts), "largest_logit_difference": largest}


@torch.inference_mode()
def _logits(model: Any, row: Row) -> torch.Tensor:
    """What a model expects at each token of an answer, (tokens, vocabulary) in fp32, on the CPU."""
    ids = torch.tensor([[*row.prompt, *row.tokens]], device=model.device)
    return model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1].float().cpu()
