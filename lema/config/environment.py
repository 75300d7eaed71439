"""What a config reads from the environment: three settings of conf/, and never a secret.

The value of an interpolation is written to run.json, to W&B, into the model card and by Hydra itself. So we refuse any
other `${oc.env:…}`, and a value that contains a secret, before anything is made.
"""

import getpass
import os
import re
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from lema.privacy import is_secret, secrets
from lema.types import UserError

# The settings that may read a variable, and how conf/ writes them.
_OURS = {
    "budget_usd": "${oc.env:LEMA_BUDGET_USD,null}",
    "project": "${oc.env:WANDB_PROJECT,lema}",
    "base_url": "${oc.env:OPENAI_BASE_URL,http://localhost:8000/v1}",
}
_SET = "hydra.job.env_set."  # the variables that Hydra sets for a run; it writes them to multirun.yaml
_WRITTEN = "and a config is written into its results"
_FILES = 65_536
_REFUSED = f"reads the environment, {_WRITTEN}: leave a key out (it is found without), write any other value itself"


def _env(name: str, default: str | None = None, *, _node_: Node) -> str | None:
    """OmegaConf's `oc.env`, for the settings of `_OURS` alone; so an interpolation that arises late is refused too."""
    if not _OURS.get(str(_node_._key()), "").startswith(f"${{oc.env:{name},"):
        raise InterpolationResolutionError(_REFUSED)
    return os.environ.get(name) or default  # one that is empty is not set


class EnvironmentCallback(Callback):
    """Checks the whole composed config, with Hydra's own settings, before Hydra makes a folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _check_or_exit(config)

    on_multirun_start = on_run_start


# OmegaConf's way to read the environment is replaced by ours, and Hydra's own folder may lie at a home. This holds
# wherever the package is imported: the workers of a launcher resolve values too.
OmegaConf.register_new_resolver("oc.env", _env, replace=True)
OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)


def provide_home() -> None:
    """Give a user whom the system does not know, as a bare uid in a container, a home and a name for the libraries."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = os.getcwd()
        where = f"libraries keep their caches in {os.getcwd()}/.cache"
        print(f"HOME is not set, and uid {os.getuid()} has no home: {where}; set HOME", file=sys.stderr)
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the second since Python 3.13
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def raise_file_limit() -> None:
    """Let this process, and those that it starts, have 65,536 open files, or as many as the system allows.

    Many shells begin with 256 or 1,024, and each request that is on its way has a connection.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # macOS has a limit of its own below "infinity"
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def check_arguments(arguments: Iterable[str]) -> None:
    """Exit if Hydra must not read a command line: it would repeat a secret in its files, or fail at a number."""
    for argument in arguments:
        if re.search(r"\d{300}", argument):  # it fits into no float, and Hydra's parser would show a traceback
            sys.exit(f"{argument[:60]}…: no number has 300 digits")
        if not argument.isascii() and argument != argument.encode("utf-8", "replace").decode():
            sys.exit(f"{argument!r}: holds bytes that are not UTF-8; rename what it names, or set LC_ALL=C.UTF-8")
        key, _, value = argument.lstrip("+~").partition("=")
        _check_or_exit({key: value})


def _check_or_exit(config: Any) -> None:
    try:
        check(config)
    except UserError as error:
        sys.exit(str(error))


def check(config: Any) -> None:
    """Raise `UserError` for the first key that reads the environment or holds a secret; it does not show the value.

    A `DictConfig` is checked as it is written, with its interpolations; plain values are checked as they are.
    """
    written = OmegaConf.to_container(config, resolve=False) if isinstance(config, DictConfig) else config
    known = secrets()
    for key, text in _texts(written):
        if "oc.env" in text and text != _OURS.get(key.rpartition(".")[2]):
            raise UserError(f"{key}: {_REFUSED}")
        if key.startswith(_SET) and is_secret(key.removeprefix(_SET)):
            raise UserError(f"{key}: sets a secret, {_WRITTEN}: export the variable instead")
        if origin := next((known[secret] for secret in known if secret in text), None):
            raise UserError(f"{key}: holds the secret of {origin}, {_WRITTEN}: leave it out; keys are found without")


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts of nested values, the names of their keys included, each with its dotted key."""
    if not isinstance(value, dict | list):
        yield key, str(value)
        return
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        full = f"{key}.{name}" if key else str(name)
        yield full, str(name)
        yield from _texts(part, full)


def variables(config: Any) -> dict[str, str]:
    """What torch reads when it is imported, for a cell of this config."""
    tiny = config.backbone.tiny
    return {} if tiny is None or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(tiny.num_threads)}
