"""Compiling: the small kernels of a model's blocks are fused, where training is long enough to win back the time.

Norms, rotary positions, the MLP's activation and LoRA's additions are fused. Attention and matrix products stay as they
are, and dropout draws the same numbers, so only rounding differs.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lema.config import Batches, Precision, TrainConfig
from lema.models.kernels import DOCUMENTS, FAULTS, TOLERANCE, blocks, build, documents, laid_out, short, small
from lema.types import UserError

log = logging.getLogger(__name__)

# Seconds of training from which on it pays: on an H200 with torch 2.11 it took 45 s for a 7B model, which then trained
# 1.47 times as fast.
_LONG = 300.0
_VARIANTS = 64  # at most, of a block's compiled code: it differs by the kind of layer, and by some shapes


@contextmanager
def compiled(model: Any, train: TrainConfig, precision: Precision, seconds: float) -> Iterator[None]:
    """Compile the model's blocks for a training of so many seconds, if `train.compile` asks for it or time is saved.

    Raises `UserError` when they cannot be compiled. Without being asked it compiles only where a small random model of
    the same architecture has the right gradient when compiled. On a CPU, packed rows with activation checkpointing stay
    uncompiled: the bounds of their documents are read in the middle of a block.
    """
    wanted = train.compile
    if wanted is None and torch.cuda.is_available() and seconds >= _LONG:
        fault = _fault(model, train.batches is Batches.packed, precision)
        wanted = fault is None
        if fault:
            log.warning("train: not compiled: a small compiled %s %s", model.config.model_type, fault)
    if wanted:
        _compile(model)
        log.info("train: the model's blocks are compiled in the first steps, about a minute (train.compile)")
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        why = f"the model's blocks cannot be compiled ({short(error)})"
        raise UserError(f"train.compile: {why}: train.compile=false") from error
    finally:
        if wanted:
            torch.compiler.reset()  # the next cell of a sweep compiles its own


def _compile(model: Any) -> None:
    """Compile the model's blocks; those of a kind share compiled code."""
    from torch._dynamo import config as tracing  # a second, for those alone who compile
    from torch._inductor import config as generating

    tracing.recompile_limit = _VARIANTS
    generating.fallback_random = True  # what dropout draws does not depend on this
    for part in blocks(model):
        part.compile(dynamic=True)  # rows are of any length


def _fault(model: Any, packed: bool, precision: Precision) -> str | None:
    """How a small model of the same architecture fails when compiled; None when its gradient is right.

    Right is as near as an uncompiled one's to that in 32 bits of eager attention, one document by itself.
    """
    kernel, device, texts = model.config._attn_implementation, model.device, documents()
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32

    def gradient(tried: Any, batches: list[list[torch.Tensor]], packed: bool) -> torch.Tensor:
        tried.zero_grad()
        for batch in batches:
            inputs = laid_out(batch, packed, device)
            logits = tried(**inputs).logits.float()
            seen = logits if packed else logits[inputs["attention_mask"].bool()]
            (seen.logsumexp(-1).sum() / sum(DOCUMENTS)).backward()
        return torch.cat([each.grad.flatten().float() for each in tried.parameters() if each.grad is not None])

    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            exact = build(small(model.config), device=device)
            tried = build(small(model.config), kernel, dtype, device)
            exact.load_state_dict(tried.state_dict())
            expected = gradient(exact, [[each] for each in texts], packed=False)
            plain = gradient(tried, [texts], packed)
            _compile(tried)
            found = gradient(tried, [texts], packed)
        except FAULTS as error:
            return f"fails ({short(error)})"
    off, usual = (float((each - expected).norm() / expected.norm()) for each in (found, plain))
    within = max(1.5 * usual, TOLERANCE[torch.float32])
    return None if off <= within else f"is another one (its gradient is {off:.0e} off, uncompiled {usual:.0e})"
