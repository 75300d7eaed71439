"""A sweep's cells are those that Hydra runs; W&B's grid of it is the same cells."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict
from small import ROOT
from tables import some
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from lema import sweeps
from lema.compose import register, to_config
from lema.config import Config
from lema.identity import digest, identity
from lema.types import UserError

NAMED = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
COMMANDS = [
    *([f"sweeps={name}"] for name in NAMED),
    ["sweeps=main_table", "task=math"],
    ["sweeps=main_table", "task=math", "backbone=mistral,tiny", "limit=50"],
    ["sweeps=demo", "seed=range(1,4)", "tracker=none"],
    ["sweeps=demo", "mix=choice(cot,lema)", "train.learning_rate=1e-3,5e-4"],
    ["sweeps=ablation", "backbone.size=7b,13b"],
    ["seed=1,2", "mix=glob(lema_no_*)"],
    ["task=gsm8k", "task.dataset.path='a, b','c=d $1'", "limit=null,5"],
]


def master(hydra: Hydra, overrides: list[str]) -> DictConfig:
    """What a callback gets at the start of a multirun."""
    return hydra.compose_config("config", overrides, RunMode.MULTIRUN, with_log_configuration=False)


class Recorder(Launcher):
    """A launcher that keeps the jobs it is given, and runs none."""

    jobs: list[list[str]]

    def setup(self, **_: object) -> None:
        self.jobs = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        self.jobs += map(list, job_overrides)
        return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]


def launched(hydra: Hydra, config: DictConfig, tmp_path: Path) -> list[list[str]]:
    """The jobs that Hydra's own sweeper really hands to a launcher."""
    config.hydra.sweep.dir = str(tmp_path)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=lambda _: None, config=config)
    recorder = Recorder()
    recorder.setup()
    sweeper.launcher = recorder  # pyright: ignore[reportAttributeAccessIssue]
    sweeper.sweep(arguments=list(config.hydra.overrides.task))
    return recorder.jobs


def same(configs: list[Config]) -> list[str]:
    return sorted(digest(identity(config) | {"group": config.tracker.group}) for config in configs)


@pytest.mark.parametrize("overrides", some(COMMANDS, 6), ids=" ".join)
def test_cells_are_those_that_hydra_launches(hydra: Hydra, tmp_path: Path, overrides: list[str]) -> None:
    config = master(hydra, overrides)
    jobs = launched(hydra, master(hydra, overrides), tmp_path)
    assert len({tuple(job) for job in jobs}) == len(jobs)
    assert sweeps.expand(config) == jobs


@pytest.mark.parametrize("overrides", [COMMANDS[0], *some(COMMANDS[1:], 12, pytest.mark.slow)], ids=" ".join)
def test_the_grid_of_wandb_is_the_same_cells(hydra: Hydra, tmp_path: Path, overrides: list[str]) -> None:
    config = master(hydra, overrides)
    grid = yaml.safe_load(sweeps.write_for_wandb(config, tmp_path).read_text())
    commands: list[list[tuple[str, object]]] = [[]]
    for key, values in grid["parameters"].items():
        commands = [[*command, (key, value)] for command in commands for value in values["values"]]
    found = []
    for command in commands:
        arguments = create_sweep_command_args({"args": {key: {"value": value} for key, value in command}})[
            "args_no_hyphens"
        ]
        line = [
            each for part in grid["command"][3:] for each in (arguments if part == "${args_no_hyphens}" else [part])
        ]
        tree = hydra.compose_config("config", line, RunMode.RUN, with_log_configuration=False)
        assert tree.hydra.mode in (RunMode.RUN, None)
        with open_dict(tree):
            del tree["hydra"]
        found.append(to_config(tree))
    assert same(found) == same([*sweeps.cells(config).values()])


@pytest.mark.parametrize("backbones", [[], ["backbone=llama2,mistral"]])
def test_a_table_of_published_backbones_takes_what_its_engine_is_told(hydra: Hydra, backbones: list[str]) -> None:
    found = sweeps.cells(master(hydra, ["sweeps=main_table", "mix=lema", *backbones, "engine.tensor_parallel=4"]))
    assert {getattr(each.engine, "tensor_parallel", None) for each in found.values()} == {4}


def test_what_an_editor_leaves_beside_a_file_is_no_file_of_a_sweep(
    hydra: Hydra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = master(hydra, ["sweeps=demo"]), tmp_path / "conf" / "mix"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sweeps, "_CONF", tmp_path / "conf")
    (folder / "own.yaml").write_text("name: own\n")
    sweeps.keep(config, tmp_path, kept := {f"seed={number}": f"folder-{number}" for number in range(20)})
    (folder / ".#own.yaml").symlink_to("somebody@nowhere.1:2")
    (folder / "gone.yaml").symlink_to("nowhere")
    for name in ("own.yaml~", "#own.yaml#", "._own.yaml"):
        (folder / name).write_text("name: [")
    assert sweeps.known(config, tmp_path) == kept
    (folder / "own.yaml").unlink()
    (folder / "gone.yaml").unlink()
    register(folder)  # which has no file of a sweep now
    (folder / "other.yaml").write_text("name: other\n")
    assert sweeps.known(config, tmp_path) is None


