"""What a run says of its progress: one plain line in each silence without a terminal, and none that is stale."""

import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asked import api_for, asked
from openai_faults import RateLimit
from openai_server import OpenAIServer
from small import ROOT, SMALL

from lema import stopping
from lema.console import progress
from lema.console.progress import Progress, duration, line

# Every `SECONDS` of silence a line, at most and at least: the program prints when each line came.
PROGRAM = """
import logging, sys, time
from lema import privacy, stopping
from lema.console import progress
privacy.guard()
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)
progress.SECONDS, start = 0.5, time.monotonic()
progress.watch()
stopping.begin("train")
"""


def spoken(work: str) -> list[tuple[float, str]]:
    """What a program prints, each line with the seconds since the one before."""
    told, last = [], time.monotonic()
    command = [sys.executable, "-u", "-c", PROGRAM + work]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        assert program.stdout
        for text in program.stdout:
            told.append((time.monotonic() - last, text.rstrip()))
            last = time.monotonic()
    assert program.returncode == 0, told
    return told


def test_each_silence_is_broken_by_one_line_and_no_line_comes_early() -> None:
    told = spoken("with progress.Progress('loading the model'): time.sleep(4)")
    assert 4 <= len(told) <= 8  # of half a second each, in four
    assert all(re.fullmatch(r"train            loading the model for \d seconds", text) for _, text in told)
    assert max(seconds for seconds, _ in told[1:]) < 2


def test_a_short_part_a_part_that_failed_and_a_run_that_prints_get_no_line() -> None:
    work = "for n in range(5):\n    time.sleep(0.3)\n    print('news')\n"
    work += "    try:\n        with progress.Progress('step', 9): raise ValueError\n    except ValueError: pass\n"
    told = [text for _, text in spoken(work)]
    assert told == ["news"] * 5
    [(_, text), *_] = spoken(work.replace("print('news')", "pass"))
    assert text.startswith("train            at work for "), "of no part, as none is open"


@contextmanager
def overheard() -> Iterator[list[str]]:
    """All lines that could have been printed meanwhile."""
    told, over = list[str](), threading.Event()

    def listen() -> None:
        while not over.wait(0.002):
            told.append(line())

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield told
    finally:
        over.set()
        listener.join()


def has(told: list[str], pattern: str) -> bool:
    return any(re.fullmatch(pattern, each) for each in told)


def test_parts_in_each_other_make_one_line_with_the_time_that_is_left_of_all() -> None:
    stopping.begin("select_x")
    with Progress("checkpoint", 5) as outer, Progress("answer", 200, lambda: ["8,450 tokens (95/s)"]) as inner:
        assert line() == "select x         checkpoint 1 of 5: 0 of 200 answers, 8,450 tokens (95/s)"
        outer.advance()
        inner.advance(100)
        outer.since -= 300  # 1.5 of 5 are done in 300 s
        told = "select x         checkpoint 2 of 5: 100 of 200 answers, 8,450 tokens (95/s), about 12 minutes left"
        assert line() == told
    assert line().startswith("select x         at work for ")


def test_what_an_earlier_attempt_did_is_counted_and_took_no_time_of_this_one() -> None:
    stopping.begin("sample")
    with Progress("answer", 100) as part:
        part.advance(50, before=True)
        assert line() == "sample           50 of 100 answers"
        part.advance(25)
        part.since -= 100
        assert line() == "sample           75 of 100 answers, about 2 minutes left"


def test_before_the_first_piece_is_done_the_time_that_is_left_is_a_bound() -> None:
    stopping.begin("sample")
    with Progress("answer", 16, partly=lambda: 4.0) as part:
        part.since -= 60
        assert line() == "sample           0 of 16 answers, at most 3 minutes left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "2 seconds"), (45, "45 seconds"), (95, "2 minutes"), (3000, "50 minutes"), (9000, "2.5 hours")],
)
def test_durations_are_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_part_is_over_after_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), Progress("step", 3):
        raise KeyboardInterrupt
    assert not progress._open


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", stream := Tty())
    stopping.begin("train")
    with Progress("step", 3) as part:
        part.advance(3)
    assert "train: 100%" in stream.getvalue()


