"""What `hydra/launcher=slurm` would send, and what it says where it cannot send anything."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from small import ROOT

from lema import pipeline
from lema.artifacts import Store
from lema.cell import Cell
from lema.cluster import slurm
from lema.config import Config
from lema.types import UserError

SLURM = [
    "sweeps=main_table",
    "hydra/launcher=slurm",
    "hydra.launcher.partition=gpu",
    "hydra.launcher.setup=[module load cuda]",
]
LARGER = ["backbone.size=13b"]


def options(tree: DictConfig) -> Any:
    return OmegaConf.to_container(tree.hydra.launcher)


def test_cells_that_ask_for_the_same_are_one_array(
    compose_tree: Callable[..., DictConfig], make_config: Callable[..., Config], tmp_path: Path
) -> None:
    made = [["backbone=llama2", "mix=lema"], ["backbone=llama2", "mix=cot"], ["backbone=llama2", *LARGER]]
    cells = [Cell(make_config("task=gsm8k", *each), Store(tmp_path)) for each in made]
    texts = slurm.scripts({cell.name: cell for cell in cells}, options(compose_tree(*SLURM)), tmp_path)
    assert len(texts) == 2
    for flag in ("array=0-1%2", "gpus-per-node=2", "mem=240GB", "time=780", "signal=USR2@300", "partition=gpu"):
        assert f"#SBATCH --{flag}\n" in texts[0]
    assert all("#SBATCH --requeue\n" in text for text in texts), "whatever the cluster does with other jobs"
    assert "#SBATCH --gpus-per-node=4\n" in texts[1]
    assert "--array" not in texts[1]
    setup, run = (texts[0].index(each) for each in ("\nmodule load cuda\n", "\nsrun "))
    assert setup < run


def test_jobs_are_sent_as_from_outside_the_allocation_in_which_the_launcher_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "lab", "SBATCH_QOS": "long"}
    hidden = {"SLURM_CPU_BIND": "cores", "SRUN_DEBUG": "3", "HYDRA_FULL_ERROR": "1"}
    hidden |= {"SBATCH_PARTITION": "debug", "SBATCH_MAIL_USER": "me", "SBATCH_SIGNAL": "USR1", "SBATCH_WAIT": "1"}
    for name, value in (kept | hidden).items():
        monkeypatch.setenv(name, value)
    with slurm._outside({"partition": "gpu", "additional_parameters": {"mail-user": "x"}}):
        assert [name for name in kept | hidden if name in os.environ] == [*kept]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) >= {signal.SIGINT, signal.SIGTERM}
    assert {name: os.environ[name] for name in kept | hidden} == kept | hidden
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_job_gets_all_of_hydra_that_was_typed(
    compose_tree: Callable[..., DictConfig], make_config: Callable[..., Config], tmp_path: Path
) -> None:
    typed = [*SLURM[1:], "hydra.verbose=lema"]
    said = slurm._arguments(
        compose_tree(*typed, "hydra.mode=MULTIRUN"), Cell(make_config(), Store(tmp_path)), ["seed=1"]
    )
    assert said[-len(typed) - 3 :] == [*typed, "seed=1", "until=evaluate", "hydra.mode=RUN"]


@pytest.mark.parametrize(("mode", "said"), [([], "add -m, also for one cell"), (["hydra.mode=RUN"], "no run is below")])
def test_a_launcher_is_for_sweeps_unless_one_cell_is_meant(tmp_path: Path, mode: list[str], said: str) -> None:
    """A job, and W&B's agent, compose the launcher that the sweep's file names."""
    words = [sys.executable, str(ROOT / "run.py"), "hydra/launcher=slurm", "do=status", f"runs_dir={tmp_path}", *mode]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert said in done.stdout + done.stderr


def test_jobs_that_were_sent_are_named_when_slurm_refuses_further_ones(
    compose_tree: Callable[..., DictConfig],
    make_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name, lines in {"srun": "", "sbatch": f"mkdir {tmp_path}/once && echo Submitted batch job 7"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cells = [Cell(make_config("task=gsm8k", "backbone=llama2", *each), Store(tmp_path)) for each in ([], LARGER)]
    with pytest.raises(UserError, match=r"; jobs 7 of Slurm go on \(scancel 7 ends them\)$"):
        slurm._send({cell.name: (cell, []) for cell in cells}, options(compose_tree(*SLURM)), tmp_path)
    assert (tmp_path / "7.json").is_file()


def test_a_damaged_note_of_jobs_is_named(tmp_path: Path) -> None:
    (tmp_path / "7.json").write_text("{")
    with pytest.raises(UserError, match=r"7.json: damaged, .* once squeue shows no job 7, delete it"):
        slurm._noted(tmp_path)


def test_a_cell_that_sends_requests_is_refused(make_config: Callable[..., Config], tmp_path: Path) -> None:
    overrides = ["backbone=tiny", "sampler.samples=1", "corrector=gpt4"]
    with pytest.raises(
        UserError, match="correct of arithmetic-tiny-lema-seed1 sends requests, whose journal can be written on"
    ):
        slurm._is_current(Cell(make_config(*overrides), Store(tmp_path)), pipeline)
    served = ["engine=server", "engine.model=m", "engine.input_usd=1", "engine.output_usd=1"]
    for own in ([], served):  # what stands for the backbone has a journal in its artifact
        assert not slurm._is_current(Cell(make_config(*own), Store(tmp_path)), pipeline)


@pytest.mark.parametrize(
    ("installed", "said"),
    [(False, r"submitit is not installed; pip install"), (True, r"Slurm's commands are not here \(sbatch")],
)
def test_what_is_not_here_is_said(
    compose_tree: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: bool, said: str
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    tree = compose_tree(*SLURM)
    with pytest.raises(UserError, match=f"hydra/launcher=slurm: {said}"):
        slurm.launch(tree, [], options(tree), pipeline)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("hydra.launcher.mem_gb=much", "hydra.launcher.mem_gb=much: must be a number above 0"),
        ("hydra.launcher.max_num_timeout=null", "hydra.launcher.max_num_timeout=null: must be a whole number"),
        ("hydra.launcher.cards.a100.teraflops=null", "hydra.launcher.cards.a100.teraflops=null: must be"),
        ("hydra.launcher.hours=true", "hydra.launcher.hours=True: must be a number above 0"),
        ("hydra.launcher.hours=nan", "hydra.launcher.hours=nan: must be a number above 0"),
        ("hydra.launcher.timeout_min=90.5", "hydra.launcher.timeout_min=90.5: must be a whole number above 0"),
        ("hydra.launcher.timeout_min=6", "hydra.launcher.timeout_min=6: a job is told to stop signal_delay_s=300"),
        (
            "hydra.launcher.most_hours=0.1",
            "hydra.launcher.timeout_min=6: a job is told to stop signal_delay_s=300",
        ),
        ("+hydra.launcher.exclud=n1", "hydra.launcher.exclud=n1: there is no such option"),
        ("hydra.launcher.card=[a100]", "hydra.launcher.card=.*a100.*: choose from a100, h100"),
        ("hydra.launcher.setup=module load cuda", "hydra.launcher.setup=module load cuda: must be a list, "),
        ("hydra.launcher.additional_parameters=x", "hydra.launcher.additional_parameters=x: must be names with values"),
        ("hydra.launcher.card=b300", "hydra.launcher.card=b300: choose from a100, h100"),
    ],
)
def test_a_wrong_value_is_named(
    compose_tree: Callable[..., DictConfig], make_config: Callable[..., Config], tmp_path: Path, wrong: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        slurm.scripts({"a cell": Cell(make_config(), Store(tmp_path))}, options(compose_tree(*SLURM, wrong)), tmp_path)
