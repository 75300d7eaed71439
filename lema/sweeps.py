"""The cells of a sweep, as Hydra makes them, and the sweep as a file for W&B's agents, which run one cell a process."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Hashable
from contextlib import ExitStack, suppress
from copy import deepcopy
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict

from lema.artifacts import DAMAGED, Artifact, moment, read, write_json, write_text
from lema.compose import to_config
from lema.config import Config
from lema.config.command_line import refusal
from lema.identity import digest, identity, without_paths
from lema.types import UserError

log = logging.getLogger(__name__)

# Called at the end of a sweep, by `run.py`: Hydra calls nothing once a cell has failed.
at_end = ExitStack()
_BEGAN = "LEMA_SWEEP_BEGAN"  # an environment variable, for the cells in other processes: when the command began
_CONF = Path(__file__).resolve().parents[1] / "conf"
_trees: dict[Hashable, tuple[DictConfig, DictConfig]] = {}  # of cells, each with the config of its sweep
_composed: list[Config] = []  # the cells of the sweep that runs
_NOT_OF_CELLS = ("do", "sweeps", "hydra.mode")  # keys of the command that writes W&B's file


def begin() -> None:
    """A sweep's command begins here, before its cells."""
    os.environ[_BEGAN] = moment()


def has_made(artifact: Artifact) -> bool:
    """Whether a cell of this sweep's command has made it; False where no sweep runs."""
    since = os.environ.get(_BEGAN)
    return since is not None and datetime.fromisoformat(artifact.at) >= datetime.fromisoformat(since)


def are_jobs(config: DictConfig) -> bool:
    """Whether a launcher sends the cells to other machines."""
    return bool(re.search("slurm|submitit", config.hydra.launcher._target_, re.IGNORECASE))


def name(config: DictConfig, content: Any) -> str:
    """`demo` for `sweeps=demo`; for a sweep from the command line alone, a name that its content determines."""
    if not (chosen := config.hydra.runtime.choices.get("sweeps")):
        return f"multirun-{digest(content)}"
    if (found := Path(str(chosen)).name.removesuffix(".yaml")) == "all" or not found.strip("."):
        raise UserError(f"sweeps={chosen}: names a report, and reports/all is on all runs; give the file another name")
    return found


def number(job: int) -> str:
    """Which cell a job of Hydra is: `cell 3 of 20`, as far as this process knows."""
    return f"cell {job + 1}" + (f" of {len(_composed)}" if _composed else "")


def kept(hydra: Any) -> list[str]:
    """The flags of a command, of its `hydra` section, that decide what its overrides mean: they belong to each cell."""
    sources = hydra.runtime.config_sources
    places = {each.provider: f"{each.schema}://{each.path}".removeprefix("file://") for each in sources}
    flags = {
        "--config-path": places["main"] if places["main"] != str(_CONF) else None,
        "--config-name": hydra.job.config_name if hydra.job.config_name != "config" else None,
        "--config-dir": places.get("command-line"),
    }
    searched = [each for each in hydra.overrides.hydra if each.startswith("hydra.searchpath=")]
    return [f"{flag}={value}" for flag, value in flags.items() if value] + searched


def are_cells_known(config: DictConfig) -> bool:
    """Whether the cells are known before the first one runs: other sweepers than Hydra's own choose them on the way."""
    return config.hydra.sweeper._target_.endswith(".BasicSweeper")


def cells(config: DictConfig) -> dict[str, Config]:
    """The cells of the sweep of a Hydra callback's `config`, as Hydra composes them, by their own overrides.

    `UserError` names a wrong one, and two that are one run.
    """
    _compose_once(GlobalHydra.instance().config_loader())
    commands, found, labels = expand(config), dict[str, Config](), dict[str, str]()
    of_all = set(commands[0]).intersection(*commands)  # what tells no cell from another
    for command in commands:
        own = [each for each in command if each not in of_all]
        label = " ".join(own) or "the only cell"
        found[label] = composed(config, command, own)
        if (first := labels.setdefault(digest(identity(found[label])), label)) != label:
            why = "are one run, as they differ in nothing that changes a result"
            raise UserError(f"{first} and {label}: {why}; leave one out, or give two commands")
    served = [name for each in found.values() if (name := getattr(each.engine, "tuned", None))]
    if twice := next((name for name in served if served.count(name) > 1), None):
        raise UserError(f"engine.tuned={twice} is one checkpoint, and {served.count(twice)} cells of the sweep ask it")
    _composed[:] = found.values()
    return found


def _compose_once(loader: Any) -> None:
    """Have Hydra compose each cell once: its sweeper composes all of them to check, its launcher each again."""
    if not isinstance(loader.load_sweep_config, partial):
        loader.load_sweep_config = partial(_remembered, loader.load_sweep_config)


def _remembered(
    compose: Callable[..., DictConfig], master_config: DictConfig, sweep_overrides: list[str]
) -> DictConfig:
    if (key := (id(master_config), *sweep_overrides)) not in _trees:
        _trees[key] = master_config, compose(master_config, sweep_overrides)  # the first is kept, and so is its id
    return _trees[key][1]


def known(config: DictConfig, root: Path) -> dict[str, str] | None:
    """The folder's name of each cell's run, by the overrides that are the cell's own, as `keep` left them.

    None when something has changed by which the cells are composed, which takes Hydra a minute for 200.
    """
    file, composer = _kept_in(config, root)
    with suppress(OSError, *DAMAGED):
        found = json.loads(read(file))
        if found["composed_by"] == composer:
            return {str(label): str(folder) for label, folder in found["cells"].items()}
    return None


def keep(config: DictConfig, root: Path, folders: dict[str, str]) -> None:
    """Note the folders' names of a sweep's cells for `known`."""
    file, composer = _kept_in(config, root)
    with suppress(OSError):  # a runs folder that may only be read
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"composed_by": composer, "cells": folders})


