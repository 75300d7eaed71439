"""Compiling: a model's blocks become a few fused kernels, where a run is long enough to win back what that takes.

Norms, rotary positions, the MLP's activation and what LoRA adds are some thirty kernels of a block otherwise. Attention
and the matrix products stay what they are, and dropout draws what it would draw, so only rounding differs.
"""

import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lema.config import Batches, TrainConfig
from lema.models.kernels import DOCUMENTS, FAULTS, TOLERANCE, laid_out, small
from lema.types import UserError

log = logging.getLogger(__name__)

# Seconds of training from which on it pays. Measured on an H200 with torch 2.11: it took 45 s for a 7B model, and
# training was 1.47 times as fast then.
_LONG = 300.0
_VARIANTS = 64  # of a block's code: kinds of layers, and shapes that could not be left open


@contextmanager
def compiled(model: Any, train: TrainConfig, seconds: float) -> Iterator[None]:
    """Training for so long, with the model's blocks compiled in place where `train.compile` wants it or time is saved.

    Raises `UserError` when they cannot be compiled; of itself it leaves alone a model of which a small random one of
    the same architecture fails, or has another gradient. On a CPU packed rows with activation checkpointing stay as
    they are: the bounds of their documents are read in the middle of a block.
    """
    wanted = train.compile
    if wanted is None and torch.cuda.is_available() and seconds >= _LONG:
        fault = _fault(model, train.batches is Batches.packed)
        wanted = fault is None
        if fault:
            log.warning("train: not compiled: a small compiled %s %s", model.config.model_type, fault)
    if wanted:
        _compile(model)
        log.info("train: its blocks are compiled in the first steps, which takes about a minute (train.compile)")
    try:
        yield
    except Exception as error:
        if not _of_compiling(error):
            raise
        why = f"its blocks cannot be compiled ({_short(error)})"
        raise UserError(f"train.compile: {why}: train.compile=false") from error
    finally:
        if wanted:
            torch.compiler.reset()  # the next cell of a sweep compiles its own


def _compile(model: Any) -> None:
    """Compile the blocks that the model's class names, each by itself: all of a kind share what is compiled."""
    from torch._dynamo import config as tracing  # a second, for those alone who compile
    from torch._inductor import config as generating

    tracing.recompile_limit = _VARIANTS
    generating.fallback_random = True  # what dropout draws does not depend on this
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    for part in [part for part in model.modules() if type(part).__name__ in kinds]:
        part.compile(dynamic=True)  # rows are of any length


def _fault(model: Any, packed: bool) -> str | None:
    """How a small model of the same architecture differs once it is compiled; None when its gradient does not."""
    device, dtype = model.device, torch.bfloat16 if model.device.type == "cuda" else torch.float32

    def gradient(tried: Any) -> torch.Tensor:
        draw = torch.Generator().manual_seed(0)
        documents = [torch.randint(3, 64, (length,), generator=draw) for length in DOCUMENTS]
        tried.zero_grad()
        tried(**laid_out(documents, packed, device)).logits.float().logsumexp(-1).mean().backward()
        return torch.cat([each.grad.flatten().float() for each in tried.parameters() if each.grad is not None])

    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        try:
            kernel = model.config._attn_implementation
            tried: Any = AutoModelForCausalLM.from_config(small(model.config), attn_implementation=kernel, dtype=dtype)
            expected = gradient(tried.to(device).eval())
            _compile(tried)
            off = float((gradient(tried) - expected).norm() / expected.norm())
        except Exception as error:
            if not isinstance(error, FAULTS) and not _of_compiling(error):
                raise
            return f"fails ({_short(error)})"
    return None if off <= TOLERANCE[dtype] else f"is another one (its gradient is {off:.0e} off)"


def _of_compiling(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def _short(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 100)
