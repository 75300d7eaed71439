"""What of an architecture would fail late, tried on a small random model: training, padding, the end of positions.

Each trial is held against a plain one on the same small model: where that fails too, the model is too small to tell.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging

from lema.config import Batches, Computation, Merge, Method, TrainConfig
from lema.models.adapters import adapted
from lema.models.continuous import Answering, Row
from lema.models.kernels import FAULTS, build, choose, once, short, size, small
from lema.types import UserError

_TEXT = torch.arange(3, 24)[None]  # tokens of a small model, (1, 21)
_POSITIONS = 24  # of a small model whose positions may end: more than the text has
_OFF = 1e-3  # of the logits' norm, relative
_LIMITS = ("max_position_embeddings", "max_seq_len")  # the second is MPT's


def check(
    architecture: Any, computation: Computation, key: str, train: TrainConfig | None, answers: dict[str, int]
) -> None:
    """Raise `UserError`, in one line, for the first thing that a model of this architecture cannot do.

    `key` is the model's in the config, `train` how it is to be trained, `answers` the most new tokens that it is
    asked for, by the key of each limit.
    """
    check_kind(architecture)
    layouts = [train.batches is Batches.packed] if train else []
    for packed in layouts + [False] * bool(answers):
        choose(computation, architecture, packed, key)
    if train:
        check_training(architecture, train)
    check_positions(architecture, train, answers)


def check_kind(architecture: Any) -> None:
    """Raise `UserError` for a model that does not write a text on from its beginning."""
    kind, other = architecture.model_type, "choose a causal language model"
    if getattr(architecture, "is_encoder_decoder", False):
        raise UserError(f"{kind} is an encoder with a decoder: {other}")
    config, changed = small(architecture), _TEXT.clone()
    changed[0, -1] += 1
    found: list[torch.Tensor] = []
    if _seen(lambda: found.extend(_read(config, each)[0, :-1] for each in (_TEXT, changed))) is None:
        before, after = found
        if float((after - before).norm() / before.norm()) > _OFF:
            raise UserError(f"{kind} reads what follows a token before it, so it cannot write on: {other}")


def check_training(architecture: Any, train: TrainConfig) -> None:
    """Raise `UserError` when a model of this architecture cannot be trained so; its attention is not looked at."""
    kind, how = architecture.model_type, f"train.method={train.method}"
    if _seen(lambda: _loss(build(small(architecture)))) is not None:
        return
    if train.method is not Method.full and (fault := _seen(lambda: _step(architecture, train))):
        raise UserError(f"{how}: a small {kind} with an adapter does not train ({fault}): train=full")
    if fault := _seen(lambda: _step(architecture, replace(train, method=Method.full))):
        raise UserError(f"{how}: a small {kind} does not train ({fault}): choose another model")
    if train.method is Method.qlora and find_spec("bitsandbytes"):
        _check_four_bits(architecture, train)
    if train.activation_checkpointing and (fault := _seen(lambda: _step(architecture, train, checkpointing=True))):
        setting = "train.activation_checkpointing"
        raise UserError(f"{setting}=true: a small {kind} does not train with it ({fault}): {setting}=false")


def _check_four_bits(architecture: Any, train: TrainConfig) -> None:
    """Raise `UserError` when a small model in NF4 does not train, or is another one once its layers are dequantised."""
    config, kind, loaded = small(architecture), architecture.model_type, []
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")

    def load(quantization: Any) -> None:
        with TemporaryDirectory() as folder, _without_bars():
            build(config).save_pretrained(folder)
            options: Any = {"quantization_config": quantization, "dtype": torch.float32, "device_map": {"": "cpu"}}
            loaded.append(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **options).train())
        for part in loaded[-1].modules():  # as `load_model` does: that kernel wants sizes which a small model has not
            if hasattr(part, "support_avx512bf16_for_cpu"):
                part.support_avx512bf16_for_cpu = False

    def step() -> None:
        load(nf4)
        if not any("Linear4bit" in type(part).__name__ for part in loaded[-1].modules()):
            raise ValueError("none of its layers can be held in 4 bits")
        _loss(adapted(prepare_model_for_kbit_training(loaded[-1], use_gradient_checkpointing=False), train)).backward()

    def dequantise() -> None:
        load(nf4)
        plain, again = (each.state_dict() for each in (loaded[0], loaded[-1].dequantize()))
        if wrong := [name for name in plain if again[name].shape != plain[name].shape]:
            raise ValueError(f"{wrong[0]} is of another shape then")

    if _seen(lambda: load(None)) is not None:
        return
    if fault := _seen(step):
        raise UserError(f"train.method=qlora: a small {kind} in 4 bits does not train ({fault}): train=lora")
    if train.merge is Merge.dequantised and (fault := _seen(dequantise)):
        raise UserError(f"train.merge=dequantised: a small {kind} is not dequantised ({fault}): train.merge=original")


def joins(architecture: Any) -> bool:
    """Whether rows may come to and leave a batch of a model of this architecture, and each answer stay its own."""
    alone = _answers(architecture, 1, joined=False)
    return alone is not None and alone == _answers(architecture, 90, joined=True)


def pads(architecture: Any) -> bool:
    """Whether the answers of a model of this architecture are the same with padding before their prompts."""
    alone = _answers(architecture, 1, joined=False)
    return alone is not None and alone == _answers(architecture, 90, joined=False)


def _answers(architecture: Any, allowed: int, joined: bool) -> list[list[int]] | None:
    """What a small model answers to five prompts, in batches of so many tokens; None where it fails."""
    config = small(architecture)
    sizes = ((21, 5), (13, 12), (17, 9), (5, 3), (3, 14))

    def answer() -> list[list[int]] | None:
        rows = [Row(_TEXT[0, -length:].tolist(), most) for length, most in sizes]
        fault = _seen(lambda: list(Answering(build(config), (), allowed, joined=joined).answer(rows)))
        return None if fault else [row.tokens for row in rows]

    return once(answer, config, allowed, joined)


def check_positions(architecture: Any, train: TrainConfig | None, answers: dict[str, int]) -> None:
    """Raise `UserError` when texts are to be longer than the model's positions; `answers`: key and most new tokens."""
    limit = positions(architecture)
    if limit is None:
        return
    has = f"{architecture.model_type} has positions for {limit} tokens"
    if train and (longest := train.max_source_tokens + train.max_target_tokens) > limit:
        asked = f"train.max_source_tokens and train.max_target_tokens ask for {longest}"
        half = limit // 2
        raise UserError(f"{has}, and {asked}: train.max_source_tokens={half} train.max_target_tokens={limit - half}")
    if too_long := {key: most for key, most in answers.items() if most >= limit}:
        asked = " and ".join(f"{key}={most}" for key, most in too_long.items())
        raise UserError(
            f"{has}, and {asked} leaves none to a prompt: {' '.join(f'{key}={limit // 2}' for key in too_long)}"
        )


