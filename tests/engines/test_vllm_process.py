"""The child process of `engine=vllm`: it ends with us, gets none of our secrets, and its death is told in one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import alive, family
from tables import table

from lema.engines.vllm import process
from lema.engines.vllm.process import Server, cause
from lema.types import UserError

GUARD = Path(process.__file__).with_name("guard.py")
# A process that leaves the session, one with a child of its own, and the server itself; each writes its id.
FAMILY = "setsid sleep 1000 & (sleep 1001 & wait) & sleep 1002 & jobs -p >{0}; echo $$ >>{0}; wait"


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM serves on Linux")
@pytest.mark.parametrize("end", ["the pipe ends", "kill -9 of the parent", "kill -9 of the server"])
def test_no_process_of_a_server_lives_on(tmp_path: Path, end: str) -> None:
    told = tmp_path / "pids"
    start = f"import subprocess, sys; p = subprocess.Popen({[sys.executable, '-I', str(GUARD)]!r} + sys.argv[1:], "
    start += "stdin=subprocess.PIPE, start_new_session=True); print(p.pid, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", start, "bash", "-c", FAMILY.format(told)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    guard = int(parent.stdout.readline())
    while not told.exists() or len(told.read_text().split()) < 4:
        time.sleep(0.02)
    time.sleep(0.2)
    *_, server = map(int, told.read_text().split())
    everyone = family(guard)
    assert len(alive(everyone)) >= 5
    if end == "the pipe ends":
        parent.communicate("")
    else:
        os.kill(parent.pid if "parent" in end else server, signal.SIGKILL)
    deadline = time.monotonic() + 8
    while alive(everyone) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(everyone)
    parent.kill()
    parent.communicate()


def test_a_server_gets_no_secret_but_the_hubs_and_nothing_of_our_python(tmp_path: Path, monkeypatch) -> None:
    ours = ("HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE")
    kept_back = ("OPENAI_API_KEY", "WANDB_API_KEY", "VLLM_API_KEY", "PYTHONPATH")
    for name in (*ours, *kept_back):
        monkeypatch.setenv(name, f"{name} of the tests")
    with pytest.raises(UserError, match=r"could not start: (?s:.)*see its log \(.*env.log\)"):
        Server(["sh", "-c", "env; exit 3"], {"VLLM_BATCH_INVARIANT": "1"}, tmp_path / "env.log")
    lines = (tmp_path / "env.log").read_text()
    assert all(f"{name}={name} of the tests\n" in lines for name in ours)
    assert "VLLM_BATCH_INVARIANT=1" in lines
    assert "VLLM_NO_USAGE_STATS=1" in lines
    assert "VLLM_ENGINE_READY_TIMEOUT_S=86400" in lines
    assert not [name for name in kept_back if f"\n{name}={name} of" in lines]


@pytest.mark.parametrize(("log", "words", "remedy"), table(__file__, "what a log says"))
def test_the_cause_of_a_death_is_found_in_the_log(log: str, words: str, remedy: str) -> None:
    said, helps = cause(log)
    assert words in said
    assert remedy in helps
    assert "\n" not in said
