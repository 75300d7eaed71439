"""Which attention kernel computes; and one for packed rows, which reads each document by itself."""

from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.utils.import_utils import is_flash_attn_2_available

from lema.config import Attention, Precision


def choose(attention: Attention, precision: Precision, packed: bool) -> tuple[Attention, str]:
    """The kernel to load a model with, and why; `packed` rows have no padding, which `varlen` cannot have."""
    if attention is Attention.varlen and not packed:
        return Attention.sdpa, "varlen computes packed rows alone"
    on_gpu = torch.cuda.is_available()
    if attention in (Attention.auto, Attention.varlen) and on_gpu and precision is Precision.fp32:
        return Attention.sdpa, "flash kernels compute in 16 bits"
    if attention is not Attention.auto:
        return attention, "as configured"
    if not on_gpu:
        return (Attention.varlen if packed else Attention.sdpa), "no GPU"
    if is_flash_attn_2_available():
        return Attention.flash_attention_2, "flash-attn is installed"
    return (Attention.varlen if packed else Attention.sdpa), "flash-attn is not installed"


def _varlen(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **options: Any
) -> tuple[torch.Tensor, None]:
    """Causal attention over a packed row, (1, heads, length, size) each, in the form that transformers calls.

    On a GPU PyTorch's variable-length flash kernel; on a CPU one document after the other, which spares the work and
    the mask of pairs that do not see each other.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    bounds, longest, window = options["cu_seq_lens_q"], options["max_length_q"], options.get("sliding_window")
    if query.is_cuda:
        query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
        seen = (-1 if window is None else window - 1, 0)  # tokens before and after
        output = varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scaling, window_size=seen)
        assert isinstance(output, torch.Tensor)
        return output.unsqueeze(0), None
    documents = zip(*(each.split(bounds.diff().tolist(), dim=2) for each in (query, key, value)), strict=True)
    outputs = []
    for one in documents:
        length = one[0].shape[2]
        band = None
        if window is not None and length > window:
            band = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)
        outputs.append(scaled_dot_product_attention(*one, attn_mask=band, is_causal=band is None, scale=scaling))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(Attention.varlen, _varlen)
