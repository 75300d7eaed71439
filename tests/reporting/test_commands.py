"""Every command that is printed can be pasted into a shell, and what others see of it names no path of this machine."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small import ROOT, SMALL
from tables import some

from lema.reporting.commands import command, shared

HOSTILE = [
    "/home/jane/my data",
    "/home/jane/a'b",
    '/home/jane/a"b',
    "/home/jane/5$ a month",
    "/home/jane/[x]*",
    "/home/jané/`x`",
]


@pytest.mark.parametrize("folder", [*HOSTILE, "über", "2026_11_27", "1e5", "true", "runs_b", "1"])
def test_a_shell_gives_the_same_arguments_and_hydra_the_same_runs_folder(
    folder: str, make_config: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py"])
    given = [f"task.dataset.path={folder}", "mix=cot"]
    told = command(*given, root=Path(folder))
    seen = subprocess.run(["bash", "-c", f"printf '%s\\n' {told}"], capture_output=True, text=True, check=True)
    _, script, *arguments, runs = seen.stdout.splitlines()
    assert (script, arguments) == ("run.py", given)
    assert make_config(runs).runs_dir == folder


@pytest.mark.parametrize("folder", HOSTILE)
def test_others_see_no_path_of_this_machine(folder: str) -> None:
    given = [f"task.dataset.path={folder}", f'backbone.path="{folder}/model"', "corrector.base_url=http://a/v1"]
    text = shared(f"it failed: `{command(*given, root=Path(folder))}`", given, Path(folder))
    command_line = (
        "python run.py task.dataset.path=FOLDER backbone.path=FOLDER corrector.base_url=http://a/v1 runs_dir=FOLDER"
    )
    assert text.startswith(f"it failed: `{command_line}`")
    assert text.endswith("name yours.")


def test_a_command_names_the_program_that_was_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["../my code/run.py", "seed=1"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command("seed=2") == shlex.join([sys.executable, "../my code/run.py", "seed=2"])
    assert command() == shlex.join([sys.executable, "../my code/run.py"])


@pytest.mark.parametrize("runs", some(["my $runs [1]", "runs"], 2, pytest.mark.slow))
def test_each_command_that_a_report_prints_runs_and_its_run_joins_the_report(tmp_path: Path, runs: str) -> None:
    here = [] if runs == "runs" else [f'runs_dir="{tmp_path / runs}"']
    first = [sys.executable, str(ROOT / "run.py"), *SMALL, *here]
    done = subprocess.run(first, cwd=tmp_path, capture_output=True, text=True, check=True)
    commands = re.findall(r"nothing is compared with it: `(.*)`", done.stdout)
    assert len(commands) == 3
    for each in commands:
        done = subprocess.run(["bash", "-c", each], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), each
    assert "4 evaluated runs." in done.stdout
    assert "was not run" not in done.stdout