def _kept_in(config: DictConfig, root: Path) -> tuple[Path, str]:
    """Where `keep` writes, and a digest of all that decides the cells: the command, the files of conf/, lema itself."""
    tree: Any = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    commands = [[each for each in command if not each.startswith(("do=", "runs_dir="))] for command in expand(config)]
    places = {_CONF, _CONF.parent / "lema"}
    for each in config.hydra.runtime.config_sources:
        places |= {Path(each.path)} if each.schema == "file" else set()
    # Not what editors leave beside a file, as Emacs' `.#demo.yaml`, a link to nowhere.
    files = sorted(file for place in places for kind in ("yaml", "py") for file in place.rglob(f"[!.]*.{kind}"))
    read_by = hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()
    values = {key: value for key, value in tree.items() if key not in ("hydra", "do", "runs_dir")}
    return root / "sweeps" / f"{name(config, commands)}.json", digest([values, commands, read_by])


def expand(config: DictConfig) -> list[list[str]]:
    """The overrides of each cell, from Hydra's own sweeper; `UserError` for values that it cannot sweep over."""
    overrides = _overrides(config)
    for each in overrides:
        if each.is_discrete_sweep() and not [*each.sweep_string_iterator()]:
            raise UserError(f"{each.input_line}: stands for no value; name some")
        if each.is_sweep_override() and not each.is_discrete_sweep():  # interval(0,1)
            raise UserError(f"{each.input_line}: has no steps; name values, {each.get_key_element()}=A,B")
    [commands] = BasicSweeper.split_arguments(overrides, None)
    if len(set(map(tuple, commands))) < len(commands):
        twice = next(each for each in commands if commands.count(each) > 1)
        own = [each for each in twice if any(each not in command for command in commands)]
        raise UserError(f"{' '.join(own or twice)}: stands twice in the sweep; leave one out")
    return commands


def _overrides(config: DictConfig) -> list[Override]:
    """The overrides of the sweep's file, then those of the command line, which win."""
    if not are_cells_known(config):
        raise UserError(
            f"hydra/sweeper={config.hydra.sweeper._target_}: only Hydra's own sweeper knows its cells beforehand"
        )
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    try:
        overrides = parser.parse_overrides([*params, *config.hydra.overrides.task])
    except OverrideParseException as error:
        raise UserError(f"hydra.sweeper.params: {refusal(error)}") from None
    for override in overrides:
        # For `sweeps=a,b` Hydra would run one cell of each, as it reads the file's own values too late.
        if override.key_or_group in ("sweeps", "do") and override.is_sweep_override():
            raise UserError(f"{override.input_line}: one at a time; run them one after another")
    return overrides


def composed(config: DictConfig, overrides: list[str], own: list[str]) -> Config:
    """The cell of these overrides, as Hydra composes it; `UserError` names those that are its own."""
    try:
        try:
            tree = deepcopy(GlobalHydra.instance().config_loader().load_sweep_config(config, overrides))
        except Exception as error:  # Hydra composes by asserting and indexing: of many kinds, all about the overrides
            raise UserError(refusal(error)) from None
        with open_dict(tree):
            del tree["hydra"]
        return to_config(tree)
    except UserError as error:
        cell = " ".join(each for each in own if each not in str(error))
        raise UserError(f"{cell}: {error}" if cell else str(error)) from None


def write_for_wandb(config: DictConfig, root: Path) -> Path:
    """Write a sweep as `sweeps/NAME.yaml` below the runs folder, for `wandb sweep`; returns the file."""
    swept, fixed = {}, {}
    for override in _overrides(config):
        key = override.get_key_element()
        for values in (swept, fixed):
            values.pop(key, None)  # the last override wins
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(f"{key}: do=wandb_sweep writes a grid, which needs a list of values")
        if override.is_sweep_override():
            swept[key] = [_scalar(value) for value in override.sweep_string_iterator()]
        elif key not in _NOT_OF_CELLS:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not swept:
        raise UserError("do=wandb_sweep: nothing is swept; name a sweep, sweeps=NAME, or values, -m seed=1,2,3")
    flags = kept(config.hydra)
    for override in [*flags, *fixed.values()]:
        if override != without_paths(override):
            log.warning("%s names a folder of this machine, and W&B will show it", override)
    sweep = config.hydra.runtime.choices.get("sweeps")
    # The other values of the sweep's file apply too. hydra.mode=RUN: each process runs only the agent's cell.
    if sweep and Path(sweep).suffix:
        sweep = os.path.abspath(sweep)
    file = [*flags, *([f"sweeps={sweep}", "hydra.mode=RUN"] if sweep else [])]
    grid: dict[str, Any] = {
        "name": name(config, swept),
        **({"project": config.tracker.project} if config.tracker.project else {}),
        "program": "run.py",
        "method": "grid",
        "metric": {"name": "evaluate/accuracy", "goal": "maximize"},
        "command": ["${env}", "${interpreter}", "${program}", *file, *fixed.values(), "${args_no_hyphens}"],
        "parameters": {key: {"values": values} for key, values in swept.items()},
    }
    path = root / "sweeps" / f"{grid['name']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    use = "# In the project's folder: wandb sweep THIS_FILE, then on each machine: wandb agent THE_ID_IT_PRINTS\n"
    write_text(path, use + yaml.safe_dump(grid, sort_keys=False, allow_unicode=True))
    return path


def _scalar(text: str) -> Any:
    """A value as W&B's file has it: a number if W&B will print the number in the same way, else the text."""
    value = yaml.safe_load(text) if text else text
    return value if isinstance(value, int | float) and str(value) == text else text
