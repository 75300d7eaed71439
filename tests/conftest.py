"""What every test stands on: no network, no accounts, and the front door in two forms (composed, and as a process)."""

import copy
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict
from small import ROOT, SMALL

from lema.compose import register, to_config
from lema.config import Config

# An override that sets a value, and chooses no file.
_VALUE = re.compile(r"(seed|limit|until|selection|runs_dir|(?!hydra\.)[a-z_]+\.[\w.]+)=")
_PATHS = [str(path) for path in (ROOT, ROOT / "tests", ROOT / "tests/doubles")]

# Before any library reads them; the processes that tests start inherit them.
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
os.environ["PYTHONPATH"] = os.pathsep.join([*_PATHS, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
for _name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN", "WANDB_API_KEY", "WANDB_PROJECT", "HYDRA_FULL_ERROR"):
    os.environ.pop(_name, None)

register(ROOT / "sweeps")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def hydra() -> Iterator[Hydra]:
    """Hydra itself, on conf/: for what it composes otherwise than `compose`, as a sweep."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        found = GlobalHydra.instance().hydra
        assert found
        yield found


@functools.cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    # A fifth of a second each: what one test composed the next one takes.
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


@pytest.fixture(scope="session")
def compose_tree() -> Callable[..., DictConfig]:
    """`compose_tree("task=gsm8k")`: the tree that command line composes to, Hydra's own part included; read only."""
    return lambda *overrides: _composed(overrides)


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """`make_config("task=gsm8k", "limit=5")`: the typed config of that command line."""

    def typed(*overrides: str) -> Config:
        # Hydra composes the choices and then sets the values; so one composition serves all that make the same choices.
        values = [each for each in overrides if _VALUE.match(each)]
        tree = copy.deepcopy(_composed(tuple(each for each in overrides if each not in values)))
        with open_dict(tree):
            del tree["hydra"]
        ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), tree)
        return to_config(tree)

    return typed


@pytest.fixture
def run(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., dict[str, Path]]:
    """`run("until=mix")`: run the small cell in this process, below `tmp_path / "runs"`; where its artifacts lie."""

    from lema import pipeline  # its libraries read the variables above

    def run_cell(*overrides: str) -> dict[str, Path]:
        arguments = [*SMALL, f"runs_dir={tmp_path / 'runs'}", *overrides]
        pipeline.run(make_config(*arguments), arguments)
        newest = max((tmp_path / "runs/cells").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns).parent
        return {link.name: link.resolve() for link in newest.iterdir() if link.is_symlink()}

    return run_cell


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_cli("until=mix")`: `python run.py until=mix`, its outputs in the test's own folder."""

    def run(*arguments: str, python: tuple[str, ...] = (), timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *python, str(ROOT / "run.py"), *arguments]
        if not any(argument.startswith(("-", "runs_dir=")) for argument in arguments):
            command.append(f"runs_dir={tmp_path / 'runs'}")
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`disk(size)`: a mounted disk of so many bytes, where that can be had."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "lema-test", str(folder)]
        if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk can be mounted on Linux by root alone")
        return folder

    yield mounted
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets; tests that need it are skipped where it is not given."""
    folder = os.environ.get("LEMA_TEST_DATA")
    if not folder:
        pytest.skip("set LEMA_TEST_DATA to a folder with gsm8k/, math/, svamp/ and csqa/ to test on the real data")
    return Path(folder)
