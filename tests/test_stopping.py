"""A stop signal ends a run in one line, and what is on its way lands first; a second signal leaves at once."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from asking_load import finished, served, started, stats
from openai_server import OpenAIServer
from raw_server import RawServer, reply
from small import ROOT, SMALL, contents
from tables import some

from lema.stopping import GOES_ON, SIGNALS

WIDTH = 64
for ignored in SIGNALS:  # by `nohup`, or in a shell's background: a run would ignore it too
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored is signal.SIGINT else signal.SIG_DFL)
BUSY = 8  # seconds that the end of a Python with torch may take on a busy machine


def until(seen: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait for what is to be seen of a running process."""
    end = time.monotonic() + seconds
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[str, list[str], float]:
    """What a stopped process printed, the lines of its errors less progress bars, and how long it took from now."""
    begun = time.monotonic()
    out, errors = process.communicate(timeout=seconds)
    took = time.monotonic() - begun
    print(out, errors, f"{took:.2f} s", sep="\n")
    assert process.returncode not in (0, None)
    assert "Traceback" not in out + errors
    return (
        out,
        [line for line in errors.splitlines() if line.strip() and not re.search(r"\d+%\||it/s|s/it", line)],
        took,
    )


def client_that_flies(url: str, journal: Path, count: int, **options: object) -> subprocess.Popen[str]:
    """A client that has more requests in flight than its first ones."""
    process = started(url, count, journal, width=WIDTH, **options)
    until(lambda: stats(url)["requests"] > 1.3 * WIDTH, process)
    return process


@pytest.mark.parametrize(
    "number", [pytest.param(each, marks=[] if each is signal.SIGINT else pytest.mark.slow) for each in SIGNALS]
)
def test_what_is_on_its_way_lands_and_nothing_is_paid_for_twice(number: signal.Signals, tmp_path: Path) -> None:
    count, journal = 100, tmp_path / "journal.sqlite"
    with served(latency=0.7) as url:
        process = client_that_flies(url, journal, count)
        process.send_signal(number)
        _, lines, took = ended(process)
        bill = stats(url)
        assert took < 0.7 + BUSY
        [flying] = re.findall(
            rf"{number.name}: what is on its way, (\d+) requests, is waited for, 60 s", "\n".join(lines)
        )
        assert int(flying) > WIDTH / 2
        said = f"corrector: stopped by {number.name}: {bill['billed']} of {count} answers are saved; "
        assert lines[-1].startswith(f"{said}the {count - bill['billed']} that are left would cost about $")
        assert lines[-1].endswith(GOES_ON)
        told = finished(started(url, count, journal, width=WIDTH))
        bill = stats(url)
    with served() as url:
        undisturbed = finished(started(url, count, tmp_path / "undisturbed.sqlite", width=WIDTH))
    assert bill["billed"] == bill["prompts"] == bill["requests"] == count
    assert told["digest"] == undisturbed["digest"]
    assert told["spending"] == undisturbed["spending"]


@pytest.mark.parametrize(
    ("first", "second", "after"),
    [
        (signal.SIGINT, signal.SIGINT, 0.1),
        pytest.param(signal.SIGTERM, signal.SIGUSR2, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, signal.SIGTERM, 0.1, marks=pytest.mark.slow),
    ],
)
def test_a_second_signal_leaves_at_once_and_harms_nothing(
    first: signal.Signals, second: signal.Signals, after: float, tmp_path: Path
) -> None:
    count, journal = 100, tmp_path / "journal.sqlite"
    with served(latency=1.5) as url:
        process = client_that_flies(url, journal, count)
        process.send_signal(first)
        time.sleep(after)
        process.send_signal(second)
        _, lines, took = ended(process)
        assert took < 1
        assert process.returncode == 128 + second
        assert "a second signal leaves at once, and they are paid for again" in lines[-2]
        assert lines[-1] == f"start: left at once by a second signal, {second.name}{GOES_ON}"
        assert finished(started(url, count, journal, width=WIDTH))["usable"] == count
        bill = stats(url)
    assert bill["prompts"] == count
    assert bill["billed"] <= count + WIDTH, "what was in flight is paid for again"


def test_a_signal_that_comes_twice_in_a_moment_is_one(tmp_path: Path) -> None:
    with served(latency=0.7) as url:
        process = client_that_flies(url, tmp_path / "journal.sqlite", 150)
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGTERM)
        _, lines, _ = ended(process)
        assert lines[-1].startswith(f"corrector: stopped by SIGTERM: {stats(url)['billed']} of 150 answers are saved")


