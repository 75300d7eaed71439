"""Which attention kernel computes; and PyTorch's own one for packed rows, in the form that transformers calls."""

from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.utils.import_utils import is_flash_attn_2_available

from lema.config import Attention, Precision


def choose(attention: Attention, precision: Precision, packed: bool) -> tuple[Attention, str]:
    """The kernel to load a model with, and why; `packed` rows have no padding, which `varlen` alone cannot have."""
    if attention is Attention.varlen and not packed:
        return Attention.sdpa, "varlen computes packed rows alone"
    if attention is not Attention.auto:
        return attention, "as configured"
    if not torch.cuda.is_available():
        return Attention.sdpa, "no GPU"
    if precision is Precision.fp32:
        return Attention.sdpa, "flash kernels compute in 16 bits"
    if is_flash_attn_2_available():
        return Attention.flash_attention_2, "flash-attn is installed"
    return (Attention.varlen if packed else Attention.sdpa), "flash-attn is not installed"


def _varlen(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **options: Any
) -> tuple[torch.Tensor, None]:
    """PyTorch's variable-length flash kernel (CUDA) in transformers' form: (1, heads, length, size) in, causal."""
    query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    bounds, longest = options["cu_seq_lens_q"], options["max_length_q"]
    window = options.get("sliding_window")
    before = -1 if window is None else window - 1
    output = varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scaling, window_size=(before, 0))
    assert isinstance(output, torch.Tensor)
    return output.unsqueeze(0), None


AttentionInterface.register(Attention.varlen, _varlen)
