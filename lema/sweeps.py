"""A sweep's cells, as Hydra itself makes them, and the same sweep as a file for W&B's agents: a process a cell."""

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, open_dict

from lema.artifacts import write_text
from lema.config import Config
from lema.config.compose import to_config
from lema.identity import digest, without_paths
from lema.types import UserError

log = logging.getLogger(__name__)

# Called at the end of a sweep, by `run.py`: Hydra calls nothing once a cell has failed.
at_end = ExitStack()
OWN = ("do", "sweeps", "hydra.mode")  # of the command that writes the file, not of the cells


def name(config: DictConfig, content: Any) -> str:
    """`demo` of `sweeps=demo`; of a sweep from the command line alone, one that its content gives."""
    return config.hydra.runtime.choices.get("sweeps") or f"multirun-{digest(content)}"


def told(config: DictConfig) -> bool:
    """Whether the cells are known before the first one runs: others than Hydra's own sweeper choose them on the way."""
    return config.hydra.sweeper._target_.endswith(".BasicSweeper")


def cells(config: DictConfig) -> list[Config]:
    """The cells of the sweep that Hydra is about to run, composed as it will; `UserError` names one that cannot be.

    `config` is Hydra's own, as a callback gets it.
    """
    return [composed(config, overrides) for overrides in expand(config)]


def expand(config: DictConfig) -> list[list[str]]:
    """The command line of each cell, by Hydra's own sweeper; `UserError` for values that it cannot sweep over."""
    try:
        [commands] = BasicSweeper.split_arguments(_overrides(config), None)
    except HydraException as error:  # of a range without steps, interval(0,1)
        raise UserError(str(error)) from None
    return commands


def _overrides(config: DictConfig) -> list[Override]:
    """Those of the sweep's file, then the command line's, which win."""
    if not told(config):
        raise UserError(
            f"hydra/sweeper={config.hydra.sweeper._target_}: only Hydra's own sweeper tells its cells before"
        )
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    try:
        overrides = parser.parse_overrides([*params, *config.hydra.overrides.task])
    except OverrideParseException as error:
        raise UserError(f"hydra.sweeper.params: {error.override} cannot be read: {error.message}") from None
    for each in overrides:
        # Hydra would run one cell of each: it reads what a sweep's file sweeps over before it knows the file.
        if each.key_or_group in ("sweeps", "do") and each.is_sweep_override():
            raise UserError(f"{each.input_line}: one at a time; run them one after another")
    return overrides


def composed(config: DictConfig, overrides: list[str]) -> Config:
    """One cell, as Hydra composes it; `UserError` names its overrides."""
    try:
        tree = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
        with open_dict(tree):
            del tree["hydra"]
        return to_config(tree)
    except UserError as error:
        raise UserError(f"{' '.join(overrides)}: {error}") from None
    except ConfigCompositionException as error:
        raise UserError(f"{' '.join(overrides)}: {_words(error)}") from None


def _words(error: ConfigCompositionException) -> str:
    """What Hydra says in many lines, in one: with the choices or the type, without the folders that it searched."""
    what = str(error).partition("Config search path:")[0]
    why = str(error.__cause__ or "").partition("\n")[0]
    return ": ".join(" ".join(part.split()) for part in (what, why) if part)


def write_for_wandb(config: DictConfig, root: Path) -> Path:
    """Write `sweeps/NAME.yaml` below the runs folder: the grid for `wandb sweep`, whose agents run a cell a process."""
    swept, fixed = {}, {}
    for override in _overrides(config):
        key = override.get_key_element()
        for known in (swept, fixed):
            known.pop(key, None)  # the last one wins
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(f"{key}: do=wandb_sweep writes a grid, which needs a list of values")
        if override.is_sweep_override():
            swept[key] = [_scalar(value) for value in override.sweep_string_iterator()]
        elif key not in OWN:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not swept:
        raise UserError("do=wandb_sweep: nothing is swept; name a sweep, sweeps=NAME, or values, -m seed=1,2,3")
    for each in fixed.values():
        if each != without_paths(each):
            log.warning("%s names a folder of this machine, and W&B will be shown it", each)
    chosen = config.hydra.runtime.choices.get("sweeps")
    # The sweep's other values hold too; without its mode each process runs the one cell that the agent asks for.
    own = [f"sweeps={chosen}", "hydra.mode=RUN"] if chosen else []
    grid: dict[str, Any] = {
        "name": name(config, swept),
        **({"project": config.tracker.project} if config.tracker.project else {}),
        "program": "run.py",
        "method": "grid",
        "metric": {"name": "evaluate/accuracy", "goal": "maximize"},
        "command": ["${env}", "${interpreter}", "${program}", *own, *fixed.values(), "${args_no_hyphens}"],
        "parameters": {key: {"values": values} for key, values in swept.items()},
    }
    path = root / "sweeps" / f"{grid['name']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    use = "# In the project's folder: wandb sweep THIS_FILE, then on each machine: wandb agent THE_ID_IT_PRINTS\n"
    write_text(path, use + yaml.safe_dump(grid, sort_keys=False, allow_unicode=True))
    return path


def _scalar(text: str) -> Any:
    """A value as W&B would print it back: a number if that is written the same."""
    value = yaml.safe_load(text) if text else text
    return value if isinstance(value, int | float) and str(value) == text else text