def test_what_cannot_be_a_grid_is_said(hydra: Hydra, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is swept; name a sweep"):
        sweeps.write_for_wandb(master(hydra, ["seed=2"]), tmp_path)
    with pytest.raises(UserError, match="a grid, which needs a list of values"):
        sweeps.write_for_wandb(master(hydra, ["train.learning_rate=interval(0.1,1)"]), tmp_path)
    other = master(hydra, ["seed=1,2"])
    other.hydra.sweeper._target_ = "some.other.Sweeper"
    assert not sweeps.are_cells_known(other)
    with pytest.raises(UserError, match="only Hydra's own sweeper knows its cells beforehand"):
        sweeps.write_for_wandb(other, tmp_path)
    with pytest.raises(UserError, match=r"^seed=1: limit=0: must be at least 1"):
        sweeps.cells(master(hydra, ["seed=1,2", "limit=0"]))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=1,x"], "^seed=x: Value 'x' of type 'str' could not be converted to Integer$"),
        (["mix=lema,lemma"], "^mix=lemma: no such choice; choose from corrections, cot, .*"),
        (["train.lrr=1,2"], r"^train\.lrr=1: no such key; choose from method, learning_rate, .*"),
        (["sweeps=demo,ablation"], "sweeps=demo,ablation: one at a time"),
        (["do=report,export"], "do=report,export: one at a time"),
        (["train.learning_rate=interval(0,1)"], r"^train\.learning_rate=interval\(0,1\): has no steps; name values, "),
        (["seed=1,01"], "^seed=1 and seed=01: are one run, as they differ in nothing that changes a result; leave"),
        (["report.margin=1,2", "mix=cot"], r"^report\.margin=1 and report\.margin=2: are one run, "),
        (["mix=cot,lema", "runs_dir=a,b"], "^mix=cot runs_dir=a and mix=cot runs_dir=b: are one run, "),
        (["mix=glob(nope*)", "seed=1,2"], r"^mix=glob\(nope\*\): stands for no value; name some$"),
        (["seed=1,2,2", "mix=cot"], "^seed=2: stands twice in the sweep; leave one out$"),
        (["seed=1,1"], "^seed=1: stands twice in the sweep; leave one out$"),
        (["seed=range(5,1)"], r"^seed=range\(5,1\): stands for no value; name some$"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_any_cell_is_one_line(hydra: Hydra, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words) as said:
        sweeps.cells(master(hydra, overrides))
    assert "\n" not in str(said.value)
    assert str(ROOT) not in str(said.value)


def test_a_mistake_in_a_sweeps_file_names_the_place(hydra: Hydra) -> None:
    config = master(hydra, ["sweeps=demo"])
    config.hydra.sweeper.params.seed = "1,,2"
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.params: seed=1,,2: cannot be read"):
        sweeps.cells(config)


def test_no_file_is_written_of_a_sweep_with_a_cell_that_cannot_run(
    tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    refused = run_cli("-m", "mix=lema,lemma", "do=wandb_sweep", f"runs_dir={tmp_path / 'runs'}")
    assert refused.returncode == 1
    assert refused.stderr.startswith("mix=lemma: no such choice")
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "runs" / "sweeps").exists()


@pytest.mark.slow
def test_the_command_line_writes_the_file_and_runs_nothing(
    tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_cli("sweeps=demo", "do=wandb_sweep", "mix=cot,lema", f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"written to {tmp_path / 'runs' / 'sweeps' / 'demo.yaml'}"
    grid = yaml.safe_load((tmp_path / "runs" / "sweeps" / "demo.yaml").read_text())
    assert grid["parameters"] == {"mix": {"values": ["cot", "lema"]}, "seed": {"values": [1, 2, 3, 4, 5]}}
    assert grid["command"][:5] == ["${env}", "${interpreter}", "${program}", "sweeps=demo", "hydra.mode=RUN"]
    assert not (tmp_path / "runs" / "cells").exists()
    refused = run_cli("sweeps=demo", "do=export")
    assert refused.returncode == 1
    assert "do=export: takes no sweep" in refused.stderr
    alone = run_cli("do=wandb_sweep")
    assert alone.returncode == 1
    assert "do=wandb_sweep: needs a sweep" in alone.stderr


def test_a_checkpoint_that_somebody_serves_answers_for_one_cell(hydra: Hydra) -> None:
    served = ["engine=server", "selection=last", "seed=1,2"]
    with pytest.raises(UserError, match=r"engine\.tuned=mine is one checkpoint, and 2 cells of the sweep ask it"):
        sweeps.cells(master(hydra, [*served, "engine.tuned=mine"]))
    assert len(sweeps.cells(master(hydra, served))) == 2


def test_cells_in_a_random_order_are_told_by_what_they_are(hydra: Hydra, tmp_path: Path) -> None:
    from lema import pipeline  # its libraries read what conftest.py sets

    scope = pipeline._scope(master(hydra, ["seed=shuffle(1,2,3,4,5,6,7)", "mix=cot"]), tmp_path)  # pyright: ignore[reportPrivateUsage]
    assert scope.named
    told = {label: (cell.config.seed, cell.folder.name) for label, cell in scope.cells.items()}
    assert told == {label: (int(label.removeprefix("seed=")), scope.named[label]) for label in told}


@pytest.mark.parametrize("name", ["all", "", ".", ".."])
def test_a_sweep_does_not_take_the_place_of_the_report_on_all_runs(hydra: Hydra, tmp_path: Path, name: str) -> None:
    (file := tmp_path / f"{name}.yaml").write_text((ROOT / "sweeps/demo.yaml").read_text())
    register(ROOT / "sweeps", [f"sweeps={file}"])
    with pytest.raises(UserError, match=r"\.yaml: names a report, and reports/all is on all runs; give the"):
        sweeps.name(master(hydra, [f"sweeps={file}"]), [])


def test_a_file_may_be_named_from_where_one_stands(
    hydra: Hydra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text((ROOT / "sweeps/demo.yaml").read_text())
    register(ROOT / "sweeps", ["sweeps=./mine.yaml"])
    config = master(hydra, ["sweeps=./mine.yaml", "seed=1"])
    assert (sweeps.name(config, []), len(sweeps.cells(config))) == ("mine", 4)
