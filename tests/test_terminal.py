"""What a data set, a model or a server wrote can steer neither a terminal nor a log."""

import io
import json
import logging
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai_faults
import pytest
from openai_server import OpenAIServer
from small import SMALL, load
from tables import some
from tqdm import tqdm

from lema import privacy
from lema.privacy import LogFormatter, Terminal, shown
from lema.types import UserError

CLI = Callable[..., subprocess.CompletedProcess[str]]
# Colours, a title, a moved cursor, the 8-bit forms, a bell, DEL, turned text, line ends that are none, half a pair.
EVIL = "\x1b[31mred\x1b]0;title\x07\x1b[2A\x9b1m\x85\x7f\u202eturned\u2066\u2028\u2029\x00\r\x0b\ud800"


TURNING = "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def steering(text: str) -> list[str]:
    """The characters that must not reach a terminal."""
    shown = text.translate(dict.fromkeys(map(ord, "\n\t")))
    return [sign for sign in shown if sign in TURNING or unicodedata.category(sign) in ("Cc", "Cs")]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("\x1b[1;31mred\x1b[0m", "[1;31mred[0m"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("−3 °C é 日本 👩‍👧 ⟦x⟧ 5\xa0kg \\x1b[31m", "−3 °C é 日本 👩‍👧 ⟦x⟧ 5\xa0kg \\x1b[31m"),
        (EVIL, "[31mred]0;title[2A1mturned"),
    ],
)
def test_what_steers_is_left_out_and_all_else_stays(text: str, left: str) -> None:
    assert shown(text) == left
    assert str(UserError(f"x: {text}")) == f"x: {left}"


def test_no_control_character_of_unicode_is_shown() -> None:
    assert not steering(shown("".join(map(chr, range(0x110000)))))


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_real_terminal_keeps_its_progress_bars_and_nothing_that_a_text_brings() -> None:
    raw, guarded = Tty(), Tty()
    for stream in (raw, Terminal(guarded)):
        how: dict[str, Any] = {"total": 2, "file": stream, "mininterval": 0, "bar_format": "{desc}: {n}/{total}"}
        outer, inner = (tqdm(desc=name, position=row, **how) for row, name in enumerate(("outer", "inner")))
        inner.update()
        outer.update()
        inner.close()
        outer.close()
    assert guarded.getvalue() == raw.getvalue()
    assert {"\r", "\x1b"} <= set(guarded.getvalue())
    stream: Any = Terminal(tty := Tty())
    print(f"question: {EVIL}", file=stream)
    stream.writelines([f"a{EVIL}", "b\r"])
    assert not steering(tty.getvalue())


def test_a_stream_that_is_no_terminal_gets_no_carriage_return() -> None:
    stream: Any = Terminal(file := io.StringIO())
    stream.write("\r 50%|#####     |")
    assert file.getvalue() == " 50%|#####     |"
    assert not stream.isatty()


def test_a_log_has_no_escapes_also_in_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "the-token-of-the-test")
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s the-token-of-the-test", (EVIL,), None)
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    text = LogFormatter("%(message)s").format(record)
    assert "ValueError: [31mred" in text
    assert "*** " not in text.replace("*** ", "", 1)
    assert "the-token-of-the-test" not in text
    assert not steering(text)


