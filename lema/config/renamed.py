"""The spellings of earlier versions: each is refused in one line, which names the present spelling."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lema.config import Do
from lema.types import UserError

# What was no stage and yet a value of `only=`: `only=report` is `do=report`.
_ONLY = {name: f"do={name}" for name in Do if name is not Do.run}
# By sampler: the long paths of the model that it brings. They still exist, and conf/sampler gives them the short ones'
# values.
_SAMPLER = {
    "recorded": {"sampler.models.recorded.recorded": "sampler.file"},
    "server": {
        "sampler.models.server.api.model": "sampler.model",
        "sampler.models.server.api.base_url": "sampler.base_url",
    },
}
# Keys that are gone, and what is done instead.
_IN_TOKENS = "batches are counted in tokens, and change no answer: leave it out, or write engine.batch_tokens="
_GONE = {f"{section}.batch_size": _IN_TOKENS for section in ("evaluation", "sampler", "corrector", "rationales")}


def instead(key: str) -> str | None:
    """What is said of a key that earlier versions had; None of any other key."""
    return _GONE.get(key)


def present(text: str, sampler: str) -> str:
    """A message with its keys as they are written: `sampler.file` for `sampler.models.recorded.recorded`."""
    for old, new in _SAMPLER.get(sampler, {}).items():
        text = text.replace(old, new)
    return text


@contextmanager
def presented(sampler: str) -> Iterator[None]:
    """Let a `UserError` name keys as they are written."""
    try:
        yield
    except UserError as error:
        if (text := present(str(error), sampler)) != str(error):
            raise UserError(text) from error
        raise


def refuse(tree: DictConfig) -> None:
    """Raise `UserError` for a composed tree, its interpolations unresolved, that sets something by an old spelling."""
    if new := _ONLY.get(tree.only):
        raise UserError(f"only={tree.only}: write {new} instead")
    for old, new in _SAMPLER.get(tree.sampler.name, {}).items():
        path, _, name = old.rpartition(".")
        section = OmegaConf.select(tree, path)
        written: Any = OmegaConf.to_container(section) if section else {}
        if name in written and written[name] not in (f"${{{new}}}", OmegaConf.select(tree, new)):
            value = "null" if written[name] is None else written[name]
            raise UserError(f"{old}={value}: write {new}={value} instead")