@pytest.mark.parametrize(
    ("limit", "settings", "words"),
    [
        (
            RateLimit(600, burst=5, headers=True),
            {},
            r".*the server's limits slow this: (waiting \d+ s|at [\d,]+ requests a minute).*",
        ),
        (None, {"max_requests_per_minute": 600}, r".*max_requests_per_minute slows this: at 600 requests a minute.*"),
        (None, {}, r"\S+ +\d+ of 40 requests, [\d,]+ a minute, \$0\.\d\d.*"),
    ],
    ids=["the server's", "one's own", "none"],
)
def test_asking_says_how_many_at_what_rate_and_price_and_what_slows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: RateLimit | None, settings: dict, words: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with OpenAIServer(limit=limit, latency=0.02) as server, overheard() as told:
        asked(40, api_for(server, **settings), tmp_path / "journal.sqlite")
    assert has(told, words), told[-20:]


# `run.py` that says every 20 ms of silence what it does.
TALKATIVE = "import runpy, sys; from lema.console import progress; progress.SECONDS = 0.02; sys.argv = sys.argv[1:]\n"
TALKATIVE += "runpy.run_path(sys.argv[0], run_name='__main__')"
OURS = (
    r"leakage|data|base|sample self|correct|mix|train:?|select|merge|evaluate( untuned)?|report|tiny:|start|preflight"
)
TABLES = r"  |cot|correction|total"


def talk(tmp_path: Path, *overrides: str) -> list[str]:
    """The log of a whole cell, with a line for each moment; that nothing else is printed is checked."""
    command = [sys.executable, "-c", TALKATIVE, str(ROOT / "run.py"), f"runs_dir={tmp_path / 'runs'}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    log, _, report = done.stdout.partition("\n# Results\n")
    assert report
    log = re.sub(r"(?s)mix {14}\d+ of the examples.*?⟧\n(?=mix )", "", log)  # three examples, as they are
    told = [each for each in log.splitlines() if each]
    assert not [each for each in told if not re.match(rf"({OURS}) |{TABLES}", each)]
    return told


@pytest.mark.slow
def test_a_cell_says_how_far_each_long_stage_is_and_no_library_says_anything(tmp_path: Path) -> None:
    told = talk(tmp_path, *SMALL, "sampler.max_new_tokens=40")
    assert has(told, r"base             \d of 4 steps, loss [\d.]+, [\d,]+ tokens/s, (about|at most) .* left")
    assert has(told, r"sample self      \d+ of \d+ answers, [1-9][\d,]* tokens \([\d,]+/s\), (about|at most) .* left")
    assert has(told, r"train            \d+ of 6 steps, loss [\d.]+, [\d,]+ tokens/s.*, about .* left")
    assert has(told, r"select           checkpoint \d of \d+: \d+ of 8 answers, .*")
    assert has(told, r"evaluate .*of 12 answers, .*")


@pytest.mark.full
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_a_pretrained_model_on_real_data_makes_no_library_speak(tmp_path: Path, data_dir: Path, method: str) -> None:
    if not (model := os.environ.get("LEMA_TEST_MODEL")):
        pytest.skip("set LEMA_TEST_MODEL to the folder of a small pretrained model, as SmolLM2-135M")
    small = ["limit=2", "sampler.max_new_tokens=8", "evaluation.max_new_tokens=8", "sampler.keep_unanswered=true"]
    small += ["train.epochs=null", "train.max_steps=1", "train.batch_size=2", "train.micro_batch_size=1"]
    data = ["task=gsm8k", f"task.dataset.path={data_dir / 'gsm8k'}", "experiment=no_api", "tracker=none"]
    own = [f"backbone.path={model}", "backbone.name=smollm2", "backbone.size=own"]
    told = talk(tmp_path, "backbone=mistral", "engine=transformers", *own, f"train={method}", *data, *small)
    assert has(told, r"sample self      0 of \d+ answers, [1-9]\d* tokens \(\d+/s\), at most .* left"), "within a batch"