def clean(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    """All that a process printed and logged, once it is known to be harmless."""
    logs = [file.read_text(encoding="utf-8") for file in folder.rglob("*.log")]
    assert logs
    for text in (done.stdout, done.stderr, *logs):
        assert not steering(text), text
    assert "Traceback" not in done.stderr
    return "".join((done.stdout, done.stderr, *logs))


@pytest.fixture
def run(run_cli: CLI, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run("until=mix")`: the small cell as a process, whose log goes to a file too."""
    logging_to_file = ["hydra/job_logging=default", f"hydra.run.dir={tmp_path / 'logs'}"]
    return lambda *more: run_cli(*SMALL, f"runs_dir={tmp_path / 'runs'}", *logging_to_file, *more)


def write(file: Path, *rows: dict[str, Any]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.slow
def test_a_data_set_steers_nothing(run, tmp_path: Path) -> None:
    evil = EVIL.replace("\ud800", "")
    rows = [{"question": f"{n} + 1? {evil}", "answer": f"{evil} It is {n}+1.\n#### {n + 1}"} for n in range(40)]
    write(tmp_path / "data" / "train.jsonl", *rows)
    write(tmp_path / "data" / "test.jsonl", *({**row, "question": f"again {row['question']}"} for row in rows[:12]))
    task = ("task=gsm8k", f"task.dataset.path={tmp_path / 'data'}", "task.num_train=null", "task.num_test=null")
    arguments = (*task, "mix=cot", "until=mix")
    done = run(*arguments)
    assert "trained on between" in clean(done, tmp_path)
    assert "red" in done.stdout, "the preview shows it"
    write(tmp_path / "data" / "train.jsonl", *rows, {"question": evil, "answer": evil})
    write(tmp_path / "data" / "test.jsonl", {"question": evil, f"no{evil}": evil})
    done = run(*arguments)
    assert done.returncode == 1
    assert "line 41" in clean(done, tmp_path)


@pytest.fixture
def recorded(run, make_config, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`recorded(row, "until=mix")`: with a wrong answer in a file, and with another row."""
    question = load(make_config(*SMALL).task)["train"][0].question
    wrong = {"question": question, "generation": f"{EVIL} The answer is 999.", "model": f"m{EVIL}"}

    def run_with(row: dict[str, Any] | None, *more: str) -> subprocess.CompletedProcess[str]:
        rows = [wrong] if row is None else [wrong, {"question": question, **row}]
        file = write(tmp_path / "recorded.jsonl", *rows)
        return run("sampler=recorded", f"sampler.file={file}", *more)

    return run_with


@pytest.mark.slow
def test_recorded_answers_steer_nothing(recorded, tmp_path: Path) -> None:
    done = recorded(None, "corrector=reference", "until=correct")
    assert done.returncode == 0
    assert "correct" in clean(done, tmp_path)
    for bad in ({EVIL: EVIL}, {"question": "", "id": EVIL, "text": EVIL}, {"text": [EVIL, 1]}):
        done = recorded(bad, "until=sample")
        assert done.returncode == 1
        assert "line 2" in clean(done, tmp_path)


OTHERS = ("429:1\x1b[31m", "500", "403", "html", "listed", "key")


@pytest.mark.parametrize("fault", ["ok", *some(("404", *OTHERS), 4, pytest.mark.slow)])
def test_a_server_steers_nothing(recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    said = EVIL.replace("\ud800", "")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-key-of-the-test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, (status, _) in openai_faults.ERRORS.items():
        message = openai_faults.error(f"no {said} KEY", f"code{said}", f"param{said}")
        monkeypatch.setitem(openai_faults.ERRORS, name, (status, message))
    options: dict[str, Any] = {"model": f"gpt-6.2-sol{said}", "reply": lambda prompt: f"{EVIL} is the answer"}
    options["models"] = {"listed": [{"id": f"other{said}"}], "key": 401}.get(fault, [{"id": "*"}])
    faults = (lambda body: fault) if fault not in ("listed", "key") else ()
    with OpenAIServer(faults=faults, **options) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        quick = ("corrector.max_retries=1", "corrector.max_wait=1", "budget_usd=5")
        done = recorded(None, "corrector=gpt4", "until=correct", *quick)
    text = clean(done, tmp_path)
    assert "sk-the-key-of-the-test" not in text
    assert done.returncode == (0 if fault == "ok" else 1), text
    if fault in ("404", "403", "listed"):
        assert "red" in done.stderr, "what it says is shown"
    for file in (tmp_path / "runs" / "cells").glob("*/run.json"):
        assert not steering(json.loads(file.read_text())["state"])


def test_everything_that_is_printed_goes_through_one_function() -> None:
    """Whoever prints: a library, Hydra, a warning, a traceback that nobody caught."""
    code = (
        "import sys, warnings, logging; from lema.privacy import guard; guard(); evil = '\\x1b[31mred\\x9b'\n"
        "warnings.warn(evil); logging.error(evil); print(evil, file=sys.stderr); print(evil); sys.stdout.flush()\n"
        "raise ValueError(evil)"
    )
    root = Path(privacy.__file__).parents[1]
    done = subprocess.run(["python", "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "[31mred\n"
    assert done.stderr.count("red") >= 4
    assert done.stderr.endswith("ValueError: [31mred\n")
    assert not steering(done.stderr)


@pytest.mark.parametrize(
    ("streams", "code", "why"),
    [
        *(("> /dev/full", 1, "No space left on device"), ("| true; exit ${PIPESTATUS[0]}", 1, "Broken pipe")),
        *(("> /dev/full 2> /dev/full", 1, ""), (">&-", 0, ""), (">&- 2>&-", 0, "")),
    ],
)
def test_a_stream_that_takes_no_more_is_told_in_one_line_and_ends_no_work(
    tmp_path: Path, streams: str, code: int, why: str
) -> None:
    root, runs = Path(privacy.__file__).parents[1], tmp_path / "runs"
    command = f"{sys.executable} {root / 'run.py'} {' '.join(SMALL)} until=data runs_dir={runs} {streams}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    line = f"stdout: cannot be written ({why}); nothing more is shown, the work goes on\n"
    assert (done.returncode, done.stderr) == (code, line if why else "")
    assert list(runs.glob("data/*/record.json"))
