"""What a config takes from the environment: three settings of our own files, and never a secret.

What an interpolation is resolved to is written: to run.json, to W&B, into the model card, by Hydra itself. So
`${oc.env:…}` of anybody else is refused, as is a value that equals or contains a secret, before anything is made.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from lema.privacy import is_secret, secrets
from lema.types import UserError

# The settings that read a variable, and how conf/ says so.
_OURS = {
    "budget_usd": "${oc.env:LEMA_BUDGET_USD,null}",
    "project": "${oc.env:WANDB_PROJECT,lema}",
    "base_url": "${oc.env:OPENAI_BASE_URL,http://localhost:8000/v1}",
}
_SET = "hydra.job.env_set."  # variables that Hydra sets for a run, and writes to multirun.yaml
_WRITTEN = "and a config is written into its results"
_REFUSED = f"reads the environment, {_WRITTEN}: leave a key out (it is found without), write any other value itself"


def _env(name: str, default: str | None = None, *, _node_: Node) -> str | None:
    """OmegaConf's `oc.env` for the settings of `_OURS`: also an interpolation that only arises when it is resolved."""
    if not _OURS.get(str(_node_._key()), "").startswith(f"${{oc.env:{name},"):
        raise InterpolationResolutionError(_REFUSED)
    return os.environ.get(name, default)


class EnvironmentCallback(Callback):
    """Checks all that Hydra composed, its own settings included, before Hydra makes a folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _check_or_exit(config)

    on_multirun_start = on_run_start


def register() -> None:
    """Have OmegaConf ask here when a config reads the environment."""
    OmegaConf.register_new_resolver("oc.env", _env, replace=True)


def check_arguments(arguments: Iterable[str]) -> None:
    """Exit for a command line that Hydra must not read: its messages and files repeat it, and some numbers end it."""
    for argument in arguments:
        if re.search(r"\d{300}", argument):  # which fits into no float: Hydra's parser ends in a traceback
            sys.exit(f"{argument[:60]}…: no number has 300 digits")
        key, _, value = argument.lstrip("+~").partition("=")
        _check_or_exit({key: value})


def _check_or_exit(config: Any) -> None:
    try:
        check(config)
    except UserError as error:
        sys.exit(str(error))


def check(config: Any) -> None:
    """`UserError` names the first key of a config that reads the environment or holds a secret, and not its value.

    A `DictConfig` is checked as it is written, with its interpolations; plain values are those that were resolved.
    """
    written = OmegaConf.to_container(config, resolve=False) if isinstance(config, DictConfig) else config
    found = secrets()
    for key, text in _texts(written):
        if "oc.env" in text and text != _OURS.get(key.rpartition(".")[2]):
            raise UserError(f"{key}: {_REFUSED}")
        if key.startswith(_SET) and is_secret(key.removeprefix(_SET)):
            raise UserError(f"{key}: sets a secret, {_WRITTEN}: export the variable instead")
        if where := next((found[value] for value in found if value in text), None):
            raise UserError(f"{key}: holds the secret of {where}, {_WRITTEN}: leave it out; keys are found without")


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All that nested values would write, names too, by their dotted keys."""
    if not isinstance(value, dict | list):
        yield key, str(value)
        return
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        full = f"{key}.{name}" if key else str(name)
        yield full, str(name)
        yield from _texts(part, full)
