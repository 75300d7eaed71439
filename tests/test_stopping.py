"""A stop signal ends a run in one line, and what is on its way lands first; a second signal leaves at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from asking_load import served, stats
from test_pipeline import ROOT, SMALL, contents

from lema.stopping import SIGNALS

SENT = [each.name for each in SIGNALS]
WIDTH = 64
ASKING = [
    *("backbone.tiny.steps=4", "backbone.tiny.corpus_size=200"),
    *("until=sample", "tracker=none", "budget_usd=100", "task.num_test=12", "task.num_dev=8"),
    *("sampler=server", "sampler.samples=1", "sampler.models.server.api.model=gpt-test"),
    *("sampler.models.server.api.max_concurrent_requests=64", "sampler.models.server.api.request_timeout=30"),
]


def start(*arguments: str, url: str = "", runs: Path) -> subprocess.Popen[str]:
    """`python run.py` with these arguments, in a process group of its own, as a shell starts it."""
    keys = {"OPENAI_API_KEY": "sk-of-the-tests", "OPENAI_BASE_URL": url, "NO_PROXY": "127.0.0.1"} if url else {}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments, f"runs_dir={runs}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | keys,
        start_new_session=True,
    )


def asking(url: str, runs: Path, *more: str, count: int = 300) -> subprocess.Popen[str]:
    return start(*ASKING, f"task.num_train={count + 8}", *more, url=url, runs=runs)


def until(seen: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait for what is to be seen of a running process."""
    end = time.monotonic() + seconds
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[str, str, float]:
    """What it printed, what it said at its end, and the seconds that it took from now; it failed, in one line."""
    begun = time.monotonic()
    out, errors = process.communicate(timeout=seconds)
    took = time.monotonic() - begun
    assert process.returncode not in (0, None)
    assert "Traceback" not in out + errors
    lines = [line for line in errors.splitlines() if line.strip() and "it/s" not in line and "|" not in line]
    return out, "\n".join(lines), took


def finish(process: subprocess.Popen[str]) -> None:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, out + errors


def stopped_and_gone_on(name: str, count: int, latency: float, folder: Path) -> None:
    with served(latency=latency) as url:
        finish(asking(url, folder / "undisturbed", count=count))
    with served(latency=latency) as url:
        process = asking(url, folder / "runs", count=count)
        until(lambda: stats(url)["requests"] > 1.3 * WIDTH, process)
        process.send_signal(signal.Signals[name])
        out, errors, took = ended(process)
        bill = stats(url)
        print(out, errors, took, bill)
        assert took < latency + 8  # Python's own end takes seconds on a busy machine
        [flying] = re.findall(rf"{name}: nothing more is sent; (\d+) answers on their way", out)
        assert int(flying) > WIDTH / 2
        saved = bill["billed"]
        assert errors.startswith(f"sampler.models.server.api: stopped by {name}: {saved} of {count} answers are saved")
        assert f"; the {count - saved} that are left would cost " in errors
        assert errors.endswith("; the same command goes on from here")
        assert not list(folder.rglob("*.lock"))
        finish(asking(url, folder / "runs", count=count))
        assert stats(url)["billed"] == stats(url)["prompts"] == stats(url)["requests"] == count
    assert contents(folder / "runs").keys() == contents(folder / "undisturbed").keys()
    databases = re.compile(r"\.sqlite")
    for file, content in contents(folder / "undisturbed").items():
        assert databases.search(file) or contents(folder / "runs")[file] == content, file


def test_what_is_on_its_way_lands_and_nothing_is_paid_for_twice(tmp_path: Path) -> None:
    stopped_and_gone_on("SIGTERM", 150, 0.5, tmp_path)
