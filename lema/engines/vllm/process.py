"""process: `vllm serve` as a child process: its environment, its start, its log, its end, and what its death means.

The server listens on 127.0.0.1 with a key that nobody else knows. Between us stands `guard.py`, which ends the server
and all its workers when this process ends, whatever ends it.
"""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from lema.artifacts import refuse_links
from lema.console.progress import Progress
from lema.privacy import is_secret
from lema.types import UserError

_GUARD = Path(__file__).with_name("guard.py")
_LOOK = 0.5  # seconds
_REPLY = 600.0  # seconds for a check, or for an adapter to be loaded
_END = 20.0  # seconds in which the guard ends all that a server leaves; longer than it gives them
_LOG_BYTES = 1 << 16  # of the end of the log, in which the cause of a death is looked for
# Ours, which would lead another environment's Python astray.
_PYTHON = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_OWN_WORDS = re.compile(r"^(\([^)]*\) )?(?:[A-Z]+ \d\d-\d\d \S+ \[[^]]*\] )?")  # "(EngineCore pid=9) ERROR 11-28 …"
_RAISED = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit|Interrupt): \S|: error: |^Value error, ")
_LATER = re.compile(r"Engine core initialization failed|See (root cause|stack trace) above|WorkerProc initialization")
_ITS_OWN = "HF_TOKEN(_PATH)?|HUGGING_FACE_HUB_TOKEN|VLLM_(?!API_KEY).*"  # the Hub's login, and settings of tokens
_ROOM = "engine.memory_share or engine.max_length"
# What the log says when the server cannot start or go on, what that means, and the remedy.
_CAUSES = {
    r"out of memory|OutOfMemory|MemoryError|Cannot allocate memory": "the memory is too small: raise "
    f"engine.tensor_parallel, lower {_ROOM}, or choose a smaller model",
    r"larger than the available KV cache|No available memory for the cache": "the weights leave too little memory for "
    "one prompt and its answer: raise engine.memory_share or engine.tensor_parallel, or lower engine.max_length",
    r"Free memory on device|Available memory on node|less than desired": "too little memory is free: end other "
    "processes that use it, or lower engine.memory_share",
    r"not supported for now|no vLLM implementation|does not recognize this architecture": "this vLLM does not know "
    "such a model: engine=transformers, or a newer vLLM",
    r"[Aa]ddress already in use": "another process took the port in this moment: run the same command again",
    r"unrecognized arguments|invalid choice|expected one argument": "correct engine.options, or update vLLM",
}


class Server:
    """One `vllm serve`. `url` is its address, `key` what requests must carry."""

    def __init__(self, command: Sequence[str], settings: dict[str, str], log: Path, port: int | None = None) -> None:
        """Start it, and wait until it answers.

        `settings` are added to its environment. Raises `UserError` with what its log says when it ends before that.
        """
        self.log, self.key, self.port = log, secrets.token_hex(16), port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        refuse_links(log)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [*command, "--host", "127.0.0.1", "--port", str(self.port)]
        with log.open("ab") as file:
            file.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n".encode())
            self.begins = file.tell()
            self.guard = subprocess.Popen(
                [sys.executable, "-I", str(_GUARD), *command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=_environment() | {"VLLM_API_KEY": self.key} | settings,
                start_new_session=True,  # Ctrl-C is for us alone
            )
        try:
            with Progress(f"starting vLLM (its log: {log})"):
                while not self._is_well():
                    if self.guard.poll() is not None:
                        raise UserError(self.death("could not start"))
                    time.sleep(_LOOK)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it and all its processes; returns when none is left."""
        assert self.guard.stdin
        with contextlib.suppress(OSError):
            self.guard.stdin.close()
        try:
            self.guard.wait(_END)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.guard.pid, signal.SIGKILL)
            self.guard.wait()

    def lives(self, seconds: float = 0.0) -> bool:
        """Whether its process still runs, and goes on to do so for as long."""
        try:
            self.guard.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON reply to a request; `UserError` for a refusal, in the server's words, or when the server is gone."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"},
        )
        try:
            with _direct().open(request, timeout=_REPLY) as reply:
                text = reply.read().decode()
        except HTTPError as error:
            raise UserError(f"vLLM refuses {path}: {_one_line(error.read().decode(errors='replace'))}") from error
        except (OSError, HTTPException) as error:
            how = f"does not answer ({error})" if self.lives(_END) else "ended"
            raise UserError(self.death(how)) from error
        try:
            return json.loads(text) if text.startswith("{") else {"said": text}
        except ValueError as error:
            raise UserError(self.death("sent half a reply")) from error

    def death(self, how: str) -> str:
        """Why it ended, in one line: how, the log's own words, the remedy, and where the log is."""
        with self.log.open("rb") as file:
            file.seek(max(self.begins, self.log.stat().st_size - _LOG_BYTES))
            words, remedy = cause(file.read().decode(errors="replace"))
        return f"vLLM {how}: {words}: {remedy or 'see its log'} ({self.log})"

    def _is_well(self) -> bool:
        try:
            with _direct().open(f"{self.url}/health", timeout=5) as reply:
                return reply.status == 200
        except (OSError, HTTPException):
            return False


def cause(log: str) -> tuple[str, str]:
    """What a log says of the end of its server, and the remedy, "" when it is not known.

    cause("… ValueError: No available memory for the cache blocks. …") is that line and which settings help.
    """
    lines = [_OWN_WORDS.sub("", line).strip() for line in log.splitlines()]
    raised = [line for line in lines if _RAISED.search(line)]
    first = [line for line in raised if not _LATER.search(line)]
    for pattern, remedy in _CAUSES.items():
        for said in reversed(raised):
            if re.search(pattern, said):
                return _one_line(said), remedy
    return _one_line((first or raised or [line for line in lines if line] or ["its log is empty"])[-1]), ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]


def _direct() -> urllib.request.OpenerDirector:
    """Without a proxy, which would not reach this machine's own address."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _environment() -> dict[str, str]:
    """What the server gets of our environment: no secret but the Hub's, and nothing of our Python's."""
    kept = {name: value for name, value in os.environ.items() if not is_secret(name) or re.fullmatch(_ITS_OWN, name)}
    kept = {name: value for name, value in kept.items() if name not in _PYTHON}
    # It gives up on weights that take more than ten minutes to read, as 140 GB from a network disk do.
    kept.setdefault("VLLM_ENGINE_READY_TIMEOUT_S", "86400")
    # It would tell its makers of this machine.
    return kept | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
