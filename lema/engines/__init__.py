"""Engines: whatever turns prompts into completions (`lema.types.Engine`), each a module that is found by its name.

transformers   a model that is loaded here       server   one that somebody else serves in its place
vllm           one that a child process serves   chat     a strong model as itself, behind an OpenAI-compatible server

All but `chat` answer for the cell's own models, and have two classes. `Settings`, a dataclass with a `name`, is what
conf/engine's file of the same name must fit. `Engine(settings, model, weights, adapter)` answers: `settings` is a
`Settings`, `model` says how to answer, `weights` where the model is, and `adapter` is the folder of an adapter to use
on it, or None. One whose settings have a price, `input_usd`, is also given its `account`. A module may also have
`missing(config)`: what it lacks on this machine, a line each, with the remedy.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from lema.api.estimate import Requests as Requests
from lema.config import NO_EFFECT, ApiConfig, Computation, Config, PriceConfig, WriterConfig
from lema.models.weights import Weights as Weights
from lema.types import Engine, Prompt, UserError


@dataclass(frozen=True)
class LocalModel:
    """How a model that is loaded here answers."""

    engine: Any  # the `Settings` of its engine
    computation: Computation
    max_new_tokens: int
    temperature: float = 0.0  # greedy
    seed: int = 0
    four_bit: bool = False


@dataclass(frozen=True)
class ServedModel:
    """How a model behind a server is asked."""

    api: ApiConfig
    section: str = field(metadata=NO_EFFECT)  # of the config, for messages


class _Running(ExitStack):
    """What engines keep running from step to step, as a server; `close` ends it. `logs` is the folder for its log."""

    logs = Path()


running = _Running()  # in this process


@dataclass(frozen=True)
class Account:
    """What requests are paid from, and where they are written down."""

    journal: Path
    prices: Mapping[str, PriceConfig]
    budget_usd: float | None
    paid_usd: float  # what earlier steps have taken of the budget
    retry_failed: bool


def writer(config: WriterConfig, engine: Any, section: str) -> LocalModel | ServedModel:
    """The model that writes what a section of the config is about: rationales or corrections."""
    if config.weights is None:
        return ServedModel(config.api, section)
    return LocalModel(
        engine=engine,
        computation=config.weights.computation,
        max_new_tokens=config.max_completion_tokens or 0,
        temperature=config.temperature or 0.0,
        seed=config.seed or 0,
    )


def served(model: LocalModel | ServedModel) -> ServedModel | None:
    """How a model's server is asked, where that may cost something; None of a model that is loaded here."""
    if isinstance(model, ServedModel):
        return model
    engine, prices = model.engine, [getattr(model.engine, name, None) for name in ("input_usd", "output_usd")]
    if None in prices or not any(prices):
        return None
    return ServedModel(replace(engine.api, max_tokens=model.max_new_tokens), "engine")


def names() -> list[str]:
    """The engines for the cell's own models."""
    return sorted({module.name for module in iter_modules(__path__)} - {"chat"})


def settings_class(chosen: Mapping[Any, Any]) -> type[Any]:
    """The `Settings` of the engine that `engine.name` names; `UserError` when no engine has that name."""
    name = chosen.get("name")
    if name not in names():
        where = f"engine.name={name}" if name else "engine"
        raise UserError(f"{where}: no such engine; choose engine={' or '.join(names())}")
    return import_module(f"{__name__}.{name}").Settings


def missing(config: Config) -> Iterator[str]:
    """What the engine of a config lacks here to answer, each with its remedy."""
    module = import_module(f"{__name__}.{config.engine.name}")
    yield from module.missing(config) if hasattr(module, "missing") else ()


def load(model: LocalModel, weights: Weights, adapter: Path | None, account: Account | None = None) -> Engine:
    """The engine that answers for a model of the cell."""
    paid = {"account": account} if hasattr(model.engine, "input_usd") else {}
    return import_module(f"{__name__}.{model.engine.name}").Engine(model.engine, model, weights, adapter, **paid)


def sample_seed(seed: int, prompt: Prompt) -> int:
    """The seed of one sample, below 2^31: of what is asked and its number, not of its place among others.

    sample_seed(1, Prompt("What is 1 + 1?", attempt=3)) is the same in every batch, process and engine.
    """
    return int(sha256(f"{seed} {prompt.attempt} {prompt.text}".encode()).hexdigest()[:16], 16) % 2**31
