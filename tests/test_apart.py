"""A cell of a sweep has a process of its own: its death ends one cell, and no process outlives the sweep."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from processes import alive, family
from small import ROOT, SMALL, contents
from tables import some

from lema import apart, engines
from lema.types import UserError

LOGS = ({"version": 1, "root": {"level": "ERROR"}}, False)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(print, "hello"), ""),
        (partial(os._exit, 3), "its process was left with exit status 3; the same command goes on from here"),
        (partial(signal.raise_signal, signal.SIGSEGV), "its process was ended by SIGSEGV; the same"),
        (partial(signal.raise_signal, signal.SIGKILL), "ended by SIGKILL, as the system does for want of memory"),
        (partial(engines.settings_class, {"name": "none"}), "engine.name=none: no such engine"),
        (partial(int, "x"), "ValueError: invalid literal for int"),
        (partial(signal.raise_signal, signal.SIGTERM), "start: stopped by SIGTERM; the same command goes on from here"),
    ],
    ids="ends exits crashes killed refuses fails stopped".split(),
)
def test_how_a_process_ends_is_said_and_what_it_prints_is_kept(
    make: Callable[[], object], words: str, tmp_path: Path
) -> None:
    output = tmp_path / "run.log"
    output.write_text("an earlier attempt\n")
    try:
        said = apart.run(make, output, LOGS, {"OF_THE_CELL": "1"})
    except UserError as error:
        said = str(error)
    assert words in said
    assert bool(words) == bool(said)
    printed = output.read_text()
    assert printed.startswith("an earlier attempt\n")
    assert ("hello" in printed) == (words == "")
    assert ("Traceback" in printed) == ("ValueError" in said)
    assert "OF_THE_CELL" not in os.environ


SWEEP = ["-m", *SMALL, "mix=cot", "seed=1,2"]


def start(runs: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run.py"), *SWEEP, f"runs_dir={runs}", *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def training(runs: Path, sweep: subprocess.Popen[str]) -> int:
    """The process of the cell that trains, once one does."""
    end = time.monotonic() + 240
    while not list(runs.glob("train/*.lock")):
        assert sweep.poll() is None, sweep.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    [cell] = [pid for pid in family(sweep.pid) if pid != sweep.pid and os.getsid(pid) == pid]
    return cell


def lines(sweep: subprocess.Popen[str], status: int = 0) -> list[str]:
    """The last words on each cell of a sweep that ends."""
    out, errors = sweep.communicate(timeout=400)
    print(out, errors)
    assert sweep.returncode == status
    assert "Traceback" not in out + errors
    return re.findall(r"^cell . of 2 +(made|current|failed)", out, re.M)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What single runs of the same cells leave: each in the process of its command."""
    runs = tmp_path_factory.mktemp("undisturbed")
    for seed in (1, 2):
        command = [sys.executable, str(ROOT / "run.py"), *SMALL, "mix=cot", f"seed={seed}", f"runs_dir={runs}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=400)
    return results(runs)


def results(runs: Path) -> dict[str, str]:
    found = contents(runs)
    return {
        name: of
        for name, of in found.items()
        if not name.startswith(("hydra", "reports", "sweeps")) and "run.log" not in name
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_cell_ends_alone_and_the_same_command_tries_it_again(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    sweep = start(tmp_path)
    os.kill(training(tmp_path, sweep), signal.SIGKILL)
    assert lines(sweep, status=1) == ["failed", "made"]
    [failed] = [file for file in tmp_path.glob("cells/*/run.json") if "was ended by SIGKILL" in file.read_text()]
    assert "-seed1-" in str(failed)
    assert lines(start(tmp_path)) == ["made", "current"]
    assert results(tmp_path) == undisturbed


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", some([signal.SIGKILL, signal.SIGTERM], 2, pytest.mark.slow))
def test_nothing_outlives_a_sweep_and_no_finished_cell_runs_again(
    number: signal.Signals, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    sweep = start(tmp_path, "seed=2,1")
    training(tmp_path, sweep)
    descend = family(sweep.pid)
    (os.kill if number is signal.SIGKILL else os.killpg)(sweep.pid, number)
    sweep.communicate(timeout=60)
    end = time.monotonic() + 15
    while alive(descend):
        assert time.monotonic() < end, alive(descend)
        time.sleep(0.1)
    first, second = start(tmp_path), start(tmp_path)  # two terminals
    assert Counter(lines(first) + lines(second)).keys() <= {"made", "current"}
    made = re.findall(r" made +(\S+)", "".join(file.read_text() for file in tmp_path.glob("cells/*/run.log")))
    assert len(made) == len(set(made))
    assert results(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (sys.platform == "linux" and shutil.which("cc")), reason="needs a C compiler on Linux")
def test_two_commands_need_no_locks_of_the_file_system(
    tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library, runs = tmp_path / "no_locks.so", tmp_path / "runs"
    source = ROOT / "tests/doubles/no_locks.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    monkeypatch.setenv("WITHOUT_LOCKS", str(runs))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    refused = "import fcntl, sys; fcntl.flock(open(sys.argv[1] + '/file', 'w'), fcntl.LOCK_EX)"
    runs.mkdir()
    assert (
        "No locks available"
        in subprocess.run([sys.executable, "-c", refused, str(runs)], capture_output=True, text=True).stderr
    )
    (runs / "file").unlink()
    first, second = start(runs), start(runs)
    assert Counter(lines(first) + lines(second)).keys() <= {"made", "current"}
    made = re.findall(r" made +(\S+)", "".join(file.read_text() for file in runs.glob("cells/*/run.log")))
    assert len(made) == len(set(made))
    assert results(runs) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cells_at_once_share_what_they_have_in_common(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    sweep = start(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    out, errors = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, out + errors
    assert sorted(re.findall(r"^cell (.) +made ", out, re.M)) == ["1", "2"]
    made = re.findall(r" made +(\S+)", "".join(file.read_text() for file in tmp_path.glob("cells/*/run.log")))
    assert len(made) == len(set(made))
    assert results(tmp_path) == undisturbed


def test_cells_at_once_have_a_gpu_each_whatever_it_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(apart, "_launcher", [os.getppid()])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,MIG-GPU-1a2b/3/0")
    for _ in range(2):
        with apart.card() as one, apart.card() as other:
            assert [one, other] == [{"CUDA_VISIBLE_DEVICES": each} for each in apart.cards()]