@pytest.mark.parametrize("fault", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("429", "500")), "429:300"])
def test_a_pause_is_not_waited_for(fault: str, tmp_path: Path) -> None:
    with served(faults={fault: 1.0}) as url:
        process = started(url, 150, tmp_path / "journal.sqlite", width=WIDTH, retries=1000)
        until(lambda: stats(url)["requests"] > 0, process)
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        _, lines, took = ended(process)
    assert took < 2
    assert lines[-1].startswith("corrector: stopped by SIGTERM: 0 of 150 answers are saved; the 150 that are left ")


def test_a_server_that_hangs_is_waited_for_no_longer_than_a_request_may_take(tmp_path: Path) -> None:
    with served(faults={"hang": 1.0}) as url:
        process = started(url, 150, tmp_path / "journal.sqlite", width=WIDTH, timeout=3.0)
        until(lambda: stats(url)["requests"] > 0, process)
        process.send_signal(signal.SIGTERM)
        _, lines, took = ended(process)
    assert 1 < took < 5
    assert "corrector: stopped by SIGTERM: 0 of 150 answers are saved; the 150 that are left " in lines[-1]


def test_a_stop_while_nothing_is_on_its_way_waits_for_nothing_and_says_so(tmp_path: Path) -> None:
    with RawServer(reply("{}", 429, Retry_After="50")) as server:
        process = started(server.url, 20, tmp_path / "journal.sqlite", width=WIDTH)
        until(lambda: len(server.requests) > 0, process)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, lines, took = ended(process)
    assert took < 2
    assert "on its way" not in "".join(lines)
    assert lines[-1].startswith("corrector: stopped by SIGTERM: 0 of 20 answers are saved; ")


def test_who_waits_for_another_process_is_stopped_at_once(tmp_path: Path) -> None:
    with served(latency=0.7) as url:
        first = client_that_flies(url, tmp_path / "journal.sqlite", 150)
        second = started(url, 150, tmp_path / "journal.sqlite", width=WIDTH)
        assert second.stderr
        assert f": held by process {first.pid} on " in second.stderr.readline()
        second.send_signal(signal.SIGTERM)
        _, [line], took = ended(second)
        assert took < 2
        assert line == f"start: stopped by SIGTERM{GOES_ON}"
        assert finished(first)["usable"] == stats(url)["billed"] == 150


ASKING = [
    *("backbone.tiny.steps=4", "backbone.tiny.corpus_size=200", "until=sample", "tracker=none", "budget_usd=100"),
    *("sampler=server", "sampler.samples=1", "sampler.model=gpt-test"),
    *("task.num_train=308", "task.num_test=12", "task.num_dev=8"),
]


