"""What a terminal or a log may show: no secret of the environment, and nothing that steers a terminal.

Texts of data sets, models and servers reach both. An escape sequence in one of them could recolour, hide or overwrite
what stands there; a control character that turns the direction of text could make a line read as another.
"""

import io
import logging
import netrc
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

_LEAST = 8  # characters of a secret: shorter values ("true", "none") stand in many texts
# Names with a part that ends like this: OPENAI_API_KEY, HF_TOKEN, PGPASSWORD, accessToken; not TOKENIZERS_PARALLELISM.
_SECRET_NAME = re.compile(
    r"(?i)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASS|CREDENTIAL|AUTH|AUTHORIZATION|BEARER|COOKIE|JWT"
    r"|_PWD|_PAT)S?\d*(?![^_])"
)
_IN_ADDRESS = re.compile(r"://[^/@\s]*:([^/@\s]+)@")  # HTTPS_PROXY=http://me:PASSWORD@proxy:3128
# Control characters but tab and newline; signs that turn the direction of text or end a line; halves of surrogate
# pairs, which no terminal's encoding has.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BAR = re.compile(r"(?:\n|\x1b\[A)*\Z|\r?")  # how tqdm goes to the row of a bar, and then to its beginning


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return bool(_SECRET_NAME.search(name))


def secrets() -> dict[str, str]:
    """The secrets of this process, each with its source: `{"hf_…": "the environment variable HF_TOKEN"}`.

    They come from the environment, `hf auth login` and `wandb login`. A path is no secret: SSH_AUTH_SOCK.
    """
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        values = [*([value] if is_secret(name) else []), *_IN_ADDRESS.findall(value)]
        found |= {each.strip(): f"the environment variable {name}" for each in values}
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    token = os.environ.get("HF_TOKEN_PATH") or f"{os.environ.get('HF_HOME') or f'{cache}/huggingface'}/token"
    with suppress(OSError, ValueError):
        found[Path(os.path.expanduser(token)).read_text(encoding="utf-8").strip()] = "hf auth login"
    with suppress(OSError, ValueError, netrc.NetrcParseError):
        hosts = netrc.netrc(os.path.expanduser(os.environ.get("NETRC") or "~/.netrc")).hosts
        found |= {(password or "").strip(): f"the login for {host}" for host, (_, _, password) in hosts.items()}
    longest_first = sorted(found, key=len, reverse=True)  # one secret may be a part of another
    is_path = {value for value in found if os.path.isabs(value) and os.path.exists(value)}
    return {value: found[value] for value in longest_first if len(value) >= _LEAST and value not in is_path}


def shown(text: str) -> str:
    """A text as a terminal or a log may have it: `\\x1b[31mred` is `[31mred`, a secret is `***`."""
    text = _STEERING.sub("", text)
    for value in secrets():
        text = text.replace(value, "***")
    return text


class Terminal:
    """A text stream that shows only what may be shown. On a real terminal a progress bar still moves the cursor.

    When the stream fails (the disk of a log is full, `| head` has ended, the terminal is gone), the work goes on. One
    line on stderr says so, and the exit status at the end.
    """

    lost = False
    written_at = 0.0  # when something was last shown, on either stream, in monotonic seconds

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        bar = _BAR.match(text) if self._stream.isatty() else None
        moves, Terminal.written_at = bar[0] if bar else "", time.monotonic()
        with self._until_lost():
            self._stream.write(moves + shown(text[len(moves) :]))
        return len(text)

    def flush(self) -> None:
        with self._until_lost():
            self._stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    @contextmanager
    def _until_lost(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            Terminal.lost, nowhere = True, os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what Python and C have in their buffers goes there too
            os.close(nowhere)
            why = f"{self._stream.name[1:-1]}: cannot be written ({error.strerror})"
            with suppress(OSError):
                os.write(2, f"{why}; nothing more is shown, the work goes on\n".encode())


def guard() -> None:
    """Make everything this process prints safe to show, also the output of Hydra, libraries and tracebacks.

    A stream shows what its encoding lacks as an escape: `\\u2212` for a minus sign in ASCII.
    """
    closed = os.open(os.devnull, os.O_WRONLY)  # `>&-`: Python has None for such a stream
    for each in (sys.stdout, sys.stderr):
        if isinstance(each, io.TextIOWrapper):
            each.reconfigure(errors="backslashreplace")
    streams: list[Any] = [Terminal(each or os.fdopen(closed, "w", closefd=False)) for each in (sys.stdout, sys.stderr)]
    sys.stdout, sys.stderr = streams


def check_shown(_: object, error: BaseException | None, __: object) -> None:
    """Exit with 1 after a success whose output was not fully printed; for `ExitStack.push`."""
    sys.stdout.flush()
    if Terminal.lost and (error is None or (isinstance(error, SystemExit) and not error.code)):
        sys.exit(1)


class LogFormatter(logging.Formatter):
    """The formatter of conf/config.yaml, for handlers that write to files too."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))