def positions(architecture: Any) -> int | None:
    """The most tokens that a model of this architecture can place; None where its positions do not end."""
    text = architecture.get_text_config(decoder=True)
    name = next((each for each in _LIMITS if size(text, each, 0)), None)
    if name is None:
        return None
    config = small(architecture)

    def end() -> bool:
        """A small model that has fewer positions reads a text within them, and fails on one that is longer."""
        with suppress(*FAULTS):
            setattr(config, name, _POSITIONS)
        longer = torch.cat([_TEXT, _TEXT], dim=1)
        return _seen(lambda: _read(config, _TEXT)) is None and _seen(lambda: _read(config, longer)) is not None

    return size(text, name, 0) if once(end, config, "positions") else None


def named_positions(architecture: Any) -> int | None:
    """The most tokens that the model's config names; None where it names no number."""
    text = architecture.get_text_config(decoder=True)
    return next((most for name in _LIMITS if (most := size(text, name, 0))), None)


def raise_positions(architecture: Any, least: int) -> None:
    """Let a config name at least so many positions, where they do not end: positions that do are weights.

    The number alone: the rotary embedding, its base and its scaling stay.
    """
    text = architecture.get_text_config(decoder=True)
    most = size(text, _LIMITS[0], 0)
    if most and positions(architecture) is None:
        text.max_position_embeddings = max(least, most)


@contextmanager
def _without_bars() -> Iterator[None]:
    """The small model is written and read in a moment; on a terminal transformers would show bars for it."""
    shows = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shows:
            logging.enable_progress_bar()


def _read(config: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return build(config)(input_ids=tokens, use_cache=False).logits


def _loss(model: Any) -> torch.Tensor:
    return model(input_ids=_TEXT, attention_mask=torch.ones_like(_TEXT), labels=_TEXT, use_cache=False).loss


def _step(architecture: Any, train: TrainConfig, checkpointing: bool = False) -> None:
    """A forward and a backward pass as in training."""
    model = build(small(architecture))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if train.method is not Method.full:
        model = adapted(model, train)
    _loss(model.train()).backward()


def _seen(run: Callable[[], object]) -> str | None:
    """How this fails, in a few words; None when it does not. A `UserError` goes on: it has a remedy of its own."""
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # a batch that is sampled has its own seed
            run()
    except UserError:
        raise
    except FAULTS as error:
        return short(error)
    return None