def run(*arguments: str, runs: Path, url: str = "") -> subprocess.Popen[str]:
    """`python run.py` with these arguments, in a process group of its own, as a shell starts it."""
    keys = {"OPENAI_API_KEY": "sk-of-the-tests", "OPENAI_BASE_URL": url, "NO_PROXY": "127.0.0.1"} if url else {}
    command = [sys.executable, str(ROOT / "run.py"), *arguments, f"runs_dir={runs}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | keys, start_new_session=True, **pipes)


def finish(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, out + errors
    assert "waiting" not in out, "for a lock"
    return out


def same(runs: Path, expected: dict[str, str]) -> None:
    found = contents(runs)
    for files in (found, expected):
        for name in [name for name in files if ".sqlite" in name or name.startswith(("wandb", "hydra"))]:
            del files[name]
    assert found == expected


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed run that asks a server leaves."""
    runs = tmp_path_factory.mktemp("sampled")
    with served() as url:
        finish(run(*ASKING, runs=runs, url=url))
    return contents(runs)


@pytest.mark.parametrize("name", some(["SIGTERM", "SIGUSR2", "SIGINT"], 3, pytest.mark.slow))
def test_a_run_that_is_stopped_pays_for_300_answers_300_times(name: str, tmp_path: Path, sampled: dict) -> None:
    with served(latency=2.5) as url:
        process = run(*ASKING, runs=tmp_path, url=url)
        until(lambda: stats(url)["requests"] > 1.3 * WIDTH, process)
        os.killpg(process.pid, signal.Signals[name])
        out, [line], took = ended(process)
        assert took < 2.5 + BUSY
        assert f"{name}: what is on its way, " in out
        saved = stats(url)["billed"]
        assert line.startswith(f"sampler.models.server.api: stopped by {name}: {saved} of 300 answers are saved; the ")
        assert line.endswith(GOES_ON)
        assert not list(tmp_path.rglob("*.lock"))
        finish(run(*ASKING, runs=tmp_path, url=url))
        bill = stats(url)
    assert bill["requests"] == bill["billed"] == bill["prompts"] == 300
    same(tmp_path, sampled)


def children(parent: int) -> set[int]:
    """The ids of a process's own: grading workers and W&B's."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    return {int(pid) for pid, of in map(str.split, listed.splitlines()[1:]) if int(of) == parent}


def gone(ids: set[int]) -> None:
    """None of them is left within seconds, in which W&B's process sees that its caller is gone."""
    end = time.monotonic() + 15
    while left := [
        each for each in ids if (state := Path(f"/proc/{each}/stat")).exists() and ") Z" not in state.read_text()
    ]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


def test_a_signal_that_comes_while_an_object_ends_is_obeyed() -> None:
    """There Python drops the error, and prints its traceback."""
    program = """
import os, signal, time
from lema import stopping
stopping.listen()
stopping.begin("work")
class Object:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
one = Object()
del one
time.sleep(20)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate(timeout=60)
    assert errors == f"work: stopped by SIGTERM{GOES_ON}\n"
    assert process.returncode == 1


@pytest.mark.slow
def test_each_stage_ends_in_one_line_and_the_same_command_in_the_same_bytes(tmp_path: Path) -> None:
    arguments = [*SMALL, "tracker=wandb"]
    finish(run(*arguments, runs=tmp_path / "undisturbed"))
    runs, numbers = tmp_path / "runs", cycle(("SIGINT", "SIGTERM", "SIGUSR2"))
    for stage in ("data", "base", "sample", "train", "select", "evaluate"):
        process, number, twice = run(*arguments, runs=runs), signal.Signals[next(numbers)], stage in ("base", "select")
        until(lambda stage=stage: list(runs.glob(f"{stage}/*.lock")), process)
        time.sleep(0.1)
        helpers = children(process.pid)
        os.killpg(process.pid, number)
        if twice:
            time.sleep(0.1)
            os.killpg(process.pid, signal.SIGTERM)
        _, lines, took = ended(process)
        gone(helpers)
        assert took < (1 if twice else BUSY + 5)
        told = (
            f"stopped by {number.name}" + "|left at once by a second signal, SIGTERM" * twice
        )  # the first may be done
        assert re.fullmatch(rf"{stage}(_\w+)?: ({told}){GOES_ON}", lines[-1])
        assert len(lines) == 1 or twice
        assert twice or not list(runs.rglob("*.lock"))
    finish(run(*arguments, runs=runs))
    same(runs, contents(tmp_path / "undisturbed"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_while_workers_grade_and_wandb_logs_leaves_no_process(name: str, tmp_path: Path) -> None:
    hard = "The answer is: \\frac{9^{9^{9^{9}}}}{\\sqrt{2}}"
    with OpenAIServer(reply=lambda prompt: hard.replace("2", str(len(prompt)))) as server:
        process = run(*ASKING, "task.num_train=68", "tracker=wandb", runs=tmp_path, url=server.url)
        until(lambda: len(children(process.pid)) > 2, process)
        time.sleep(2)
        helpers = children(process.pid)
        os.killpg(process.pid, signal.Signals[name])
        _, [line], took = ended(process)
        gone(helpers)
        assert line == f"sample_server: stopped by {name}{GOES_ON}"
        assert took < 2 + BUSY
        assert not list(tmp_path.rglob("*.lock"))
        assert server.billed.total() == 60


@pytest.mark.slow
def test_a_stop_ends_the_whole_sweep_without_a_report(tmp_path: Path) -> None:
    process = run("-m", *SMALL, "seed=1,2", "tracker=none", runs=tmp_path)
    until(lambda: list(tmp_path.glob("train/*.lock")), process)
    process.send_signal(signal.SIGINT)
    _, [line], _ = ended(process)
    assert line.startswith("train: stopped by SIGINT")
    assert len(list((tmp_path / "cells").iterdir())) == 1
    assert not (tmp_path / "reports").exists()


def test_who_obeyed_signals_before_gets_them_once_the_run_has_stopped() -> None:
    code = """
import os, signal, time
from lema import stopping
signal.signal(signal.SIGUSR2, lambda number, _: print("requeued by", signal.Signals(number).name))
stopping.listen()
try:
    os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(60)
except stopping.Stopped:
    os.kill(os.getpid(), signal.SIGTERM)  # a batch system sends more than one, and nothing leaves at once
    time.sleep(0.2)
    print("saved")
    stopping.end()
    stopping.pass_on(signal.SIGUSR2)
    stopping.pass_on(signal.SIGTERM)  # which nobody had asked for
    os.kill(os.getpid(), signal.SIGUSR2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "saved\n" + 2 * "requeued by SIGUSR2\n"), done.stderr
