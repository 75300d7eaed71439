"""Attention for packed rows, `varlen`: it reads each document by itself, and refuses what it does not compute."""

import inspect
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from lema.types import UserError

# Whether torch's kernel takes fewer heads of keys and values than of queries as they are: 2.13 does, 2.11 does not.
GROUPED = "enable_gqa" in inspect.signature(varlen_attn).parameters
# What models pass along that leaves attention as it is: where documents begin, and what is to be returned.
_PASSED = {
    *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "position_ids", "cache_position", "seq_idx"),
    *("use_cache", "return_dict", "output_attentions", "output_hidden_states", "output_router_logits"),
}


def varlen(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention over a packed row, (1, heads, length, size) each, in the form that transformers calls.

    On a GPU PyTorch's variable-length flash kernel; on a CPU one document after the other, which spares the work and
    the mask of pairs that do not see each other. Raises `UserError` for all else that a model asks of attention.
    """
    _refuse(module, options | {"attention_mask": attention_mask})
    groups = query.shape[1] // key.shape[1]
    # Under autocast, weights of 32 bits leave the rotated queries and keys in 32 bits, and 4-bit ones the values too.
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    shared = {"enable_gqa": True} if query.is_cuda and GROUPED and groups > 1 else {}
    if not shared:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    bounds, longest = options["cu_seq_lens_q"], options["max_length_q"]
    if query.is_cuda:
        query, key, value = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))
        seen = (-1 if sliding_window is None else sliding_window - 1, 0)  # tokens before and after
        options = {"scale": scaling, "window_size": seen} | shared
        output = varlen_attn(query, key, value, bounds, bounds, longest, longest, **options)
        assert isinstance(output, torch.Tensor)
        return output.unsqueeze(0), None
    documents = zip(*(each.split(bounds.diff().tolist(), dim=2) for each in (query, key, value)), strict=True)
    outputs = []
    for one in documents:
        length = one[0].shape[2]
        band = None
        if sliding_window is not None and length > sliding_window:
            band = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - sliding_window)
        outputs.append(scaled_dot_product_attention(*one, attn_mask=band, is_causal=band is None, scale=scaling))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _refuse(module: Any, options: dict[str, Any]) -> None:
    """Raise `UserError` for an option that would change attention, as `softcap=50.0`, `s_aux` (sinks), `dropout`."""
    causal = options.pop("is_causal", None)
    asked = [] if (getattr(module, "is_causal", True) if causal is None else causal) else ["is_causal=False"]
    for name, value in options.items():
        neutral = value is None or (not torch.is_tensor(value) and value in (False, 0))
        if name not in _PASSED and not neutral:
            asked.append(name if torch.is_tensor(value) else f"{name}={value}")
    asked += [f"no {name}" for name in ("cu_seq_lens_q", "max_length_q") if options.get(name) is None]
    if asked:
        raise UserError(f"attention=varlen does not compute {', '.join(asked)}, which {type(module).__name__} asks for")
